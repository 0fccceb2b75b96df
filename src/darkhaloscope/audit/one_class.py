"""Noise that one class has and the other has not: a classifier could live from it."""

from __future__ import annotations

import numpy as np

from darkhaloscope.audit.hypotheses import Hypothesis, p_beyond
from darkhaloscope.audit.intervals import t_interval
from darkhaloscope.audit.leak_map import Stamps
from darkhaloscope.audit.noise import faint_pixels, scatter

ONE_CLASS = 0.1
"""Noise in sky sigma that one class may have beyond the other: rounding of both gives 0.03."""


def noise_tests(stamps: Stamps, fewest_regions: int) -> list[Hypothesis]:
    """Whether stamps are noisier than their ctrl, or less noisy, far from the arcs; one test a band.

    Scatter of neighbours' differences of both, squared and subtracted: noise that a stamp and its ctrl
    have each of its own cancels. The gradient of a bright arc scatters too, so the promised arc is taken off;
    where that makes it worse the arc is not as promised, which is no noise. Averaged by region.
    """
    keys, region = np.unique(stamps.region, return_inverse=True)
    n = len(keys)
    if stamps.promised is None or n < fewest_regions:
        return []
    out = []
    for b in range(stamps.ctrl.shape[1]):
        arc, good = (stamps.promised - stamps.ctrl)[:, b], stamps.good[:, b]
        use = faint_pixels(arc, good)
        ctrl, with_arc, without = (
            scatter(np.diff(v, axis=-1), use) ** 2 / 2.0
            for v in (stamps.ctrl[:, b], stamps.seen[:, b], stamps.seen[:, b] - arc)
        )
        gaps = np.stack([without - ctrl, with_arc - ctrl])
        gap = np.take_along_axis(gaps, np.abs(gaps).argmin(axis=0)[None], axis=0)[0]
        mean = np.bincount(region, gap, n) / np.bincount(region, minlength=n)
        excess, spread = float(mean.mean()), float(mean.std(ddof=1))
        error = max(spread / np.sqrt(n), ONE_CLASS**2 / 50)
        size = float(np.sqrt(abs(excess)))
        who, other = ("stamps", "ctrl") if excess > 0 else ("ctrl", "stamps")
        ends = t_interval(abs(excess), abs(excess) + error * np.array([-1.0, 1.0]) / np.sqrt(2), n)
        says = (
            f"far from the arcs the {who} hold noise of {size:.2g} sky sigma that the {other} "
            f"do not: added to the {who}, or smoothed away in the {other}"
        )
        out.append(
            Hypothesis(
                "noise_one_class", f"band {b}", size,
                tuple(float(np.sqrt(max(v, 0.0))) for v in ends),  # type: ignore[arg-type]
                ONE_CLASS, n, p_beyond(excess, ONE_CLASS**2, error, n),
                "shortcut", says,
            )
        )  # fmt: skip
    return out
