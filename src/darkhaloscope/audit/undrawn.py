"""Audit rows whose arcs cannot be drawn again, in the shape of those that are."""

from __future__ import annotations

import numpy as np

from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.spec import AuditSpec
from darkhaloscope.geometry import CORE_SIZE

NOT_SAID = "the data set does not say enough to draw its arcs again"


def undrawn(rows: Arrays, spec: AuditSpec) -> Arrays:
    """What :func:`~darkhaloscope.audit.rerender.rerender` gives of rows that say too little."""
    n, bands = len(rows["hash"]), len(spec.bands)
    whole = rows["hash"][np.zeros(0, dtype=np.int64)]
    return {
        "hash": rows["hash"],
        "core": np.full((n, bands, CORE_SIZE, CORE_SIZE), np.nan, dtype=np.float32),
        "flux_total": np.full((n, bands), np.nan),
        "magnification": np.full(n, np.nan),
        "message": np.full(n, NOT_SAID, dtype="U200"),
        "whole_hash": whole,
        "whole": np.zeros((0, bands, spec.size, spec.size)),
    }
