"""What else could the arcs be? Rows whose pixels are not what they promise, drawn again by other conventions.

A few of the brightest of them are drawn by each of :mod:`.alternatives`, and by careless renderers
(:mod:`.sampled`). What leaves least is kept, and a second and third change are tried beside it: lens,
source and shear may each be wrong. A name is given only where it explains nine tenths, and where no
other explains as much; else all that do are said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.audit.alternatives import (
    LENS_PLACE,
    PIXELS_FLIPPED,
    Alternative,
    alternatives,
    changed,
)
from darkhaloscope.audit.core_gate import match
from darkhaloscope.audit.fit import fit_arcs
from darkhaloscope.audit.intervals import Floats, binomial_interval
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.noise import noise_of, stands_out
from darkhaloscope.audit.rerender import CORE_TOLERANCE, Redraw, audit_rows, predicted_width
from darkhaloscope.audit.sampled import one_sample
from darkhaloscope.audit.spec import AuditSpec
from darkhaloscope.variables import without_data

OFF = 1e-4
"""Part of an arc's square (light times itself) that may be unexplained: its light is then right to 1 %."""

FEW, MANY = 9, 36
"""Rows that are drawn again by every alternative: noiseless ones, and noisy ones."""

FIRST = 5
"""Every so many of these rows is drawn by an alternative first: most leave too much there already."""

STEP, EXPLAINED = 0.7, 0.05
"""A change must leave less than the first of what was unexplained, all of them less than the second."""

HINT = 0.5
"""What leaves less than this is said to come near."""

AS_GOOD = 2.0
"""Alternatives that leave up to this many times as much as the best cannot be told from it."""

MOST_CHANGES = 4
MOST = 0.9
"""Share of rows that are off from which all are meant: some conventions do not show in every row."""

ELONGATED = 0.9
"""Axis ratio below which angles and ellipticities show."""

FLOOR = 3e-6
"""Below this part of the square nothing is told apart: the accuracy of what is drawn again."""

ERRORS = 2.0
"""In noise nothing is told apart below so many errors of what a sample leaves on average."""

SAMPLED = 1e-4
"""Part of the square by which unblurred arcs differ that took 4, 8 or 16 samples across a pixel: nobody
knows how many a careless renderer took."""

SKY, ANGLES = "sky", ("lens angle", "source angle", "shear", "source offset", LENS_PLACE)
"""After the whole sky was flipped, parts may be flipped back."""

FLIPPED = ("angle_convention", PIXELS_FLIPPED)
MILD = ("PSF width", "PSF profile", "pixel", "source size")

CARELESS = {
    "one sample a pixel": "one_sample_a_pixel",
    "no PSF": "psf_not_applied",
    "no PSF and one sample a pixel": "psf_not_applied",
}
"""What careless renderers do, and its names."""


