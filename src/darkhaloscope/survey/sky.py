"""A synthetic sky, laid out as DR10 south: LRGs, field galaxies, stars, noise, PSF and masks.

Nothing in it was observed, and every header says so. Each brick is a pure function of (seed, brick,
size), so that a cluster can make them in any order, and any number of them: the same bytes again.
What is in the sky stands in :mod:`skysources`, its light in :mod:`skylight`, how it was observed in
:mod:`skyconditions`, and what the files look like in :mod:`skyfiles`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkhaloscope import storage
from darkhaloscope.errors import UserError
from darkhaloscope.survey import bricks as tiling
from darkhaloscope.survey import skyfiles
from darkhaloscope.survey.layout import Survey
from darkhaloscope.survey.maskbits import DR10_BITS
from darkhaloscope.survey.skyconditions import (
    SKY_FLUX,
    Conditions,
    GBand,
    coadd_noise,
    conditions,
    g_band_of,
)
from darkhaloscope.survey.skylight import REACH, light_of, nearest_pixel
from darkhaloscope.survey.skysources import (
    EBV,
    FLUX_BANDS,
    Sources,
    draw_sources,
    fibre_fraction,
    joined,
    stream,
    transmission,
)

BANDS = ("g", "r", "z")
ALL_BANDS = ("g", "r", "i", "z")

RELEASE = 10_000
"""RELEASE of DR10's southern catalogues."""

REAL_LRGS = 0.84
"""LRGs per 512 x 512 pixels in the real sky: 605 deg^-2 (Zhou et al. 2023)."""

MOST_BRICKS = 413**2
"""A patch of more would go around the sky in its northernmost row: that has 414 bricks at 73.25 deg."""

MOST_PIXELS = 3600
"""Side of a brick in the releases; a larger one would reach over its neighbours."""

_SATURATION = 50.0  # nMgy in a pixel
_DISC = 50.0  # pixels that are masked about a bright star
_EDGE = 49.0  # pixels that primary sources keep off the edge: stamps of 96 fit


@dataclass(frozen=True)
class SkySummary:
    """What was made.

    Attributes
    ----------
    survey : Survey
        How to read it.
    bricks : tuple of str
    lrgs : int
        Primary galaxies drawn as LRGs; :func:`~darkhaloscope.survey.selection.select_lrg` finds those
        that no mask covers.
    files, bytes : int
        Written.
    """

    survey: Survey
    bricks: tuple[str, ...]
    lrgs: int
    files: int
    bytes: int


def sky_bricks(count: int) -> tuple[str, ...]:
    """Names of a contiguous patch of bricks of the tiling, rows upward from (55, -29.75) deg.

    Raises UserError for less than one, or more than :data:`MOST_BRICKS`.
    """
    if not 1 <= count <= MOST_BRICKS:
        raise UserError(f"a sky has 1 to {MOST_BRICKS} bricks, not {count}.")
    columns = math.ceil(math.sqrt(count))
    names: list[str] = []
    for row in range(math.ceil(count / columns)):
        dec = -29.75 + tiling.BRICK_SIZE * row
        west, east, _, _ = (float(v) for v in tiling.brick_bounds(tiling.brick_name(55.0, dec)))
        ra = west + (east - west) * (np.arange(min(columns, count - len(names))) + 0.5)
        names += tiling.brick_name(ra, np.full(len(ra), dec)).tolist()
    return tuple(names)


