"""Closure: do the stored arcs hold what their parameters promise?

Every closure row is drawn again and compared band by band: flux ratio, shift, PSF width, and the
constants left over in the core and far out. Each is averaged over pairs with an interval from
resampled pairs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from darkhaloscope.audit.closure_summary import (
    DISPLACEMENTS,
    MIN_EFFECTIVE,
    ratio,
    summarise,
    widened,
)
from darkhaloscope.audit.constants import Constants, find_constants
from darkhaloscope.audit.core_gate import match
from darkhaloscope.audit.fit import ArcFit, Fitter, moffat_width_ratio
from darkhaloscope.audit.intervals import (
    CONFIDENCE,
    Estimate,
    Floats,
    effective_number,
    generator,
    weighted_mean,
)
from darkhaloscope.audit.measure import Arrays, annuli, radial_bins
from darkhaloscope.audit.noise import TO_SIGMA, Noise, flat, noise_of, signal_of, stands_out
from darkhaloscope.audit.places import places
from darkhaloscope.audit.rerender import OF_IMAGES, predicted_width, unsaid
from darkhaloscope.audit.rounding import rounded, steps, stored_as
from darkhaloscope.audit.spec import AuditSpec
from darkhaloscope.audit.stray import Stray, stray_pixels

SCATTER_FLOOR = 1e-3
"""Scatter in sky sigma that every pixel is granted: the limit on a pedestal."""

ERROR_FLOOR = 5e-4
"""Error of a pixel relative to its arc that is always granted: rounding to 10 mantissa bits."""


PASSES = 4
SETTLED = 1e-5
"""Change in sky sigma of the common constants at which they are settled."""

SOLVED = 0.005
"""Unexplained fraction of the light below which no other start is tried."""

FIRST_ERROR = 0.3
"""Error relative to the arc that is granted before anything is fitted."""

BRIGHT = 0.1
"""Fraction of the peak above which pixels tell the relative error of a fit."""

FIT_RADIUS = 1.0 / 3.0
"""An image with a pixel without data nearer to the centre than this fraction of the stamp is left out:
a hole in the arc looks like a shift."""

PAIR_COLUMNS = [
    "hash", "brick", "slot", "band", "theta_e", "flux_ratio", "dx", "dy", "shift", "width_ratio",
    "width_ratio_as_moffat_fwhm", "core_pedestal", "core_weight", "core_granted", "outer_pedestal",
    "outer_weight", "outer_granted", "leftover", "difference", "worst_radius", "signal",
    "centroid_shift", "peak_radius", "peak_radius_rerendered", "peak_misplaced",
    "quadrant_difference", "target_offset_x", "target_offset_y", "lens_offset_x", "lens_offset_y",
    "magnification", "psf_width", "src_reff", "src_q",
]  # fmt: skip
PROFILE_COLUMNS = [
    "band", "r", "measured", "rerendered", "residual", "lo", "hi", "allowance", "core_radius",
]  # fmt: skip
ANNULUS_COLUMNS = ["band", "r_in", "r_out", "residual", "lo", "hi", "pairs"]


@dataclass(frozen=True)
class Closure:
    """What closure found.

    Attributes
    ----------
    pairs : DataFrame
        One row a (closure row, band): see :data:`PAIR_COLUMNS`. Shifts in pixels towards +x and +y,
        pedestals in sky sigma a pixel, ``leftover`` the sum of what the fit did not explain
        over the sum of the arc, ``worst_radius`` (px) where most of it is in one pixel, ``difference`` the
        sum before anything is fitted, ``signal`` the arc's S/N. Lens minus target in pixels,
        ``magnification`` as re-rendered, the predicted PSF width in arcsec.
    summary : DataFrame
        ``quantity, band ('all' or one), value, lo, hi, pairs``; effects, so that 0 is perfect.
    profile : DataFrame
        Mean over pairs in rings about the target, sky sigma a pixel: measured, re-rendered, and what
        remains after scale, shift and width are fitted, with ``allowance``, the error granted.
    annulus : DataFrame
        Measured minus re-rendered in the outer annuli, sky sigma a pixel.
    left_out : dict
        Images not compared, by cause.
    noise_pairs : DataFrame
        As ``pairs``, of re-rendered arcs with the noise and the rounding that the stored ones have; empty
        where those are noiseless. The summary's intervals are wider by what these show.
    strays : tuple of (band, Stray)
        Pixels without an arc that differ all the same; they are left out of everything else.
    photons : float
        Variance that a unit of an arc's light adds to its pixel, sky sigma; the largest of all bands.
    """

    pairs: pd.DataFrame
    summary: pd.DataFrame
    profile: pd.DataFrame
    annulus: pd.DataFrame
    n_pairs: int
    left_out: dict[str, int]
    noise_pairs: pd.DataFrame
    strays: tuple[tuple[str, Stray], ...] = ()
    photons: float = 0.0

    @property
    def displacements(self) -> tuple[str, ...]:
        """Quantities that tell a displacement; in noise a mean length is long, and components are not."""
        return DISPLACEMENTS if len(self.noise_pairs) else DISPLACEMENTS[:1]

    def estimate(self, quantity: str, band: str = "all") -> Estimate:
        """One line of the summary."""
        found = self.summary[(self.summary.quantity == quantity) & (self.summary.band == band)]
        if found.empty:
            return Estimate(float("nan"), float("nan"), float("nan"), 0)
        line = found.iloc[0]
        return Estimate(
            float(line.value), float(line.lo), float(line.hi), int(line.pairs), float(line.granted)
        )


@dataclass(frozen=True)
class _Images:
    """Images of one band that can be compared, in sky sigma."""

    row: NDArray[np.int64]
    place: NDArray[np.int64]
    arc: Floats
    again: Floats
    good: NDArray[np.bool_]
    radius: Floats
    floor: Floats
    """Scatter that is granted to every pixel of an image: that of its noise."""
    photons: Floats
    """Variance that a unit of the arc's light adds, of each image."""

    @property
    def noisy(self) -> bool:
        return bool((self.floor > SCATTER_FLOOR).any() or self.photons.any())

    def __getitem__(self, use: NDArray[np.bool_]) -> _Images:
        return _Images(**{k: v[use] for k, v in vars(self).items()})


