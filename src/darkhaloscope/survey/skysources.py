"""What is in the synthetic sky: galaxies and stars, placed on the sky and not in a brick.

The sources of one brick's primary area are a pure function of (seed, brick), so that two bricks whose
coadds overlap show the same ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from scipy.special import gammainc, gammaincinv

from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.survey import bricks as tiling
from darkhaloscope.survey.selection import lrg_cuts
from darkhaloscope.variables import MAG_ZERO_POINT

FLUX_BANDS = ("g", "r", "i", "z", "w1")

EBV = 0.02

# A_b / E(B-V) of the Legacy Surveys for DECam and WISE (Schlafly & Finkbeiner 2011, ApJ 737, 103;
# https://www.legacysurvey.org/dr10/catalogs/#galactic-extinction-coefficients).
_EXTINCTION = {"g": 3.214, "r": 2.165, "i": 1.592, "z": 1.211, "w1": 0.184}

_FIBRE_RADIUS = 0.75  # arcsec
_UNIT_AREA = (512 * PIXEL_SCALE / 3600.0) ** 2
"""Densities below are per 512 x 512 pixels (5.0 arcmin^2), here in deg^2."""

_FIELD, _STARS, _BRIGHT = 60.0, 10.0, 0.4


@dataclass(frozen=True)
class Sources:
    """Arrays of one entry a source.

    Attributes
    ----------
    ra, dec : deg
    flux : (source, :data:`FLUX_BANDS`), nMgy
        As seen on the ground.
    type : Tractor's: SER, EXP or PSF
    lrg : bool
        Drawn as an LRG.
    reff, n, q, pa : arcsec, index, axis ratio, deg east of north
        Half-light radius sqrt(a b), as everywhere here; 0, 0, 1, 0 for stars.
    """

    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    flux: NDArray[np.float64]
    type: NDArray[np.str_]
    lrg: NDArray[np.bool_]
    reff: NDArray[np.float64]
    n: NDArray[np.float64]
    q: NDArray[np.float64]
    pa: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.ra)

    def take(self, index: NDArray[Any]) -> Sources:
        """The chosen ones, by index or mask."""
        return Sources(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


def joined(parts: Iterable[Sources]) -> Sources:
    """All sources of several lists, in order."""
    parts = list(parts)
    names = [field.name for field in fields(Sources)]
    return Sources(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


def stream(seed: int, *what: str) -> np.random.Generator:
    """Random numbers of one purpose: ``("noise", brick, band)`` touches no other one.

    A key of its own: a plan draws from (seed, xxh64(brick)) as well.
    """
    key = np.array([seed, xxhash.xxh64_intdigest(":".join(("sky", *what)).encode())], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def transmission(band: str) -> float:
    """What dust of the Galaxy lets through."""
    return float(10 ** (-0.4 * _EXTINCTION[band] * EBV))


def fibre_fraction(reff: NDArray[Any], n: NDArray[Any]) -> NDArray[np.float64]:
    """Fraction of a galaxy's light in a fibre of 1.5 arcsec, under a seeing of 1 arcsec.

    The seeing (half-light radius 0.5 arcsec) is added to R_e in quadrature: good to some 10 %, and
    used for the catalogue's ``fiberflux`` only.
    """
    size = np.hypot(reff, 0.5)
    b = gammaincinv(2 * n, 0.5)
    return np.asarray(gammainc(2 * n, b * (_FIBRE_RADIUS / size) ** (1 / n)), dtype=float)


def draw_sources(seed: int, brick: str, lrgs: float) -> Sources:
    """Everything in the primary area of one brick; ``lrgs`` per 512 x 512 pixels."""
    west, east, south, north = (float(v) for v in tiling.brick_bounds(brick))
    height = np.degrees(np.sin(np.radians(north)) - np.sin(np.radians(south)))
    units = (east - west) * height / _UNIT_AREA
    parts = []
    for kind, density, draw in (
        ("lrg", lrgs, _lrgs),
        ("field", _FIELD, _field),
        ("star", _STARS, _stars),
        ("bright", _BRIGHT, _bright),
    ):
        rng = stream(seed, kind, brick)
        count = int(rng.poisson(density * units))
        shape = draw(rng, count)
        sin_dec = rng.uniform(np.sin(np.radians(south)), np.sin(np.radians(north)), count)
        ra, dec = rng.uniform(west, east, count), np.degrees(np.arcsin(sin_dec))
        parts.append(Sources(ra=ra, dec=dec, lrg=np.full(count, kind == "lrg"), **shape))
    return joined(parts)


def _lrgs(rng: np.random.Generator, count: int) -> dict[str, Any]:
    """Passive galaxies along a track of redshift 0.4 to 0.95, those that pass DESI's cuts."""
    kept: list[dict[str, Any]] = []
    while sum(len(part["n"]) for part in kept) < count or not kept:
        draw = 8 * count + 100  # most pass nothing at the faint end: the cuts are on luminosity
        t = rng.random(draw)
        z = rng.uniform(18.0, 20.3, draw)
        r_z = 0.80 + 1.05 * t + rng.normal(0.0, 0.06, draw)
        g_r = 1.75 - 0.10 * t + rng.normal(0.0, 0.10, draw)
        z_w1 = 0.75 + 1.05 * t + rng.normal(0.0, 0.10, draw)
        i_z = 0.34 * r_z + rng.normal(0.0, 0.02, draw)
        reff = np.clip(1.35 * np.exp(rng.normal(0.0, 0.3, draw)), 0.8, 2.5)
        n = np.clip(rng.normal(4.0, 0.4, draw), 3.0, 5.0)
        q, pa = rng.uniform(0.55, 1.0, draw), rng.uniform(0.0, 180.0, draw)
        mags = {"g": z + r_z + g_r, "r": z + r_z, "i": z + i_z, "z": z, "w1": z - z_w1}
        fibre = z - 2.5 * np.log10(fibre_fraction(reff, n))
        ok = np.flatnonzero(lrg_cuts(mags["g"], mags["r"], z, mags["w1"], fibre, True))
        whole = {"flux": _fluxes(mags), "reff": reff, "n": n, "q": q, "pa": pa}
        kept.append({name: values[ok] for name, values in whole.items()})
    made = {name: np.concatenate([part[name] for part in kept])[:count] for name in kept[0]}
    return made | {"type": np.full(count, "SER")}