def make_sky(
    root_url: str,
    *,
    bricks: int = 28,
    size: int = 512,
    seed: int = 0,
    lrgs: float = 60.0,
    bands: Sequence[str] = BANDS,
    on_brick: Callable[[SkySummary], object] | None = None,
) -> SkySummary:
    """Write a synthetic sky. See :func:`make_brick`, which makes one brick of it.

    Parameters
    ----------
    root_url : str
        The folder that will hold ``south/``: any fsspec URL.
    bricks : int
        How many.
    size : int
        Pixels on a side of a brick (3600 in the releases: only then do bricks overlap).
    seed : int
    lrgs : float
        LRGs per 512 x 512 pixels (5.0 arcmin^2): by default far more than :data:`REAL_LRGS`.
    bands : sequence of str
        Of g, r, i, z.
    on_brick : callable, optional
        Called with each brick's summary when it is written.

    Raises
    ------
    UserError
        For a size, a number or bands that are out of range, or a place that cannot be written to.
    """
    parts = []
    for name in sky_bricks(bricks):
        part = make_brick(root_url, name, size=size, seed=seed, lrgs=lrgs, bands=bands)
        if on_brick is not None:
            on_brick(part)
        parts.append(part)
    return combine(parts)


def combine(parts: Iterable[SkySummary]) -> SkySummary:
    """One summary of several bricks, for whoever made them one by one."""
    parts = list(parts)
    return SkySummary(
        survey=parts[0].survey,
        bricks=tuple(name for part in parts for name in part.bricks),
        lrgs=sum(part.lrgs for part in parts),
        files=sum(part.files for part in parts),
        bytes=sum(part.bytes for part in parts),
    )


def make_brick(
    root_url: str,
    brick: str,
    *,
    size: int = 512,
    seed: int = 0,
    lrgs: float = 60.0,
    bands: Sequence[str] = BANDS,
    g_band: GBand | None = None,
) -> SkySummary:
    """Write one brick: image, invvar and psfsize in every band, maskbits, and its tractor catalogue.

    LRGs are Sersic galaxies with n near 4, R_e 0.8 to 2.5 arcsec and z 18 to 20.3 whose colours
    pass DESI's LRG cuts. Field galaxies have n = 1; stars are points; about bright ones the bits
    BRIGHT and WISEM1 are set, and their cores are saturated. Sources lie on the sky: a neighbour's
    coadd shows those in the overlap again, and its catalogue lists them as not primary. The noise is
    that of :func:`~darkhaloscope.survey.skyconditions.coadd_noise`, with each source's own photons in
    it. The PSF is a Moffat of beta 3.5; the psfsize map holds exactly the widths that were used. The
    catalogue holds the true values, and as NOBS 3 wherever the brick lies, so that bricks without
    a band have targets.

    Parameters
    ----------
    root_url, brick, size, seed, lrgs, bands
        See :func:`make_sky`. Pixels of one band do not depend on the other bands.
    g_band : {'normal', 'empty', 'absent'}, optional
        ``empty``: g files are there, and 0 everywhere. ``absent``: there are none. By default what
        :func:`~darkhaloscope.survey.skyconditions.g_band_of` says of the brick.

    Raises
    ------
    UserError
        For a size that cannot be packed, unknown bands, or a place that cannot be written to.
    """
    _check(size, bands, lrgs)
    bands = tuple(band for band in ALL_BANDS if band in bands)
    g_band = g_band_of(seed, brick) if g_band is None else g_band
    sources, x, y = _sources_on(brick, size, seed, lrgs)
    seen = {band: conditions(seed, brick, band, size) for band in bands}
    has_data = {band: band != "g" or g_band == "normal" for band in bands}
    light = light_of(sources, x, y, seen, size)
    mask, disc = _star_masks(sources, x, y, size)
    mask[~_is_primary(brick, size)] |= 1 << DR10_BITS["NPRIMARY"]

    survey, written = Survey(root_url, "south", bands, release="dr10"), []
    for band in bands:
        if has_data[band]:
            saturated = light[band] > _SATURATION
            mask[saturated] |= 1 << DR10_BITS[f"SATUR_{band.upper()}"]
        elif g_band == "absent":
            continue
        planes = _planes(
            stream(seed, "noise", brick, band), band, light.pop(band), seen[band], disc
        )
        dither = 1 + (seed + 97 * "grzi".index(band)) % 10_000
        for kind, plane in planes.items():
            pixels = plane if has_data[band] else np.zeros_like(plane)
            cards = skyfiles.header(brick, size, kind, bands, band)
            written.append(
                (survey.url(kind, brick, band), skyfiles.pack(kind, pixels, cards, dither))
            )
    wise = (disc.astype(np.uint8), np.zeros((size, size), np.uint8))
    cards = skyfiles.header(brick, size, "maskbits", bands, None)
    written.append((survey.url("maskbits", brick), skyfiles.pack_maskbits(mask, wise, cards)))
    inside = (x > -0.5) & (x < size - 0.5) & (y > -0.5) & (y < size - 0.5)
    listed = sources.take(inside)
    columns = _catalogue(brick, listed, x[inside], y[inside], seen, has_data, mask)
    written.append((survey.tractor_url(brick), skyfiles.pack_catalogue(columns, brick)))
    for url, raw in written:
        storage.write(url, raw)
    primary = int((listed.lrg & columns["brick_primary"]).sum())
    total = sum(len(raw) for _, raw in written)
    return SkySummary(survey, (brick,), primary, len(written), total)


