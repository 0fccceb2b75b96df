"""A small synthetic sky, laid out as DR10 south: LRGs, field galaxies, stars, noise, PSF and masks.

Nothing in it was observed, and every header says so. Each brick is a pure function of (seed,
brick), so that a cluster can make them in any order: the same bytes again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xxhash
from numpy.typing import NDArray
from scipy.special import gammainc

from darkhaloscope import storage
from darkhaloscope.errors import UserError
from darkhaloscope.geometry import PIXEL_SCALE, stamp_corner
from darkhaloscope.lensing import Psf, Sersic, psf_profile, render, sersic_b
from darkhaloscope.survey import bricks as tiling
from darkhaloscope.survey import skyfiles
from darkhaloscope.survey.layout import Survey
from darkhaloscope.survey.maskbits import DR10_BITS
from darkhaloscope.survey.selection import lrg_cuts
from darkhaloscope.variables import MAG_ZERO_POINT

BANDS = ("g", "r", "z")
RELEASE = 10_000
"""RELEASE of DR10's southern catalogues."""

SKY_SIGMA = {"g": 0.0018, "r": 0.0023, "z": 0.0079}
"""Noise of an empty pixel in nMgy, as in DR9."""

SKY_FLUX = {"g": 0.09, "r": 0.27, "z": 1.7}
"""Flux in nMgy of the night sky in a pixel (22.2, 21.0, 19.0 mag arcsec^-2): what a source's own
photons
have to compete with."""

PSF_WIDTH = {"g": 1.40, "r": 1.25, "z": 1.15}
"""Typical noise-equivalent width in arcsec."""

PSF_BETA = 3.5

# A_b / E(B-V) of the Legacy Surveys for DECam and WISE (Schlafly & Finkbeiner 2011, ApJ 737, 103).
_EXTINCTION = {"g": 3.214, "r": 2.165, "z": 1.211, "w1": 0.184}

_SATURATION = 50.0  # nMgy in a pixel
_FIBRE_RADIUS = 0.75  # arcsec
_EDGE = 49.0  # pixels that most LRGs keep off the edge: stamps of 96 fit
_NEAR_EDGE = 0.01  # fraction of LRGs that do not


@dataclass(frozen=True)
class SkySummary:
    """What was made.

    Attributes
    ----------
    survey : Survey
        How to read it.
    bricks : tuple of str
    lrgs : int
        Galaxies drawn as LRGs; :func:`~darkhaloscope.survey.selection.select_lrg` finds those that no
        mask covers.
    files, bytes : int
        Written.
    """

    survey: Survey
    bricks: tuple[str, ...]
    lrgs: int
    files: int
    bytes: int


