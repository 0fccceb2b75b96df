"""Arcs that are off by themselves: a few that are far off, or many that are a little.

A mean says nothing of them: a twentieth of the arcs without light is no factor of 0.95 on all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from darkhaloscope.audit.causes import Cause, Limits
from darkhaloscope.audit.closure import Closure
from darkhaloscope.audit.intervals import FAMILY_RISK, Floats, binomial_interval
from darkhaloscope.audit.verdict import BUG

FAR = 10.0
"""Limits by which an arc must be off to be far off: a tenth of its flux, half a pixel."""

SEEN = 20.0
"""S/N from which an arc speaks for itself."""

FEWEST = 3
"""Arcs that must be far off; of those that hold no light at all one is enough."""

NO_LIGHT = 1e-6
TREND = 0.5
"""Rank correlation from which errors are said to follow a column."""

COLUMNS = ("theta_e", "magnification", "src_reff", "src_q", "psf_width")
OF_MEANS = {
    "flux_scale": "flux", "shift": "shift", "blur": "width", "unexplained_residual": "leftover",
}  # fmt: skip
"""Causes that a mean speaks for, and of what."""


@dataclass(frozen=True)
class Singles:
    """Arcs that are far off.

    Attributes
    ----------
    hashes : ndarray
    share, interval
        Fraction of the closure pairs, and its interval.
    empty : bool
        Whether all of them hold no light.
    says : str
    """

    hashes: np.ndarray
    share: float
    interval: tuple[float, float]
    empty: bool
    says: str

    def cause(self) -> Cause:
        """What the verdict is told."""
        text = f"{self.says} (each off by more than {FAR:g} times a limit)"
        return Cause("single_arcs", self.share, self.interval, text, BUG, 1.0, self.says)


def effects(pairs: pd.DataFrame, limits: Limits) -> pd.DataFrame:
    """What each image is off by, in units of the limits: flux, shift, width, leftover."""
    return pd.DataFrame(
        {
            "flux": (pairs.flux_ratio - 1.0).abs() / limits.flux,
            "shift": pairs["shift"] / limits.centroid,
            "width": (pairs.width_ratio - 1.0).abs() / limits.blur,
            "leftover": pairs.leftover / limits.leftover,
        }
    )


def singles(found: Closure, limits: Limits) -> Singles | None:
    """The minority of arcs that are far off; None where there is none, or where it may be noise."""
    pairs = found.pairs
    n = found.n_pairs
    if n == 0:
        return None
    far = _far(pairs, limits)
    hashes = pairs.loc[far, "hash"].unique()
    k = len(hashes)
    off = pairs[far]
    empty = bool(k) and bool(_empty(off).all())
    by_noise = 0.0
    if len(found.noise_pairs):
        noisy = found.noise_pairs.loc[_far(found.noise_pairs, limits), "hash"].nunique()
        by_noise = binomial_interval(noisy, n, 1.0 - FAMILY_RISK)[1]
        empty = False
    lo, _ = binomial_interval(k, n, 1.0 - FAMILY_RISK)
    if k < (1 if empty else FEWEST) or k >= n / 2 or lo <= by_noise:
        return None
    where = _bands(off, pairs)
    says = f"{k} of {n} arcs ({k / n:.1%}) {_what(off, limits)}{where}, unlike the rest"
    bricks = off["brick"].unique()
    if len(bricks) == 1 and k >= FEWEST:
        says += f"; all of them in brick {bricks[0]}"
    return Singles(hashes, k / n, binomial_interval(k, n), empty, says)


def _far(pairs: pd.DataFrame, limits: Limits) -> pd.Series[bool]:
    worst = effects(pairs, limits)[["flux", "shift", "width"]].max(axis=1)
    # An arc without light has no S/N of its own: what was promised has.
    return (worst > FAR) & ((pairs.signal > SEEN) | _empty(pairs))


def _empty(pairs: pd.DataFrame) -> pd.Series[bool]:
    return (pairs.flux_ratio.abs() < NO_LIGHT) & ((pairs.difference - 1.0).abs() < NO_LIGHT)


def _what(off: pd.DataFrame, limits: Limits) -> str:
    """What most of these arcs do, in words."""
    if _empty(off).all():
        return "hold no light"
    quantity = str(effects(off, limits)[["shift", "flux", "width"]].gt(FAR).sum().idxmax())
    if quantity == "shift":
        return f"are displaced by {off['shift'].median():.2f} px (median)"
    if quantity == "flux":
        return f"hold {off.flux_ratio.median():.3g} times the promised flux (median)"
    return f"have a PSF {off.width_ratio.median():.3g} times as wide as predicted (median)"


def _bands(off: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """The bands in which these arcs are off, where they are right in another one that shows them."""
    shown = pairs[pairs["hash"].isin(off["hash"]) & (pairs.signal > SEEN)]
    bands = off["band"].unique().tolist()
    return "" if set(shown["band"]) <= set(bands) else f" in band {', '.join(bands)}"


def of_all(causes: list[Cause], found: Closure, limits: Limits) -> list[Cause]:
    """The causes that most arcs bear out; a mean that a few arcs make is left to :func:`singles`."""
    middle = effects(found.pairs, limits).groupby(found.pairs["band"]).median().max()
    return [
        c
        for c in causes
        if c.kind != BUG or c.name not in OF_MEANS or middle[OF_MEANS[c.name]] > 1.0
    ]


def scattered_words(found: Closure, limits: Limits, mean_is_right: bool) -> str:
    """How arcs are off by themselves: in what, by how much, and what that goes with."""
    pairs = found.pairs
    off = effects(pairs, limits)[["flux", "shift", "width"]]
    quantity = str(off.gt(1.0).sum().idxmax())
    values, unit = {
        "flux": (pairs.flux_ratio - 1.0, "flux ratios scatter by {:.1%}"),
        "shift": (pairs["shift"], "displacements scatter by {:.3f} px"),
        "width": (pairs.width_ratio - 1.0, "PSF widths scatter by {:.1%}"),
    }[quantity]
    text = unit.format(float(values.std()))
    though = " though the mean is right" if mean_is_right else ""
    # Arcs that are right go with a column by their rounding, and would outvote those that are off.
    trend = _trend(values.where(off[quantity] > 1.0, 0.0).to_numpy(float), pairs)
    return f"are off by themselves{though} ({text}{trend})"


def _trend(values: Floats, pairs: pd.DataFrame) -> str:
    from scipy.stats import spearmanr  # slow to import, and workers never need it

    best, name = 0.0, ""
    for column in COLUMNS:
        x = pairs[column].to_numpy(float)
        use = np.isfinite(x) & np.isfinite(values)
        if use.sum() < FEWEST or np.ptp(x[use]) == 0 or np.ptp(values[use]) == 0:
            continue
        rho = float(spearmanr(x[use], values[use]).statistic)
        if abs(rho) > abs(best):
            best, name = rho, column
    return (
        f", and follow {name} with a rank correlation of {best:+.2f}" if abs(best) > TREND else ""
    )
