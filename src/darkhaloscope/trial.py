"""What any set of rows must show before more of it is made: of a few in memory, or of a finished run.

Controls are controls, outcomes are there where they should be, nothing fails without a reason, and arcs
get brighter with their Einstein radius: each was wrong in some data set once, and each shows in a few rows.
Point sources are left out of the last: magnified infinitely on a caustic and, on the axis, alike by lenses of
any size, they show no trend.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from darkhaloscope import audit
from darkhaloscope.config import Experiment
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.inject import draw_arc, inject_brick
from darkhaloscope.survey import Cutouts
from darkhaloscope.variables import SOURCE_MODELS

TRIAL_ROWS = 16
"""Rows of a brick that a trial makes."""

DRAWN_ROWS = 4
"""Of these, injections that are drawn at both ends of the prior of theta_e."""

FEWEST = 60
"""Injections below which a finished run says nothing of a trend."""

SPREAD = 1.2
"""Einstein radii that differ by less than this factor show no trend."""


def check_trial(
    experiment: Experiment, rows: pd.DataFrame, cutouts: Cutouts, prior: np.ndarray
) -> None:
    """Make a few planned rows of a brick, and see that they are what they should be.

    Parameters
    ----------
    experiment : Experiment
    rows : DataFrame
        All planned rows of one brick.
    cutouts : Cutouts
        Of the same rows.
    prior : ndarray
        Einstein radii that the plan expects, arcsec.

    Raises
    ------
    UserError
        Something is wrong with them; nothing was written.
    """
    chosen = _some(rows)
    cube = inject_brick(chosen, _of(cutouts, rows, chosen), experiment, rows)
    wrong = faults(cube, experiment.survey.reference)
    if not wrong and not _brightens(cube, rows, experiment, prior):
        wrong = ["arcs do not get brighter with their Einstein radius"]
    if wrong:
        raise UserError(
            f"the trial of brick {rows['brick'].iloc[0]} failed, and nothing was written: "
            f"{'; '.join(wrong)}; dhs selftest says whether the renderer is sound"
        )


def faults(columns: xr.Dataset, reference_band: str) -> list[str]:
    """What is wrong with finished rows, in sentences; none where all is well.

    Parameters
    ----------
    columns : Dataset
        Provenance as stored, lazy or not, and ``arc`` where pixels are to be looked at.
    reference_band : str
    """
    control = columns["lens_model"].values == 0
    ok = columns["cutout_ok"].values.astype(bool)
    wrong = []
    lensed = int((control & (columns["theta_e"].values != 0)).sum())
    if lensed:
        wrong.append(f"{lensed} controls have an Einstein radius")
    if "arc" in columns:
        lit = int(columns["arc"].values[control].any(axis=(1, 2, 3)).sum())
        if lit:
            wrong.append(f"{lit} controls hold an arc")
    for line in audit.quality(columns, reference_band).coverage.to_dict("records"):
        name = f"{line['column']} ({line['band']})" if line["band"] else str(line["column"])
        if line["missing"]:
            wrong.append(
                f"{name} is missing on {line['missing']} of {line['injections']} injections"
            )
        if line["present"]:
            wrong.append(f"{name} is there on {line['present']} of {line['controls']} controls")
    reason = columns["reason"].values
    failed = np.isin(reason, [r for r in Reason if r.failed])
    unexplained = int((~ok & (~failed | (reason == Reason.NOT_WRITTEN))).sum())
    if unexplained:
        wrong.append(f"{unexplained} rows have no pixels and no reason")
    contradicted = int((ok & failed).sum())
    if contradicted:
        wrong.append(f"{contradicted} rows have pixels and a reason why not")
    return wrong


def flux_falls(columns: xr.Dataset, reference_band: str) -> str:
    """A sentence where the mean flux of a finished run does not rise with theta_e; else empty.

    Flux is in units of the source's own, of the third with the largest radii against the smallest.
    """
    ok = columns["cutout_ok"].values & _show_a_trend(columns)
    band = [str(b) for b in columns["band"].values].index(reference_band)
    flux = columns["total_injected_flux"].values[ok, band].astype(float)
    gain = flux / columns["src_flux"].values[ok, band]
    theta_e = columns["theta_e"].values[ok].astype(float)
    known = np.isfinite(gain)
    gain, theta_e = gain[known], theta_e[known]
    if len(gain) < FEWEST:
        return ""
    low, high = np.quantile(theta_e, [1 / 3, 2 / 3])
    if high < SPREAD * low:
        return ""
    least, most = gain[theta_e <= low].mean(), gain[theta_e >= high].mean()
    if most > least:
        return ""
    return (
        f"arcs hold {most:.3g} of their source's flux at theta_e above {high:.2f} arcsec and {least:.3g} "
        f"below {low:.2f}: flux does not rise with theta_e"
    )


def _show_a_trend(columns: xr.Dataset) -> np.ndarray:
    """Which rows are lensed sources of some size."""
    extended = columns["src_model"].values != SOURCE_MODELS.index("POINT")
    return np.asarray((columns["lens_model"].values > 0) & extended)


def _some(rows: pd.DataFrame) -> pd.DataFrame:
    """The first rows of either class."""
    control = rows["lens_model"].to_numpy() == 0
    half = TRIAL_ROWS // 2
    first = np.concatenate([np.flatnonzero(part)[:half] for part in (control, ~control)])
    return rows.iloc[np.sort(first)]


def _of(cutouts: Cutouts, rows: pd.DataFrame, chosen: pd.DataFrame) -> Cutouts:
    """The cut-outs of the chosen rows' targets."""
    objid = np.unique(rows["slot"].to_numpy(np.int64) & 0xFFFFFFFF)
    wanted = np.unique(chosen["slot"].to_numpy(np.int64) & 0xFFFFFFFF)
    keep = np.isin(objid, wanted)
    arrays = {f.name: getattr(cutouts, f.name) for f in fields(cutouts)}
    kept: dict[str, Any] = {k: v[keep] for k, v in arrays.items() if isinstance(v, np.ndarray)}
    return replace(cutouts, **kept)


def _brightens(
    cube: xr.Dataset, rows: pd.DataFrame, experiment: Experiment, prior: np.ndarray
) -> bool:
    """Whether the same sources give more flux at the largest Einstein radius than at the smallest."""
    low, high = float(np.min(prior)), float(np.max(prior))
    made = np.flatnonzero(_show_a_trend(cube) & cube["cutout_ok"].values)[:DRAWN_ROWS]
    if high < SPREAD * low or not len(made):
        return True
    planned = {row["slot"]: row for row in rows.to_dict("records")}
    total = {low: 0.0, high: 0.0}
    for i in made:
        row = planned[int(cube["slot"].values[i])]
        widths = cube["psf_fwhm_used"].values[i].astype(float)
        x, y = (float(cube[name].values[i]) for name in ("target_x", "target_y"))
        for theta_e in total:
            drawn = draw_arc(row | {"theta_e": theta_e}, widths, x, y, experiment)
            total[theta_e] += float(np.nansum(drawn.arc_flux_total))
    return total[high] > total[low]
