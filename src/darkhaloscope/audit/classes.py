"""Two classes of images that should be alike: the sky, the noise and the galaxies that each shows.

Controls against the ctrl of injections, which a network is trained to tell apart; and, where no arc can be
drawn again, stamps against ctrl in the corners, where no arc reaches. Every number is the AUC of one
feature, with regions resampled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.audit.causes import Cause
from darkhaloscope.audit.core_gate import match
from darkhaloscope.audit.hypotheses import Hypothesis, p_beyond
from darkhaloscope.audit.intervals import Floats, region_interval
from darkhaloscope.audit.leak_map import Stamps
from darkhaloscope.audit.looks import (
    CORNERS,
    LOST_CTRL,
    LOST_STAMP,
    NO_DATA,
    NOISE,
    Looks,
    look_names,
    looks,
)
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.noise import medians
from darkhaloscope.audit.selection import FEWEST, auc_error, class_auc
from darkhaloscope.audit.spec import AuditSpec
from darkhaloscope.audit.verdict import BUG
from darkhaloscope.variables import NEGATIVE_KINDS, without_data

APART = 0.05
"""AUC beyond a coin's that two classes of one law are granted."""

FLAT = 0.5
"""Part of the outermost ring's level that the corners must have: an arc's wings keep a fifth."""

FACTOR = 3.0
"""How far off a recorded ``sky_sigma`` may be: confusion and correlated noise make it no exact number."""

FEWEST_SKIES = 100


def class_tests(
    name: str,
    who: tuple[str, str],
    one: Looks,
    other: Looks,
    bands: Sequence[str],
    features: dict[str, int],
    seed: int,
    fewest_regions: int,
) -> list[Hypothesis]:
    """Whether single features tell two classes apart; one test a band and feature.

    Parameters
    ----------
    name : str
        Of the cause.
    who : (str, str)
        What the two classes are called.
    features : dict
        Name of each feature that is asked for, and its place.
    fewest_regions : int
        Regions of either class below which nothing is asked; a feature that is known in fewer of them, as
        in a band that covers few, is described and has no p-value.
    """
    counts = [len(np.unique(v.region)) for v in (one, other)]
    if min(len(one.region), len(other.region)) < FEWEST or min(counts) < fewest_regions:
        return []
    label = np.repeat([True, False], [len(one.region), len(other.region)])
    region = np.concatenate([one.region, other.region])
    out = []
    for b, band in enumerate(bands):
        for feature, k in features.items():
            score = np.concatenate([one.values[:, b, k], other.values[:, b, k]])
            there = [np.isfinite(score) & side for side in (label, ~label)]
            known = [int(side.sum()) for side in there]
            if min(known) < FEWEST:
                continue
            few = min(len(np.unique(region[side])) for side in there)
            value, replicates, n = class_auc(score, label, region, seed)
            error = auc_error(replicates, n, *known)
            auc = 0.5 + abs(value - 0.5)
            lo, hi = region_interval(auc, replicates, n)
            limit = 0.5 + APART
            p = p_beyond(auc, limit, error, few) if few >= fewest_regions else float("nan")
            more = "more" if value > 0.5 else "less"
            says = (
                f"{who[0]} are told from {who[1]} by their {feature} in band {band} with an AUC of "
                f"{auc:.3f} ({more} of it)"
            )
            out.append(
                Hypothesis(name, f"{feature}, band {band}", auc, (max(lo, 0.0), min(hi, 1.0)), limit,
                           few, p, "shortcut", says)
            )  # fmt: skip
    return out


def control_tests(
    stats: Arrays, ctrl: Looks, spec: AuditSpec, fewest_regions: int
) -> list[Hypothesis]:
    """Whether the pixels of controls are those of injections without their arc; each kind of control apart.

    A network that is trained on injections against controls reads any difference of the two. At most
    ``spec.whole_cap`` rows of each class, in nMgy; ``ctrl`` are those of :func:`ctrl_looks`.
    """
    if not spec.paired:
        return []
    names = look_names(spec.size)
    out = []
    for kind in np.unique(stats["control_kind"]).tolist():
        mine = stats["control_kind"] == kind
        controls = Looks(stats["control_looks"][mine].astype(float), stats["control_region"][mine])
        who = (
            f"controls ({NEGATIVE_KINDS[kind].replace('_', '-')} ones)" if kind > 1 else "controls"
        )
        out += class_tests(
            "controls_differ", (who, "the ctrl of injections"), controls, ctrl, spec.bands,
            {name: k for k, name in enumerate(names)}, spec.seed, fewest_regions,
        )  # fmt: skip
    return out


