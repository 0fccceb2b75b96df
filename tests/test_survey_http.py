"""A mirror on a web server: byte ranges, and what is not there."""

from __future__ import annotations

import http.server
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_brick import BRICK, SIZE, XS, YS, cut, path_of, reasons, sky, write_brick

from darkhaloscope.survey import Cutouts, Reading, Survey, read_cutouts
from darkhaloscope.survey.reading import Costs


class Mirror:
    """A web server on loopback over a folder, with ranges or without; counts what it sends."""

    def __init__(self, root: Path) -> None:
        self.root, self.knows_ranges, self.status = root, True, 0
        self.asked: Counter[str] = Counter()
        self.bytes = self.more = 0
        self.says_length = True
        mirror = self

        class Handler(_Handler):
            owner = mirror

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: Mirror
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        mirror = self.owner
        file = mirror.root / self.path.lstrip("/")
        status = mirror.status or (200 if file.is_file() else 404)
        body = file.read_bytes() if status == 200 else b"no"
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        size = len(body)
        if status == 200 and span and mirror.knows_ranges:
            status, first, last = 206, int(span[1]), min(int(span[2]), size - 1)
            body = body[first : last + 1 + mirror.more]
        mirror.asked[f"{self.command} {status}"] += 1
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        if mirror.knows_ranges:
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{size}"')
        if mirror.says_length or status != 200:
            self.send_header("Content-Length", str(len(body)))
        else:  # as a server that makes its answers while it sends them
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "GET":
            mirror.bytes += len(body)
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Nothing on the output."""


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    write_brick(tmp_path)
    running = Mirror(tmp_path)
    threading.Thread(target=running.server.serve_forever, args=(0.05,), daemon=True).start()
    yield running
    running.server.shutdown()
    running.server.server_close()


def read(mirror: Mirror, mode: str, size: int = SIZE) -> Cutouts:
    where = (BRICK, *sky(XS[:1], YS[:1]), size)
    return read_cutouts(Survey(mirror.url), *where, reading=Reading(mode))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["ranges", "whole", "auto"])
def test_the_pixels_are_those_of_the_disk(mirror: Mirror, mode: str) -> None:
    right = cut(mirror.root, XS[:1], YS[:1])
    out = read(mirror, mode)
    assert reasons(out) == ["ok"], out.notes
    for name in ("image", "invvar", "psfsize", "bad_pixel_frac"):
        assert getattr(out, name).tobytes() == getattr(right, name).tobytes()
    assert mirror.bytes == out.bytes
    assert bool(mirror.asked["GET 206"]) == (out.ranged > 0) == (mode == "ranges")


def test_only_ranges_are_sent(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a first look that is smaller than these files, less than all of them."""
    monkeypatch.setattr("darkhaloscope.survey.source.PREFIX", 6_000)
    out = read(mirror, "ranges", 16)
    assert reasons(out) == ["ok"], out.notes
    everything = sum(file.stat().st_size for file in mirror.root.rglob("*.fz"))
    assert mirror.bytes < 0.7 * everything
    assert mirror.asked["GET 200"] == 0


@pytest.mark.parametrize("mode", ["ranges", "whole"])
def test_404_is_a_missing_file(mirror: Mirror, mode: str) -> None:
    path_of(mirror.root, "invvar", "r").unlink()
    out = read(mirror, mode)
    assert reasons(out) == ["missing_file"]
    assert "invvar-r.fits.fz is missing" in out.notes[0]


@pytest.mark.parametrize("mode", ["ranges", "whole"])
@pytest.mark.parametrize("status", [403, 500])
def test_other_answers_are_out_of_reach(mirror: Mirror, mode: str, status: int) -> None:
    mirror.status = status
    out = read(mirror, mode)
    assert reasons(out) == ["unreadable"]
    assert str(status) in out.notes[0]


@pytest.mark.parametrize("mode", ["ranges", "whole"])
def test_no_server_is_out_of_reach(mirror: Mirror, mode: str) -> None:
    mirror.url = "http://127.0.0.1:9"
    out = read(mirror, mode)
    assert reasons(out) == ["unreadable"]
    assert "127.0.0.1:9" in out.notes[0]


@pytest.mark.parametrize("says_length", [True, False])
@pytest.mark.parametrize("mode", ["ranges", "auto"])
def test_a_server_without_ranges_is_read_whole(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, mode: str, says_length: bool
) -> None:
    """It sends whole files for ranges: each is sent, and kept, once (twice where it does not say how long
    they are: looking for that begins a file)."""
    monkeypatch.setattr("darkhaloscope.survey.source.PREFIX", 6_000)  # less than these files
    monkeypatch.setattr(
        "darkhaloscope.survey.reading.REMOTE", Costs(0.0, 0.0, 1e4)
    )  # so that auto takes ranges
    right = cut(mirror.root, XS[:1], YS[:1])
    mirror.knows_ranges, mirror.says_length = False, says_length
    out = read(mirror, mode)
    assert reasons(out) == ["ok"], out.notes
    for name in ("image", "invvar", "psfsize", "bad_pixel_frac"):
        assert getattr(out, name).tobytes() == getattr(right, name).tobytes()
    assert out.notes == []
    everything = sum(file.stat().st_size for file in mirror.root.rglob("*.fz"))
    assert mirror.bytes == everything if says_length else mirror.bytes <= 2 * everything
    assert out.whole == 10


def test_a_range_of_another_length_is_no_range(mirror: Mirror) -> None:
    mirror.more = 7
    out = read(mirror, "ranges")
    assert reasons(out) == ["unreadable"]
    assert "came back as" in out.notes[0]
