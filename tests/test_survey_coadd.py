"""Cut-outs against astropy's full decode, and every kind of broken or missing file."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from small_brick import (
    BRICK,
    RICE,
    SIZE,
    XS,
    YS,
    N,
    cards,
    cut,
    mask,
    packed,
    path_of,
    planes,
    put,
    reasons,
    sky,
    write_brick,
)

from darkhaloscope import storage
from darkhaloscope.errors import UserError
from darkhaloscope.survey import Cutouts, Reading, Survey, read_cutouts
from darkhaloscope.survey.reading import PREFIX

DATA = Path(__file__).parent / "data"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_brick(tmp_path)
    return tmp_path


def decoded(root: Path, kind: str, band: str | None = None) -> np.ndarray:
    with fits.open(path_of(root, kind, band), ignore_missing_simple=True) as hdus:
        return np.array(next(h.data for h in hdus if h.is_image and h.data is not None))


def check_pixels(out: Cutouts, root: Path, size: int = SIZE, bands: str = "grz") -> None:
    """Every stamp is the very pixels of astropy's full decode, about the target's own position."""
    assert out.ok.any()
    for b, band in enumerate(bands):
        image, invvar = decoded(root, "image", band), decoded(root, "invvar", band)
        psfsize = decoded(root, "psfsize", band)
        for k in np.flatnonzero(out.ok):
            x0, y0 = round(out.x[k] - out.target_x[k]), round(out.y[k] - out.target_y[k])
            assert abs(out.target_x[k] - (size - 1) / 2) <= 0.5 + 1e-9
            assert abs(out.target_y[k] - (size - 1) / 2) <= 0.5 + 1e-9
            np.testing.assert_array_equal(out.image[k, b], image[y0 : y0 + size, x0 : x0 + size])
            np.testing.assert_array_equal(out.invvar[k, b], invvar[y0 : y0 + size, x0 : x0 + size])
            own = psfsize[int(np.floor(out.y[k] + 0.5)), int(np.floor(out.x[k] + 0.5))]
            assert out.psfsize[k, b] == own


# ---- sound files


@pytest.mark.parametrize("size", [64, 96])
def test_the_real_brick(size: int) -> None:
    root = DATA / "dr9"
    table = pd.read_csv(DATA / "targets-0591m305.csv")
    out = read_cutouts(Survey(str(root), release="dr9"), BRICK, table["ra"], table["dec"], size)
    assert reasons(out)[:4] == ["ok"] * 4
    assert out.notes == []
    check_pixels(out, root, size)
    wcs = WCS(fits.getheader(path_of(root, "image", "r"), 1))
    x, y = wcs.all_world2pix(table["ra"], table["dec"], 0)
    np.testing.assert_allclose(out.x, x, atol=1e-6)
    np.testing.assert_allclose(out.y, y, atol=1e-6)
    assert (out.bad_pixel_frac[out.ok] == 0).all()
    # The brightest source: its peak in r lies on the target's own pixel, within a pixel.
    y_peak, x_peak = np.unravel_index(out.image[0, 1].argmax(), (size, size))
    assert abs(x_peak - out.target_x[0]) < 1
    assert abs(y_peak - out.target_y[0]) < 1


def test_real_targets_off_the_window_have_no_coverage() -> None:
    out = read_cutouts(Survey(str(DATA / "dr9")), BRICK, *sky([1000.0], [1000.0], 3600), 64)
    assert reasons(out) == ["no_coverage"]


def test_small_brick(root: Path) -> None:
    out = cut(root)
    assert reasons(out) == ["ok"] * 5
    check_pixels(out, root)
    np.testing.assert_allclose(out.x, XS, atol=1e-7)
    np.testing.assert_allclose(out.y, YS, atol=1e-7)
    assert (out.coverage == 1).all()
    assert out.image.dtype == out.invvar.dtype == out.psfsize.dtype == np.float32
    assert out.bands == ("g", "r", "z")


def test_no_targets(root: Path) -> None:
    assert cut(root, [], []).image.shape == (0, 3, SIZE, SIZE)


def test_a_row_does_not_depend_on_the_others(root: Path) -> None:
    xs, ys = np.append(XS, [3.0, 500.0]), np.append(YS, [100.0, 100.0])
    together = cut(root, xs, ys)
    for k in range(len(xs)):
        alone = cut(root, xs[k], ys[k])
        for name in ("image", "invvar", "coverage", "psfsize", "bad_pixel_frac", "reason", "x"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[k])


def as_rice_one(raw: bytes) -> bytes:
    assert raw.count(b"'RICE_1  '") == 1
    return raw.replace(b"'RICE_1  '", b"'RICE_ONE'")


def with_huge_tiles(raw: bytes) -> bytes:
    """One tile of the image, whose cards claim four million million pixels."""
    for card in (b"ZTILE1  =", b"ZTILE2  ="):
        assert raw.count(card) == 1
        at = raw.index(card) + len(card)
        raw = raw[:at] + b"%21d" % 2_000_000 + raw[at + 21 :]
    return raw


def without_hdu0(raw: bytes) -> bytes:
    return raw[2880:]


def with_further_hdus(raw: bytes) -> bytes:
    with fits.open(io.BytesIO(raw)) as hdus:
        extra = fits.BinTableHDU(np.zeros(3, dtype=[("a", "i4")]))
        sink = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), extra, hdus[1].copy()]).writeto(sink)
    return sink.getvalue()


def plain(in_hdu0: bool) -> Callable[[np.ndarray], bytes]:
    def write(pixels: np.ndarray) -> bytes:
        sink = io.BytesIO()
        image = fits.PrimaryHDU if in_hdu0 else fits.ImageHDU
        hdus = [image(pixels, cards())]
        fits.HDUList(hdus if in_hdu0 else [fits.PrimaryHDU(), *hdus]).writeto(sink)
        return sink.getvalue()

    return write


FORMATS: dict[str, Callable[[np.ndarray], bytes]] = {
    "rice_one": lambda p: as_rice_one(packed(p)),
    "no_hdu0": lambda p: without_hdu0(packed(p)),
    "table_before_image": lambda p: with_further_hdus(packed(p)),
    "gzip_2": lambda p: packed(p, compression_type="GZIP_2", quantize_level=0, tile_shape=(64, 48)),
    "gzip_1_quantised": lambda p: packed(p, compression_type="GZIP_1", tile_shape=(100, 100)),
    "rows": lambda p: packed(p, compression_type="RICE_1", tile_shape=(1, N)),
    "one_tile": lambda p: packed(p, compression_type="RICE_1", tile_shape=(N, N)),
    "huge_tile": lambda p: with_huge_tiles(packed(p, compression_type="RICE_1", tile_shape=(N, N))),
    "dithered": lambda p: packed(p, **RICE, quantize_method=2, dither_seed=7),
    "hcompress": lambda p: packed(p, compression_type="HCOMPRESS_1", tile_shape=(120, 80)),
    "plain": plain(False),
    "plain_in_hdu0": plain(True),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats(root: Path, name: str) -> None:
    for band in "grz":
        for kind, pixels in planes(band).items():
            put(root, FORMATS[name](pixels), kind, band)
    out = cut(root)
    assert reasons(out) == ["ok"] * 5, out.notes
    check_pixels(out, root)


def test_exact_zeros_and_gzip_fallback_tiles(root: Path) -> None:
    """Constant tiles cannot be quantised: fpack puts them, gzipped, in a column of their own."""
    image, invvar = planes("g")["image"], planes("g")["invvar"]
    image[:, :100] = invvar[:, :100] = 0
    put(root, packed(image, **RICE, quantize_method=2, dither_seed=3), "image", "g")
    put(root, packed(invvar, **RICE, quantize_method=-1), "invvar", "g")
    columns = fits.open(path_of(root, "invvar", "g"), disable_image_compression=True)[1].columns
    assert "GZIP_COMPRESSED_DATA" in columns.names
    out = cut(root)
    check_pixels(out, root)
    # Target 1 (x = 40) lies where g has no data; target 3 (x = 99.8) has its own pixel at x = 100.
    assert out.coverage[1, 0] == 0
    x0 = round(out.x[3] - out.target_x[3])
    assert out.coverage[3, 0] == pytest.approx((x0 + SIZE - 100) / SIZE)
    assert reasons(out) == ["ok"] * 5


def test_other_places(root: Path) -> None:
    survey = Survey("memory://sky/dr9")
    memory = fsspec.filesystem("memory")
    for file in root.rglob("*.fz"):
        memory.pipe_file("/sky/dr9/" + str(file.relative_to(root)), file.read_bytes())
    out = read_cutouts(survey, BRICK, *sky(XS, YS), SIZE)
    np.testing.assert_array_equal(out.image, cut(root).image)
    flat = root / "flat"
    flat.mkdir()
    for file in (root / "south").rglob("*.fz"):
        shutil.copy(file, flat / file.name)
    out = read_cutouts(Survey(str(flat), layout="flat"), BRICK, *sky(XS, YS), SIZE)
    np.testing.assert_array_equal(out.image, cut(root).image)


READINGS = [Reading("ranges"), Reading("whole"), Reading("auto")]


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: reading.mode)
def test_all_ways_of_reading_give_the_same(root: Path, reading: Reading) -> None:
    out, default = cut(root, reading=reading), cut(root)
    check_pixels(out, root)
    for name in ("image", "invvar", "psfsize", "bad_pixel_frac", "wise_brightmask_frac", "reason"):
        assert getattr(out, name).tobytes() == getattr(default, name).tobytes()
    if reading.mode == "whole":
        assert out.requests == 10
        assert out.bytes == sum(file.stat().st_size for file in root.rglob("*.fz"))


def write_sums(root: Path, **change: str) -> None:
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in root.rglob("*.fz")}
    lines = [f"{digest} *some/folder/{name}" for name, digest in (sums | change).items()]
    place = Path(Survey(str(root)).checksums_url(BRICK))
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("\n".join(lines) + "\n")


def test_checksums(root: Path) -> None:
    reading = Reading(checksums=True)
    out = cut(root, reading=reading)
    assert reasons(out) == ["missing_file"] * 5
    assert "sha256sum" in out.notes[0]
    write_sums(root)
    assert reasons(cut(root, reading=reading)) == ["ok"] * 5
    place = Path(Survey(str(root)).checksums_url(BRICK))
    listed = place.read_text()
    place.write_text("".join(s for s in listed.splitlines(True) if "image-g" not in s))
    out = cut(root, reading=reading)
    assert reasons(out) == ["corrupt_file"] * 5
    assert "is not listed by the release" in out.notes[0]
    place.write_text(listed)
    # A file that is whole, decodes, and is not the release's.
    put(root, packed(planes("g")["image"] + np.float32(1)), "image", "g")
    assert reasons(cut(root)) == ["ok"] * 5
    out = cut(root, reading=reading)
    assert reasons(out) == ["corrupt_file"] * 5
    assert "sha256" in out.notes[0]
    assert "image-g" in out.notes[0]


def test_a_file_that_is_replaced_while_it_is_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first bytes and its last would be of two files: no pixel of it is used."""
    read, path = storage.read_ranges, path_of(root, "invvar", "r")

    def replacing(ranges: Any) -> Any:
        answers = read(ranges)
        if any(url == str(path) for url, _, _ in ranges):
            path.rename(path.with_suffix(".old"))
            path.write_bytes(path.with_suffix(".old").read_bytes())
        return answers

    # Noise that does not compress: the file is longer than what is read of it at once.
    noise = np.random.default_rng(1).normal(0, 1, (N, N)).astype(np.float32) ** 2
    put(root, packed(noise, compression_type="GZIP_1", quantize_level=0, tile_shape=(20, 20)),
        "invvar", "r")  # fmt: skip
    assert path.stat().st_size > 3 * PREFIX
    assert reasons(cut(root, reading=Reading("ranges"))) == ["ok"] * 5
    monkeypatch.setattr(storage, "read_ranges", replacing)
    out = cut(root, reading=Reading("ranges"))
    assert reasons(out) == ["unreadable"] * 5
    assert "replaced while it was read" in out.notes[0]
    assert not out.image.any()


