"""Do stamp and ctrl show the same sky at the same place, and do arcs lie about the target?

The displacement of a stamp against its ctrl is measured outside the arc: first the whole-pixel step of
highest correlation, then least squares on the gradients of ctrl (Lucas & Kanade 1981).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import shift as moved

from darkhaloscope.audit.hypotheses import Hypothesis, p_above
from darkhaloscope.audit.intervals import Floats
from darkhaloscope.audit.leak_map import Stamps
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.noise import TO_SIGMA
from darkhaloscope.audit.spec import AuditSpec
from darkhaloscope.geometry import core_slice

STEPS = 3
EDGE = STEPS + 2
FEWEST = 50
"""Good pixels that two images are compared in, at least."""
MOST = 200
CLEAR = 0.02
"""Fraction of the peak of ``stamp - ctrl`` above which a pixel belongs to the arc, where it is not known."""
NOISE = 3.0
RIVALS = 20
"""Other rows' ctrl that a stamp is held against, beside its own."""
SURE = 6.0
"""Difference of two rows' ctrl, in its own noise, from which a pixel tells them apart."""
WRONG = 3.0
"""Times its promised light that an arc may be wrong by where two ctrl are told apart."""
SLIP = 0.5
"""Twice the pixels by which ctrl may be displaced there; more is for :func:`alignment_tests` to say."""
TELLING = 9
"""Pixels that it takes."""
ELSEWHERE = 0.02
"""Fraction of the pairs that may look more like another row's ctrl than like their own."""
ALIGNMENT_COLUMNS = ["hash", "theta_e", "dx", "dy", "correlation", "strange"]
SHIFT_COLUMNS = ["dy", "dx", "mean", "lo", "hi", "pairs"]


def displacement(
    stamp: Floats, ctrl: Floats, good: NDArray[np.bool_]
) -> tuple[float, float, float]:
    """(dx, dy) in pixels by which ``stamp`` is ``ctrl`` moved, and their correlation, over ``good`` pixels.

    All missing where fewer than 50 pixels are good; (0, 0, 1) where the two are equal there.
    """
    inner = np.zeros_like(good)
    inner[EDGE:-EDGE, EDGE:-EDGE] = True
    use = good & inner
    if use.sum() < FEWEST:
        return float("nan"), float("nan"), float("nan")
    if np.abs(stamp - ctrl)[use].max() <= 1e-4 * np.ptp(ctrl[use]):
        return 0.0, 0.0, 1.0
    dy, dx = _coarse(stamp, ctrl, use)
    for _ in range(4):
        model = moved(ctrl, (dy, dx), order=3, mode="nearest")
        gy, gx = np.gradient(model)
        design = np.stack([-gx[use], -gy[use], np.ones(use.sum())], axis=1)
        step, *_ = np.linalg.lstsq(design, (stamp - model)[use], rcond=None)
        dx, dy = (float(np.clip(v, -EDGE, EDGE)) for v in (dx + step[0], dy + step[1]))
    model = moved(ctrl, (dy, dx), order=3, mode="nearest")
    return dx, dy, _correlation(stamp[use], model[use])