def sky_ratios(
    stats: Arrays, place: NDArray[np.int64], ctrl: Looks, spec: AuditSpec
) -> dict[str, Floats]:
    """Noise of the corners of ctrl over the recorded ``sky_sigma``, (stamp,) of each band; known ones only.

    ``place`` and ``ctrl`` are those of :func:`ctrl_looks`. Empty where the set says no ``sky_sigma``.
    """
    if "sky_sigma" in spec.lacks:
        return {}
    sigma = stats["row_sky_sigma"][place].astype(float)
    noise = ctrl.values[:, :, look_names(spec.size).index(NOISE)]
    ratio = np.divide(noise, sigma, out=np.full(sigma.shape, np.nan), where=sigma > 0)
    return {band: v[np.isfinite(v)] for band, v in zip(spec.bands, ratio.T, strict=True)}


def wrong_sky_sigma(ratios: dict[str, Floats]) -> list[Cause]:
    """A ``sky_sigma`` that is not the noise of the pixels: every limit in sky sigma rests on it.

    ``ratios`` are those of :func:`sky_ratios`.
    """
    out = []
    for band, known in ratios.items():
        middle = float(np.median(known)) if len(known) >= FEWEST_SKIES else 1.0
        if 1.0 / FACTOR < middle < FACTOR:
            continue
        says = f"the noise of ctrl is {middle:.2g} times the recorded sky_sigma in band {band}"
        lo, hi = (float(v) for v in np.percentile(known, (2.5, 97.5)))
        text = f"{says}, in the corners of {len(known)} stamps"
        out.append(Cause("sky_sigma_column", middle, (lo, hi), text, BUG, 1.0, says))
    return out[:1]


def unseen_sky_sigma(ratios: dict[str, Floats]) -> list[str]:
    """Bands whose ``sky_sigma`` could not be held against the noise of enough stamps, in a sentence."""
    few = {band: len(known) for band, known in ratios.items() if len(known) < FEWEST_SKIES}
    if not few:
        return []
    where = ", ".join(f"{n} in {band}" for band, n in few.items())
    return [f"sky_sigma against the noise of ctrl: {FEWEST_SKIES} stamps needed ({where})"]


def ctrl_looks(stats: Arrays, spec: AuditSpec) -> tuple[NDArray[np.int64], Looks]:
    """Place among the audit rows, and looks (nMgy), of the ctrl of the injections that were kept whole."""
    place = match(stats["whole_hash"], stats["row_hash"])
    use = np.flatnonzero(place >= 0)
    place = place[use]
    good = ~without_data(stats["whole_nodata"][use], len(spec.bands))
    good &= (stats["row_coverage"][place] > 0)[:, :, None, None]
    seen = looks(stats["whole_ctrl"][use], good).astype(np.float32)
    # Rounded as those of controls are: where pixels are counts many are equal, and rounding breaks ties.
    return place, Looks(seen.astype(float), stats["row_region"][place])


def far_tests(stamps: Stamps, spec: AuditSpec, fewest_regions: int) -> list[Hypothesis]:
    """Whether stamps and ctrl are told apart where no arc reaches: for sets whose arcs cannot be drawn again.

    An arc's own faint wings fall off: a level counts only where the corners have half of what the
    ring before them has.
    """
    if stamps.promised is not None or not len(stamps.row):
        return []
    names, who = look_names(spec.size), _classes(spec)
    seen, ctrl = (Looks(looks(v, stamps.good), stamps.region) for v in (stamps.seen, stamps.ctrl))
    corner, ring = names.index(CORNERS), names.index(CORNERS) - 1
    gap = np.abs(_middle(seen) - _middle(ctrl))
    flat = gap[:, corner] >= FLAT * gap[:, ring]
    out = []
    for name, feature in (("leak", CORNERS), ("noise_one_class", NOISE)):
        found = class_tests(
            name, who, seen, ctrl, spec.bands, {feature: names.index(feature)},
            spec.seed, fewest_regions,
        )  # fmt: skip
        keep = flat if feature == CORNERS else np.ones(len(flat), dtype=bool)
        bands = {f"{feature}, band {b}" for b, ok in zip(spec.bands, keep, strict=True) if ok}
        out += [test for test in found if test.where in bands]
    return out


def _middle(of: Looks) -> Floats:
    """Median of each (band, feature); missing where it is known of no image."""
    return medians(of.values.reshape(len(of.values), -1).T).reshape(of.values.shape[1:])


def lost_tests(stats: Arrays, spec: AuditSpec, fewest_regions: int) -> list[Hypothesis]:
    """Whether two classes without pairs are told apart by their pixels without data, as of masks.

    Of images that were read from files: in memory both have the pixels of both.
    """
    if f"row_{LOST_STAMP}" not in stats:
        return []
    one, other = (
        Looks(stats[f"row_{name}"][:, :, None].astype(float), stats["row_region"])
        for name in (LOST_STAMP, LOST_CTRL)
    )
    return class_tests(
        "leak", _classes(spec), one, other, spec.bands, {NO_DATA: 0}, spec.seed, fewest_regions
    )


def _classes(spec: AuditSpec) -> tuple[str, str]:
    return ("stamps", "ctrl") if spec.paired else ("lenses", "non-lenses")