@dataclass(frozen=True)
class Images:
    """Closure rows with their stored and re-rendered arcs, (row, band, y, x), in sky sigma.

    ``noise`` (row, band) is that of the stored ones, ``photons`` (row, band) the variance that a unit of
    their light adds; pixels that do not count are 0 in both.
    """

    rows: Arrays
    arc: Floats
    again: Floats
    good: NDArray[np.bool_]
    noise: Floats
    photons: Floats
    unit: Floats

    def __getitem__(self, use: NDArray[np.int64]) -> Images:
        rows = {k: v[use] for k, v in self.rows.items()}
        arrays = {k: v[use] for k, v in vars(self).items() if k != "rows"}
        return Images(rows, **arrays)

    @property
    def noisy(self) -> bool:
        return bool(self.noise.any() or self.photons.any())

    @property
    def light(self) -> Floats:
        """Square of each stored arc without its noise, (row,); in noise that of what is promised at least."""
        least = (self.again**2).sum(axis=(1, 2, 3)) if self.noisy else 1e-300
        return np.asarray(np.maximum((self.arc**2).sum(axis=(1, 2, 3)) - self.grain, least))

    @property
    def grain(self) -> Floats:
        """Square that noise alone adds to each row."""
        return np.asarray(self.variance.sum(axis=(1, 2, 3)))

    @property
    def variance(self) -> Floats:
        """Of the noise of each pixel, (row, band, y, x)."""
        level, photons = (v[:, :, None, None] for v in (self.noise, self.photons))
        return np.asarray(self.good * (level**2 + photons * np.maximum(self.again, 0.0)))

    @property
    def errors(self) -> Floats:
        """What noise makes of the part of each row's square that is unexplained (standard deviation)."""
        return np.asarray(np.sqrt(2.0 * (self.variance**2).sum(axis=(1, 2, 3))) / self.light)

    @property
    def error(self) -> float:
        """The same of its mean over the rows."""
        return float(np.sqrt((self.errors**2).sum()) / max(len(self.arc), 1))

    def unexplained(self, other: Floats) -> Floats:
        """Part of each arc's square that ``other`` (row, band, y, x) leaves.

        One factor and one constant a band are allowed to all rows together: closure names them. 2 where
        ``other`` could not be drawn.
        """
        other = np.where(self.good, other, 0.0)
        drawn = np.asarray(np.isfinite(other).all(axis=(1, 2, 3)))
        promised = (other**2).sum(axis=(1, 2, 3), where=drawn[:, None, None, None])
        # A faint arc of a row that promises a bright one would decide the factor by itself.
        share = drawn / np.maximum(self.light, promised)
        weight = self.good * share[:, None, None, None]
        total = np.maximum(weight.sum(axis=(0, 2, 3)), 1e-300)
        model = np.where(drawn[:, None, None, None], other, 0.0)
        seen, model = (
            (v - ((weight * v).sum(axis=(0, 2, 3)) / total)[:, None, None]) * self.good
            for v in (self.arc, model)
        )
        factor = _factor(*((weight * v * model).sum(axis=(2, 3)) for v in (seen, model)))
        rest = ((seen - factor[:, None, None] * model) ** 2).sum(axis=(1, 2, 3))
        # Below 0 by noise: cut off there, what noise leaves would not cancel in a mean.
        part = np.clip((rest - self.grain) / self.light, -2.0, 2.0)
        return np.asarray(np.where(drawn, part, 2.0))


def _factor(top: Floats, bottom: Floats) -> Floats:
    """Of each band the factor top / bottom (row, band) that half of the rows, by their weight, are below.

    Not their mean: a few wrong rows would then make all others look wrong.
    """
    weight = np.maximum(bottom, 0.0)
    ratio = np.divide(top, bottom, out=np.zeros_like(top), where=weight > 0)
    order = np.argsort(ratio, axis=0, kind="stable")
    ratio, weight = (np.take_along_axis(v, order, axis=0) for v in (ratio, weight))
    below = np.cumsum(weight, axis=0)
    middle = (below >= 0.5 * below[-1]).argmax(axis=0)
    return np.asarray(ratio[middle, np.arange(ratio.shape[1])])


def closure_images(stats: Arrays, rerendered: Arrays, spec: AuditSpec) -> Images:
    """Closure rows whose arcs were drawn again and are seen, in noise above it, in at least one band."""
    rows = audit_rows(stats, spec)
    drawn = np.flatnonzero(np.isfinite(rerendered["whole"]).any(axis=(1, 2, 3)))
    hashes = rerendered["whole_hash"][drawn]
    place, row = match(hashes, stats["whole_hash"]), match(hashes, rows["hash"])
    use = (place >= 0) & (row >= 0)
    drawn, place, row = drawn[use], place[use], row[use]
    chosen = {k: v[row] for k, v in rows.items()}
    sigma = chosen["sky_sigma"].astype(float)
    width = predicted_width(*(chosen[n] for n in _WIDTH))
    seen = (sigma > 0) & (width > 0)
    lost = without_data(chosen["nodata"], len(spec.bands))
    good = ~lost & np.asarray(seen)[:, :, None, None] & np.isfinite(rerendered["whole"][drawn])
    unit = np.where(seen, sigma, 1.0)[:, :, None, None]
    arc = np.where(good, stats["whole_arc"][place] / unit, 0.0)
    again = np.where(good, rerendered["whole"][drawn] / unit, 0.0)
    noise, photons = np.zeros(seen.shape), np.zeros(seen.shape)
    for b in range(len(spec.bands)):
        found = noise_of((arc - again)[:, b], again[:, b], good[:, b])
        if found.there:
            noise[:, b], photons[:, b] = found.level, found.photons
            # What is lost in noise says nothing, and its noise would speak for the others.
            good[:, b] &= stands_out(again[:, b], good[:, b], found)[:, None, None]
    arc, again = (np.where(good, v, 0.0) for v in (arc, again))
    lit = (again**2).sum(axis=(1, 2, 3)) > 0
    return Images(chosen, arc, again, good, noise, photons, unit)[np.flatnonzero(lit)]


