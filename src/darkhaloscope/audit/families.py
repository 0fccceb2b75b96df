"""Families of causes that look alike, and what tells their members apart.

One factor on the flux is one family; on the logarithm of the magnification it has the slope 0, or 1 where the
magnification was applied twice, or -1 where the flux was normalised after lensing. A displacement is a
vector, minus the recorded sub-pixel part of the target, or minus the lens's offset. A PSF that is too
wide adds in proportion to its square, a source that is too large in proportion to its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from darkhaloscope.audit.causes import (
    Cause,
    Limits,
    bands_of,
    displaced_in,
    outside_of,
    per_band,
    where_of,
    within,
)
from darkhaloscope.audit.closure import Closure
from darkhaloscope.audit.closure_summary import DISPLACEMENTS
from darkhaloscope.audit.intervals import Estimate
from darkhaloscope.audit.noise import deviation

SAME_RATIO = 0.02
"""How near a width ratio must come to a convention's own to be said to fit it."""

SAME_FACTOR = 2e-3
"""How near a factor on the flux must at least be known to fit a constant, and to one only."""

FACTORS = {
    2.0: "flux doubled",
    0.5: "flux halved",
    3.631: "uJy for nMgy",
    10.0: "a zero point of 25 for 22.5",
    0.1: "a zero point of 22.5 for 25",
    14.568: "flux a square arcsec for flux a pixel (0.262 arcsec)",
    0.068644: "flux a pixel for flux a square arcsec (0.262 arcsec)",
}
"""Constants by which fluxes are mistaken."""

SLOPES = {
    1.0: ("magnification_twice", "the magnification was applied twice"),
    -1.0: ("flux_normalised_after_lensing", "the source's flux was normalised after lensing"),
}
SAME_SLOPE, ON_LINE = 0.15, 0.3
"""How near a slope must come to a promised one, and how much of the scatter it may leave."""

SPREAD = 0.2
"""Scatter of ln(magnification) from which a slope is asked for."""

UNEXPLAINED = 0.3
"""Part of the mean displacement that a named one may leave, beside what noise leaves of right arcs."""

SAME_STEP, IN_NOISE = 0.1, 0.3
"""How near a multiple of a recorded offset must come to a whole one, without noise and with it."""

LEAST_SPREAD = 1e-3
"""Pixels over which a recorded offset has to spread to be a reason apart from a constant vector."""


@dataclass(frozen=True)
class Slope:
    """Of ln(flux ratio) on ln(magnification), with its 95 % interval (Theil 1950, Sen 1968).

    ``rest``: part of the scatter of ln(flux ratio), beyond that of noise, that a line of this slope leaves.
    """

    value: float
    lo: float
    hi: float
    rest: float


def magnification_slope(pairs: pd.DataFrame, noise: pd.DataFrame) -> Slope | None:
    """How flux ratios follow the magnification; None where its spread cannot tell."""
    from scipy.stats import theilslopes  # slow to import, and workers never need it

    mean = _mean_logs(pairs)
    if len(mean) < 20 or float(mean.magnification.std()) < SPREAD:
        return None
    value, _, lo, hi = theilslopes(mean.flux_ratio, mean.magnification)
    ratio, gain = (mean[name].to_numpy(float) for name in ("flux_ratio", "magnification"))
    by_noise = 0.0
    if len(noise):
        by_noise = deviation(_mean_logs(noise).flux_ratio.to_numpy(float))
    rest, whole = (
        np.sqrt(max(deviation(v) ** 2 - by_noise**2, 0.0)) for v in (ratio - value * gain, ratio)
    )
    return Slope(float(value), float(lo), float(hi), float(rest / max(whole, 1e-12)))


def _mean_logs(pairs: pd.DataFrame) -> pd.DataFrame:
    """Logarithms of flux ratio and magnification, each pair's mean over its bands."""
    use = (pairs.flux_ratio > 0) & (pairs.magnification > 0)
    logs = pd.DataFrame(
        {name: np.log(pairs.loc[use, name]) for name in ("flux_ratio", "magnification")}
    )
    return logs.groupby(pairs["hash"]).mean()


