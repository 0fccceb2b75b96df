"""Are the pixels of a row those of another? Every arc against every arc drawn again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.audit.explain import Images
from darkhaloscope.audit.intervals import Floats, binomial_interval

NOT_ITS_OWN = 0.1
"""Part of an arc's square that its own parameters leave, above which they may be another's."""

ANOTHER = 0.02
"""Part that another row's may leave, and an eighth of what its own leave."""

CLEAR = 0.005
"""Error of a part up to which noise does not make another row's arc fit."""

FEWEST = 8
UNRELATED = 0.5
ALIKE = 0.01
BURIED = 0.3
"""Error of a flux, in units of the fluxes' scatter, beyond which they tell nothing."""


@dataclass(frozen=True)
class Shuffled:
    """``share`` of rows whose pixels are another's, its interval, and why that is said."""

    share: float
    interval: tuple[float, float]
    says: str


def shuffled(images: Images) -> Shuffled | None:
    """Rows that hold the arc of another, or None where that is not so.

    Where the other row is among those drawn again, it is found. Where it is not (of many rows few are
    drawn again), fluxes speak: those of shuffled rows are drawn from the same law, and are not their own.
    """
    n = len(images.arc)
    own = images.unexplained(images.again)
    off = np.flatnonzero(own > NOT_ITS_OWN + 3.0 * images.errors)
    if len(off) < 3:
        return None
    share, interval = len(off) / n, binomial_interval(len(off), n)
    # Among many others one fits an arc that is lost in noise.
    clear = off[images.errors[off] < CLEAR]
    found = _others(images, clear, own) if len(clear) >= 3 else None
    if found is not None:
        return Shuffled(share, interval, found)
    return None if len(off) < FEWEST else _by_flux(images, off, share, interval)


def _others(images: Images, off: NDArray[np.int64], own: Floats) -> str | None:
    """Whether arcs that are not their own are those of other rows."""
    left = _left(images.arc[off], images.again, images.grain[off], images.light[off])
    twins = _left(
        images.again[off],
        images.again,
        0.0 * images.grain[off],
        (images.again[off] ** 2).sum(axis=(1, 2, 3)),
    )
    left[np.arange(len(off)), off] = twins[np.arange(len(off)), off] = np.inf
    limit = np.minimum(ANOTHER, own[off] / 8.0)
    found = int((left.min(axis=1) < limit).sum())
    chance = float((twins.min(axis=1) < limit).mean())
    if found < 3 or found / len(off) <= 3.0 * chance:
        return None
    return f"{found} of {len(off)} arcs that are not their own are those of other rows"


def _left(arc: Floats, other: Floats, grain: Floats, light: Floats) -> Floats:
    """Part of each arc's square that each other one leaves, (arc, other)."""
    a, b = (v.reshape(len(v), -1) for v in (arc, other))
    square = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1)[None, :] - 2.0 * a @ b.T
    return np.asarray((square - grain[:, None]) / light[:, None])


def _by_flux(
    images: Images, off: np.ndarray, share: float, interval: tuple[float, float]
) -> Shuffled | None:
    from scipy.stats import ks_2samp, spearmanr  # slow to import, and workers never need it

    seen, promised = (v[off].sum(axis=(1, 2, 3)) for v in (images.arc, images.again))
    if float(np.median(np.sqrt(images.grain[off]))) > BURIED * float(promised.std()):
        return None  # noise alone makes fluxes no more than related
    same_law = float(ks_2samp(seen, promised).pvalue) > ALIKE
    related = float(spearmanr(seen, promised).statistic)
    if not same_law or related > UNRELATED:
        return None
    says = (
        f"the fluxes of {len(off)} arcs are distributed as promised and are not their own "
        f"(rank correlation {related:.2f})"
    )
    return Shuffled(share, interval, says)
