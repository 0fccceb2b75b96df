"""What is done with a data set as it is read, for both classes alike: no stored pixel changes.

pixels    the core masked, every stamp on its own scale
cuts      named quality sets and cuts, and what each removes
matched   controls as bright in the core as the injections
"""

from darkhaloscope.views.cuts import (
    QUALITY_SETS,
    QUALITY_VERSION,
    REMOVED_COLUMNS,
    arc_snr_at_least,
    quality_set,
    removed,
)
from darkhaloscope.views.matched import match_brightness
from darkhaloscope.views.pixels import View, annulus_scale, mask_weight, normalize, view_pixels

__all__ = [
    "QUALITY_SETS",
    "QUALITY_VERSION",
    "REMOVED_COLUMNS",
    "View",
    "annulus_scale",
    "arc_snr_at_least",
    "mask_weight",
    "match_brightness",
    "normalize",
    "quality_set",
    "removed",
    "view_pixels",
]
