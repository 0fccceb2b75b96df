"""Is every audit row a row of its own? Rows are known by (brick, slot), and evidence counts each once."""

from __future__ import annotations

import numpy as np

from darkhaloscope.audit.causes import Cause
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.verdict import BUG

NOT_UNIQUE, REPEATED = "rows_not_unique", "rows_repeated"


def repeated(stats: Arrays) -> list[Cause]:
    """Audit rows that share their identity with others, or all their core pixels in stamp and ctrl.

    Rows of equal pixels are one row that is counted often, whatever their names: intervals are then too
    narrow. Rows of other pixels under one name cannot be told apart, and no arc is drawn again for them.
    """
    n = len(stats["row_hash"])
    if n == 0:
        return []
    name = _group(stats["row_hash"].astype(np.uint64))
    arc = stats["row_core_arc"].reshape(n, -1)
    lit = (arc != 0).any(axis=1)
    both = np.concatenate([stats["row_core_ctrl"].reshape(n, -1), arc], axis=1)
    pixels = _group(
        np.ascontiguousarray(both).view(np.dtype((np.void, both.dtype.itemsize * both.shape[1])))[
            :, 0
        ]
    )
    # A row whose name is another's, but not with its pixels.
    shared = np.bincount(name)[name] > 1
    twins = (np.bincount(pixels)[pixels] > 1) & lit
    out = []
    for cause, rows, what in (
        (NOT_UNIQUE, shared & ~twins, "share their brick and slot with other rows"),
        (REPEATED, twins, "hold the pixels of another row, stamp and ctrl"),
    ):
        k = int(rows.sum())
        if k:
            says = f"{k} of {n} audit rows {what}"
            out.append(Cause(cause, k / n, (k / n, k / n), says, BUG, 1.0, says))
    return out


def _group(keys: np.ndarray) -> np.ndarray:
    """Number of the group of equal keys that each row is in."""
    _, group = np.unique(keys, return_inverse=True)
    return group.reshape(-1)
