"""``dask worker --preload-nanny darkhaloscope.tls``: TLS connections that end by nobody else's errors.

OpenSSL keeps one queue of errors a thread, and whoever reads must find it empty (SSL_get_error(3)). Where
the other end of a connection is closed in the middle of a write, Python leaves an error there (seen with
3.13.5 and OpenSSL 3.5.9; python/cpython#148594), and the next read of another connection, which is whole,
ends as a broken pipe: each worker that joined a scheduler took others from it.
"""

from __future__ import annotations

import _ssl
import ctypes
import functools
from typing import Any

from tornado.iostream import SSLIOStream

OPENSSL = ctypes.CDLL(getattr(_ssl, "__file__", None))
"""The library that Python's own module is linked with."""

_STEPS = ("_do_ssl_handshake", "read_from_fd", "write_to_fd")


def clear_errors_first() -> None:
    """Have every TLS stream of this process find an empty queue; asked again, it does nothing."""
    if not hasattr(OPENSSL, "ERR_clear_error"):  # of a Python without OpenSSL's own names
        return
    for name in _STEPS:
        step = getattr(SSLIOStream, name)
        if not hasattr(step, "__wrapped__"):
            setattr(SSLIOStream, name, _after_clearing(step))


def _after_clearing(step: Any) -> Any:
    @functools.wraps(step)
    def cleared(*arguments: Any) -> Any:
        OPENSSL.ERR_clear_error()
        return step(*arguments)

    return cleared


def dask_setup(_: Any) -> None:
    """Called by Dask before a scheduler, a nanny or a worker meets others."""
    clear_errors_first()
