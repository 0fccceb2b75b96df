"""From an experiment file, or a data set, to what a graph needs: plan, layout, audit settings.

Everything here happens on the driver and before any pixel is read, but for a look whether the first
bricks are there at all.
"""

from darkhaloscope.prepare.existing import (
    AuditSettings,
    RowSource,
    StoredPairs,
    check_apart,
    check_complete,
    check_written,
    in_their_words,
    is_run,
    limits_of,
    settings_of,
    source_of,
    spec_of_source,
)
from darkhaloscope.prepare.first_bricks import preflight, widths_known
from darkhaloscope.prepare.planned import (
    check_plan,
    complete_plan,
    experiment_of,
    layout_of,
    plan_of,
    planned_strata,
    spec_of,
    write_plan,
)

__all__ = [
    "AuditSettings",
    "RowSource",
    "StoredPairs",
    "check_apart",
    "check_complete",
    "check_plan",
    "check_written",
    "complete_plan",
    "experiment_of",
    "in_their_words",
    "is_run",
    "layout_of",
    "limits_of",
    "plan_of",
    "planned_strata",
    "preflight",
    "settings_of",
    "source_of",
    "spec_of",
    "spec_of_source",
    "widths_known",
    "write_plan",
]