def flux_causes(found: Closure, limits: Limits) -> list[Cause]:
    """One factor, by the band; or a factor that follows the magnification."""
    pooled = found.estimate("flux")
    slope = magnification_slope(found.pairs, found.noise_pairs) if len(found.pairs) else None
    for promised, (name, says) in SLOPES.items():
        if slope and slope.rest < ON_LINE and abs(slope.value - promised) < SAME_SLOPE:
            text = (
                f"ln(flux ratio) has the slope {slope.value:+.3f} [{slope.lo:+.3f}, {slope.hi:+.3f}] on "
                f"ln(magnification), {pooled.n} pairs: +1 is magnification applied twice, -1 flux "
                "normalised after lensing, 0 a constant"
            )
            weight = abs(slope.value) / limits.flux
            return [Cause(name, slope.value, (slope.lo, slope.hi), text, "bug", weight, says)]
    outside = outside_of(found, "flux", limits.flux)
    if not outside:
        return within("flux_scale", pooled, limits.flux, "")
    e = pooled if len(outside) == len(bands_of(found)) else outside[0][1]
    where = where_of(outside, found)
    says = f"the arcs hold {1.0 + e.value:.3f} times the promised flux in {where}"
    values = [estimate.value for _, estimate in outside]
    if max(values) - min(values) > limits.flux + max(v.hi - v.lo for _, v in outside):
        e = max((estimate for _, estimate in outside), key=lambda v: abs(v.value))
        each = ", ".join(f"{1.0 + v.value:.3f} times in {band}" for band, v in outside)
        says = f"the arcs hold the promised flux {each}: each band otherwise"
    says += _spread(found, limits)
    size, interval = 1.0 + e.value, (1.0 + e.lo, 1.0 + e.hi)
    text = (
        f"flux ratio stored / promised: {per_band(outside, 1.0)}; {e.n} pairs; {_constant(outside)}"
    )
    text += (
        "; slope on ln(magnification) not tested: too few pairs, or magnifications too alike"
        if slope is None
        else f"; slope on ln(magnification) {slope.value:+.3f}: no error of magnification"
    )
    return [Cause("flux_scale", size, interval, text, "bug", abs(e.value) / limits.flux, says)]


def _spread(found: Closure, limits: Limits) -> str:
    """How far from one factor the arcs are, where noise does not tell: a drift has a mean as well."""
    if len(found.noise_pairs) or not len(found.pairs):
        return ""
    of_arcs = found.pairs.groupby("hash")["flux_ratio"].mean()
    lo, hi = of_arcs.quantile([0.16, 0.84])
    return f" on average, from {lo:.3f} to {hi:.3f} (two thirds)" if hi - lo > limits.flux else ""


def _constant(outside: list[tuple[str, Estimate]]) -> str:
    """The one known constant that the intervals of all bands hold, if there is just one."""
    fits = []
    for factor, name in FACTORS.items():
        near = [
            e.lo - SAME_FACTOR * factor <= factor - 1.0 <= e.hi + SAME_FACTOR * factor
            for _, e in outside
        ]
        if all(near):
            fits.append(f"{name} fits ({factor:g})")
    if len(fits) == 1:
        return fits[0]
    return "flux, zero point and gain cannot be told apart"


@dataclass(frozen=True)
class Displacement:
    """``vector + target (sub-pixel part) + lens (lens - target)``, in pixels; ``rest`` is what it leaves.

    ``by_target`` and ``by_lens`` are how far the two recorded offsets move an arc so; medians, as ``rest``.
    """

    vector: tuple[float, float]
    target: float
    lens: float
    rest: float
    by_target: float
    by_lens: float


def displacement_of(pairs: pd.DataFrame) -> Displacement:
    """Fit displacements of arcs by a vector and the two recorded offsets, robustly.

    An offset that is the same in all rows is part of the vector, and has the coefficient 0.
    """
    seen = np.concatenate([pairs.dx, pairs.dy])
    one, zero = np.ones(len(pairs)), np.zeros(len(pairs))
    columns = [
        np.concatenate([one, zero]),
        np.concatenate([zero, one]),
        np.nan_to_num(np.concatenate([pairs.target_offset_x, pairs.target_offset_y])),
        np.nan_to_num(np.concatenate([pairs.lens_offset_x, pairs.lens_offset_y])),
    ]
    # Nothing in the data holds the coefficient of such an offset: rounding would choose it.
    varied = (max(np.ptp(half) for half in np.split(v, 2)) > LEAST_SPREAD for v in columns[2:])
    asked = [0, 1, *(i for i, varies in enumerate(varied, start=2) if varies)]
    design = np.stack([columns[i] for i in asked], axis=1)
    start = np.array([float(pairs.dx.median()), float(pairs.dy.median()), 0.0, 0.0])[asked]
    from scipy.optimize import least_squares  # slow to import

    fit = least_squares(lambda p: design @ p - seen, start, loss="soft_l1", f_scale=0.05)
    found = np.zeros(4)
    found[asked] = fit.x
    x, y, target, lens = (float(v) for v in found)
    moved = [columns[2] * target, columns[3] * lens, design @ fit.x - seen]
    by_target, by_lens, rest = (float(np.median(np.hypot(*np.split(v, 2)))) for v in moved)
    return Displacement((x, y), target, lens, rest, by_target, by_lens)