_WIDTH = ("psf_source", "psf_fwhm_used", "psfsize", "coverage")


@dataclass(frozen=True)
class Explanation:
    """Alternatives that explain the pixels together.

    Attributes
    ----------
    cause : str
        Name of what leaves least.
    says : str
    rivals : tuple of str
        What leaves about as much and has another name.
    share : tuple of float
        Fraction of the closure rows that were off, and its interval.
    left : float
        Part of the arcs' square that stays unexplained, and ``before``.
    rows : dict of ndarray
        The closure rows as they would have to be; None where no parameter says it.
    whole : bool
        Whether that is all, or only comes nearer than what is recorded.
    some : bool
        Whether the other rows are as recorded; noise does not tell.
    """

    cause: str
    says: str
    rivals: tuple[str, ...]
    share: tuple[float, float, float]
    left: float
    before: float
    rows: Arrays | None
    whole: bool
    some: bool = False


Draw = Callable[[Images], Floats]


def explain(images: Images, spec: AuditSpec, redraw: Redraw, mild: bool) -> Explanation | None:
    """Find what explains pixels that are not as promised; None where nothing does.

    Parameters
    ----------
    mild : bool
        Scale, shift, PSF width and constants explain the pixels already: only what has fewer free
        numbers than they (a PSF, a size) is asked for.
    """
    part = images.unexplained(images.again)
    off = np.flatnonzero(part > _limit(images))
    if len(off) < 3:
        return None
    sample = images[_brightest(images, off)]
    before = float(sample.unexplained(sample.again).mean())
    fitted = _after_fit(sample, spec)
    floor = max(FLOOR, ERRORS * sample.error)
    if before <= floor:  # in noise: nothing is left to be explained
        return None
    careless = _careless(spec)
    known = [
        a
        for a in alternatives(spec)
        if (not mild or a.part in MILD) and _differs(sample.rows, a.change(sample.rows))
    ]
    first = [a for a in known if a.part != LENS_PLACE]
    score = _Scores(sample, spec, redraw)
    others = {
        says: float(sample.unexplained(draw(sample)).mean()) for says, draw in careless.items()
    }
    chosen, left = _search(known, score, before, max(floor, 1e-3 * before))
    best = min(others, key=others.__getitem__)
    share = (len(off) / len(part), *binomial_interval(len(off), len(part)))
    limit = max(EXPLAINED * before, floor)
    if others[best] < min(left, limit) / AS_GOOD and others[best] < max(fitted, SAMPLED, floor):
        return Explanation(CARELESS[best], best, (), share, others[best], before, None, True)
    if not chosen or left > min(HINT * before, AS_GOOD * max(fitted, floor)):
        return None
    near = {
        a.cause: a.says
        for a in first
        if len(chosen) == 1 and score.below([a], AS_GOOD * max(left, floor))
    }
    # What explained most was chosen first, and gives its name.
    name, says = chosen[0].cause, ", and then ".join(a.says for a in chosen)
    # Where targets lie in the centre a flipped stamp is a flipped sky.
    same = FLIPPED if name in FLIPPED else (name,)
    rivals = tuple(f"{other} ({what})" for other, what in near.items() if other not in same)
    some = not images.noisy and share[2] < MOST
    rows = changed(images.rows, chosen)
    if some:
        rows = _in_some(off, rows, images.rows)
    return Explanation(name, says, rivals, share, left, before, rows, left <= limit, some)


def _in_some(off: NDArray[np.int64], rows: Arrays, recorded: Arrays) -> Arrays:
    """What ``rows`` say of those that are off, and what is recorded of the others."""
    out = dict(recorded)
    for name, values in rows.items():
        if values is not recorded[name]:
            out[name] = np.array(values)
            others = np.setdiff1d(np.arange(len(values)), off)
            out[name][others] = recorded[name][others]
    return out


def _differs(rows: Arrays, change: Arrays) -> bool:
    """Whether an alternative says anything else than what is recorded."""
    return any(not np.allclose(rows[k], v, equal_nan=True) for k, v in change.items())


def _careless(spec: AuditSpec) -> dict[str, Draw]:
    def sampled(side: int, blurred: bool) -> Draw:
        return lambda im: one_sample(im.rows, spec, side, blurred) / im.unit

    draws = (sampled(1, True), sampled(8, False), sampled(1, False))
    return dict(zip(CARELESS, draws, strict=True))