@dataclass(frozen=True)
class _Sources:
    """What is in a brick; arrays of one entry a source, fluxes (source, grz + w1) in nMgy."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    flux: NDArray[np.float64]
    type: NDArray[np.str_]
    reff: NDArray[np.float64]
    n: NDArray[np.float64]
    q: NDArray[np.float64]
    pa: NDArray[np.float64]


def sky_bricks(count: int) -> tuple[str, ...]:
    """Names of a contiguous patch of bricks of the tiling, rows upward from (55, -29.75) deg."""
    columns = math.ceil(math.sqrt(count))
    names = []
    for k in range(count):
        dec = -29.75 + tiling.BRICK_SIZE * (k // columns)
        first = str(tiling.brick_name(55.0, dec))
        west, east, _, _ = tiling.brick_bounds(first)
        width = float(east) - float(west)
        names.append(str(tiling.brick_name(float(west) + width * (k % columns + 0.5), dec)))
    return tuple(names)


def make_sky(
    root_url: str,
    *,
    bricks: int = 28,
    size: int = 512,
    seed: int = 0,
    lrgs: float = 50.0,
    on_brick: Callable[[SkySummary], object] | None = None,
) -> SkySummary:
    """Write a synthetic sky. See :func:`make_brick`, which makes one brick of it.

    Where there are four bricks or more, the second has g files without any data (all zero) and the
    third has no g files at all.

    Parameters
    ----------
    root_url : str
        The folder that will hold ``south/``: any fsspec URL.
    bricks : int
        How many.
    size : int
        Pixels on a side of a brick (3600 in the releases).
    seed : int
    lrgs : float
        LRGs per 512 x 512 pixels (5.0 arcmin^2): far more than the real sky has.
    on_brick : callable, optional
        Called with each brick's summary when it is written.

    Raises
    ------
    UserError
        For a size or a number that is out of range, or a place that cannot be written to.
    """
    if bricks < 1:
        raise UserError(f"a sky has at least one brick, not {bricks}.")
    parts = []
    for k, name in enumerate(sky_bricks(bricks)):
        g_band = g_band_of(k, bricks)
        part = make_brick(root_url, name, size=size, seed=seed, lrgs=lrgs, g_band=g_band)
        if on_brick is not None:
            on_brick(part)
        parts.append(part)
    return combine(root_url, parts)


def g_band_of(index: int, bricks: int) -> Literal["normal", "empty", "absent"]:
    """What the g files of the ``index``-th brick of a sky of that many are."""
    if bricks < 4:
        return "normal"
    return "empty" if index == 1 else "absent" if index == 2 else "normal"


def combine(root_url: str, parts: Iterable[SkySummary]) -> SkySummary:
    """One summary of several bricks, for whoever made them one by one."""
    parts = list(parts)
    return SkySummary(
        survey=_survey(root_url),
        bricks=tuple(name for part in parts for name in part.bricks),
        lrgs=sum(part.lrgs for part in parts),
        files=sum(part.files for part in parts),
        bytes=sum(part.bytes for part in parts),
    )


def _survey(root_url: str) -> Survey:
    return Survey(root_url, "south", BANDS, release="dr10")


def make_brick(
    root_url: str,
    brick: str,
    *,
    size: int = 512,
    seed: int = 0,
    lrgs: float = 50.0,
    g_band: Literal["normal", "empty", "absent"] = "normal",
) -> SkySummary:
    """Write one brick: image, invvar and psfsize in g, r, z, maskbits, and its tractor catalogue.

    LRGs are Sersic galaxies with n near 4, R_e 0.8 to 2.5 arcsec and z 18 to 20.3 whose colours
    pass DESI's LRG cuts; one in a hundred lies so near the edge that its stamp crosses it. Field
    galaxies have n = 1; stars are points; four bricks in ten have a bright one, with the bits
    BRIGHT and WISEM1 around it and its core saturated. Noise is Gaussian and white, with each
    source's own photons in it. The PSF is a Moffat of beta 3.5 whose noise-equivalent width varies
    over the brick and by band within 1.0-1.7 arcsec; the psfsize map holds exactly what was used.
    The catalogue holds the true values.

    Parameters
    ----------
    root_url, brick, size, seed, lrgs
        See :func:`make_sky`.
    g_band : {'normal', 'empty', 'absent'}
        ``empty``: g files are there, and 0 everywhere. ``absent``: there are none. The
        catalogue keeps its g fluxes either way, so that the brick has targets.

    Raises
    ------
    UserError
        For a size that cannot be packed, or a place that cannot be written to.
    """
    if size < 128 or not skyfiles.hcompress_holds(size):
        raise UserError(
            f"a brick of {size} pixels cannot be made: it takes at least 128, and by "
            f"{skyfiles.TILE} a remainder of 0 or at least 4."
        )
    # A key of its own: a plan draws from (seed, xxh64(brick)) as well.
    key = np.array([seed, xxhash.xxh64_intdigest(f"sky:{brick}".encode())], dtype=np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key))
    has_data = {band: band != "g" or g_band == "normal" for band in BANDS}
    width = {band: _psf_map(size, PSF_WIDTH[band], rng) for band in BANDS}
    depth = {band: SKY_SIGMA[band] * float(np.exp(rng.normal(0.0, 0.08))) for band in BANDS}
    lrg = _draw_lrgs(rng, round(lrgs * (size / 512) ** 2), size)
    star = _bright_star(rng, size) if rng.random() < 0.4 else None
    sources = _joined(
        [lrg, _draw_field(rng, round(60 * (size / 512) ** 2), size)]
        + [_draw_stars(rng, round(10 * (size / 512) ** 2), size)]
        + ([star] if star is not None else [])
    )
    light = _light(sources, width, size)

    mask = np.zeros((size, size), np.int32)
    disc = np.zeros((size, size), bool)
    if star is not None:
        axis = np.arange(size)
        disc = np.hypot(axis[None, :] - star.x[0], axis[:, None] - star.y[0]) < size / 10
        mask[disc] |= 1 << DR10_BITS["BRIGHT"] | 1 << DR10_BITS["WISEM1"]

    survey, written = _survey(root_url), []
    for b, band in enumerate(BANDS):
        noise = rng.normal(size=(size, size))  # drawn in any case: other bands must not depend on g
        variance = depth[band] ** 2 * (1.0 + light[b] / SKY_FLUX[band])
        variance = np.where(disc, 4.0 * variance, variance)  # shallower: fewer exposures survive
        saturated = light[b] > _SATURATION
        if has_data[band]:
            mask[saturated] |= 1 << DR10_BITS[f"SATUR_{band.upper()}"]
        planes = {
            "image": light[b] + noise * np.sqrt(variance),
            "invvar": np.where(saturated, 0.0, 1.0 / variance),
            "psfsize": width[band],
        }
        if band == "g" and g_band == "absent":
            continue
        for kind, plane in planes.items():
            pixels = (plane if has_data[band] else np.zeros_like(plane)).astype(np.float32)
            cards = skyfiles.header(brick, size, kind, BANDS, band)
            raw = skyfiles.pack(kind, pixels, cards, dither_seed=1 + (seed + 97 * b) % 10_000)
            written.append((survey.url(kind, brick, band), raw))
    wise = (disc.astype(np.uint8), np.zeros((size, size), np.uint8))
    cards = skyfiles.header(brick, size, "maskbits", BANDS, None)
    written.append((survey.url("maskbits", brick), skyfiles.pack_maskbits(mask, wise, cards)))
    columns = _catalogue(brick, sources, width, has_data, mask, depth, size)
    written.append((survey.tractor_url(brick), skyfiles.pack_catalogue(columns, brick)))
    for url, raw in written:
        storage.write(url, raw)
    total = sum(len(raw) for _, raw in written)
    return SkySummary(survey, (brick,), len(lrg.x), len(written), total)


def _psf_map(size: int, typical: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A smooth map of noise-equivalent widths in arcsec, 1.0 to 1.7, in steps of 1/512 arcsec (a
    map
    that is lossless and yet small)."""
    axis = np.linspace(-1.0, 1.0, size)
    u, v = axis[None, :], axis[:, None]
    a = rng.normal(0.0, 0.02, 5)
    base = typical * math.exp(rng.normal(0.0, 0.05))
    shape = 1.0 + a[0] * u + a[1] * v + a[2] * u * v + a[3] * u**2 + a[4] * v**2
    return np.round(np.clip(base * shape, 1.0, 1.7) * 512) / 512