def _check(size: int, bands: Sequence[str], lrgs: float) -> None:
    if not 128 <= size <= MOST_PIXELS or not skyfiles.hcompress_holds(size):
        raise UserError(
            f"a brick of {size} pixels cannot be made: it takes 128 to {MOST_PIXELS}, and by "
            f"{skyfiles.TILE} a remainder of 0 or at least 4."
        )
    if not bands or set(bands) - set(ALL_BANDS):
        raise UserError(f"the bands of a sky are of g, r, i, z, not {''.join(bands) or 'none'}.")
    if not 0 <= lrgs <= 1000:
        raise UserError(f"a sky has 0 to 1000 LRGs per 512 x 512 pixels, not {lrgs:g}.")


def _sources_on(
    brick: str, size: int, seed: int, lrgs: float
) -> tuple[Sources, NDArray[np.float64], NDArray[np.float64]]:
    """All sources whose light reaches a coadd, and their pixel positions."""
    wcs = skyfiles.brick_wcs(brick, size)
    axis = np.linspace(-REACH, size - 1 + REACH, 9)
    ra, dec = wcs.wcs_pix2world(*np.meshgrid(axis, axis), 0)
    around = np.unique(tiling.brick_name(ra, dec))
    names = [brick, *(str(name) for name in around if name != brick)]
    sources = joined(draw_sources(seed, name, lrgs) for name in names)
    x, y = wcs.wcs_world2pix(sources.ra, sources.dec, 0)
    limit = size - 0.5 + REACH
    near = (x > -REACH - 0.5) & (x < limit) & (y > -REACH - 0.5) & (y < limit)
    return sources.take(near), x[near], y[near]