def shift_causes(found: Closure, limits: Limits) -> list[Cause]:
    """A constant vector, the target's sub-pixel part, or the lens's offset."""
    outside = displaced_in(found, limits.centroid)
    e = found.estimate("shift")
    if not outside:
        return within("shift", e, limits.centroid, " px")
    part, noise = found.pairs, found.noise_pairs
    if len(outside) < len(bands_of(found)):
        band, e = outside[0]
        part, noise = part[part.band == band], noise[noise.band == band]
    where, d = where_of(outside, found), displacement_of(part)
    x, y = d.vector
    vector = f"({x:+.3f}, {y:+.3f}) px"
    step, granted, told = SAME_STEP, 0.0, set(DISPLACEMENTS)
    if len(noise):
        # A mean length is long by noise alone, and a coefficient anything where its offsets are small.
        e = max((estimate for _, estimate in outside), key=lambda v: abs(v.value))
        e = e if e.value > 0 else Estimate(-e.value, -e.hi, -e.lo, e.n)
        step, granted = IN_NOISE, displacement_of(noise).rest
        told = {q for q in DISPLACEMENTS if outside_of(found, q, limits.centroid)}
    name, explained = "shift", d.rest < UNEXPLAINED * e.value + granted
    # A recorded offset is the reason only where it moves arcs by more than what it leaves.
    to_target = "shift_with_target" in told and d.rest < UNEXPLAINED * d.by_target + granted
    to_lens = "shift_with_lens" in told and d.rest < UNEXPLAINED * d.by_lens + granted
    if to_target and explained and abs(d.target + 1.0) < step and abs(d.lens) < step:
        name, shape = "target_rounded", "minus the target's recorded sub-pixel part"
        if np.hypot(x, y) > limits.centroid:
            shape += f" and a constant vector {vector}"
        shape += ": the target was rounded"
    elif to_lens and explained and abs(d.target) < step < abs(d.lens):
        name = "lens_offset"
        done = {-1: "ignored", -2: "taken with the other sign", 1: "added twice"}
        shape = f"{d.lens:+.2f} times the lens's recorded offset"
        if round(d.lens) in done and abs(d.lens - round(d.lens)) < step:
            shape += f": it was {done[round(d.lens)]}"
    elif explained:
        shape = f"a constant vector (dx, dy) = {vector}"
        if abs(abs(x) - 0.5) < 0.02 or abs(abs(y) - 0.5) < 0.02:
            shape += ", half a pixel: another centre, or corners for centres"
    else:
        shape = f"no common vector (mean {vector}, scatter {d.rest:.3f} px)"
    text = f"length {e.value:.3f} px [{e.lo:.3f}, {e.hi:.3f}] in {where}; {shape}; {e.n} pairs"
    return [
        Cause(name, e.value, (e.lo, e.hi), text, "bug", e.value / limits.centroid,
              f"the arcs are displaced by {e.value:.2f} px ({shape}) in {where}")
    ]  # fmt: skip


def excess_of(pairs: pd.DataFrame) -> str:
    """What the squared width exceeds its prediction by, in proportion to psfsize^2 and R_e^2 (1 - q_s)."""
    width2 = pairs.psf_width**2
    seen = ((pairs.width_ratio**2 - 1.0) * width2).to_numpy(float)
    design = np.stack(
        [np.ones(len(pairs)), width2, np.nan_to_num(pairs.src_reff**2 * (1.0 - pairs.src_q))],
        axis=1,
    )
    if len(pairs) < 20 or np.linalg.matrix_rank(design) < 3:
        return "its square's excess was not regressed: too few pairs, or all widths alike"
    start = [0.0, float(np.median(seen / width2)), 0.0]
    scale = max(1e-3, float(np.median(np.abs(seen - np.median(seen)))))
    from scipy.optimize import least_squares  # slow to import

    fit = least_squares(lambda p: design @ p - seen, start, loss="soft_l1", f_scale=scale)
    return (
        f"the square's excess is {fit.x[0]:+.3g} arcsec^2 {fit.x[1]:+.3g} psfsize^2 "
        f"{fit.x[2]:+.3g} R_e^2 (1 - q)"
    )


def width_causes(found: Closure, limits: Limits) -> list[Cause]:
    """A PSF of another width, and what its excess is proportional to."""
    outside = outside_of(found, "width", limits.blur)
    pooled = found.estimate("width")
    if not outside:
        return within("blur", pooled, limits.blur, "")
    everywhere = len(outside) == len(bands_of(found))
    e = pooled if everywhere else outside[0][1]
    ratio = 1.0 + e.value
    way = "wider" if e.value > 0 else "narrower"
    where = where_of(outside, found)
    part = found.pairs if everywhere else found.pairs[found.pairs.band == outside[0][0]]
    convention = float(part.width_ratio_as_moffat_fwhm.mean())
    text = f"PSF width drawn / predicted: {per_band(outside, 1.0)}; {e.n} pairs"
    says = f"the arcs' PSF is {ratio:.3f} times as wide as predicted ({way}) in {where}"
    if len({np.sign(estimate.value) for _, estimate in outside}) > 1:
        each = ", ".join(
            f"{1.0 + estimate.value:.3f} times in {band}" for band, estimate in outside
        )
        says = f"the arcs' PSF is as wide as predicted {each}: each band otherwise"
    if np.isfinite(convention):
        if abs(ratio / convention - 1.0) < SAME_RATIO:
            hint = f"psf_as_moffat_fwhm fits (it predicts {convention:.3f})"
            says += f"; {hint}"
        else:
            hint = f"psf_as_moffat_fwhm does not fit (it predicts {convention:.3f})"
        text += f"; {hint}; a larger source, another beta and a pixel taken twice also blur"
    text += f"; {excess_of(part)}"
    return [
        Cause(
            "blur", ratio, (1.0 + e.lo, 1.0 + e.hi), text, "bug", abs(e.value) / limits.blur, says
        )
    ]
