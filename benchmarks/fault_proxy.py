"""A proxy on loopback between an S3 client and its server: counts, delays, slows down, and breaks.

What goes through is counted here, at the server's side of the client. Faults are rules that are tried
in order; the first one whose text is in the request's path, and which has not run out, is applied.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

CHUNK = 65_536


@dataclass
class Fault:
    """One fault.

    Parameters
    ----------
    where : str
        Part of the path of the requests that it meets.
    status : int
        Answer with this status instead, and the S3 error ``code``; 0 for none.
    cut : {'', 'reset', 'close', 'short'}
        After half of the body: reset the connection, close it, or claim that this was all.
    flip : bool
        One bit of every 50th byte of the body is wrong.
    wait : float
        Seconds before the answer.
    then : callable
        Called before the answer is sent on.
    times : int
        How often; after that it is over.
    skip : int
        Matching requests that pass first.
    method : str
        GET, HEAD, or both where it is empty.
    """

    where: str
    status: int = 0
    code: str = "InternalError"
    cut: str = ""
    flip: bool = False
    wait: float = 0.0
    then: Callable[[], None] | None = None
    times: int = 1_000_000
    skip: int = 0
    method: str = ""
    met: int = 0


@dataclass
class Traffic:
    """What passed: requests, bytes of bodies to the client, and the paths by method."""

    requests: int = 0
    bytes: int = 0
    by_path: dict[str, int] = field(default_factory=dict)
    bytes_by_path: dict[str, int] = field(default_factory=dict)


class Proxy:
    """A proxy to ``upstream`` (host, port).

    Parameters
    ----------
    latency : float
        Seconds before each answer.
    bandwidth : float
        Bytes per second of all connections together; 0 for no limit.
    """

    def __init__(self, host: str, port: int, latency: float = 0.0, bandwidth: float = 0.0) -> None:
        self.upstream = (host, port)
        self.latency, self.bandwidth = latency, bandwidth
        self.faults: list[Fault] = []
        self.traffic = Traffic()
        self._lock = threading.Lock()
        self._free_at = 0.0
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.request_queue_size = 256
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def count(self, path: str) -> None:
        with self._lock:
            self.traffic.requests += 1
            self.traffic.by_path[path] = self.traffic.by_path.get(path, 0) + 1

    def take_time_for(self, path: str, size: int) -> None:
        """Wait until the line, which all connections share, has room for ``size`` bytes."""
        with self._lock:
            self.traffic.bytes += size
            self.traffic.bytes_by_path[path] = self.traffic.bytes_by_path.get(path, 0) + size
            if not self.bandwidth:
                return
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + size / self.bandwidth
            wait = self._free_at - now
        time.sleep(wait)

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.where in path and fault.method in ("", method):
                    fault.met += 1
                    if fault.skip < fault.met <= fault.skip + fault.times:
                        return fault
        return None


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: Proxy
    protocol_version = "HTTP/1.1"
    wbufsize = CHUNK
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.server_side = http.client.HTTPConnection(*self.owner.upstream, timeout=60)

    def handle_expect_100(self) -> bool:
        """A client that asks before it sends its body waits for this answer."""
        go_on = super().handle_expect_100()
        self.wfile.flush()
        return go_on

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()
        self.server_side.close()

    def _pass(self) -> None:
        proxy, path = self.owner, self.path.split("?")[0]
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        proxy.count(path)
        fault = proxy.fault_for(self.command, path) or Fault("")
        time.sleep(proxy.latency + fault.wait)
        if fault.status:
            self._error(fault)
            return
        self.server_side.putrequest(
            self.command, self.path, skip_host=True, skip_accept_encoding=True
        )
        for name, value in self.headers.items():
            if name.lower() == "expect":
                continue  # answered here
            self.server_side.putheader(name, value)
        self.server_side.endheaders(body)
        with self.server_side.getresponse() as answer:
            if fault.then is not None:
                fault.then()
            self._answer(answer, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815 (http.server's names)

    def _answer(self, answer: http.client.HTTPResponse, fault: Fault) -> None:
        path = self.path.split("?")[0]
        content = b"" if self.command == "HEAD" else None
        size = int(answer.headers.get("Content-Length") or 0)
        if content is None and answer.headers.get("Content-Length") is None:
            content = answer.read()  # chunked: small listings and errors
            size = len(content)
        sent = size // 2 if fault.cut else size
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(sent if fault.cut == "short" else size))
        self.end_headers()
        if self.command == "HEAD":
            return
        left = sent
        while left > 0:
            part = content if content is not None else answer.read(min(CHUNK, left))
            if not part:
                break
            part = part[:left]
            if fault.flip:
                wrong = bytearray(part)
                wrong[::50] = bytes(byte ^ 1 for byte in wrong[::50])
                part = bytes(wrong)
            self.owner.take_time_for(path, len(part))
            self.wfile.write(part)
            left -= len(part)
        if content is None and sent < size:
            answer.read()
        if fault.cut in ("reset", "close"):
            self.wfile.flush()
            self.close_connection = True
            if fault.cut == "reset":
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                self.connection.close()

    def _error(self, fault: Fault) -> None:
        text = f"<Error><Code>{fault.code}</Code><Message>{fault.code}</Message></Error>".encode()
        self.send_response_only(fault.status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Nothing on the output."""


@contextlib.contextmanager
def proxied(endpoint: str, latency: float = 0.0, bandwidth: float = 0.0) -> Iterator[Proxy]:
    """A running proxy in front of ``http://host:port``."""
    host, port = endpoint.removeprefix("http://").split(":")
    with Proxy(host, int(port), latency, bandwidth) as proxy:
        yield proxy