# ---- mask bits


def test_mask_fractions(root: Path) -> None:
    out = cut(root)
    bits = mask()
    for k in range(len(XS)):
        x0, y0 = round(out.x[k] - out.target_x[k]), round(out.y[k] - out.target_y[k])
        box = bits[y0 : y0 + SIZE, x0 : x0 + SIZE]
        assert out.bad_pixel_frac[k] == pytest.approx(((box & 2) != 0).mean())
        assert out.wise_brightmask_frac[k] == pytest.approx(((box & 256) != 0).mean())
    assert out.bad_pixel_frac.max() > 0.4
    galaxy = cut(root, bad_bits=("GALAXY",))
    assert galaxy.bad_pixel_frac[1] > 0
    assert galaxy.bad_pixel_frac[0] == 0
    with pytest.raises(UserError, match="GALAXY"):
        cut(root, bad_bits=("GALAXIES",))


def test_dr10_maskbits(root: Path) -> None:
    """int32, names from the cards, WISE maps in HDUs of their own without a WCS."""
    bits = np.zeros((N, N), np.int32)
    bits[:, 120:] = 1 << 20  # called BRIGHT by the cards below
    wise = np.zeros((N, N), np.uint8)
    wise[:120] = 4
    hdus = [
        fits.CompImageHDU(
            bits, cards(MBIT_20="BRIGHT", MBIT_1="OTHER"), name="MASKBITS",
            compression_type="HCOMPRESS_1", tile_shape=(100, 100),
        ),
        fits.CompImageHDU(np.zeros_like(wise), name="WISEM1"),
        fits.CompImageHDU(wise, name="WISEM2"),
    ]  # fmt: skip
    sink = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(sink)
    put(root, sink.getvalue(), "maskbits")
    out = cut(root, release="dr10")
    x0, y0 = np.round(out.x - out.target_x), np.round(out.y - out.target_y)
    expected = np.clip(x0 + SIZE - 120, 0, SIZE) / SIZE
    np.testing.assert_allclose(out.bad_pixel_frac, expected)
    np.testing.assert_allclose(out.wise_brightmask_frac, np.clip(120 - y0, 0, SIZE) / SIZE)


