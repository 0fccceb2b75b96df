"""Tiles against astropy's full decode, bit for bit: every compression, quantisation and writer."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fitsio
import numpy as np
import pytest
from astropy.io import fits

from darkhaloscope.survey.decode import dither, dither_table
from darkhaloscope.survey.files import CoaddFile, fetch_tiles, open_files
from darkhaloscope.survey.reading import PREFIX, Reading
from darkhaloscope.survey.tiles import TiledImage, read_images

SHAPE, TILE, SIZE = (530, 310), (100, 100), 40
Write = Callable[[Path, np.ndarray], None]


def sky(kind: type = np.float32) -> np.ndarray:
    """Noise, a bright source, exact zeros, and tiles that are constant and cannot be quantised."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    pixels = rng.normal(0, 0.003, SHAPE) + 5 * np.exp(-((x - 150) ** 2 + (y - 220) ** 2) / 50)
    if np.issubdtype(kind, np.integer):
        bits = np.where(rng.random(SHAPE) < 0.02, 1 << rng.integers(0, 7, SHAPE), 0)
        bits[120:180, 30:200] |= 2
        return (bits << (8 * np.dtype(kind).itemsize - 9 if kind != np.uint8 else 0)).astype(kind)
    pixels[60:90, 60:190] = 0.0
    pixels[100:200, :100] = 0.0
    pixels[300:400, 200:300] = 1.5
    return pixels.astype(kind)


def by_astropy(**how: Any) -> Write:
    def write(path: Path, pixels: np.ndarray) -> None:
        hdu = fits.CompImageHDU(pixels, **({"tile_shape": TILE} | how))
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path)

    return write


def by_fitsio(compress: str, **how: Any) -> Write:
    def write(path: Path, pixels: np.ndarray) -> None:
        with fitsio.FITS(str(path), "rw") as file:
            file.write(pixels, compress=compress, tile_dims=TILE, **how)

    return write


FLOATS: dict[str, Write] = {
    f"astropy {codec} level {level} method {method}": by_astropy(
        compression_type=codec, quantize_level=level, quantize_method=method, dither_seed=9_990
    )
    for codec, level in (("RICE_1", 16), ("RICE_1", -1e-4), ("GZIP_1", 4), ("GZIP_2", -1e-3))
    for method in (-1, 1, 2)
} | {
    "astropy GZIP_1 lossless": by_astropy(compression_type="GZIP_1", quantize_level=0),
    "astropy GZIP_2 lossless": by_astropy(compression_type="GZIP_2", quantize_level=0),
    "astropy HCOMPRESS": by_astropy(compression_type="HCOMPRESS_1", quantize_level=16),
    "astropy rows": by_astropy(compression_type="RICE_1", tile_shape=(1, SHAPE[1])),
    "fitsio rice": by_fitsio("rice", qlevel=4, qmethod="no_dither"),
    "fitsio rice dither 1": by_fitsio("rice", qlevel=4, qmethod="subtractive_dither_1", dither_seed=3),
    "fitsio rice dither 2": by_fitsio("rice", qlevel=-1e-4, qmethod="subtractive_dither_2"),
    "fitsio gzip": by_fitsio("gzip", qlevel=4, qmethod="subtractive_dither_1"),
    "fitsio gzip lossless": by_fitsio("gzip", qlevel=0),
    "fitsio gzip_2": by_fitsio("gzip_2", qlevel=0),
    "fitsio hcompress": by_fitsio("hcompress", qlevel=4),
}  # fmt: skip
INTEGERS: dict[str, Write] = {
    f"astropy {codec}": by_astropy(compression_type=codec)
    for codec in ("RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1")
} | {f"fitsio {codec}": by_fitsio(codec) for codec in ("rice", "gzip", "gzip_2", "hcompress")}


def opened(path: Path, mode: str) -> tuple[TiledImage, CoaddFile]:
    (file,) = open_files([str(path)], Reading(mode), 10, [SIZE])
    assert isinstance(file, CoaddFile), file
    return file.images[0], file


def corners() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    y = np.append(rng.integers(0, SHAPE[0] - SIZE, 6), [SHAPE[0] - SIZE, 70, 110, 310])
    x = np.append(rng.integers(0, SHAPE[1] - SIZE, 6), [SHAPE[1] - SIZE, 70, 10, 220])
    return y, x


def check(path: Path, mode: str) -> TiledImage:
    image, file = opened(path, mode)
    y, x = corners()
    assert fetch_tiles([(file, {0: image.needed(y, x, SIZE, SIZE)})]) == {}
    pixels, readable = image.windows(y, x, SIZE, SIZE)
    assert readable.all()
    full = fits.getdata(path, 1)
    right = np.stack([full[j : j + SIZE, i : i + SIZE] for j, i in zip(y, x, strict=True)])
    right = right.astype(right.dtype.newbyteorder("="))
    assert pixels.dtype == right.dtype
    # Bit for bit; of two long strings of bytes pytest would tell the difference, for minutes.
    assert np.array_equal(pixels.view(np.uint8), right.view(np.uint8))
    return image


