"""What an experiment does against leaks, and how each row says what was done to it.

recorded  the fixes of a row as text; masks and cuts
matched   the light of a core-matched negative
"""

from darkhaloscope.fix.matched import Matched, matched_light, round_profile
from darkhaloscope.fix.recorded import (
    NONE,
    apply_fix,
    control_text,
    core_weight,
    excluded_by,
    fix_text,
    radius_px,
    read_fix,
)

__all__ = [
    "NONE",
    "Matched",
    "apply_fix",
    "control_text",
    "core_weight",
    "excluded_by",
    "fix_text",
    "matched_light",
    "radius_px",
    "read_fix",
    "round_profile",
]