@pytest.mark.parametrize("write", [plain(False), lambda p: packed(p, compression_type="GZIP_1")])
def test_a_map_of_numbers_is_none_of_bits(root: Path, write: Callable[[np.ndarray], bytes]) -> None:
    put(root, write(mask().astype(np.float32)), "maskbits")
    out = cut(root)
    assert reasons(out) == ["corrupt_file"] * 5
    assert "no map of bits" in out.notes[0]


def test_i_band(root: Path) -> None:
    for kind, pixels in planes("i").items():
        put(root, packed(pixels), kind, "i")
    out = cut(root, bands=("g", "r", "i", "z"), release="dr10")
    check_pixels(out, root, bands="griz")


def test_two_bands(root: Path) -> None:
    for file in root.rglob("*-r.fits.fz"):
        file.unlink()
    out = cut(root, bands=("g", "z"))
    assert reasons(out) == ["ok"] * 5
    check_pixels(out, root, bands="gz")


# ---- missing files


def remove(root: Path, *names: str) -> None:
    for name in names:
        kind, _, band = name.partition("-")
        path_of(root, kind, band or None).unlink()


def test_a_band_without_files_has_no_coverage(root: Path) -> None:
    whole = cut(root)
    remove(root, "image-g", "invvar-g", "psfsize-g")
    out = cut(root)
    assert reasons(out) == ["ok"] * 5
    assert out.notes == []
    assert not out.coverage[:, 0].any()
    assert not out.image[:, 0].any()
    assert not out.psfsize[:, 0].any()
    np.testing.assert_array_equal(out.image[:, 1:], whole.image[:, 1:])


