"""An error that one TLS connection left behind is found by no other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tornado.iostream import SSLIOStream

from darkhaloscope import tls

SYSTEM, BROKEN_PIPE = 2, 32


def left_behind() -> int:
    """The first error of this thread's queue; 0 for none."""
    return int(tls.OPENSSL.ERR_peek_error())


def test_a_stream_reads_and_writes_with_an_empty_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []

    def step(*_: Any) -> int:
        found.append(left_behind())
        return 0

    stream: Any = SimpleNamespace(_ssl_accepting=False)
    stream.socket = SimpleNamespace(recv_into=step, send=step, do_handshake=step)
    for name in ("read_from_fd", "write_to_fd"):
        monkeypatch.setattr(SSLIOStream, name, getattr(SSLIOStream, name))  # put back in the end
    tls.dask_setup(None)
    tls.dask_setup(None)
    for name in ("read_from_fd", "write_to_fd"):
        tls.OPENSSL.ERR_new()
        tls.OPENSSL.ERR_set_error(SYSTEM, BROKEN_PIPE, None)
        assert left_behind() != 0
        getattr(SSLIOStream, name)(stream, memoryview(bytearray(1)))
    assert found == [0, 0]
    assert not hasattr(SSLIOStream.read_from_fd.__wrapped__, "__wrapped__")  # type: ignore[attr-defined]