def _draw_lrgs(rng: np.random.Generator, count: int, size: int) -> _Sources:
    """Passive galaxies along a track of redshift 0.4 to 0.95, those that pass the cuts."""
    draw = 40 * count + 100  # most pass nothing at the faint end: the cuts are on luminosity
    t = rng.random(draw)
    z_mag = rng.uniform(18.0, 20.3, draw)
    r_z = 0.80 + 1.05 * t + rng.normal(0.0, 0.06, draw)
    g_r = 1.75 - 0.10 * t + rng.normal(0.0, 0.10, draw)
    z_w1 = 0.75 + 1.05 * t + rng.normal(0.0, 0.10, draw)
    reff = np.clip(1.35 * np.exp(rng.normal(0.0, 0.3, draw)), 0.8, 2.5)
    n = np.clip(rng.normal(4.0, 0.4, draw), 3.0, 5.0)
    mags = {"g": z_mag + r_z + g_r, "r": z_mag + r_z, "z": z_mag, "w1": z_mag - z_w1}
    fibre = z_mag - 2.5 * np.log10(_fibre_fraction(reff, n))
    passed = lrg_cuts(mags["g"], mags["r"], z_mag, mags["w1"], fibre, True)
    chosen = np.flatnonzero(passed)[:count]
    flux = np.stack([_flux(mags[band], band) for band in (*BANDS, "w1")], axis=-1)
    x, y = rng.uniform(_EDGE, size - 1 - _EDGE, (2, draw))
    near_edge = rng.random(draw) < _NEAR_EDGE
    x = np.where(near_edge, rng.uniform(8.0, 28.0, draw), x)
    return _Sources(
        x=x[chosen],
        y=y[chosen],
        flux=flux[chosen],
        type=np.full(len(chosen), "SER"),
        reff=reff[chosen],
        n=n[chosen],
        q=rng.uniform(0.55, 1.0, draw)[chosen],
        pa=rng.uniform(0.0, 180.0, draw)[chosen],
    )