def _field(rng: np.random.Generator, count: int) -> dict[str, Any]:
    """Blue discs, r 19.5 to 23.5, numbers growing as 10^(0.35 m)."""
    low, high = 10 ** (0.35 * 19.5), 10 ** (0.35 * 23.5)
    r = np.log10(rng.uniform(low, high, count)) / 0.35
    g, z = r + rng.normal(0.6, 0.15, count), r - rng.normal(0.35, 0.10, count)
    i = z + 0.45 * (r - z) + rng.normal(0.0, 0.03, count)
    return {
        "flux": _fluxes({"g": g, "r": r, "i": i, "z": z, "w1": z + rng.normal(0.4, 0.2, count)}),
        "type": np.full(count, "EXP"),
        "reff": np.clip(0.5 * np.exp(rng.normal(0.0, 0.35, count)), 0.2, 1.5),
        "n": np.ones(count),
        "q": rng.uniform(0.3, 1.0, count),
        "pa": rng.uniform(0.0, 180.0, count),
    }


def _stars(rng: np.random.Generator, count: int) -> dict[str, Any]:
    return _points(rng, rng.uniform(17.0, 22.0, count))


def _bright(rng: np.random.Generator, count: int) -> dict[str, Any]:
    return _points(rng, rng.uniform(13.0, 14.5, count))


def _points(rng: np.random.Generator, r: NDArray[Any]) -> dict[str, Any]:
    g_r = rng.uniform(0.4, 1.4, len(r))
    r_z = 0.6 * g_r
    mags = {"g": r + g_r, "r": r, "i": r - 0.6 * r_z, "z": r - r_z, "w1": r - r_z + 1.0}
    zero = np.zeros(len(r))
    shape = {"reff": zero, "n": zero, "q": zero + 1.0, "pa": zero}
    return {"flux": _fluxes(mags), "type": np.full(len(r), "PSF"), **shape}


def _fluxes(mags: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Fluxes (source, band) in nMgy on the ground of magnitudes outside the Galaxy."""
    return np.stack(
        [10 ** (0.4 * (MAG_ZERO_POINT - mags[b])) * transmission(b) for b in FLUX_BANDS], axis=-1
    )
