"""What goes wrong with a store, and what a user is told of it: one sentence, and whether waiting helps."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from typing import Literal

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSLError,
)

from darkhaloscope.errors import UserError

Trouble = Literal["passing", "mistaken", "lasting"]
"""``passing``: a store that is away, overburdened or slow. ``mistaken``: the address or the credentials; a
block waits all the same, since a worker's machine may be without word of its credentials for a moment.
``lasting``: waiting does not help, as with no permission or no space."""


class StorageError(UserError):
    """Something is, or may be, at that address, but it is out of reach; one sentence says why."""

    def __init__(self, message: str, trouble: Trouble = "passing") -> None:
        super().__init__(message)
        self.trouble: Trouble = trouble

    @property
    def passes(self) -> bool:
        """Whether the same command again may go on with nothing mended."""
        return self.trouble == "passing"


_LASTING = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR)

_MISTAKEN = (
    IsADirectoryError,
    ValueError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ParamValidationError,
)
_MISTAKEN_CODES = frozenset(
    ("NoSuchBucket", "InvalidBucketName", "InvalidToken", "AuthorizationHeaderMalformed",
     "PermanentRedirect", "301", "400", "405")
)  # fmt: skip
"""What S3 says of requests that it will never understand; a number where an answer has no body."""


_NEVER_TLS = re.compile("WRONG_VERSION_NUMBER|CERTIFICATE_VERIFY_FAILED")
"""OpenSSL's names of what no later try mends: a server of plain HTTP, one that nobody vouches for."""

# ValueError: an address that the client cannot make sense of, such as a port that is no number.
_OUT_OF_REACH = (OSError, ValueError, aiohttp.ClientError, BotoCoreError, ClientError)
"""What a filesystem of fsspec raises when an object is out of reach."""


@contextlib.contextmanager
def said_plainly(url: str, verb: str) -> Iterator[None]:
    """Turn a storage error into one sentence; a missing object stays a FileNotFoundError.

    Raises
    ------
    StorageError
        ``cannot VERB URL``, and why.
    """
    try:
        yield
    except FileExistsError:
        raise
    except _OUT_OF_REACH as error:
        cause: BaseException = error
        if isinstance(error, FileNotFoundError) and code_of(error) != "NoSuchBucket":
            # fsspec's web server says so of whatever went wrong, and keeps what it was.
            answer = error.__cause__
            if not isinstance(answer, aiohttp.ClientError) or _status_of(answer) in (404, 410):
                raise
            cause = answer
        raise StorageError(
            f"cannot {verb} {url}: {cause_of(cause)}; check the address, the credentials and the space",
            _trouble_of(cause),
        ) from error


def _trouble_of(error: BaseException) -> Trouble:
    """Whether waiting helps."""
    status = _status_of(error)
    if isinstance(error, aiohttp.ClientError):
        refused = status in (401, 403)
    else:  # s3fs says PermissionError, without a number, of whatever the store refuses.
        numbered = isinstance(error, OSError) and error.errno in _LASTING
        refused = numbered or isinstance(error, PermissionError)
    if refused:
        return "lasting"
    if isinstance(error, HTTPClientError):  # a request that cannot be sent: a key with a line's end
        error = error.kwargs.get("error") or error
    if isinstance(error, SSLError | aiohttp.ClientSSLError) and _NEVER_TLS.search(str(error)):
        return "mistaken"
    misheard = 400 <= status < 500 and status not in (408, 425, 429)
    if misheard or isinstance(error, _MISTAKEN) or code_of(error) in _MISTAKEN_CODES:
        return "mistaken"
    return "passing"


def _status_of(error: BaseException) -> int:
    """What a web server answered; 0 where it did not."""
    return error.status if isinstance(error, aiohttp.ClientResponseError) else 0


def cause_of(error: BaseException) -> str:
    """What an error says, in one line and without the password of an address."""
    text = (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip()
    return re.sub(r"//[^/@\s]*@", "//", text.splitlines()[0])


def code_of(error: BaseException) -> str | None:
    """What S3 calls the trouble."""
    answer = error if isinstance(error, ClientError) else error.__cause__
    if not isinstance(answer, ClientError):
        return None
    code: str | None = answer.response.get("Error", {}).get("Code")
    return code
