"""Controls that are as bright in the core as the injections, chosen, with no pixel touched."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def match_brightness(
    wanted: Floats, have: Floats, group: NDArray[np.int64], host: NDArray[np.int64]
) -> NDArray[np.int64]:
    """For each injection, the galaxy whose core is nearest in brightness to the stamp's.

    Parameters
    ----------
    wanted : ndarray (injection,)
        Brightness of each stamp's core, any unit.
    have : ndarray (injection,)
        Brightness of the same rows' cores without an arc, of which one is chosen.
    group : ndarray (injection,)
        Chosen within its own group (a fold, or a split): nothing leaks between groups.
    host : ndarray (injection,)
        The galaxy of each row; none is matched with itself.

    Returns
    -------
    ndarray of int64
        Row chosen for each; -1 where its group has no other galaxy. A faint tail may be chosen more than
        once, since stamps are brighter than cores.
    """
    out = np.full(len(wanted), -1, dtype=np.int64)
    for name in np.unique(group):
        members = np.flatnonzero(group == name)
        order = members[np.argsort(have[members], kind="stable")]
        for i in members:
            others = order[host[order] != host[i]]
            if len(others):
                out[i] = others[np.argmin(np.abs(have[others] - wanted[i]))]
    return out
