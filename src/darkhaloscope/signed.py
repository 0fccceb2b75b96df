"""Byte ranges of objects on S3, and what they are, by plain requests, one signature an object.

s3fs prepares, signs and parses each request anew: 1.0 to 2.3 ms of processor time, of which a brick by ranges
takes hundreds. A signed address (S3 calls it presigned) is good for any ranges of its object, each a plain
request of 0.2 ms. s3fs signs, with its own credentials, and whatever does not come back as the range that was
asked for is left to it: its retries and its errors are what counts.
"""

from __future__ import annotations

import asyncio
import functools
import time
import urllib.request
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import aiohttp
import fsspec
from fsspec.asyn import sync
from fsspec.implementations.http import HTTPFileSystem
from s3fs import S3FileSystem

AT_ONCE = 16
"""Requests of one call in flight; connections are kept for the next."""

_VALID_S = 3600
_LIMITS = aiohttp.ClientTimeout(total=60, sock_connect=10)

_BARRED_S = 600.0

_worked: set[tuple[S3FileSystem, str]] = set()
"""File systems and kinds of plain requests that ever brought something."""

_barred: dict[tuple[S3FileSystem, str], float] = {}
"""Until when none is tried: all of a call's came to nothing, and none had ever worked."""


def read_ranges(fs: S3FileSystem, wanted: Sequence[tuple[str, int, int]]) -> list[bytes | None]:
    """What plain requests bring of byte ranges (path, first, end); None where s3fs is to be asked."""
    paths, firsts, ends = zip(*wanted, strict=True)
    if not (urls := _addresses(fs, "get_object", paths)):
        return [None] * len(wanted)
    answers: list[Any] = _plain().cat_ranges(
        urls, list(firsts), list(ends), batch_size=AT_ONCE, on_error="return"
    )
    found = [
        answer if isinstance(answer, bytes) and len(answer) == end - first else None
        for answer, first, end in zip(answers, firsts, ends, strict=True)
    ]
    _learn(fs, "get_object", found, answers)
    return found


def infos(fs: S3FileSystem, paths: Sequence[str]) -> list[dict[str, Any] | None]:
    """``size`` and ``ETag`` of objects, as plain requests bring them; None where s3fs is to be asked: also
    of an object that is not there."""
    if not (urls := _addresses(fs, "head_object", paths)):
        return [None] * len(paths)
    plain = _plain()

    async def all_of_them() -> list[Any]:
        gate, session = asyncio.Semaphore(AT_ONCE), await plain.set_session()

        async def one(url: str) -> Any:
            asked = session.head(url, headers={"Accept-Encoding": "identity"}, allow_redirects=True)
            async with gate, asked as answer:
                if answer.status == HTTPStatus.NOT_FOUND:
                    raise FileNotFoundError(url)
                if answer.status != HTTPStatus.OK:
                    raise OSError(f"status {answer.status}")
                # KeyError of an answer that lacks one of them: nothing is known then.
                return {
                    "size": int(answer.headers["Content-Length"]),
                    "ETag": answer.headers["ETag"],
                }

        return await asyncio.gather(*map(one, urls), return_exceptions=True)

    answers = sync(plain.loop, all_of_them)
    found = [None if isinstance(answer, BaseException) else answer for answer in answers]
    _learn(fs, "head_object", found, answers)
    return found


def _addresses(fs: S3FileSystem, kind: str, paths: Sequence[str]) -> list[str]:
    """Signed addresses of objects; none where plain requests of this kind do not help."""
    if time.time() < _barred.get((fs, kind), 0.0):
        return []
    hour = int(time.time() / _VALID_S)
    return [_signed(fs, fs.s3.meta.endpoint_url, path, hour, kind) for path in paths]


def _learn(fs: S3FileSystem, kind: str, found: Sequence[Any], answers: Sequence[Any]) -> None:
    """Whether plain requests help: another certificate authority, a requester who pays, keys of the customer,
    and none does. That objects are missing says nothing; and a no may be of a moment."""
    if any(part is not None for part in found):
        _worked.add((fs, kind))
    elif (fs, kind) not in _worked and not all(
        isinstance(answer, FileNotFoundError) for answer in answers
    ):
        _barred[fs, kind] = time.time() + _BARRED_S


@functools.lru_cache(maxsize=256)
def _signed(fs: S3FileSystem, endpoint: str, path: str, hour: int, kind: str) -> str:
    """The signed address of an object, kept for an hour: a brick's files are asked for in rounds."""
    return str(fs.url(path, expires=2 * _VALID_S, client_method=kind))


@functools.cache
def _plain() -> HTTPFileSystem:
    # Where the environment is to be looked at, aiohttp does it in a thread, request by request.
    proxied = bool(urllib.request.getproxies())
    options = {"auto_decompress": False, "timeout": _LIMITS, "trust_env": proxied}
    return fsspec.filesystem("http", encoded=True, client_kwargs=options)
