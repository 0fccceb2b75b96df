"""What the splits share that they must not: regions, galaxies, sources, sky, and pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from darkhaloscope import store
from darkhaloscope.geometry import PIXEL_SCALE, radius_map, stamp_centre
from darkhaloscope.variables import SPLITS

LEARNED = ("train", "val")
"""Splits that a detector has seen; ``test`` must share nothing with them, nor they with each other."""

COMPARED = 4000
"""Galaxies of each split whose pixels are compared, at most."""
SAME = 0.5
"""Correlation of two skies, averaged over blocks, above which they are one: independent ones of 64 pixels
and three bands scatter by 0.04."""
INNER_PX = 8.0
"""Pixels nearer than this to the centre are left out: galaxies look alike, their surroundings do not."""
CLIPPED = 5.0
"""Blocks are cut at so many sigma, so that one bright neighbour is not all there is."""
BLOCK = 4


@dataclass(frozen=True)
class Shared:
    """What two splits share; all zero is what should be.

    Attributes
    ----------
    regions, hosts, sources, sky, pixels : int
        Regions, galaxies, galaxies as source images, rows of a later split whose stamp overlaps one of
        an earlier, and galaxies whose surroundings are pixel by pixel those of another.
    compared : int
        Galaxies whose pixels were compared.
    examples : tuple of str
        A few of what was found.
    """

    regions: int
    hosts: int
    sources: int
    sky: int
    pixels: int
    compared: int
    examples: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return self.regions + self.hosts + self.sources + self.sky + self.pixels


def shared(run: str, columns: xr.Dataset, *, size: int, seed: int) -> Shared:
    """Compare train, val and test of a run with each other; the guard is in none.

    Parameters
    ----------
    run : str
        Where pixels are read.
    columns : Dataset
        Its columns as stored.
    size : int
        Pixels on a side.
    seed : int
        Of the choice of galaxies whose pixels are compared.
    """
    names = SPLITS[:3]
    split = columns["region_split"].values
    rows = {n: np.flatnonzero(split == SPLITS.index(n)) for n in names}
    found = {"regions": 0, "hosts": 0, "sources": 0, "sky": 0, "pixels": 0}
    examples: list[str] = []
    values = {
        "regions": columns["region_id"].values.astype(str),
        "hosts": columns["host_id"].values,
    }
    if "src_image" in columns:
        values["sources"] = columns["src_image"].values
    looks = {n: _looks(run, _one_a_galaxy(columns, rows[n], seed), size) for n in names}
    for k, later in enumerate(names):
        for earlier in names[:k]:
            for what, column in values.items():
                both = np.intersect1d(column[rows[later]], column[rows[earlier]])
                both = both[both != -1] if both.dtype.kind == "i" else both
                found[what] += len(both)
                examples += [f"{what} {v} in {earlier} and {later}" for v in both[:1]]
            near = _overlapping(columns, rows[earlier], rows[later], size)
            found["sky"] += near
            examples += [f"{near} stamps of {later} overlap {earlier}"] if near else []
            alike = _alike(looks[earlier], looks[later])
            found["pixels"] += len(alike)
            examples += [
                f"row {looks[later].row[b]} of {later} shows the pixels of row {looks[earlier].row[a]} of "
                f"{earlier}"
                for a, b in alike[:1]
            ]
    return Shared(
        **found, compared=sum(len(v.row) for v in looks.values()), examples=tuple(examples)
    )


@dataclass(frozen=True)
class _Looks:
    row: NDArray[np.int64]
    pixels: NDArray[np.float32]
    """(galaxy, feature), mean 0 and length 1; all 0 where there is nothing to see."""


def _one_a_galaxy(columns: xr.Dataset, rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A row of each galaxy with pixels, a fair choice of them where there are too many."""
    rows = rows[columns["cutout_ok"].values[rows].astype(bool)]
    table = pd.DataFrame(
        {
            "row": rows,
            "brick": columns["brick"].values[rows].astype(str),
            "host": columns["host_id"].values[rows],
        }
    )
    first = table.drop_duplicates(["brick", "host"])["row"].to_numpy()
    if len(first) > COMPARED:
        first = np.sort(np.random.default_rng(seed).choice(first, COMPARED, replace=False))
    return first