def _draw_field(rng: np.random.Generator, count: int, size: int) -> _Sources:
    """Blue discs, r 19.5 to 23.5, numbers growing as 10^(0.35 m)."""
    low, high = 10 ** (0.35 * 19.5), 10 ** (0.35 * 23.5)
    r_mag = np.log10(rng.uniform(low, high, count)) / 0.35
    colour = {"g": rng.normal(0.6, 0.15, count), "z": -rng.normal(0.35, 0.10, count)}
    mags = {"g": r_mag + colour["g"], "r": r_mag, "z": r_mag + colour["z"]}
    mags["w1"] = mags["z"] + rng.normal(0.4, 0.2, count)
    return _Sources(
        x=rng.uniform(0.0, size - 1.0, count),
        y=rng.uniform(0.0, size - 1.0, count),
        flux=np.stack([_flux(mags[band], band) for band in (*BANDS, "w1")], axis=-1),
        type=np.full(count, "EXP"),
        reff=np.clip(0.5 * np.exp(rng.normal(0.0, 0.35, count)), 0.2, 1.5),
        n=np.ones(count),
        q=rng.uniform(0.3, 1.0, count),
        pa=rng.uniform(0.0, 180.0, count),
    )


def _draw_stars(rng: np.random.Generator, count: int, size: int) -> _Sources:
    return _points(rng, rng.uniform(17.0, 22.0, count), *rng.uniform(0.0, size - 1.0, (2, count)))


def _bright_star(rng: np.random.Generator, size: int) -> _Sources:
    where = rng.uniform(0.15 * size, 0.85 * size, (2, 1))
    return _points(rng, rng.uniform(13.0, 14.5, 1), *where)


def _points(
    rng: np.random.Generator, r_mag: NDArray[Any], x: NDArray[Any], y: NDArray[Any]
) -> _Sources:
    count = len(r_mag)
    g_r = rng.uniform(0.4, 1.4, count)
    r_z = 0.6 * g_r
    mags = {"g": r_mag + g_r, "r": r_mag, "z": r_mag - r_z, "w1": r_mag - r_z + 1.0}
    flux = np.stack([_flux(mags[band], band) for band in (*BANDS, "w1")], axis=-1)
    zero = np.zeros(count)
    return _Sources(x, y, flux, np.full(count, "PSF"), zero, zero, zero + 1.0, zero)


_EBV = 0.02


def _flux(mag: NDArray[Any], band: str) -> NDArray[np.float64]:
    """Flux in nMgy on the ground of a magnitude outside the Galaxy."""
    return 10 ** (0.4 * (MAG_ZERO_POINT - mag)) * _transmission(band)


def _transmission(band: str) -> float:
    return 10 ** (-0.4 * _EXTINCTION[band] * _EBV)


def _fibre_fraction(reff: NDArray[Any], n: NDArray[Any]) -> NDArray[np.float64]:
    """Fraction of a galaxy's light in a fibre of 1.5 arcsec, under a seeing of 1 arcsec.

    The seeing (half-light radius 0.5 arcsec) is added to R_e in quadrature: good to some 10 %, and
    used for the catalogue's ``fiberflux_z`` only.
    """
    b = np.array([sersic_b(float(value)) for value in np.atleast_1d(n)])
    size = np.hypot(reff, 0.5)
    return np.asarray(gammainc(2 * n, b * (_FIBRE_RADIUS / size) ** (1 / n)), dtype=float)