def _is_primary(brick: str, size: int) -> NDArray[np.bool_]:
    """Pixels of the brick's primary area, and of a small brick those off its edges."""
    wcs = skyfiles.brick_wcs(brick, size)
    inside = np.ones((size, size), bool)
    rim = min(200, size // 2)  # further in, no brick ends
    for rows, columns in (
        (slice(0, rim), slice(0, size)),
        (slice(size - rim, size), slice(0, size)),
        (slice(rim, size - rim), slice(0, rim)),
        (slice(rim, size - rim), slice(size - rim, size)),
    ):
        x, y = np.meshgrid(np.arange(size)[columns], np.arange(size)[rows])
        ra, dec = wcs.wcs_pix2world(x, y, 0)
        inside[rows, columns] = _primary_at(brick, size, ra, dec, x, y)
    return inside


def _primary_at(
    brick: str,
    size: int,
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    x: NDArray[Any],
    y: NDArray[Any],
) -> NDArray[np.bool_]:
    west, east, south, north = (float(value) for value in tiling.brick_bounds(brick))
    here = (ra >= west) & (ra < east) & (dec >= south) & (dec < north)
    last = size - 1 - _EDGE
    return np.asarray(here & (x >= _EDGE) & (x <= last) & (y >= _EDGE) & (y <= last))


def _star_masks(
    sources: Sources, x: NDArray[np.float64], y: NDArray[np.float64], size: int
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """maskbits of bright stars, and the discs about them."""
    mask, disc = np.zeros((size, size), np.int32), np.zeros((size, size), bool)
    axis = np.arange(size)
    bright = (sources.type == "PSF") & (sources.flux[:, FLUX_BANDS.index("r")] > 1000.0)  # r < 15
    for k in np.flatnonzero(bright):
        disc |= np.hypot(axis - x[k], (axis - y[k])[:, None]) < _DISC
    mask[disc] |= 1 << DR10_BITS["BRIGHT"] | 1 << DR10_BITS["WISEM1"]
    return mask, disc


def _planes(
    rng: np.random.Generator,
    band: str,
    light: NDArray[np.float64],
    seen: Conditions,
    disc: NDArray[np.bool_],
) -> dict[str, NDArray[np.float32]]:
    """image, invvar and psfsize of one band: 0 where there are no data."""
    variance = seen.sigma**2 * (1.0 + light / SKY_FLUX[band])
    variance[disc] *= 4.0  # shallower: fewer exposures survive
    image = light + coadd_noise(rng, len(light)) * np.sqrt(variance)
    planes = {
        "image": image * seen.covered,
        "invvar": seen.covered * (light <= _SATURATION) / variance,
        "psfsize": seen.width * seen.covered,
    }
    return {kind: plane.astype(np.float32) for kind, plane in planes.items()}


def _catalogue(
    brick: str,
    sources: Sources,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    seen: dict[str, Conditions],
    has_data: dict[str, bool],
    mask: NDArray[np.int32],
) -> dict[str, NDArray[Any]]:
    """The columns of a tractor catalogue that the selections need, with the true values."""
    count, size = len(sources), len(mask)
    at = nearest_pixel(y, size), nearest_pixel(x, size)
    fraction = np.ones(count)
    galaxy = sources.type != "PSF"
    fraction[galaxy] = fibre_fraction(sources.reff[galaxy], sources.n[galaxy])
    ellipticity = (1 - sources.q) / (1 + sources.q)
    out: dict[str, NDArray[Any]] = {
        "release": np.full(count, RELEASE, np.int16),
        "brickid": np.full(count, int(tiling.brick_id_of(brick)), np.int32),
        "brickname": np.full(count, brick),
        "objid": np.arange(count, dtype=np.int32),
        "brick_primary": _primary_at(brick, size, sources.ra, sources.dec, x, y),
        "maskbits": mask[at],
        "type": sources.type,
        "ra": sources.ra,
        "dec": sources.dec,
        "ebv": np.full(count, EBV, np.float32),
        "sersic": sources.n.astype(np.float32),
        "shape_r": (sources.reff / np.sqrt(sources.q)).astype(np.float32),  # semi-major axis
        # Tractor's e1, e2 are along and across North: e = (1 - q) / (1 + q) (cos 2 pa, sin 2 pa)
        "shape_e1": (ellipticity * np.cos(2 * np.radians(sources.pa))).astype(np.float32),
        "shape_e2": (ellipticity * np.sin(2 * np.radians(sources.pa))).astype(np.float32),
    }
    for b, band in enumerate(FLUX_BANDS):
        if band != "w1" and band not in seen:
            continue
        flux = sources.flux[:, b]
        sigma = 1.6 if band == "w1" else seen[band].sigma[at] * 8.0  # some 60 pixels under a galaxy
        out[f"flux_{band}"] = flux.astype(np.float32)
        out[f"flux_ivar_{band}"] = np.full(count, 1 / sigma**2, np.float32)
        out[f"mw_transmission_{band}"] = np.full(count, transmission(band), np.float32)
        if band == "w1":
            continue
        width = seen[band].width * seen[band].covered
        out[f"nobs_{band}"] = np.full(count, 3, np.int16)
        out[f"psfsize_{band}"] = (width[at] * has_data[band]).astype(np.float32)
        out[f"fiberflux_{band}"] = (flux * fraction).astype(np.float32)
        out[f"fibertotflux_{band}"] = out[f"fiberflux_{band}"]
    return out