def closure(stats: Arrays, rerendered: Arrays, spec: AuditSpec) -> Closure:
    """Compare the closure rows with what was drawn again, matched by their hash."""
    drawn = np.flatnonzero(np.isfinite(rerendered["whole"]).any(axis=(1, 2, 3)))
    hashes = rerendered["whole_hash"][drawn]
    place, row = match(hashes, stats["whole_hash"]), match(hashes, stats["row_hash"])
    there = (place >= 0) & (row >= 0)
    drawn, place, row = drawn[there], place[there], row[there]
    failed = len(rerendered["whole_hash"]) - len(drawn)
    left_out = {
        "not re-rendered": failed,
        "no light": 0,
        "no data near the arc": 0,
        "too faint for the noise": 0,
    }
    gain = rerendered["magnification"][match(stats["row_hash"], rerendered["hash"])]
    tables, profiles, rings, rights, strays = [], [], [], [], []
    photons = 0.0
    # Bands are looked at one by one, so each has its share of the risk.
    confidence = 1.0 - (1.0 - CONFIDENCE) / len(spec.bands)
    for b, band in enumerate(spec.bands):
        images = _images(stats, rerendered["whole"][drawn], row, place, b, spec, left_out)
        off = stray_pixels(images.arc, images.again, images.good)
        if off is not None:
            strays.append((band, off))
            arc, again = (np.where(off.mask, 0.0, v) for v in (images.arc, images.again))
            images = replace(images, arc=arc, again=again, good=images.good & ~off.mask)
        gap = images.arc - images.again
        noise = noise_of(gap, images.again, images.good)
        if noise.there:
            seen = stands_out(images.again, images.good, noise)
            left_out["too faint for the noise"] += int((~seen).sum())
            noise, images = noise[seen], images[seen]
            photons = max(photons, noise.photons)
            images = replace(
                images,
                floor=np.maximum(noise.level, SCATTER_FLOOR),
                photons=np.full(len(images.row), noise.photons),
            )
        right = _right(stats, images, noise, b, spec)
        if right is not None and len(images.row):
            rights.append(_band(stats, right, gain, b, band, spec, confidence)[0])
        if len(images.row):
            table, profile, ring = _band(stats, images, gain, b, band, spec, confidence)
            tables.append(table)
            profiles.append(profile)
            rings.append(ring)
    pairs, noise_pairs = _stack(tables, PAIR_COLUMNS), _stack(rights, PAIR_COLUMNS)
    noisy = len(noise_pairs) > 0
    summary = summarise(pairs, spec, confidence, noisy)
    if noisy:
        summary = widened(summary, summarise(noise_pairs, spec, confidence, noisy))
    return Closure(
        pairs,
        summary,
        _stack(profiles, PROFILE_COLUMNS),
        _stack(rings, ANNULUS_COLUMNS),
        int(pairs["hash"].nunique()),
        left_out,
        noise_pairs,
        tuple(strays),
        photons,
    )


