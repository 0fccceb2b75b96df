"""What a store can do to a reader, on a real S3 server behind a proxy that breaks things."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import s3fs
from fault_proxy import Fault, Proxy, proxied
from small_brick import BRICK, SIZE, XS, YS, N, cut, packed, planes, put, reasons, sky, write_brick

from darkhaloscope.errors import Reason, UserError
from darkhaloscope.prepare.first_bricks import _may_be_there
from darkhaloscope.survey import Cutouts, Reading, Survey, read_cutouts
from darkhaloscope.survey.health import check_readable
from darkhaloscope.survey.reading import PREFIX

BUCKET = "s3://dhs-test/faults"
MODES = ["ranges", "whole"]
BOTH_IF_LONG = ["ranges", pytest.param("whole", marks=pytest.mark.long)]
"""Where the client waits seconds between its tries, the second mode is left to the long tests."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small brick of which one file, invvar-r, is longer than what is read of a file at once."""
    root = tmp_path_factory.mktemp("faults")
    write_brick(root)
    noise = np.random.default_rng(1).normal(0, 1, (N, N)).astype(np.float32) ** 2
    put(root, packed(noise, compression_type="GZIP_1", quantize_level=0, tile_shape=(20, 20)),
        "invvar", "r")  # fmt: skip
    return root


@pytest.fixture(scope="module")
def right(s3_server: str, folder: Path) -> Cutouts:
    """What an undisturbed reader finds on the disk; the same files lie in the bucket."""
    upload(folder)
    return cut(folder)


def upload(folder: Path) -> None:
    s3 = fsspec.filesystem("s3")
    for file in folder.rglob("*.fz"):
        s3.pipe_file(f"{BUCKET}/{file.relative_to(folder)}", file.read_bytes())


@pytest.fixture
def proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with proxied(s3_server) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        # Fewer and shorter retries than by default: what never mends is not waited for.
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 3)
        s3fs.S3FileSystem.clear_instance_cache()
        yield running
    s3fs.S3FileSystem.clear_instance_cache()


def read(mode: str) -> Cutouts:
    return read_cutouts(Survey(BUCKET), BRICK, *sky(XS, YS), SIZE, reading=Reading(mode))


def check_same(out: Cutouts, right: Cutouts) -> None:
    assert reasons(out) == ["ok"] * 5, out.notes
    assert out.notes == []
    for name in ("image", "invvar", "psfsize", "bad_pixel_frac", "coverage"):
        assert getattr(out, name).tobytes() == getattr(right, name).tobytes()


@pytest.mark.parametrize("mode", [*MODES, "auto"])
def test_undisturbed(right: Cutouts, proxy: Proxy, mode: str) -> None:
    out = read(mode)
    check_same(out, right)
    # What it says of itself is what the server saw: a plain read asks for the size first as well.
    assert proxy.traffic.bytes == out.bytes
    assert max(proxy.traffic.by_path.values()) <= 60
    if mode == "ranges":
        assert proxy.traffic.requests == out.requests
        assert proxy.traffic.by_path[path("invvar", "r")] > 3


def path(kind: str, band: str) -> str:
    return Survey("/dhs-test/faults").url(kind, BRICK, band)


PASSING = {
    "a burst of 500": Fault("invvar-r", status=500, times=2),
    "a burst of 503": Fault("invvar-r", status=503, code="ServiceUnavailable", times=2),
    "slow down": Fault("invvar-r", status=503, code="SlowDown", times=2),
    "slow": Fault("invvar-r", wait=0.3, times=2),
    "reset in mid-object": Fault("invvar-r", cut="reset", times=1, method="GET"),
    "closed in mid-object": Fault("invvar-r", cut="close", times=1, method="GET"),
}


@pytest.mark.parametrize("mode", BOTH_IF_LONG)
@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_read_again(right: Cutouts, proxy: Proxy, name: str, mode: str) -> None:
    fault = PASSING[name]
    fault.met = 0
    proxy.faults = [fault]
    check_same(read(mode), right)
    assert fault.met >= fault.times


LASTING = {
    "404": (Fault("invvar-r", status=404, code="NoSuchKey"), "missing_file", "is missing"),
    "403": (Fault("invvar-r", status=403, code="AccessDenied"), "unreadable", "invvar-r"),
    "500": (Fault("invvar-r", status=500), "unreadable", "invvar-r"),
    "503": (Fault("invvar-r", status=503, code="SlowDown"), "unreadable", "invvar-r"),
    "reset": (Fault("invvar-r", cut="reset", method="GET"), "unreadable", "invvar-r"),
    "expired": (
        Fault("", status=400, code="ExpiredToken"),
        "unreadable",
        "check the address, the credentials",
    ),
}


