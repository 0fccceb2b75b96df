"""A brick of 240 x 240 pixels, laid out as a release, and five targets on it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from darkhaloscope.errors import Reason
from darkhaloscope.survey import Cutouts, Survey, read_cutouts

BRICK = "0591m305"
N, SIZE = 240, 32
RICE = {"compression_type": "RICE_1", "tile_shape": (100, 100), "quantize_level": 16}


def cards(n: int = N, **change: Any) -> fits.Header:
    scale = 0.262 / 3600
    base = {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 59.1800643086817, "CRVAL2": -30.5,
        "CRPIX1": (n + 1) / 2, "CRPIX2": (n + 1) / 2,
        "CD1_1": -scale, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": scale,
    }  # fmt: skip
    return fits.Header(list((base | change).items()))


def packed(pixels: np.ndarray, header: fits.Header | None = None, **how: Any) -> bytes:
    header = header if header is not None else cards(len(pixels))
    hdu = fits.CompImageHDU(pixels, header=header, **(how or RICE))
    sink = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(sink)
    return sink.getvalue()


def planes(band: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(sum(map(ord, band)))
    image = rng.normal(0.0, 0.002, (N, N)).astype(np.float32)
    y, x = np.mgrid[:N, :N]
    invvar = (2e5 * (1 + 0.1 * np.sin(x / 50))).astype(np.float32)
    return {
        "image": image,
        "invvar": invvar,
        "psfsize": (1.2 + 1e-4 * (x + 2 * y)).astype(np.float32),
    }


def mask() -> np.ndarray:
    bits = np.zeros((N, N), np.int16)
    bits[100:120, 100:150] |= 1 << 1  # BRIGHT
    bits[100:110, 100:150] |= 1 << 8  # WISEM1
    bits[:, :30] |= 1 << 12  # GALAXY: not bad
    return bits


def write_brick(root: Path) -> None:
    """A small brick, whole and sound."""
    for band in "grz":
        for kind, pixels in planes(band).items():
            put(root, packed(pixels), kind, band)
    put(root, packed(mask(), compression_type="HCOMPRESS_1", tile_shape=(100, 100)), "maskbits")


def path_of(root: Path, kind: str, band: str | None = None) -> Path:
    return Path(Survey(str(root)).url(kind, BRICK, band))


def put(root: Path, raw: bytes, kind: str, band: str | None = None) -> None:
    path = path_of(root, kind, band)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


def sky(x: Any, y: Any, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    ra, dec = WCS(cards(n)).all_pix2world(np.atleast_1d(x), np.atleast_1d(y), 0)
    return ra, dec


XS = np.array([120.3, 40.0, 199.6, 99.8, 118.2])
YS = np.array([121.8, 41.49, 60.51, 200.2, 110.0])


_READ = ("bad_bits", "reference_band", "pixel_scale", "reading")


def cut(root: Path, xs: Any = XS, ys: Any = YS, size: int = SIZE, **how: Any) -> Cutouts:
    read = {k: how.pop(k) for k in _READ if k in how}
    return read_cutouts(Survey(str(root), **how), BRICK, *sky(xs, ys), size, **read)


def reasons(cutouts: Cutouts) -> list[str]:
    return [Reason(code).text for code in cutouts.reason]