def _right(stats: Arrays, im: _Images, noise: Noise, b: int, spec: AuditSpec) -> _Images | None:
    """Arcs that are right with the noise, and the rounding, that the stored ones have; None for neither.

    What these do to arcs that are right is seen by the same steps.
    """
    arc, there = im.again, noise.there
    if there:
        arc = arc + noise.draw(arc, spec.seed, 20 + b) * im.good
    unit = stats["row_sky_sigma"][im.row, b].astype(float)[:, None, None]
    ctrl = stats["whole_ctrl"][im.place, b].astype(float)
    kind = stored_as(ctrl, stats["whole_arc"][im.place, b].astype(float))
    if kind is not None and len(im.row):
        coarsest = (steps(ctrl, arc * unit, kind) / unit).max(axis=(1, 2))
        if float(np.median(coarsest)) > SCATTER_FLOOR:
            hidden = generator(spec.seed, 30 + b).uniform(-0.5, 0.5, ctrl.shape)
            there, arc = True, rounded(ctrl, arc * unit, kind, hidden) / unit * im.good
    return replace(im, arc=arc) if there else None


def _stack(tables: list[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def _images(
    stats: Arrays,
    whole: Floats,
    row: NDArray[np.int64],
    place: NDArray[np.int64],
    b: int,
    spec: AuditSpec,
    left_out: dict[str, int],
) -> _Images:
    axis = np.arange(spec.size, dtype=float)
    x, y = (stats[f"row_target_{v}"][row].astype(float)[:, None, None] for v in "xy")
    radius = np.hypot(axis[None, None, :] - x, axis[None, :, None] - y)
    good = (stats["whole_nodata"][place] & np.uint8(1 << b)) == 0
    sigma = stats["row_sky_sigma"][row, b].astype(float)
    missing = unsaid({name: stats[f"row_{name}"][row, b] for name in OF_IMAGES})
    covered = (stats["row_coverage"][row, b] > 0) & ~np.any(list(missing.values()), axis=0)
    lit = whole[:, b].sum(axis=(1, 2)) > 0
    clean = ~(~good & (radius < FIT_RADIUS * spec.size)).any(axis=(1, 2))
    left_out["no light"] += int((covered & ~lit).sum())
    left_out["no data near the arc"] += int((covered & lit & ~clean).sum())
    use = np.flatnonzero(covered & lit & clean)
    unit = sigma[use, None, None]
    arc = stats["whole_arc"][place[use], b].astype(float) / unit
    floor = np.full(len(use), SCATTER_FLOOR)
    again, photons = whole[use, b] / unit, np.zeros(len(use))
    return _Images(row[use], place[use], arc, again, good[use], radius[use], floor, photons)


_WIDTH_COLUMNS = ("psf_source", "psf_fwhm_used", "psfsize", "coverage")


def _band(
    stats: Arrays,
    im: _Images,
    gain: Floats,
    b: int,
    band: str,
    spec: AuditSpec,
    confidence: float,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    width = predicted_width(*(stats[f"row_{n}"][im.row, b] for n in _WIDTH_COLUMNS))
    model = stats["row_psf_model"][im.row].astype(np.int64)
    beta = np.where(model == 2, stats["row_psf_beta"][im.row].astype(float), 3.5)
    outer = (im.radius >= annuli(spec.size)[0][0]) & (im.radius < spec.size / 2)
    solved = _fit_with_constants(im, outer, Fitter(im.again, model, beta, width / spec.pixel_scale))
    fit, rest, weight, constants = solved.fit, solved.rest, solved.weight, solved.constants
    profile, rings = _profile(im, solved, band, spec, confidence)
    core_w, outer_w = (weight * constants.mask).sum(axis=(1, 2)), (weight * outer).sum(axis=(1, 2))
    # What remains once the constants, which are tested by themselves, are taken away.
    remains = np.abs(rest - constants.image) * im.good
    light = im.again.sum(axis=(1, 2))

    def error(where: NDArray[np.bool_]) -> Floats:
        """Sum of what the fit's relative error can leave there, all of one sign."""
        return np.asarray(solved.eps * (np.abs(fit.model) * weight * where).sum(axis=(1, 2)))

    table = pd.DataFrame(
        {
            "hash": stats["row_hash"][im.row],
            "brick": stats["row_brick"][im.row],
            "slot": stats["row_slot"][im.row],
            "band": band,
            "theta_e": stats["row_theta_e"][im.row].astype(float),
            "flux_ratio": fit.flux,
            "dx": fit.dx,
            "dy": fit.dy,
            "shift": np.hypot(fit.dx, fit.dy),
            "width_ratio": fit.width,
            "width_ratio_as_moffat_fwhm": _moffat_ratio(model, beta),
            "core_pedestal": ratio((rest * weight * constants.mask).sum(axis=(1, 2)), core_w),
            "core_weight": core_w,
            "core_granted": ratio(error(constants.mask), core_w),
            "outer_pedestal": ratio((rest * weight * outer).sum(axis=(1, 2)), outer_w),
            "outer_weight": outer_w,
            "outer_granted": ratio(error(outer), outer_w),
            "leftover": remains.sum(axis=(1, 2)) / light,
            "difference": np.abs(im.arc - im.again).sum(axis=(1, 2), where=im.good) / light,
            "worst_radius": flat(im.radius)[np.arange(len(remains)), flat(remains).argmax(axis=1)],
            "signal": _signal(im),
            "target_offset_x": stats["row_target_x"][im.row].astype(float) - (spec.size - 1) / 2,
            "target_offset_y": stats["row_target_y"][im.row].astype(float) - (spec.size - 1) / 2,
            "lens_offset_x": -stats["row_lens_dx"][im.row].astype(float) / spec.pixel_scale,
            "lens_offset_y": stats["row_lens_dy"][im.row].astype(float) / spec.pixel_scale,
            "magnification": gain[im.row],
            "psf_width": width,
            "src_reff": stats["row_src_reff"][im.row].astype(float),
            "src_q": stats["row_src_q"][im.row].astype(float),
            **places(
                im.arc - constants.image * im.good,
                im.again,
                im.radius,
                *(stats[f"row_target_{v}"][im.row].astype(float) for v in "xy"),
            ),
        }
    )
    return table[PAIR_COLUMNS], profile, rings


def _signal(im: _Images) -> Floats:
    """S/N of each re-rendered arc in the noise that the stored one has, far from it and of its photons."""
    noise = noise_of(im.arc - im.again, im.again, im.good)
    photons = float(im.photons.max(initial=0.0))
    return signal_of(im.again, im.good, replace(noise, photons=photons), SCATTER_FLOOR)


@dataclass(frozen=True)
class _Solved:
    fit: ArcFit
    rest: Floats
    weight: Floats
    eps: float
    constants: Constants
    leftover: float


def _fit_with_constants(im: _Images, outer: NDArray[np.bool_], fitter: Fitter) -> _Solved:
    """Fit arcs and common constants in turn, until neither sees the other.

    Arcs come first. Where that leaves too much, constants come first instead, from pixels without an
    arc: a faint arc is lost under a bright constant, and would be fitted anywhere. The start that
    leaves less is kept.
    """
    first = _solve(im, outer, fitter, None)
    # In noise no arc is lost under a constant (it would be too faint), and what noise leaves cannot choose.
    if first.leftover < SOLVED or im.noisy:
        return first
    light = np.maximum(np.abs(im.again), np.abs(im.arc))
    weight = im.good / (1.0 + (FIRST_ERROR * light / im.floor[:, None, None]) ** 2)
    start = find_constants(np.where(im.good, im.arc - im.again, 0.0), weight, outer)
    second = _solve(im, outer, fitter, start)
    return first if first.leftover <= second.leftover else second


def _solve(
    im: _Images, outer: NDArray[np.bool_], fitter: Fitter, start: Constants | None
) -> _Solved:
    image = np.zeros(im.arc.shape[1:]) if start is None else start.image
    for _ in range(PASSES):
        fit = fitter(im.arc - image * im.good)
        eps = _relative_error(im, fit)
        # By the promised light alone: a pixel's own excess must not change its say.
        weight = im.good / (1.0 + (eps * fit.model / im.floor[:, None, None]) ** 2)
        rest = np.where(im.good, fit.seen - fit.model + image, 0.0)
        constants = find_constants(rest, weight, outer, im.noisy)
        moved = float(np.max(np.abs(constants.image - image)))
        image = constants.image
        if moved < SETTLED:
            break
    left = (np.abs(rest - image) * im.good).sum(axis=(1, 2)) / im.again.sum(axis=(1, 2))
    return _Solved(fit, rest, weight, eps, constants, float(left.mean()))


def _relative_error(im: _Images, fit: ArcFit) -> float:
    """Error of the fit relative to the arc, from its bright pixels: TO_SIGMA times the median."""
    bright = im.good & (fit.model > BRIGHT * fit.model.max(axis=(1, 2), keepdims=True))
    relative = np.abs(fit.seen - fit.model)[bright] / fit.model[bright]
    return max(ERROR_FLOOR, TO_SIGMA * float(np.median(relative))) if bright.any() else ERROR_FLOOR


def _moffat_ratio(model: NDArray[np.int64], beta: Floats) -> Floats:
    return np.where(model == 2, moffat_width_ratio(beta), np.nan)


def _profile(
    im: _Images, solved: _Solved, band: str, spec: AuditSpec, confidence: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean profiles in rings, and measured minus re-rendered in the outer annuli."""
    rows = []
    n_rings = radial_bins(spec.size)
    # Ring of each pixel of each image; what lies beyond the last, or has no data, is in one more.
    ring = np.where(im.good, np.minimum(im.radius.astype(np.int64), n_rings), n_rings)
    place = (ring + (n_rings + 1) * np.arange(len(ring))[:, None, None]).ravel()

    def by_ring(values: Floats) -> Floats:
        shape = (len(ring), n_rings + 1)
        sums = np.bincount(place, values.ravel(), shape[0] * shape[1])
        return np.asarray(sums.reshape(shape), dtype=np.float64)

    weight = solved.weight
    pixels, weights = by_ring(im.good.astype(float)), by_ring(weight)
    residual, lit = by_ring(solved.rest * weight), by_ring(np.abs(solved.fit.model) * weight)
    arc, again = by_ring(im.arc), by_ring(im.again)
    for r in range(n_rings):
        w = weights[:, r]
        left = weighted_mean(ratio(residual[:, r], w), w, spec.seed, 5, confidence)
        seen, drawn = (np.nansum(ratio(v[:, r], pixels[:, r])) for v in (arc, again))
        n = max(int((pixels[:, r] > 0).sum()), 1)
        granted = solved.eps * float(lit[:, r].sum() / max(w.sum(), 1e-300))
        lo, hi = (left.lo, left.hi) if effective_number(w) >= MIN_EFFECTIVE else (np.nan, np.nan)
        value = 0.0 if np.isnan(left.value) else left.value
        rows.append(
            (band, r + 0.5, seen / n, drawn / n, value, lo, hi, granted, solved.constants.radius)
        )
    rings = []
    for inner, edge in annuli(spec.size):
        ring = ((im.radius >= inner) & (im.radius < edge)) & im.good
        pixels = ring.sum(axis=(1, 2)).astype(float)
        gap = ratio(((im.arc - im.again) * ring).sum(axis=(1, 2)), pixels)
        e = weighted_mean(gap, pixels, spec.seed, 6, confidence)
        rings.append((band, inner, edge, e.value, e.lo, e.hi, e.n))
    return pd.DataFrame(rows, columns=PROFILE_COLUMNS), pd.DataFrame(rings, columns=ANNULUS_COLUMNS)
