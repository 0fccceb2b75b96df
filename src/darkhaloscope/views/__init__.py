"""What is done with a data set as it is read, for both classes alike: no stored pixel changes.

pixels       the core masked, every stamp on its own scale
cuts         named quality sets and cuts, and what each removes
reading      what a network is shown: classes, order, scale
dither       the comb of the store's rounding, hidden in both classes
choice       which rows that takes of a split
second_look  the noise of options A and C, and the gate on what it gives away
widths       PSF widths, alike of both classes
inputs       from images to what a network is given
"""

from darkhaloscope.views.choice import CTRL, STAMP, Chosen, choose
from darkhaloscope.views.cuts import (
    QUALITY_SETS,
    QUALITY_VERSION,
    REMOVED_COLUMNS,
    arc_snr_at_least,
    quality_set,
    removed,
)
from darkhaloscope.views.dither import SECOND, dithered, rounding_step
from darkhaloscope.views.inputs import Scale, dihedral, dihedral_point, network_input
from darkhaloscope.views.pixels import View, annulus_scale, mask_weight, normalize, view_pixels
from darkhaloscope.views.reading import BadPixels, Faint, Reading
from darkhaloscope.views.second_look import (
    COMPARISONS,
    Looks,
    channels,
    check_separability,
    noise_sigma,
    noised,
    readable,
    separability,
    statistics,
)
from darkhaloscope.views.widths import standardised, strata, used_widths

__all__ = [
    "COMPARISONS",
    "CTRL",
    "QUALITY_SETS",
    "QUALITY_VERSION",
    "REMOVED_COLUMNS",
    "SECOND",
    "STAMP",
    "BadPixels",
    "Chosen",
    "Faint",
    "Looks",
    "Reading",
    "Scale",
    "View",
    "annulus_scale",
    "arc_snr_at_least",
    "channels",
    "check_separability",
    "choose",
    "dihedral",
    "dihedral_point",
    "dithered",
    "mask_weight",
    "network_input",
    "noise_sigma",
    "noised",
    "normalize",
    "quality_set",
    "readable",
    "removed",
    "rounding_step",
    "separability",
    "standardised",
    "statistics",
    "strata",
    "used_widths",
    "view_pixels",
]