def test_missing_reference_band(root: Path) -> None:
    remove(root, "image-r", "invvar-r")
    out = cut(root)
    assert reasons(out) == ["missing_band"] * 5
    assert len(out.notes) == 1
    assert "image-r" in out.notes[0]
    assert BRICK in out.notes[0]
    assert reasons(cut(root, reference_band="z")) == ["ok"] * 5
    with pytest.raises(UserError, match="reference band 'i'"):
        cut(root, reference_band="i")


@pytest.mark.parametrize("name", ["image-g", "invvar-z", "maskbits"])
def test_one_missing_file(root: Path, name: str) -> None:
    remove(root, name)
    out = cut(root)
    assert reasons(out) == ["missing_file"] * 5
    assert len(out.notes) == 1
    assert name in out.notes[0]
    assert not out.image.any()
    assert np.isnan(out.bad_pixel_frac).all()


def test_missing_psfsize(root: Path) -> None:
    remove(root, "psfsize-z")
    out = cut(root)
    assert reasons(out) == ["ok"] * 5
    assert (out.psfsize[:, 2] == 0).all()
    assert (out.psfsize[:, :2] > 0).all()
    assert len(out.notes) == 1
    assert "psfsize-z" in out.notes[0]


def test_declared_absent(root: Path) -> None:
    remove(root, "maskbits", "psfsize-g", "psfsize-r", "psfsize-z")
    out = cut(root, absent=frozenset({"maskbits", "psfsize"}))
    assert reasons(out) == ["ok"] * 5
    assert out.notes == []
    assert np.isnan(out.bad_pixel_frac).all()
    assert np.isnan(out.wise_brightmask_frac).all()
    assert not out.psfsize.any()