@pytest.mark.parametrize("mode", BOTH_IF_LONG)
@pytest.mark.parametrize("name", LASTING)
def test_what_stays_is_a_reason(right: Cutouts, proxy: Proxy, name: str, mode: str) -> None:
    fault, reason, says = LASTING[name]
    proxy.faults = [fault]
    out = read(mode)
    assert reasons(out) == [reason] * 5
    if name in ("403", "500", "503"):
        assert out.lasting is (name == "403")  # else a run waits, and tries again
    assert len(out.notes) == 1
    assert BRICK in out.notes[0]
    assert says in out.notes[0]
    assert not out.image.any()


@pytest.mark.parametrize("mode", MODES)
def test_a_short_body_is_no_file(right: Cutouts, proxy: Proxy, mode: str) -> None:
    """The server sends half and says that this was all; of a whole object the client knows a sum."""
    proxy.faults = [Fault("invvar-r", cut="short", method="GET")]
    out = read(mode)
    assert len(set(reasons(out))) == 1
    assert set(reasons(out)) <= {"unreadable", "corrupt_file"}
    assert "invvar-r" in out.notes[0]


@pytest.mark.parametrize("mode", MODES)
def test_wrong_bytes_are_found_by_their_tiles(right: Cutouts, proxy: Proxy, mode: str) -> None:
    """Bits that changed on the way: gzip's own sum says so, and of a whole object the client's."""
    proxy.faults = [Fault("invvar-r", flip=True, method="GET", skip=1 if mode == "ranges" else 0)]
    out = read(mode)
    assert set(reasons(out)) <= {"corrupt_file", "unreadable", "ok"}
    assert (out.reason != Reason.OK).any()
    failed = ~out.ok
    assert not out.image[failed].any()
    assert out.image[out.ok].tobytes() == right.image[out.ok].tobytes()


@pytest.mark.parametrize("same_size", [False, True])
def test_a_file_that_is_replaced_while_it_is_read(
    right: Cutouts, proxy: Proxy, folder: Path, same_size: bool
) -> None:
    raw = Path(Survey(str(folder)).url("invvar", BRICK, "r")).read_bytes()
    assert len(raw) > 2 * PREFIX
    # As long, and with pixels that decode: its version alone says that it is another file.
    other = raw[:-1] + b"\1" if same_size else packed(planes("r")["invvar"])

    def put_behind(content: bytes) -> None:
        server = http.client.HTTPConnection(*proxy.upstream, timeout=20)
        server.request("PUT", path("invvar", "r"), content)
        assert server.getresponse().status == 200
        server.close()

    fault = Fault("invvar-r", method="GET", times=1)
    fault.then = lambda: put_behind(other)
    proxy.faults = [fault]
    try:
        out = read("ranges")
    finally:
        put_behind(raw)
    assert set(reasons(out)) <= ({"unreadable"} if same_size else {"unreadable", "corrupt_file"})
    assert "invvar-r" in out.notes[0]
    assert not out.image.any()


def test_wrong_credentials_stop_before_the_run(right: Cutouts, proxy: Proxy) -> None:
    proxy.faults = [Fault("", status=403, code="InvalidAccessKeyId")]
    with pytest.raises(UserError, match="first brick cannot be read"):
        check_readable(read("auto"))


def test_before_a_run_what_s3_says_is_in_the_sentence(right: Cutouts, proxy: Proxy) -> None:
    """To the question for a size it answers with a number alone."""
    proxy.faults = [Fault("", status=400, code="ExpiredToken")]
    with pytest.raises(UserError, match=r"image-r.*ExpiredToken"):
        _may_be_there(Survey(BUCKET).url("image", BRICK, "r"), True)


def test_missing_credentials(
    right: Cutouts, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    s3fs.S3FileSystem.clear_instance_cache()
    for mode in MODES:
        out = read(mode)
        assert reasons(out) == ["unreadable"] * 5
        assert "credentials" in out.notes[0]


def test_unknown_host(right: Cutouts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://no-such-host.invalid")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        for mode in MODES:
            out = read(mode)
            assert reasons(out) == ["unreadable"] * 5
            assert "no-such-host.invalid" in out.notes[0]
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
