"""What the splits share that they must not: regions, galaxies, sources, sky, and pixels."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

from darkhaloscope import store
from darkhaloscope.audit.noise import TO_SIGMA
from darkhaloscope.geometry import PIXEL_SCALE, radius_map, stamp_centre
from darkhaloscope.variables import SPLITS

LEARNED = ("train", "val")
"""Splits that a detector has seen; ``test`` must share nothing with them, nor they with each other."""

COMPARED = 4000
"""Galaxies of each split whose pixels are compared, at most."""
SAME = 0.5
"""Correlation of the noise of two skies above which they are one: a copy with as much noise again has it."""
CHANCE_SIGMA = 7.0
"""What is more must also be more than the noise of independent skies does by chance: so many sigma, for
some 10^7 comparisons."""
INNER_PX = 8.0
"""Pixels nearer than this to the centre are left out, where the galaxy is."""
SKY_SIGMA = 3.0
"""What stands out by more is a neighbour, and a crowded sky has many in like places."""
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
        Galaxies whose pixels were compared: those with sky enough around them.
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
    looks = {n: _looks(run, _one_a_galaxy(columns, rows[n], seed)) for n in names}
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
            copies = alike(looks[earlier], looks[later])
            found["pixels"] += len(copies)
            examples += [
                f"row {looks[later].row[b]} of {later} shows the pixels of row {looks[earlier].row[a]} of "
                f"{earlier}"
                for a, b in copies[:1]
            ]
    return Shared(
        **found, compared=sum(int(v.told.sum()) for v in looks.values()), examples=tuple(examples)
    )


@dataclass(frozen=True)
class Looks:
    """What galaxies of a split are recognised by.

    Attributes
    ----------
    row : ndarray (galaxy,)
    noise : ndarray (galaxy, feature)
        :func:`surroundings`.
    least : ndarray (galaxy,)
        Correlation that each needs at least to be another's copy.
    """

    row: NDArray[np.int64]
    noise: NDArray[np.float32]
    least: NDArray[np.float64]

    @property
    def told(self) -> NDArray[np.bool_]:
        """Those that can be told from others."""
        return self.least < 1.0


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


def _looks(run: str, rows: NDArray[np.int64]) -> Looks:
    """The surroundings of galaxies."""
    ctrl = store.open_dataset(run)["ctrl"]
    found = []
    for start in range(0, max(len(rows), 1), 256):
        some = rows[start : start + 256]
        found.append(looks_of(some, ctrl.isel(pair=some).values.astype(np.float64)))
    return Looks(*(np.concatenate(values) for values in zip(*map(astuple, found), strict=True)))


def looks_of(row: NDArray[np.int64], images: NDArray[np.float64]) -> Looks:
    """:func:`surroundings` of galaxies (image, band, y, x), and how alike chance makes them."""
    noise = surroundings(images)
    features = np.count_nonzero(noise, axis=1)
    return Looks(row, noise, np.maximum(SAME, CHANCE_SIGMA / np.sqrt(np.maximum(features, 1))))


def surroundings(images: NDArray[np.float64]) -> NDArray[np.float32]:
    """The noise of the sky outside the galaxy, as vectors of length 1.

    Of each block of 4 x 4 pixels its quarters, two on a diagonal less the other two, in units of their
    scatter in the band: levels, slopes and the wings of galaxies fall out. Blocks that stand out, and
    those beside them, are 0.

    Parameters
    ----------
    images : ndarray (image, band, y, x)
        In any unit.

    Returns
    -------
    ndarray (image, feature)
        All 0 where there is no noise.
    """
    n, bands, size, _ = images.shape
    side, half = size // BLOCK, BLOCK // 2
    inner = slice(0, side * BLOCK)
    quarters = images[..., inner, inner].reshape(n, bands, side, 2, half, side, 2, half)
    quarters = quarters.mean(axis=(4, 7))
    across = quarters[:, :, :, 0, :, 0] + quarters[:, :, :, 1, :, 1]
    across = across - quarters[:, :, :, 0, :, 1] - quarters[:, :, :, 1, :, 0]
    centre = stamp_centre(size) / BLOCK - 0.5 + 0.5 / BLOCK
    far = radius_map(side, centre, centre) * BLOCK >= min(INNER_PX, size / 4)
    data = (across != 0) & far  # exactly 0: no data
    noise = _in_sigma(across, data)
    out = (np.abs(noise) > SKY_SIGMA) | (
        np.abs(_in_sigma(quarters.mean(axis=(3, 5)), data)) > SKY_SIGMA
    )
    sky = data & ~maximum_filter(out & data, (1, 1, 3, 3))
    flat = np.where(sky, noise, 0.0).reshape(n, bands * side**2)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return (flat / np.where(length > 0, length, 1.0)).astype(np.float32)


def _in_sigma(values: NDArray[np.float64], data: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(image, band, y, x) from the median, in units of the scatter, of what has data in the band."""
    some = data.any(axis=(-2, -1), keepdims=True)
    seen = np.where(data, values, np.where(some, np.nan, 0.0))
    from_middle = seen - np.nanmedian(seen, axis=(-2, -1), keepdims=True)
    spread = TO_SIGMA * np.nanmedian(np.abs(from_middle), axis=(-2, -1), keepdims=True)
    return np.nan_to_num(from_middle / np.where(spread > 0, spread, 1.0))


def alike(earlier: Looks, later: Looks) -> NDArray[np.int64]:
    """Pairs (earlier, later) of galaxies whose surroundings are the same, the best for each later one."""
    if not len(earlier.row) or not len(later.row):
        return np.zeros((0, 2), np.int64)
    pairs = []
    for start in range(0, len(later.row), 512):
        match = later.noise[start : start + 512] @ earlier.noise.T
        best = match.argmax(axis=1)
        least = np.maximum(earlier.least[best], later.least[start : start + 512])
        hit = np.flatnonzero(match[np.arange(len(match)), best] > least)
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