def test_missing_brick(tmp_path: Path) -> None:
    out = cut(tmp_path)
    assert reasons(out) == ["missing_file"] * 5
    assert len(out.notes) == 1
    assert np.isnan(out.x).all()


def test_unreadable(root: Path) -> None:
    remove(root, "invvar-g")
    path_of(root, "invvar", "g").mkdir()  # a folder: there, and no file
    out = cut(root)
    assert reasons(out) == ["unreadable"] * 5
    assert len(out.notes) == 1
    assert "invvar-g" in out.notes[0]


# ---- broken files


@pytest.mark.parametrize("kind", ["image-r", "invvar-z", "psfsize-g", "maskbits"])
def test_truncation(root: Path, kind: str) -> None:
    """Cut anywhere, down to the last byte of the padding, a file is never taken for whole."""
    kind, _, band = kind.partition("-")
    path = path_of(root, kind, band or None)
    raw = path.read_bytes()
    heap = len(raw) - 2880
    for length in [
        0,
        1,
        80,
        2879,
        2880,
        2881,
        4000,
        5760,
        8640,
        heap // 2 + 4000,
        heap,
        len(raw) - 1,
    ]:
        path.write_bytes(raw[:length])
        out = cut(root)
        assert reasons(out) == ["corrupt_file"] * 5, length
        assert any(path.name in note and BRICK in note for note in out.notes), length
        assert not out.image.any()
    path.write_bytes(raw)
    assert reasons(cut(root)) == ["ok"] * 5


