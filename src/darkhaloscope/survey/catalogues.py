"""Published catalogues of lenses (or of what is none), made uniform; every row keeps a place.

What they share is a position. Huang et al. (2020, 2021), Storfer et al. (2024) and Inchausti et al. (2025)
have ``name``, ``RA``, ``DEC`` (deg) and ``grade`` (A, B, C); others are read by the aliases of a table of
targets, and have no grade where they have no such column.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from darkhaloscope.errors import UserError
from darkhaloscope.survey import bricks
from darkhaloscope.survey.targets import ALIASES, by_lower_name, numbers, read_table

COLUMNS = ["catalogue", "row", "name", "ra", "dec", "grade", "brick", "outcome", "reason"]
SAME_ARCSEC = 3.0
"""Rows of two catalogues that lie so near each other are one object."""
GRADE_REASON = "grade_"
"""Begins the reason of a row that was left out for its grade."""

_NAMES = ("name", "id", "objectname", "object", "source_id")


def read_catalogues(urls: Sequence[str], grades: Sequence[str] = ()) -> pd.DataFrame:
    """All rows of some catalogues, in their order.

    Parameters
    ----------
    urls : sequence of str
        CSV, FITS or Parquet with ra and dec in deg.
    grades : sequence of str
        Which to keep; all if empty. A catalogue without grades is kept whole.

    Returns
    -------
    DataFrame
        :data:`COLUMNS`. ``outcome`` is empty for a row to be read; else ``left_out``, with its
        ``reason``: ``no_position``, ``grade_c`` and the like, ``duplicate`` of an earlier row that is kept.

    Raises
    ------
    UserError
        A catalogue cannot be read, is empty, or lacks positions.
    """
    table = pd.concat([_read(url) for url in urls], ignore_index=True)
    wanted = {grade.strip().lower() for grade in grades}
    known = np.isfinite(table["ra"].to_numpy(float))
    table.loc[~known, ["outcome", "reason"]] = ["left_out", "no_position"]
    if wanted:
        grade = table["grade"].str.lower()
        out = known & (grade != "").to_numpy() & ~grade.isin(wanted).to_numpy()
        table.loc[out, "outcome"] = "left_out"
        table.loc[out, "reason"] = GRADE_REASON + grade[out]
    again = _repeated(table)
    table.loc[again, ["outcome", "reason"]] = ["left_out", "duplicate"]
    return table


def _read(url: str) -> pd.DataFrame:
    raw = read_table(url)
    lower = by_lower_name(raw)
    columns = {
        key: next((lower[a] for a in names if a in lower), None)
        for key, names in (("ra", ALIASES["ra"]), ("dec", ALIASES["dec"]), ("name", _NAMES))
    }
    if columns["ra"] is None or columns["dec"] is None or raw.empty:
        raise UserError(
            f"{url} is no catalogue of positions: it needs rows, and columns ra and dec in deg; its "
            f"columns are {', '.join(map(str, raw.columns))}"
        )
    ra, dec = numbers(raw[columns["ra"]]), numbers(raw[columns["dec"]])
    good = (ra >= 0) & (ra <= 360) & (np.abs(dec) <= 90)
    ra, dec = np.where(good, ra % 360.0, np.nan), np.where(good, dec, np.nan)
    brick = np.full(len(raw), "", dtype=object)
    brick[good] = bricks.brick_name(ra[good], dec[good]).astype(object)
    stem = PurePosixPath(url).name.split(".")[0]
    grade = raw[lower["grade"]].fillna("").astype(str).str.strip() if "grade" in lower else ""
    made = pd.DataFrame({"catalogue": stem, "row": np.arange(len(raw))})
    given = columns["name"]
    made["name"] = (
        raw[given].astype(str) if given is not None else [f"{stem}-{k}" for k in made["row"]]
    )
    made["ra"], made["dec"], made["grade"], made["brick"] = ra, dec, grade, brick
    made["outcome"] = made["reason"] = ""
    return made[COLUMNS]


def _repeated(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows to be read that lie on an earlier row to be read."""
    out = np.zeros(len(table), dtype=bool)
    rows = np.flatnonzero((table["outcome"] == "").to_numpy())
    if len(rows):
        from scipy.spatial import cKDTree  # slow to import

        here = unit_vectors(table["ra"].to_numpy(float)[rows], table["dec"].to_numpy(float)[rows])
        for i, j in sorted(cKDTree(here).query_pairs(chord(SAME_ARCSEC))):
            if not out[rows[i]]:
                out[rows[j]] = True
    return out


def unit_vectors(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions in deg as points of the unit sphere, (n, 3)."""
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)


def chord(arcsec: float) -> float:
    """Length of the chord of an angle on the unit sphere."""
    return float(2.0 * np.sin(0.5 * np.radians(arcsec / 3600.0)))