def _looks(run: str, rows: NDArray[np.int64], size: int) -> _Looks:
    """The surroundings of galaxies: block means in units of their own scatter, clipped."""
    parts = []
    for start in range(0, len(rows), 256):
        some = rows[start : start + 256]
        ctrl = store.open_dataset(run)["ctrl"].isel(pair=some).values.astype(np.float64)
        parts.append(surroundings(ctrl))
    blocks = (size // BLOCK) ** 2
    pixels = np.concatenate(parts) if parts else np.zeros((0, blocks), np.float32)
    return _Looks(rows, pixels)


def surroundings(images: NDArray[np.float64]) -> NDArray[np.float32]:
    """Block means outside the galaxy, each band by its own median and scatter, as vectors of length 1.

    Parameters
    ----------
    images : ndarray (image, band, y, x)
    """
    n, bands, size, _ = images.shape
    side = size // BLOCK
    inner = slice(0, side * BLOCK)
    means = images[..., inner, inner].reshape(n, bands, side, BLOCK, side, BLOCK).mean(axis=(3, 5))
    centre = stamp_centre(size) / BLOCK - 0.5 + 0.5 / BLOCK
    far = radius_map(side, centre, centre) * BLOCK >= min(INNER_PX, size / 4)
    flat = means[..., far]
    flat = flat - np.median(flat, axis=-1, keepdims=True)
    spread = 1.4826 * np.median(np.abs(flat), axis=-1, keepdims=True)
    flat = np.clip(flat / np.where(spread > 0, spread, 1.0), -CLIPPED, CLIPPED).reshape(n, -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return (flat / np.where(length > 0, length, 1.0)).astype(np.float32)


def _alike(earlier: _Looks, later: _Looks) -> NDArray[np.int64]:
    """Pairs (earlier, later) of galaxies whose surroundings are the same, the best for each later one."""
    if not len(earlier.row) or not len(later.row):
        return np.zeros((0, 2), np.int64)
    pairs = []
    for start in range(0, len(later.row), 512):
        match = later.pixels[start : start + 512] @ earlier.pixels.T
        best = match.argmax(axis=1)
        hit = np.flatnonzero(match[np.arange(len(match)), best] > SAME)
        pairs.append(np.stack([best[hit], hit + start], axis=1))
    return np.concatenate(pairs).astype(np.int64)


def _overlapping(
    columns: xr.Dataset, earlier: NDArray[np.int64], later: NDArray[np.int64], size: int
) -> int:
    """Rows of a later split whose stamp shares sky with one of an earlier: squares of ``size`` pixels."""
    if not len(earlier) or not len(later):
        return 0
    reach = size * PIXEL_SCALE / 3600.0  # deg
    a, b = (_unit(columns, rows) for rows in (earlier, later))
    # A square's diagonal is the farthest that two stamps can touch; then each axis is asked by itself.
    near = cKDTree(a).query_ball_point(b, 2 * np.sin(np.deg2rad(reach * np.sqrt(2)) / 2))
    ra, dec = columns["ra"].values, columns["dec"].values
    count = 0
    for i, candidates in enumerate(near):
        if not candidates:
            continue
        mine, others = later[i], earlier[np.array(candidates)]
        east = (ra[others] - ra[mine] + 180) % 360 - 180
        east = np.abs(east) * np.cos(np.deg2rad(dec[mine]))
        count += bool(((east < reach) & (np.abs(dec[others] - dec[mine]) < reach)).any())
    return count


def _unit(columns: xr.Dataset, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    ra, dec = (np.deg2rad(columns[name].values[rows]) for name in ("ra", "dec"))
    return np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)], axis=1)