def test_truncation_between_and_inside_later_hdus(root: Path) -> None:
    wise = [fits.CompImageHDU(np.zeros((N, N), np.uint8), name=f"WISEM{n}") for n in (1, 2)]
    with fits.open(path_of(root, "maskbits")) as hdus:
        sink = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), hdus[1].copy(), *wise]).writeto(sink)
    raw = sink.getvalue()
    put(root, raw, "maskbits")
    assert reasons(cut(root)) == ["ok"] * 5
    with fits.open(io.BytesIO(raw), disable_image_compression=True) as hdus:
        last = hdus[3].fileinfo()["hdrLoc"]
    for length in (len(raw) - 2880, len(raw) - 100, last + 1, last + 1000, last + 2880):
        put(root, raw[:length], "maskbits")
        assert reasons(cut(root)) == ["corrupt_file"] * 5


@pytest.mark.parametrize(
    "raw", [b"", b"<html>404 Not Found</html>" * 200, bytes(20_000), b"SIMPLE  =" + b"x" * 9000]
)
def test_garbage(root: Path, raw: bytes) -> None:
    put(root, raw, "image", "g")
    out = cut(root)
    assert reasons(out) == ["corrupt_file"] * 5
    assert "image-g" in out.notes[0]


def test_a_file_without_an_image(root: Path) -> None:
    sink = io.BytesIO()
    table = fits.BinTableHDU(np.zeros(3, dtype=[("a", "i4")]))
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(sink)
    put(root, sink.getvalue(), "image", "z")
    assert reasons(cut(root)) == ["corrupt_file"] * 5


@pytest.mark.parametrize("kind", ["image", "invvar", "psfsize"])
def test_a_broken_tile_costs_only_its_rows(root: Path, kind: str) -> None:
    path = path_of(root, kind, "g")
    raw = bytearray(path.read_bytes())
    with fits.open(path, disable_image_compression=True) as hdus:
        start = hdus[1].fileinfo()["datLoc"]
        width, rows = hdus[1].header["NAXIS1"], hdus[1].header["NAXIS2"]
    size, place = np.frombuffer(raw, ">i4", 2, start)  # tile 0: y, x < 100
    at = start + width * rows + int(place)
    raw[at : at + int(size)] = b"\xff" * int(size)
    path.write_bytes(bytes(raw))
    with pytest.raises(Exception, match="decompress"):  # the defect is one that a decoder sees
        fits.getdata(path)
    out = cut(root)
    assert reasons(out) == ["ok", "corrupt_file", "ok", "ok", "ok"]
    assert any(path.name in note for note in out.notes)
    assert not out.image[1].any()
    assert out.image[0].any()


def test_files_that_disagree(root: Path) -> None:
    put(root, packed(planes("z")["image"][:200, :200], cards()), "image", "z")
    out = cut(root)
    assert reasons(out) == ["corrupt_file"] * 5
    assert "200 x 200" in out.notes[0]


def test_a_file_of_another_brick(root: Path) -> None:
    put(root, packed(planes("z")["image"], cards(CRVAL1=59.47)), "image", "z")
    out = cut(root)
    assert reasons(out) == ["corrupt_file"] * 5
    assert "CRVAL1" in out.notes[0]


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("invvar", {"CRPIX1": (N + 1) / 2 + 0.5}),  # half a pixel aside
        ("invvar", {"CRPIX2": None}),
        ("image", {"CRVAL2": None}),
        ("psfsize", {"CD1_1": 0.262 / 3600}),  # mirrored
        ("image", {"CTYPE1": "RA---SIN"}),
        ("maskbits", {"CRVAL1": None}),  # only the WISE maps go without
        ("image", {"FILTERX": "g"}),
        ("image", {"FILTER": "g DECam SDSS c0001 4720.0 1520.0"}),
        ("image", {"BRICK": "0594m305"}),
        ("psfsize", {"BRICKNAM": "0594m305"}),
        ("invvar", {"IMTYPE": "image"}),
        ("maskbits", {"IMTYPE": "allmask-g"}),
    ],
)
def test_a_file_that_is_not_what_its_name_says(
    root: Path, kind: str, change: dict[str, object]
) -> None:
    band = None if kind == "maskbits" else "z"
    pixels = mask() if band is None else planes("z")[kind]
    header = cards(**change)
    for name in [name for name, value in change.items() if value is None]:
        del header[name]
    put(root, packed(pixels, header), kind, band)
    out = cut(root)
    assert reasons(out) == ["corrupt_file"] * 5
    assert (
        next(iter(change)).rstrip("NAME").lower() in out.notes[0].lower() or "band" in out.notes[0]
    )


