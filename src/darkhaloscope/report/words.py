"""What the page says in words: gates, captions, definitions."""

from __future__ import annotations

VERDICTS = {
    "physics": "the pixels are what the parameters promise",
    "bug": "the pixels are not what the parameters promise",
    "shortcut": "the classes can be told apart by something else than a lensed arc",
    "undecided": "nothing wrong was found, but evidence is missing",
}

OUTCOMES = {"pass": "pass", "fail": "fail", "not_enough": "not enough evidence"}

GATES = {
    "closure_flux": ("relative flux error of the arcs", ""),
    "closure_centroid": ("mean displacement of the arcs", "px"),
    "closure_blur": ("relative error of the PSF width", ""),
    "residual_pedestal": ("constant left in the core or far out", "sky σ / pixel"),
    "closure_residual": ("light that scale, shift and width leave unexplained", ""),
    "split_integrity": ("regions, hosts and skies in more than one split", ""),
    "column_coverage": ("outcome columns missing on injections or present on controls", ""),
    "arc_localisation": ("fraction of arcs that are elsewhere", ""),
    "row_integrity": ("rows that no correct data set has, most of one kind", ""),
    "closure_scatter": ("fraction of arcs that are off by themselves", ""),
    "excess_auc": ("core AUC beyond that of the re-rendered arcs", ""),
    "rerendered": ("fraction of audit rows that cannot be drawn again", ""),
    "core_auc": ("core AUC", ""),
    "core_auc_strict": ("core AUC, strict", ""),
    "zero_dose_intercept": ("core light where the arc adds none", "sky σ / pixel"),
    "zero_dose_slope": ("stored per re-rendered core light, minus 1", ""),
}
"""What each gate holds against its limit, and in which unit."""

COUNTED = ("split_integrity", "column_coverage", "row_integrity", "rerendered")
"""Gates whose value is counted, not estimated: no interval."""

_PIXELS, _CONSTANT = "px", "sky σ / pixel"
CAUSE_UNITS = {
    **dict.fromkeys(
        ("shift", "lens_offset", "target_rounded", "kernel_centre", "stamp_displaced"), _PIXELS
    ),
    **dict.fromkeys(("pedestal", "core_pedestal"), _CONSTANT),
}
"""Units of the sizes of causes; what is not here is a ratio, a fraction or an AUC."""

INTERVALS = (
    "Intervals are at 95 % confidence. What is learned from pixels of the sky (AUC, profiles) "
    "resamples whole regions, with Student's t: below 20 regions it describes and decides "
    "nothing, below 5 there is none. Closure resamples pairs, each band with its share of the "
    "risk."
)

DEFINITIONS = (
    (
        "Pair, ctrl, arc, stamp",
        "A pair is one row: ctrl, the real pixels around a galaxy, and arc, the noiseless "
        "lensed light drawn for it. stamp = ctrl + arc. A control is a row without an arc. "
        "Fluxes are nanomaggies (nMgy, AB zero point 22.5) a pixel.",
    ),
    (
        "θ_E",
        "Einstein radius in arcsec, intermediate-axis convention; strata are half-open, an edge "
        "belongs to the stratum above.",
    ),
    (
        "S/N, μ",
        "S/N is sqrt(Σ arc² invvar) over the stamp in the reference band. The magnification μ "
        "is lensed flux before the PSF over intrinsic source flux.",
    ),
    (
        "sky σ",
        "1/sqrt(median inverse variance) of a stamp and band, in nMgy a pixel.",
    ),
    (
        "Re-rendered",
        "The arc drawn once more from the row's own parameters by an adaptive integrator that "
        "shares no code with the renderer. The PSF width is predicted from the survey's psfsize "
        "map, never taken from what was drawn.",
    ),
    (
        "Core AUC",
        "Probability that a linear classifier ranks a random stamp above a random ctrl by their "
        "central 10×10 pixels: 0.5 is blind, 1 is perfect. Hosts and regions are never split "
        "between training and test. A high value is no fault by itself: a small Einstein ring "
        "lies in the core. What counts is the excess over the same reader's AUC on re-rendered "
        "arcs.",
    ),
    (
        "Closure",
        "Stored arcs against re-rendered ones: flux ratio, displacement, PSF width, light left "
        "over. A gate passes if it rests on enough pairs and its whole 95 % interval lies within "
        "the limit. It fails if the effect is outside the limit beyond what one chance in a "
        "thousand, over all effects and bands, explains. In between the evidence is not enough.",
    ),
    (
        "Zero dose",
        "Core light as stored against core light as re-rendered: the line through the pairs "
        "must have intercept 0 and slope 1. An intercept is light that no parameter asked for.",
    ),
    (
        "Verdict",
        "bug, shortcut, undecided, physics, in this order of precedence. The verdict says what "
        "the pixels are; the gates say what this experiment accepts.",
    ),
)
