"""Rows that no correct data set has, counted once for the gate and for the causes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from darkhaloscope.audit.causes import Cause
from darkhaloscope.audit.core_gate import match
from darkhaloscope.audit.integrity import CHECKS, COLUMN_TOLERANCE, FULL, half_unit
from darkhaloscope.audit.intervals import Floats
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.rounding import steps, stored_as
from darkhaloscope.audit.sources.difference import difference_error
from darkhaloscope.audit.spec import AuditSpec
from darkhaloscope.audit.verdict import BUG
from darkhaloscope.variables import without_data

FLUX = "flux_column"

PHOTON_ERRORS = 6.0
"""Standard errors, and photons, by which an arc's own photons are granted to move its sum."""


@dataclass(frozen=True)
class WrongRows:
    """``count`` of ``rows``, of the class that it is about, fail the check ``name``; ``text`` says what they
    do."""

    name: str
    count: int
    rows: int
    text: str


def wrong_rows(stats: Arrays, spec: AuditSpec, photons: float = 0.0) -> list[WrongRows]:
    """The checks of :data:`.integrity.CHECKS` that any row fails.

    Parameters
    ----------
    photons : float
        Variance that a unit of an arc's light adds to its pixel, sky sigma. Recorded fluxes are without that
        noise: they are then held against the sums of the rows kept whole alone, and granted what it makes.
    """
    controls, injections = stats["outcomes"].sum(axis=(1, 2)).tolist()
    classes = {"controls": controls, "injections": injections}
    found = []
    for (name, says), n in zip(CHECKS.items(), stats["integrity"].tolist(), strict=True):
        of = classes.get(says.partition(" ")[0], 0)
        of, what = (of, says) if of else (max(controls + injections, 1), f"rows: {says}")
        if n and name == FLUX and photons > 0:
            off = beyond_photons(stats, spec, photons)
            n, of = int(off.sum()), len(off)
            what = f"rows kept whole: {says}, by more than the noise of its photons makes"
        if n:
            found.append(WrongRows(name, n, of, f"{n} of {of} {what}"))
    return found


def causes_of(wrong: Sequence[WrongRows]) -> list[Cause]:
    """Each kind of row that no correct data set has is a cause of its own."""
    return [
        Cause(w.name, float(w.count), (float(w.count),) * 2, w.text, BUG, 1.0, w.text)
        for w in wrong
    ]


def beyond_photons(stats: Arrays, spec: AuditSpec, photons: float) -> np.ndarray:
    """Rows kept whole (row,) whose recorded flux is further from the sum of their arc than photons put it.

    The sum of n photons scatters by sqrt(n); a single one is ``photons`` sky sigma.
    """
    place = match(stats["whole_hash"], stats["row_hash"])
    whole = np.flatnonzero(place >= 0)
    place = place[whole]
    arc, ctrl = (stats[f"whole_{name}"][whole] for name in ("arc", "ctrl"))
    column = stats["row_total_injected_flux"][place].astype(float)
    flux = arc.sum(axis=(2, 3), dtype=float)
    one = photons * stats["row_sky_sigma"][place].astype(float)
    error = np.sqrt(one * np.maximum(np.fmax(flux, column), 0.0)) + one
    lost = without_data(stats["whole_nodata"][whole], len(spec.bands))
    granted = PHOTON_ERRORS * error + COLUMN_TOLERANCE * np.abs(flux)
    granted += difference_error(arc, lost, _rounding(ctrl, arc))
    granted += half_unit(column, dict(spec.written).get("total_injected_flux", FULL))
    return np.asarray((np.abs(column - flux) > granted).any(axis=1))


def _rounding(ctrl: Floats, arc: Floats) -> Floats:
    """Sum over each stamp (row, band) of the steps that it was stored in; 0 for arcs stored by themselves."""
    ctrl, arc = ctrl.astype(float), arc.astype(float)
    kind = stored_as(ctrl, arc)
    if kind is None:
        return np.zeros(arc.shape[:2])
    return np.asarray(steps(ctrl, arc, kind).sum(axis=(2, 3)))