def test_a_file_s_own_cards_are_as_the_releases_write_them(root: Path) -> None:
    """BRICKNAM and FILTER of old releases, FILTERX beside a camera's FILTER of later ones."""
    own = {"BRICKNAM": f"{BRICK}  ", "FILTER": "z", "IMTYPE": "image"}
    put(root, packed(planes("z")["image"], cards(**own)), "image", "z")
    own = {"BRICK": BRICK, "FILTERX": "z", "FILTER": "zd MzLS", "IMTYPE": "invvar"}
    put(root, packed(planes("z")["invvar"], cards(**own)), "invvar", "z")
    assert reasons(cut(root)) == ["ok"] * 5


def test_of_several_troubles_the_one_that_a_retry_may_mend_is_said(root: Path) -> None:
    remove(root, "invvar-g")
    put(root, b"no file", "image", "z")
    out = cut(root)
    assert reasons(out) == ["corrupt_file"] * 5
    assert len(out.notes) == 2


SCALE = 0.262 / 3600


@pytest.mark.parametrize(
    "change",
    [
        {"CD1_1": SCALE},  # East to the right
        {"CD2_2": -SCALE},
        {"CD1_1": 0.0, "CD2_2": 0.0, "CD1_2": SCALE, "CD2_1": SCALE},
        {"CD1_1": -0.27 / 3600, "CD2_2": 0.27 / 3600},
        {"CD1_2": 2e-3 * SCALE, "CD2_1": 2e-3 * SCALE},
        {"CTYPE1": "RA---SIN", "CTYPE2": "DEC--SIN"},
        {"CTYPE1": "X", "CTYPE2": "Y"},
    ],
)
def test_other_wcs(root: Path, change: dict[str, Any]) -> None:
    for kind in ("image", "invvar"):
        put(root, packed(planes("g")[kind], cards(**change)), kind, "g")
    out = cut(root)
    assert reasons(out) == ["corrupt_file"] * 5
    assert "image-g" in out.notes[0]


def test_a_stated_pixel_scale(root: Path) -> None:
    out = cut(root, pixel_scale=0.27)
    assert reasons(out) == ["corrupt_file"] * 5


# ---- rows


def test_edges(root: Path) -> None:
    #     own corner fits | one pixel too far | half a pixel outside | far | other side of the sky
    half = (SIZE - 1) / 2
    xs = [half, half - 0.51, N - 1 - half, N - 1 - half + 0.51, -0.4, -0.6, N - 0.4, 5000.0]
    ys = [120.0] * len(xs)
    out = cut(root, xs, ys)
    assert reasons(out) == [
        "ok", "crosses_edge", "ok", "crosses_edge", "crosses_edge", "outside_brick",
        "outside_brick", "outside_brick",
    ]  # fmt: skip
    far = read_cutouts(
        Survey(str(root)), BRICK, [239.1800643086817, np.nan, 59.18], [30.5, 0.0, 59.4], SIZE
    )
    assert reasons(far) == ["outside_brick"] * 3


def change(root: Path, band: str, **where: Any) -> None:
    """Rewrite image and invvar of a band, losslessly, with some pixels set."""
    for kind in ("image", "invvar"):
        pixels = planes(band)[kind]
        for box, value in where.get(kind, []):
            pixels[box] = value
        put(root, packed(pixels, compression_type="GZIP_2", quantize_level=0), kind, band)


