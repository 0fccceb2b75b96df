"""Published lenses and galaxies like them that are none: who is read, from which brick, with which score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from darkhaloscope.errors import Reason, UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.inject import choose_widths
from darkhaloscope.survey import Cutouts, Survey, read_cutouts
from darkhaloscope.survey.catalogues import chord, unit_vectors
from darkhaloscope.variables import default_reference_band

Floats = NDArray[np.float64]

LENS, NONLENS, CONTROL = "lens", "nonlens", "control"
HOST_ARCSEC = 1.5
"""A target so near to a catalogue's position is its galaxy."""

CONTROLS = 20
"""Galaxies that are matched to each lens at most."""

TOLERANCE = {"r": 0.5, "g-r": 0.3, "r-z": 0.3}
"""Largest difference between a lens's galaxy and one matched to it, mag AB as observed."""


class Scorer(Protocol):
    """What a detector must be: see :class:`darkhaloscope.detect.Detector`.

    One whose ``needs_psf`` is true is given PSF widths as well, ``psf=`` (n, band) in arcsec.
    """

    @property
    def bands(self) -> tuple[str, ...]: ...

    @property
    def size(self) -> int: ...

    def score(
        self,
        images: NDArray[np.float32],
        nodata: NDArray[np.bool_],
        target: Floats | None = None,
    ) -> Floats:
        """Log odds that images hold an arc, (n,)."""
        ...


@dataclass(frozen=True)
class Scored:
    """Everything that was planned, with its outcome.

    Attributes
    ----------
    table : DataFrame
        One row a catalogue's row or a matched galaxy: ``kind``, ``catalogue``, ``row``, ``name``,
        ``ra``, ``dec``, ``grade``, ``brick``, ``mag_g``, ``mag_r``, ``mag_z``, ``matched`` (galaxies
        matched to a lens; lenses that a galaxy is matched to), ``outcome`` (``scored``, ``not_scored``,
        ``left_out``), ``reason``, ``score``.
    images, nodata : dict
        Pixels of the scored lenses by row number of the table, (band, y, x).
    notes : list of str
        A sentence a file that was in the way.
    """

    table: pd.DataFrame
    images: dict[int, NDArray[np.float32]]
    nodata: dict[int, NDArray[np.bool_]]
    notes: list[str]


def plan(
    lenses: pd.DataFrame,
    targets: pd.DataFrame,
    size: int,
    nonlenses: pd.DataFrame | None = None,
    controls: int = CONTROLS,
) -> pd.DataFrame:
    """Who is read: the catalogues' rows, and for each lens the galaxies of its brick most like its own.

    A galaxy is matched in r, g - r and r - z within :data:`TOLERANCE`, nearest first, each magnitude as
    observed. No galaxy is taken whose stamp holds a catalogue's position, of whatever grade.

    Parameters
    ----------
    lenses, nonlenses : DataFrame
        :func:`~darkhaloscope.survey.catalogues.read_catalogues`.
    targets : DataFrame
        The uniform table of LRGs (:func:`~darkhaloscope.survey.read_targets`).
    size : int
        Pixels on a side of a stamp.

    Raises
    ------
    UserError
        No row of the catalogues is left to be read.
    """
    if not (lenses["outcome"] == "").any():
        raise UserError(
            "no lens of the catalogues is left to be read: all have another grade or no position"
        )
    parts = [lenses.assign(kind=LENS)]
    if nonlenses is not None:
        parts.append(nonlenses.assign(kind=NONLENS))
    given = pd.concat(parts, ignore_index=True)
    given = given.assign(matched=0, score=np.nan, **_magnitudes(given, targets))
    free = _without_lenses(targets, given, size)
    wanted = given[(given["kind"] == LENS) & (given["outcome"] == "")]
    times: dict[int, int] = {}
    by_brick = {name: rows for name, rows in free.groupby("brick")}
    for number, lens in wanted.iterrows():
        near = by_brick.get(lens["brick"])
        rows = np.zeros(0, np.int64) if near is None else _alike(lens, near, controls)
        given.loc[number, "matched"] = len(rows)
        for row in rows:
            times[int(row)] = times.get(int(row), 0) + 1
    order = sorted(times)
    chosen = targets.loc[order]
    made = pd.DataFrame(
        {
            "catalogue": "targets", "row": order, "name": chosen["target_id"].astype(str).to_numpy(),
            "ra": chosen["ra"].to_numpy(), "dec": chosen["dec"].to_numpy(), "grade": "",
            "brick": chosen["brick"].to_numpy(), "outcome": "", "reason": "", "kind": CONTROL,
            "matched": [times[k] for k in order], "score": np.nan,
            **{m: chosen[m].to_numpy(float) for m in _MAGS},
        }
    )  # fmt: skip
    return pd.concat([given, made], ignore_index=True) if len(made) else given


_MAGS = ("mag_g", "mag_r", "mag_z")


def _colours(table: pd.DataFrame | pd.Series) -> NDArray[np.float64]:
    """r, g - r, r - z in units of their tolerance, last axis."""
    g, r, z = (np.asarray(table[m], float) for m in _MAGS)
    return np.stack([r, g - r, r - z], axis=-1) / np.array(list(TOLERANCE.values()))


def _alike(lens: pd.Series, near: pd.DataFrame, most: int) -> NDArray[np.int64]:
    """Index of the targets of a brick that are most like a lens's galaxy."""
    gap = np.abs(_colours(near) - _colours(lens))
    within = (gap <= 1.0).all(axis=1)  # False where a magnitude is missing
    distance = np.sqrt((gap**2).sum(axis=1))
    order = np.argsort(np.where(within, distance, np.inf), kind="stable")[: min(most, within.sum())]
    return near.index.to_numpy(np.int64)[order]


