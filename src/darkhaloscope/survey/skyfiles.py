"""Files of the synthetic sky: the release's cards, compression and names.

Every header, of HDU 0 too, says that the content is synthetic (``SYNTH = T``).
"""

from __future__ import annotations

import io
import math
import warnings
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning
from astropy.wcs import WCS
from numpy.typing import NDArray

from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.survey import bricks
from darkhaloscope.survey.maskbits import DR10_BITS
from darkhaloscope.variables import MAG_ZERO_POINT

TILE = 100
"""Side of a compressed tile in pixels, as in the releases."""

IMAGE_STEP = 1e-4
"""Quantisation step of an image in nMgy: ``fpack -qz -1e-4``."""

INVVAR_LEVEL = 16.0
"""Quantisation steps per noise sigma of an invvar map: ``fpack -q0 16``."""

_GZIP_MAGIC = b"\x1f\x8b\x08"  # then flags (1 byte) and the time (4 bytes): RFC 1952

_UNITS = {"image": "nanomaggy", "invvar": "1/nanomaggy^2", "psfsize": "arcsec"}

_SYNTHETIC: list[tuple[str, Any]] = [
    ("SYNTH", True),
    ("COMMENT", "Synthetic sky of Dark Halo Scope: nothing here was observed."),
]


def brick_wcs(brick: str, size: int) -> WCS:
    """TAN WCS of a brick's coadd: the brick's centre at the image's centre, North up, East left."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [float(value) for value in bricks.brick_centre(brick)]
    wcs.wcs.crpix = [(size + 1) / 2, (size + 1) / 2]
    wcs.wcs.cd = np.array([[-PIXEL_SCALE, 0.0], [0.0, PIXEL_SCALE]]) / 3600.0
    return wcs


def header(
    brick: str, size: int, kind: str, bands: tuple[str, ...], band: str | None
) -> fits.Header:
    """The cards of one coadd file of DR10, and two that say that it is synthetic."""
    ra0, ra1, dec0, dec1 = (float(value) for value in bricks.brick_bounds(brick))
    ra, dec = (float(value) for value in bricks.brick_centre(brick))
    cards: list[tuple[str, Any]] = [
        *_SYNTHETIC,
        ("BRICK", brick),
        ("BRICKID", int(bricks.brick_id_of(brick))),
        ("RAMIN", ra0),
        ("RAMAX", ra1),
        ("DECMIN", dec0),
        ("DECMAX", dec1),
        ("LSDR", "DR10"),
        ("SURVEY", "SYNTHETIC"),
        ("BANDS", "".join(bands)),
        ("IMTYPE", kind),
        ("PRODTYPE", kind),
        ("CTYPE1", "RA---TAN"),
        ("CTYPE2", "DEC--TAN"),
        ("CRVAL1", ra),
        ("CRVAL2", dec),
        ("CRPIX1", (size + 1) / 2),
        ("CRPIX2", (size + 1) / 2),
        ("CD1_1", -PIXEL_SCALE / 3600.0),
        ("CD1_2", 0.0),
        ("CD2_1", 0.0),
        ("CD2_2", PIXEL_SCALE / 3600.0),
        ("EQUINOX", 2000.0),
    ]
    if kind in _UNITS:
        cards.append(("BUNIT", _UNITS[kind]))
    if kind == "image":
        cards.append(("MAGZERO", MAG_ZERO_POINT))
    if kind == "maskbits":
        cards += [(f"MBIT_{bit}", name) for name, bit in DR10_BITS.items()]
    if band is not None:
        cards.append(("FILTERX", band))
    return fits.Header(cards)


def pack(kind: str, pixels: NDArray[Any], cards: fits.Header, dither_seed: int) -> bytes:
    """One image or map, compressed as the release compresses that kind, as a FITS file."""
    return _to_bytes([_compressed(kind, pixels, cards, dither_seed)])


def pack_maskbits(
    mask: NDArray[np.int32], wise: tuple[NDArray[np.uint8], NDArray[np.uint8]], cards: fits.Header
) -> bytes:
    """maskbits and its two WISE maps, in the HDUs MASKBITS, WISEM1 and WISEM2."""
    hdus = [_compressed("maskbits", mask, cards, 1, name="MASKBITS")]
    synth = fits.Header(_SYNTHETIC)
    hdus += [
        _compressed("wise", plane, synth, 1, name=f"WISEM{number}")
        for number, plane in enumerate(wise, start=1)
    ]
    return _to_bytes(hdus)


def _compressed(
    kind: str, pixels: NDArray[Any], cards: fits.Header, dither_seed: int, name: str | None = None
) -> fits.CompImageHDU:
    ways: dict[str, dict[str, Any]] = {
        "image": {
            "compression_type": "RICE_1",
            "quantize_level": -IMAGE_STEP,
            "quantize_method": 2,  # SUBTRACTIVE_DITHER_2: exact zeros stay
            "dither_seed": dither_seed,
        },
        "invvar": {
            "compression_type": "RICE_1",
            "quantize_level": INVVAR_LEVEL,
            "quantize_method": -1,  # NO_DITHER
        },
        "psfsize": {"compression_type": "GZIP_1", "quantize_level": 0.0},  # lossless
        "maskbits": {"compression_type": "HCOMPRESS_1", "hcomp_scale": 0},
        "wise": {"compression_type": "RICE_1"},
    }
    tile = (min(TILE, pixels.shape[0]), min(TILE, pixels.shape[1]))
    return fits.CompImageHDU(pixels, header=cards, tile_shape=tile, name=name, **ways[kind])


def _to_bytes(hdus: list[Any]) -> bytes:
    sink = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)
        fits.HDUList([fits.PrimaryHDU(header=fits.Header(_SYNTHETIC)), *hdus]).writeto(sink)
    return _without_gzip_times(sink.getvalue())


def _without_gzip_times(raw: bytes) -> bytes:
    """The same file with the time of day, which gzip writes into every tile, set to 0.

    Tiles that cannot be quantised are gzipped in a column of their own, in files of any
    compression.
    """
    out = bytearray(raw)
    with fits.open(io.BytesIO(raw), disable_image_compression=True, memmap=False) as hdus:
        for hdu in hdus[1:]:
            cards, start = hdu.header, hdu.fileinfo()["datLoc"]
            heap = start + cards.get("THEAP", cards["NAXIS1"] * cards["NAXIS2"])
            for number in range(1, cards["TFIELDS"] + 1):
                if not cards[f"TTYPE{number}"].strip().endswith("COMPRESSED_DATA"):
                    continue
                offset = hdu.columns.dtype.fields[cards[f"TTYPE{number}"]][1]
                wide = "Q" in cards[f"TFORM{number}"].split("(")[0]
                for row in range(cards["NAXIS2"]):
                    at = start + row * cards["NAXIS1"] + offset
                    size, place = np.frombuffer(raw, ">i8" if wide else ">i4", 2, at)
                    first = heap + int(place)
                    if size > 10 and raw[first : first + 3] == _GZIP_MAGIC:
                        out[first + 4 : first + 8] = bytes(4)
    return bytes(out)


def pack_catalogue(columns: dict[str, NDArray[Any]], brick: str) -> bytes:
    """A tractor catalogue: a binary table in HDU 1."""
    rows = np.zeros(
        len(next(iter(columns.values()))),
        dtype=[(name, values.dtype) for name, values in columns.items()],
    )
    for name, values in columns.items():
        rows[name] = values
    table = fits.BinTableHDU(rows)
    table.header.extend(fits.Header(_SYNTHETIC))
    table.header["BRICK"] = brick
    return _to_bytes([table])


def hcompress_holds(size: int) -> bool:
    """Whether HCOMPRESS can pack an image of that side: no tile may be thinner than 4 pixels."""
    last = size - TILE * (math.ceil(size / TILE) - 1)
    return size >= 4 and last >= 4