def _limit(images: Images) -> Floats:
    """Above it a row is off: three times what noise may leave."""
    return OFF + 3.0 * images.errors


def _brightest(images: Images, off: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the rows that are off, bright and elongated ones.

    In noise they are taken from all rows and by the light that they promise: those that are off most are so
    by their noise too, which no alternative would explain.
    """
    count, light = FEW, images.light
    if images.noisy:
        count, off = MANY, np.arange(len(images.arc))
        light = (images.again**2).sum(axis=(1, 2, 3))
    q = np.fmin(images.rows["lens_q"][off].astype(float), 1.0)
    order = off[np.lexsort((-light[off], q >= ELONGATED))]
    return np.sort(order[: 2 * count : 2] if len(order) >= 2 * count else order[:count])


class _Scores:
    """What alternatives together leave of a sample's square, on average.

    They are drawn in a few of its rows first. The sum of what they leave there is at most that of all
    rows: where it is too much already, the others cannot help.
    """

    def __init__(self, sample: Images, spec: AuditSpec, redraw: Redraw) -> None:
        few = sample[np.arange(0, len(sample.arc), FIRST)]
        self.share = len(few.arc) / len(sample.arc)

        def left(of: Images, chosen: tuple[Alternative, ...]) -> float:
            drawn = _drawn(of, changed(of.rows, list(chosen)), spec, redraw)
            return float(of.unexplained(drawn).mean())

        self._least = cache(lambda chosen: self.share * left(few, chosen))
        self._whole = cache(lambda chosen: left(sample, chosen))

    def below(self, chosen: list[Alternative], limit: float) -> bool:
        """Whether they leave less than ``limit``."""
        key = tuple(chosen)
        return bool(self._least(key) < limit and self._whole(key) < limit)

    def best(self, trials: list[list[Alternative]]) -> tuple[list[Alternative], float]:
        """Those that leave least, the first of equals, and how much that is."""
        least = [self._least(tuple(t)) for t in trials]
        found: dict[int, float] = {}
        for i in np.argsort(least, kind="stable").tolist():
            if found and least[i] > min(found.values()):
                break
            found[i] = self._whole(tuple(trials[i]))
        best = min(sorted(found), key=found.__getitem__)
        return trials[best], found[best]


def _drawn(sample: Images, rows: Arrays, spec: AuditSpec, redraw: Redraw) -> Floats:
    whole = redraw(rows, spec, CORE_TOLERANCE)
    return np.asarray(whole["whole"][match(rows["hash"], whole["whole_hash"])] / sample.unit)


def _search(
    known: list[Alternative], score: _Scores, before: float, settled: float
) -> tuple[list[Alternative], float]:
    """The alternative that leaves least, then what helps most beside it, until ``settled`` is left."""
    chosen: list[Alternative] = []
    left, trials = before, [a for a in known if a.part != LENS_PLACE]
    while trials and len(chosen) < MOST_CHANGES and left > settled:
        better, least = score.best([[*chosen, a] for a in trials])
        if least > STEP * left:
            break
        part = better[-1].part
        if part == SKY:
            trials = [a for a in known if a.part in ANGLES]
        elif least > settled:
            # What made it worse is not tried again; of a flipped sky each part may not be.
            others = [a for a in trials if a.part not in (part, SKY)]
            trials = [a for a in others if score.below([*chosen, a], left)]
        chosen, left = better, least
    return chosen, left


def _after_fit(sample: Images, spec: AuditSpec) -> float:
    """What scale, shift and PSF width leave where they are fitted to each image."""
    width = predicted_width(*(sample.rows[n] for n in _WIDTH)) / spec.pixel_scale
    model = sample.rows["psf_model"].astype(np.int64)
    beta = np.where(model == 2, sample.rows["psf_beta"].astype(float), 3.5)
    rest = np.zeros(len(model))
    for b in range(len(spec.bands)):
        lit = np.flatnonzero((sample.again[:, b] > 0).any(axis=(1, 2)))
        if len(lit):
            fit = fit_arcs(
                sample.arc[lit, b], sample.again[lit, b], model[lit], beta[lit], width[lit, b]
            )
            rest[lit] += ((fit.seen - fit.model) ** 2).sum(axis=(1, 2), where=sample.good[lit, b])
    part = (rest - sample.grain) / sample.light
    return float(np.clip(part, 0.0, 2.0).mean())
