"""Causes that closure alone cannot name: shuffled rows, other conventions, careless renderers.

Conventions are asked for only where closure fails, since each is drawn again. What explains the pixels
takes the place of what scale, shift and width said of them; what is wrong besides is what closure then
finds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from darkhaloscope.audit.causes import Cause, Limits
from darkhaloscope.audit.closure import closure
from darkhaloscope.audit.explain import Explanation, Images, closure_images, explain
from darkhaloscope.audit.intervals import Floats
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.named import closure_causes
from darkhaloscope.audit.rerender import CORE_TOLERANCE, Redraw
from darkhaloscope.audit.sampled import wrapped
from darkhaloscope.audit.shuffled import shuffled
from darkhaloscope.audit.spec import AuditSpec

VAGUE = ("unexplained_residual",)
CLEAR = ("magnification_twice", "flux_normalised_after_lensing", "target_rounded", "lens_offset")
"""Causes that closure itself tells from all others."""

FITTED = ("flux_scale", "shift", "blur")
"""Causes of which one is one mistake; where noise hides what they leave, several may be another one."""

CONSTANTS = ("pedestal", "core_pedestal")
FAR = 2.0
"""Displacement in pixels from which light would have come round."""

ROUND = 6
"""Arcs that are looked at for light that came round: those that reach the edge."""

FAINT, ERROR = 0.1, 1e-3
"""Sky sigma: re-rendered light above the first is not looked at, below it an error like the second's."""


def reasoned(
    found: list[Cause],
    doubtful: bool,
    stats: Arrays,
    rerendered: Arrays,
    limits: Limits,
    spec: AuditSpec,
    redraw: Redraw,
) -> list[Cause]:
    """The causes that closure found, with better names where there are such.

    Parameters
    ----------
    found : list of Cause
        Of :func:`~darkhaloscope.audit.named.closure_causes`.
    doubtful : bool
        Single arcs are off, whatever their mean.
    """
    bugs = [c for c in found if c.kind == "bug"]
    names = {c.name for c in bugs}
    images = closure_images(stats, rerendered, spec)
    if len(images.arc) == 0 or (names & set(CLEAR) and not names & set(VAGUE)):
        return found
    vague = bool(names & set(VAGUE)) or (doubtful and not bugs) or len(names & set(FITTED)) > 1
    # Noise hides what scale, shift and width leave: any of them may be another convention.
    vague = vague or (images.noisy and bool(names & {*FITTED, "core_pedestal"}))
    if names <= {*CONSTANTS, *VAGUE}:
        light = came_round(images, limits, spec, redraw)
        if light is not None and light.kind == "bug":
            return [light, *(c for c in found if c.name not in CONSTANTS)]
        found = found if light is None else [*found, light]
    if names == {"shift"} and not vague:
        return _moved_round(found, images)
    if not vague and "blur" not in names:
        return found
    because = explain(images, spec, redraw, mild=not vague)
    if because is not None and because.whole:
        return [_cause(because, found, limits), *_besides(because, stats, limits, spec, redraw)]
    # After the conventions: some of them make arcs so alike that each fits another row.
    if vague and (mixed := shuffled(images)) is not None:
        says = f"the pixels of {mixed.share:.1%} of the rows are not those of their metadata"
        text = f"{mixed.says}; {len(images.arc)} closure pairs"
        weight = mixed.share / limits.leftover
        return [Cause("rows_shuffled", mixed.share, mixed.interval, text, "bug", weight, says)]
    if because is None:
        return _moved_round(found, images) if names == {"shift"} else found
    hint = f"; nearest: {because.says}, which leaves {because.left / because.before:.0%}"
    return [replace(c, evidence=c.evidence + hint) if c in bugs else c for c in found]


def _cause(because: Explanation, found: list[Cause], limits: Limits) -> Cause:
    share, lo, hi = because.share
    size, interval, name = share, (lo, hi), because.cause
    text = (
        f"drawn again so, {because.left / because.before:.1e} of what was unexplained remains; "
        f"{share:.1%} of the closure pairs were off"
    )
    blur = next((c for c in found if c.name == "blur"), None)
    if blur is not None:
        text += f"; {blur.evidence}"
        if name.startswith("psf_"):
            size, interval = blur.size, blur.interval
    if because.rivals:
        name = "blur" if blur is not None else "unexplained_residual"
        text += f"; cannot be told from {', '.join(because.rivals)}"
    who = f"{share:.0%} of the arcs" if because.some else "the arcs"
    says = f"{who} are those of {because.says}"
    return Cause(name, size, interval, text, "bug", share / limits.leftover, says)