def _joined(parts: list[_Sources]) -> _Sources:
    names = _Sources.__dataclass_fields__
    return _Sources(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


def _light(
    sources: _Sources, width: dict[str, NDArray[np.float64]], size: int
) -> NDArray[np.float64]:
    """Noiseless pixels (band, y, x) in nMgy."""
    out = np.zeros((len(BANDS), size, size))
    for k in range(len(sources.x)):
        flux = sources.flux[k, : len(BANDS)]
        x, y = float(sources.x[k]), float(sources.y[k])
        row, column = min(max(round(y), 0), size - 1), min(max(round(x), 0), size - 1)
        psfs = [
            Psf("moffat", nea_fwhm=float(width[band][row, column]), beta=PSF_BETA) for band in BANDS
        ]
        if sources.type[k] == "PSF":
            side = 128 if flux.max() > 500.0 else 64
        else:
            side = 128 if sources.n[k] > 2 else 2 * math.ceil(5 * sources.reff[k] / PIXEL_SCALE + 8)
        x0, y0 = int(stamp_corner(x, side)), int(stamp_corner(y, side))
        if sources.type[k] == "PSF":
            axis = np.arange(side) * PIXEL_SCALE
            radius = np.hypot(
                axis[None, :] - (x - x0) * PIXEL_SCALE, axis[:, None] - (y - y0) * PIXEL_SCALE
            )
            stamp = np.stack([psf_profile(radius, psf) * PIXEL_SCALE**2 for psf in psfs])
            stamp *= flux[:, None, None]
        else:
            galaxy = Sersic(tuple(flux), sources.reff[k], sources.n[k], sources.q[k], sources.pa[k])
            stamp = render(None, galaxy, psfs, size=side, x=x - x0, y=y - y0).arc
        ya, yb, xa, xb = max(y0, 0), min(y0 + side, size), max(x0, 0), min(x0 + side, size)
        out[:, ya:yb, xa:xb] += stamp[:, ya - y0 : yb - y0, xa - x0 : xb - x0]
    return np.maximum(out, 0.0)  # rendered wings may be below zero by 1e-7 of the peak


def _catalogue(
    brick: str,
    sources: _Sources,
    width: dict[str, NDArray[np.float64]],
    has_data: dict[str, bool],
    mask: NDArray[np.int32],
    depth: dict[str, float],
    size: int,
) -> dict[str, NDArray[Any]]:
    """The columns of a tractor catalogue that the selections need, with the true values."""
    count = len(sources.x)
    column = np.clip(np.round(sources.x).astype(int), 0, size - 1)
    row = np.clip(np.round(sources.y).astype(int), 0, size - 1)
    ra, dec = skyfiles.brick_wcs(brick, size).wcs_pix2world(sources.x, sources.y, 0)
    fraction = np.ones(count)
    galaxy = sources.type != "PSF"
    fraction[galaxy] = _fibre_fraction(sources.reff[galaxy], sources.n[galaxy])
    ellipticity = (1 - sources.q) / (1 + sources.q)
    out: dict[str, NDArray[Any]] = {
        "release": np.full(count, RELEASE, np.int16),
        "brickid": np.full(count, int(tiling.brick_id_of(brick)), np.int32),
        "brickname": np.full(count, brick),
        "objid": np.arange(count, dtype=np.int32),
        "brick_primary": tiling.brick_name(ra, dec) == brick,
        "maskbits": mask[row, column],
        "type": sources.type,
        "ra": ra,
        "dec": dec,
        "ebv": np.full(count, _EBV, np.float32),
        "sersic": sources.n.astype(np.float32),
        "shape_r": sources.reff.astype(np.float32),
        # Tractor's e1, e2 are along and across North: e = (1 - q) / (1 + q) (cos 2 pa, sin 2 pa)
        "shape_e1": (ellipticity * np.cos(2 * np.radians(sources.pa))).astype(np.float32),
        "shape_e2": (ellipticity * np.sin(2 * np.radians(sources.pa))).astype(np.float32),
    }
    for b, band in enumerate((*BANDS, "w1")):
        flux = sources.flux[:, b]
        sigma = depth.get(band, 0.2) * 8.0  # some 60 pixels under a galaxy
        out[f"flux_{band}"] = flux.astype(np.float32)
        out[f"flux_ivar_{band}"] = np.full(count, 1 / sigma**2, np.float32)
        out[f"mw_transmission_{band}"] = np.full(count, _transmission(band), np.float32)
        if band == "w1":
            continue
        out[f"nobs_{band}"] = np.full(count, 3, np.int16)
        out[f"psfsize_{band}"] = (width[band][row, column] * has_data[band]).astype(np.float32)
        out[f"fiberflux_{band}"] = (flux * fraction).astype(np.float32)
        out[f"fibertotflux_{band}"] = out[f"fiberflux_{band}"]
    return out