def _magnitudes(given: pd.DataFrame, targets: pd.DataFrame) -> dict[str, Floats]:
    """Magnitudes of each position's own galaxy, where the table of targets has it."""
    out = {name: np.full(len(given), np.nan) for name in _MAGS}
    rows = np.flatnonzero(np.isfinite(given["ra"].to_numpy(float)))
    distance, index = _tree(targets).query(_places(given)[rows])
    here = distance <= chord(HOST_ARCSEC)
    for name in _MAGS:
        out[name][rows[here]] = targets[name].to_numpy(float)[index[here]]
    return out


def _without_lenses(targets: pd.DataFrame, given: pd.DataFrame, size: int) -> pd.DataFrame:
    """Targets of the wanted bricks whose stamps hold no position of a catalogue."""
    bricks = given.loc[(given["kind"] == LENS) & (given["outcome"] == ""), "brick"]
    near = targets[targets["brick"].isin(set(bricks))]
    if near.empty:
        return near
    reach = chord(np.sqrt(2.0) * 0.5 * size * PIXEL_SCALE)
    known = _places(given)[np.isfinite(given["ra"].to_numpy(float))]
    distance, _ = cKDTree(known).query(_places(near))
    return near[distance > reach]


def _places(table: pd.DataFrame) -> Floats:
    return unit_vectors(table["ra"].to_numpy(float), table["dec"].to_numpy(float))


def _tree(table: pd.DataFrame) -> cKDTree:
    return cKDTree(_places(table))


def score(
    planned: pd.DataFrame,
    detector: Scorer,
    surveys: Sequence[Survey],
    *,
    threads: int = 4,
    on_brick: Callable[[int, int], object] | None = None,
) -> Scored:
    """Read the stamps of all planned rows, brick by brick, and score them.

    A detector that needs PSF widths gets them as an experiment would choose them: the map's at the
    target, else the reference band's. A row without any is not scored, as an experiment would not inject it.

    Parameters
    ----------
    planned : DataFrame
        :func:`plan`.
    detector : Scorer
        Its bands are the ones that are read.
    surveys : sequence of Survey
        Where to look; a row whose files are missing in one is looked for in the next.
    threads : int
        Bricks that are read at once.
    on_brick : callable, optional
        Called with bricks done and bricks in all.

    Raises
    ------
    UserError
        The detector needs PSF widths, and a release is said to have none.
    """
    needs_psf = bool(getattr(detector, "needs_psf", False))
    score_images: Callable[..., Floats] = detector.score  # with psf= where it is needed
    if needs_psf and any("psfsize" in survey.absent for survey in surveys):
        raise UserError(
            "the detector was trained with PSF widths beside the images, and the release is said to have no "
            "psfsize; take psfsize out of what is absent, or train with reading.aux_psf: false"
        )
    table = planned.copy()
    images: dict[int, NDArray[np.float32]] = {}
    nodata: dict[int, NDArray[np.bool_]] = {}
    notes: list[str] = []
    groups = list(table[table["outcome"] == ""].groupby("brick", sort=True))
    surveys = [replace(survey, bands=tuple(detector.bands)) for survey in surveys]

    def read(group: tuple[str, pd.DataFrame]) -> Cutouts:
        brick, rows = group
        for survey in surveys:
            cut = read_cutouts(
                survey,
                str(brick),
                rows["ra"].to_numpy(float),
                rows["dec"].to_numpy(float),
                detector.size,
            )
            if not (cut.reason == Reason.MISSING_FILE).all():
                break
        return cut

    step = 4 * threads  # bricks in memory, however slow the detector is
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(groups), step):
            some = groups[first : first + step]
            for (_, rows), cut in zip(some, pool.map(read, some), strict=True):
                notes += cut.notes
                numbers = rows.index.to_numpy()
                reason, good, beside = cut.reason, cut.ok, {}
                if needs_psf:
                    widths, known = _widths(cut)
                    reason = np.where(good & ~known, int(Reason.PSF_MISSING), reason)
                    good = good & known
                    beside = {"psf": widths[good]}
                table.loc[numbers, "reason"] = [Reason(int(code)).text for code in reason]
                table.loc[numbers, "outcome"] = np.where(good, "scored", "not_scored")
                ok = np.flatnonzero(good)
                if not len(ok):
                    continue
                lost = cut.invvar[ok] <= 0
                where = np.stack([cut.target_x[ok], cut.target_y[ok]], axis=1)
                table.loc[numbers[ok], "score"] = score_images(cut.image[ok], lost, where, **beside)
                for k, i in enumerate(ok):
                    if rows["kind"].iloc[i] == LENS:
                        images[int(numbers[i])], nodata[int(numbers[i])] = cut.image[i], lost[k]
            if on_brick is not None:
                on_brick(first + len(some), len(groups))
    return Scored(table, images, nodata, notes)


def _widths(cut: Cutouts) -> tuple[Floats, NDArray[np.bool_]]:
    """PSF widths of a brick's targets, (target, band) arcsec, and whether each band with pixels has one."""
    reference = cut.bands.index(default_reference_band(cut.bands))
    covered = cut.coverage > 0
    none = np.zeros(len(cut.bands))
    chosen = [
        choose_widths(at_target.astype(float), none, here, reference).used
        for at_target, here in zip(cut.psfsize, covered, strict=True)
    ]
    widths = np.stack(chosen)
    return widths, np.asarray((np.isfinite(widths) | ~covered).all(axis=1))
