"""Regions of the sky, what split each is in, and which targets lie too near to another split.

A region is what splits, folds and bootstraps keep in one piece: a brick, or a pixel of HEALPix (nside
64, nested, 0.84 deg^2). Its split is a pure function of its name. Two stamps on either side of a border
may show the same pixels, so a target whose stamp could reach into a region of another split is in none:
its split is ``guard``. Everything here depends on positions only, never on which other targets there are.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import xxhash
from astropy_healpix.healpy import ang2pix
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.survey import bricks
from darkhaloscope.variables import SPLITS

RegionKind = Literal["brick", "healpix"]

HEALPIX_NSIDE = 64

GUARD = SPLITS.index("guard")

_RING = 48
_MARGIN = 1.2
"""Points about a target, and their distance in units of the guarded radius. A region that enters the
circle from a side holds one of them; one whose corner enters between two of them would have to be
narrower than 0.16 of the radius at 0.2 of it behind its tip, and corners of either kind are far wider."""


def region_ids(
    ra: ArrayLike, dec: ArrayLike, kind: RegionKind, brick: ArrayLike | None = None
) -> NDArray[np.str_]:
    """Names of the regions of positions (deg): of bricks, or ``hp64-`` and a nested pixel number.

    ``brick`` are the bricks that the targets are listed under, where they are not those of the tiling.
    """
    if kind == "brick":
        return bricks.brick_name(ra, dec) if brick is None else np.asarray(brick, dtype=str)
    pixel = np.asarray(
        ang2pix(
            HEALPIX_NSIDE, np.asarray(ra, float), np.asarray(dec, float), nest=True, lonlat=True
        )
    )
    unique, inverse = np.unique(pixel, return_inverse=True)
    names = np.array([f"hp{HEALPIX_NSIDE}-{number}" for number in unique], dtype=str)
    return names[inverse].reshape(pixel.shape)


def split_of(region_id: str, fractions: Sequence[float]) -> int:
    """Index into ``variables.SPLITS`` of a region: xxh64(utf-8 name, seed 0) / 2^64 against the
    cumulated ``fractions`` of train, val and test."""
    place = xxhash.xxh64_intdigest(region_id.encode(), seed=0) / 2**64
    train, val, _ = fractions
    return 0 if place < train else 1 if place < train + val else 2


def guard_radius(size: int) -> float:
    """How far in arcsec a stamp of ``size`` pixels reaches from its target: to its corner, half a
    pixel further where the target is not in its middle. Targets that far from a border, on either
    side of it, share no pixel."""
    return math.sqrt(2.0) * (size / 2 + 0.5) * PIXEL_SCALE


def assign(
    ra: ArrayLike,
    dec: ArrayLike,
    *,
    kind: RegionKind,
    fractions: Sequence[float],
    size: int,
    brick: ArrayLike | None = None,
) -> tuple[NDArray[np.str_], NDArray[np.uint8]]:
    """Region and split of each target.

    Parameters
    ----------
    ra, dec : array_like, shape (n,)
        Positions in deg.
    kind : {'brick', 'healpix'}
    fractions : sequence of 3 floats
        Of the regions in train, val and test; they add up to 1.
    size : int
        Side of a stamp in pixels.
    brick : array_like of str, shape (n,), optional
        The bricks that the targets are listed under.

    Returns
    -------
    region_id : array of str, shape (n,)
    region_split : uint8 array, shape (n,)
        Index into ``variables.SPLITS``. ``guard`` where the stamp could reach into a region of another
        split (up to 1.2 times as far as it does reach).
    """
    ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
    ids = region_ids(ra, dec, kind, brick)
    split = _splits(ids, fractions)
    radius = guard_radius(size)
    # Regions are convex, so that eight points find every border that the circle touches.
    near = np.flatnonzero(
        (region_ids(*_ring(ra, dec, radius * _MARGIN / math.cos(math.pi / 8), 8), kind)
        != ids[:, None]).any(axis=1)
    )  # fmt: skip
    around = region_ids(*_ring(ra[near], dec[near], radius * _MARGIN, _RING), kind)
    other = (_splits(around, fractions) != split[near, None]).any(axis=1)
    split[near[other]] = GUARD
    return ids, split


def counts(split: NDArray[np.uint8]) -> str:
    """How many are in each split, as a line for a reader."""
    number = Counter(SPLITS[code] for code in split.tolist())
    return ", ".join(f"{name} {number[name]}" for name in SPLITS)


def _splits(ids: NDArray[np.str_], fractions: Sequence[float]) -> NDArray[np.uint8]:
    unique, inverse = np.unique(ids, return_inverse=True)
    codes = np.array([split_of(str(name), fractions) for name in unique], dtype=np.uint8)
    return codes[inverse].reshape(ids.shape)


def _ring(
    ra: NDArray[np.float64], dec: NDArray[np.float64], radius: float, points: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points (target, point) on the circle of ``radius`` arcsec about each position, on the sphere."""
    angle = 2 * np.pi * np.arange(points) / points
    distance = math.radians(radius / 3600.0)
    lat = np.radians(dec)[:, None]
    sin_lat = np.sin(lat) * math.cos(distance) + np.cos(lat) * math.sin(distance) * np.cos(angle)
    there = np.arcsin(np.clip(sin_lat, -1.0, 1.0))
    east = np.arctan2(
        np.sin(angle) * math.sin(distance) * np.cos(lat),
        math.cos(distance) - np.sin(lat) * np.sin(there),
    )
    return (ra[:, None] + np.degrees(east)) % 360.0, np.degrees(there)