@pytest.mark.parametrize("name", FLOATS)
def test_floats(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.fits.fz"
    FLOATS[name](path, sky())
    for mode in ("ranges", "whole"):
        image = check(path, mode)
    # What the releases use is decoded here; astropy is asked for the rest.
    assert (image.recipe is None) == ("hcompress" in name.lower())


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32])
@pytest.mark.parametrize("name", INTEGERS)
def test_integers(tmp_path: Path, name: str, kind: type) -> None:
    path = tmp_path / "a.fits.fz"
    if "PLIO" in name and kind == np.int32:
        pytest.skip("PLIO has 24 bits")
    INTEGERS[name](path, sky(kind))
    for mode in ("ranges", "whole"):
        check(path, mode)


@pytest.mark.parametrize("method", [-1, 1, 2])
def test_nan(tmp_path: Path, method: int) -> None:
    pixels = sky()
    pixels[300:330, 100:140] = np.nan
    path = tmp_path / "a.fits.fz"
    by_astropy(compression_type="RICE_1", quantize_method=method)(path, pixels)
    check(path, "ranges")


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.float64])
def test_rare_types_are_left_to_astropy(tmp_path: Path, kind: type) -> None:
    path = tmp_path / "a.fits.fz"
    by_astropy(compression_type="RICE_1")(path, (1000 * sky(np.float64)).clip(0).astype(kind))
    assert check(path, "ranges").recipe is None


def test_rice_one_and_uncompressed_heap_order(tmp_path: Path) -> None:
    path = tmp_path / "a.fits.fz"
    by_astropy(compression_type="RICE_1", quantize_level=16)(path, sky())
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"'RICE_1  '", b"'RICE_ONE'"))
    check(path, "ranges")


def test_the_dither_is_the_standards() -> None:
    """FITS standard 4.0, appendix I: the 10,000th seed is 1043618065."""
    assert dither_table()[-1] == np.float32(1043618065 / 2147483647)
    table = dither_table()
    row, place, sequence = 9_998, int(table[9_998] * 500), []
    for _ in range(25_000):  # CFITSIO's loop, as it stands in unquantize_i4r4
        sequence.append(table[place])
        place += 1
        if place == 10_000:
            row = (row + 1) % 10_000
            place = int(table[row] * 500)
    np.testing.assert_array_equal(dither(9_000, 999, 25_000), sequence)


@pytest.mark.parametrize(
    "how",
    [
        {"compression_type": "GZIP_2", "quantize_level": 0},
        {"compression_type": "RICE_1", "quantize_level": 16},  # the tile falls back to gzip
    ],
)
def test_only_the_tiles_that_are_needed_are_fetched(tmp_path: Path, how: dict[str, Any]) -> None:
    path = tmp_path / "a.fits"
    rng = np.random.default_rng(1)
    pixels = rng.normal(0, 1, (2000, 1000)).astype(np.float32)
    pixels[1501, 301] = 1e15  # so wide a range of values cannot be quantised
    by_astropy(**how)(path, pixels)
    image, file = opened(path, "ranges")
    assert image.table is not None
    if how["compression_type"] == "RICE_1":
        first, end = image.table.range("GZIP_COMPRESSED_DATA", 153)
        assert end > first > PREFIX
        assert image.table.range("COMPRESSED_DATA", 153)[1] <= image.table.heap
    y, x = np.array([1520]), np.array([310])
    needed = image.needed(y, x, 64, 64)
    assert needed.sum() == 1
    size = sum(end - first for first, end in image.byte_ranges(needed))
    assert 0 < size < 40_000
    assert fetch_tiles([(file, {0: needed})]) == {}
    assert file.bytes == PREFIX + size
    assert file.requests == 4  # its size, its head, the tile, its size again
    np.testing.assert_array_equal(image.windows(y, x, 64, 64)[0][0], pixels[1520:1584, 310:374])
    # Elsewhere nothing is known; zeros are no gzip stream, though RICE would make pixels of them.
    assert file.source.lacks(*image.table.range("COMPRESSED_DATA", 93))
    if how["compression_type"] == "GZIP_2":
        assert not image.windows(np.array([900]), np.array([310]), 64, 64)[1].any()


def test_read_images_of_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.fits"
    by_astropy(compression_type="RICE_1", quantize_level=16)(path, sky())
    (image,) = read_images(path.read_bytes())
    pixels, readable = image.windows(np.array([7]), np.array([9]), 64, 64)
    assert readable.all()
    np.testing.assert_array_equal(pixels[0], fits.getdata(path, 1)[7:71, 9:73])


@pytest.mark.parametrize("compression", ["HCOMPRESS_1", "RICE_1", "GZIP_1"])
def test_threads_do_not_disturb_each_other(compression: str) -> None:
    """astropy's HCOMPRESS decoder is not safe in threads: without a lock nearly every map is wrong."""
    maps = [(np.random.default_rng(k).random((300, 300)) < 0.1).astype("i4") * 4 for k in range(4)]
    files = []
    for one in maps:
        stream = io.BytesIO()
        fits.HDUList(
            [
                fits.PrimaryHDU(),
                fits.CompImageHDU(one, compression_type=compression, tile_shape=(100, 100)),
            ]
        ).writeto(stream)
        files.append(stream.getvalue())

    def right(k: int) -> bool:
        corner = np.array([0])
        pixels, readable = read_images(files[k % 4])[0].windows(corner, corner, 300, 300)
        return bool(readable.all()) and np.array_equal(pixels[0], maps[k % 4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(right, range(100)))