def _besides(
    because: Explanation, stats: Arrays, limits: Limits, spec: AuditSpec, redraw: Redraw
) -> list[Cause]:
    """What is wrong besides, with the rows as they would have to be."""
    if because.rows is None:
        return []
    closed = closure(stats, redraw(because.rows, spec, CORE_TOLERANCE), spec)
    return [c for c in closure_causes(closed, limits) if c.name not in VAGUE]


def came_round(images: Images, limits: Limits, spec: AuditSpec, redraw: Redraw) -> Cause | None:
    """Whether light that leaves the stamp comes in on the other side: what is left over has its shape.

    Looked at where arcs are faint; a bug where the brightest such pixel is above the limit on a pedestal.
    """
    edge = images.again.copy()
    edge[:, :, 1:-1, 1:-1] = 0.0
    sample = images[np.argsort(-edge.sum(axis=(1, 2, 3)), kind="stable")[:ROUND]]
    gap = wrapped(sample.rows, spec, redraw) / sample.unit - sample.again
    known = np.isfinite(gap) & sample.good & (sample.again < FAINT)
    rest, gap = (np.where(known, v, 0.0) for v in (sample.arc - sample.again, gap))
    weight = known / (ERROR**2 + sample.noise[:, :, None, None] ** 2)
    top, bottom = ((weight * v * gap).sum(axis=(1, 2, 3)) for v in (rest, gap))
    if not (bottom > 0).all() or len(top) < 3:
        return None
    slope = float(top.sum() / bottom.sum())
    spread = float(np.std(top / bottom, ddof=1)) / np.sqrt(len(top))
    before, after = (float((weight * v**2).sum()) for v in (rest, rest - gap))
    if abs(slope - 1.0) > 0.1 or spread > 0.05 or after > 0.5 * before:
        return None
    most = float(gap.max())
    text = (
        f"what is left over is {slope:.3f} +- {spread:.3f} times the light that leaves the stamp, on the "
        f"other side, up to {most:.2g} sky sigma; {len(top)} arcs"
    )
    kind = "bug" if most > limits.pedestal else "none"
    if kind == "none":
        text += f", inside its limit of {limits.pedestal:g}: no bug"
    says = "light that leaves the stamp comes in on the other side (a convolution grid too small)"
    interval = (slope - 2.0 * spread, slope + 2.0 * spread)
    return Cause("fft_wrap", slope, interval, text, kind, most / limits.pedestal, says)


def _moved_round(found: list[Cause], images: Images) -> list[Cause]:
    """A shift by whole pixels that lost no light at the edge was made on a periodic grid."""
    return [_round(c, images) if c.name == "shift" else c for c in found]


def _round(cause: Cause, images: Images) -> Cause:
    x, y = (float(np.median(v)) for v in _vector(images))
    if np.hypot(x, y) < FAR:
        return cause
    rolled = np.roll(images.again, (round(y), round(x)), axis=(2, 3))
    cut = rolled.copy()
    for axis, step in ((2, round(y)), (3, round(x))):
        lost = [slice(None)] * 4
        lost[axis] = slice(0, step) if step >= 0 else slice(step, None)
        cut[tuple(lost)] = 0.0
    whole, part = (float(images.unexplained(v).mean()) for v in (rolled, cut))
    if whole > 0.5 * part:
        return cause
    text = f"{cause.evidence}; the light came in again on the other side of the stamp"
    says = f"{cause.says}, round the stamp: the kernel's centre is elsewhere (an ifftshift mistake)"
    return replace(cause, name="kernel_centre", evidence=text, says=says)


def _vector(images: Images) -> tuple[Floats, Floats]:
    """Whole-pixel displacement of each row at the peak of the correlation with its re-rendered arc."""
    size = images.arc.shape[-1]
    spectra = [np.fft.rfft2(v.sum(axis=1)) for v in (images.arc, images.again)]
    match = np.fft.irfft2(spectra[0] * spectra[1].conj(), s=(size, size)).reshape(
        len(images.arc), -1
    )
    peak = match.argmax(axis=1)
    x, y = ((v + size // 2) % size - size // 2 for v in (peak % size, peak // size))
    return x.astype(float), y.astype(float)