def _coarse(stamp: Floats, ctrl: Floats, use: NDArray[np.bool_]) -> tuple[float, float]:
    """The whole-pixel step of highest correlation; no pixel in use is within a step of the edge."""
    y, x = (v.ravel() for v in np.mgrid[-STEPS : STEPS + 1, -STEPS : STEPS + 1])
    place = np.flatnonzero(use) - (y * use.shape[1] + x)[:, None]
    moved_to = ctrl.ravel()[place]
    moved_to -= moved_to.mean(axis=1, keepdims=True)
    own = stamp[use] - stamp[use].mean()
    square = (moved_to**2).sum(axis=1)
    match = np.divide(moved_to @ own, np.sqrt(square), out=np.zeros(len(square)), where=square > 0)
    best = int(np.argmax(match))
    return float(y[best]), float(x[best])


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def alignment(stamps: Stamps, stats: Arrays, spec: AuditSpec) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Displacements of at most 200 pairs in the reference band, and the core for shifted ctrl.

    Returns
    -------
    DataFrame
        ``dx, dy`` in pixels and the correlation of each pair, outside its arc; ``strange`` is 1 where a
        stamp is certainly more like one of twenty other rows' ctrl than like its own.
    DataFrame
        Mean of the core's ``stamp - shifted ctrl`` in sky sigma a pixel, for ctrl moved by -1..1 pixels.
    """
    band, lines = spec.reference_index, []
    few = slice(0, MOST)
    noise = rival_noise(stamps.ctrl[:, band], stamps.good[few, band])
    for k, row in enumerate(stamps.row[few].tolist()):
        ctrl, seen, good = stamps.ctrl[k, band], stamps.seen[k, band], stamps.good[k, band]
        if stamps.promised is not None:
            # The light that was promised is taken off; what it leaves behind is masked.
            light = stamps.promised[k, band] - ctrl
            outside = light < CLEAR * max(float(light.max()), 1e-9)
            seen = seen - light
            dx, dy, same = displacement(seen, ctrl, good & outside)
            unsure = light
        else:
            light = np.abs(seen - ctrl)
            outside = light < max(CLEAR * float(light[good].max(initial=0.0)), NOISE)
            dx, dy, same = displacement(seen, ctrl, good & outside)
            unsure = np.where(outside, 0.0, np.inf)
        strange = _strange(seen, stamps.ctrl[:, band], unsure, good, k, noise[k])
        theta_e = float(stats["row_theta_e"][row])
        lines.append((stats["row_hash"][row], theta_e, dx, dy, same, strange))
    core = core_slice(spec.size)
    seen = stamps.seen[few, band, core, core]
    shifts = []
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            other = np.roll(stamps.ctrl[few, band], (dy, dx), (1, 2))[:, core, core]
            mean = (seen - other).mean(axis=(1, 2))
            n = max(len(mean), 1)
            reach = 1.96 * float(mean.std(ddof=1)) / np.sqrt(n) if n > 1 else np.nan
            value = float(mean.mean()) if len(mean) else np.nan
            shifts.append((dy, dx, value, value - reach, value + reach, len(mean)))
    return (
        pd.DataFrame(lines, columns=ALIGNMENT_COLUMNS),
        pd.DataFrame(shifts, columns=SHIFT_COLUMNS),
    )


def _rivals(k: int, n: int) -> NDArray[np.int64]:
    """Rows whose ctrl row ``k`` of ``n`` is held against: in the order of hashes, which are any others."""
    return np.asarray((k + 1 + np.arange(RIVALS) * (n // (RIVALS + 1))) % n)


def rival_noise(ctrl: Floats, good: NDArray[np.bool_]) -> Floats:
    """Scatter of the difference to each rival's ctrl, (row, rival), of the first rows.

    Parameters
    ----------
    ctrl : ndarray (row, y, x)
        Of all rows.
    good : ndarray (first rows, y, x)
        Pixels of each that count. Where they, or the rows, are too few to be asked it is missing.
    """
    out = np.full((len(good), RIVALS), np.nan)
    if len(ctrl) > RIVALS:
        for k in np.flatnonzero(good.sum(axis=(1, 2)) >= FEWEST).tolist():
            gap = (ctrl[k] - ctrl[_rivals(k, len(ctrl))])[:, good[k]]
            out[k] = TO_SIGMA * np.median(np.abs(gap - np.median(gap, axis=1)[:, None]), axis=1)
    return out


def _strange(
    seen: Floats,
    ctrl: Floats,
    light: Floats,
    good: NDArray[np.bool_],
    k: int,
    noise: Floats,
) -> float:
    """Whether a stamp is nearer to the ctrl of another row than to its own: 1 or 0.

    Asked where the two ctrl differ by more than noise, an arc that is not as promised, or a ctrl that is
    a little off could make of it. Missing where no rival does: noise of their own is all that two images of
    blank sky, or of one galaxy, have, and every ctrl is then as near as any other.

    Parameters
    ----------
    seen, light : ndarray (y, x)
        The stamp without its promised arc, and that arc.
    ctrl : ndarray (row, y, x)
    noise : ndarray (rival,)
        :func:`rival_noise` of this row.
    """
    others = ctrl[_rivals(k, len(ctrl))]
    granted = WRONG * light + SLIP * np.hypot(*np.gradient(ctrl[k]))
    least = SURE * np.maximum(noise, 1.0)[:, None, None] + granted
    tell = good & (np.abs(ctrl[k] - others) > least)
    telling = tell.sum(axis=(1, 2))
    nearer = (np.abs(seen - ctrl[k]) > np.abs(seen - others)) & tell
    told = telling >= TELLING
    if not told.any():
        return float("nan")
    return float((nearer.sum(axis=(1, 2))[told] > 0.5 * telling[told]).any())


def target_tests(
    table: pd.DataFrame, region: NDArray[np.uint64], fewest_regions: int
) -> list[Hypothesis]:
    """Whether more stamps than a few are of another target than their ctrl; ``region`` of each line."""
    values = table["strange"].to_numpy(float)
    known = np.isfinite(values)
    _, index = np.unique(region[: len(values)][known], return_inverse=True)
    n = int(index.max()) + 1 if len(index) else 0
    if n < fewest_regions:
        return []
    means = np.bincount(index, values[known]) / np.bincount(index)
    mean, spread = float(means.mean()), float(means.std(ddof=1))
    error = max(spread / np.sqrt(n), 1e-2)
    says = f"{mean:.0%} of the stamps are more like the ctrl of another row than like their own"
    interval = (max(0.0, mean - 2 * error), min(1.0, mean + 2 * error))
    p = p_above(mean, ELSEWHERE, error, n)
    return [
        Hypothesis("other_target", "outside the arcs", mean, interval, ELSEWHERE, n, p, "bug", says)
    ]


def alignment_tests(
    table: pd.DataFrame, region: NDArray[np.uint64], limit: float, fewest_regions: int
) -> list[Hypothesis]:
    """Whether stamps are displaced against their ctrl, along either axis; ``region`` of each line."""
    out = []
    for axis in ("dx", "dy"):
        values = table[axis].to_numpy(float)
        known = np.isfinite(values)
        keys, index = np.unique(region[: len(values)][known], return_inverse=True)
        n = len(keys)
        if n < fewest_regions:
            continue
        means = np.bincount(index, values[known]) / np.bincount(index)
        mean = float(np.mean(means))
        error = max(float(means.std(ddof=1)) / np.sqrt(n), 1e-4)
        p = p_above(abs(mean), limit, error, n)
        interval = (abs(mean) - 2 * error, abs(mean) + 2 * error)
        says = f"stamps lie {mean:+.2f} px along {axis[1]} from their ctrl, outside the arcs"
        out.append(
            Hypothesis("stamp_displaced", axis, abs(mean), interval, limit, n, p, "bug", says)
        )
    return out
