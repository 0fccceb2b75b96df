"""What the pixels say: does a paired data set hold arcs, a shortcut, or a bug.

The path of a run::

    parts = [measure(block, spec) for block in blocks]     # each np.savez-able, no pickle
    stats = merge(parts, spec)                             # associative
    again = join([rerender(c, spec) for c in chunks(audit_rows(stats, spec), n)])
    columns = quality(provenance, spec.reference_band)
    result = conclude(stats, again, columns, GateLimits(), spec)
"""

from darkhaloscope.audit.conclude import AuditResult, conclude
from darkhaloscope.audit.integrity import columns_written
from darkhaloscope.audit.matched import core_brightness, match_controls
from darkhaloscope.audit.measure import Arrays, measure, merge
from darkhaloscope.audit.quality import Quality, quality
from darkhaloscope.audit.rerender import (
    CLOSURE_TOLERANCE,
    audit_rows,
    chunks,
    join,
    no_fix,
    no_image,
    rerender,
)
from darkhaloscope.audit.selection import Selection, selection
from darkhaloscope.audit.sources import PairSource, open_source
from darkhaloscope.audit.spec import AuditSpec, stratum_counts
from darkhaloscope.audit.undrawn import undrawn
from darkhaloscope.audit.verdict import GATES, REQUIRED, GateLimits, exit_code, to_json

__all__ = [
    "CLOSURE_TOLERANCE",
    "GATES",
    "REQUIRED",
    "Arrays",
    "AuditResult",
    "AuditSpec",
    "GateLimits",
    "PairSource",
    "Quality",
    "Selection",
    "audit_rows",
    "chunks",
    "columns_written",
    "conclude",
    "core_brightness",
    "exit_code",
    "join",
    "match_controls",
    "measure",
    "merge",
    "no_fix",
    "no_image",
    "open_source",
    "quality",
    "rerender",
    "selection",
    "stratum_counts",
    "to_json",
    "undrawn",
]