OWN = np.s_[122, 120]  # the pixel of target 0
BOX = np.s_[106:138, 105:137]  # its stamp
HALF = np.s_[106:124, 105:137]  # 18 of its 32 rows, its own pixel among them
UPPER = np.s_[124:138, 105:137]  # 14 of its 32 rows


def test_no_coverage_at_the_target(root: Path) -> None:
    change(root, "r", invvar=[(OWN, 0)])
    out = cut(root)
    assert reasons(out) == ["no_coverage", "ok", "ok", "ok", "ok"]
    assert out.coverage[0].sum() == 0
    change(root, "r")
    change(root, "g", invvar=[(OWN, 0)])
    out = cut(root)
    assert reasons(out) == ["ok"] * 5
    assert out.coverage[0].tolist() == [0, 1, 1]


def test_partial_coverage_keeps_the_image(root: Path) -> None:
    """Where invvar is 0 the releases still have pixels (saturated cores): they are real, and stay."""
    change(root, "g", image=[(UPPER, 7.0)], invvar=[(UPPER, 0)])
    out = cut(root)
    assert out.coverage[0, 0] == pytest.approx(18 / 32)
    assert (out.image[0, 0, 18:] == 7).all()
    assert not out.invvar[0, 0, 18:].any()


@pytest.mark.parametrize("kind", ["image", "invvar"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_few_broken_pixels_are_as_not_observed(root: Path, kind: str, value: float) -> None:
    change(root, "g", **{kind: [(UPPER, value)]})
    out = cut(root)
    assert reasons(out) == ["ok"] * 5
    assert not out.image[0, 0, 18:].any()
    assert not out.invvar[0, 0, 18:].any()
    assert out.coverage[0, 0] == pytest.approx(18 / 32)
    assert np.isfinite(out.image).all()
    assert np.isfinite(out.invvar).all()


@pytest.mark.parametrize("kind", ["image", "invvar"])
@pytest.mark.parametrize("where", [OWN, HALF])
def test_broken_at_the_target_or_mostly(root: Path, kind: str, where: Any) -> None:
    change(root, "g", **{kind: [(where, np.nan)]})
    out = cut(root)
    assert reasons(out)[:3] == ["nan_pixels", "ok", "ok"]
    assert not out.image[0].any()


def test_mostly_broken_away_from_the_target(root: Path) -> None:
    change(root, "g", image=[(HALF, np.nan), (OWN, 1.0)])
    assert reasons(cut(root))[0] == "nan_pixels"
    # 10 of the 18 rows that were observed at all
    change(root, "g", image=[(np.s_[106:116, 105:137], np.nan)], invvar=[(UPPER, 0)])
    assert reasons(cut(root))[0] == "nan_pixels"


def test_nan_where_nobody_looked_is_no_damage(root: Path) -> None:
    change(root, "g", image=[(BOX, np.nan)], invvar=[(BOX, 0)])
    out = cut(root)
    assert reasons(out) == ["ok"] * 5
    assert out.coverage[0, 0] == 0
    assert not out.image[0, 0].any()


def test_negative_invvar_is_no_data(root: Path) -> None:
    change(root, "r", invvar=[(UPPER, -1.0)])
    out = cut(root)
    assert out.invvar.min() == 0
    assert out.coverage[0, 1] == pytest.approx(18 / 32)


def test_psfsize_without_a_value(root: Path) -> None:
    for band, value in (("g", 0.0), ("r", np.nan), ("z", -1.0)):
        psfsize = np.full((N, N), value, np.float32)
        put(root, packed(psfsize, compression_type="GZIP_2", quantize_level=0), "psfsize", band)
    out = cut(root)
    assert reasons(out) == ["ok"] * 5
    assert not out.psfsize.any()
