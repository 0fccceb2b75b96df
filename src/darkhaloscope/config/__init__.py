"""The experiment file: pydantic models, defaults, identity, and how a file is read."""

from darkhaloscope.config.digest import digest_of
from darkhaloscope.config.fixes import CoreMask, FixSection
from darkhaloscope.config.load import (
    load_document,
    load_experiment,
    parse_experiment,
    replace_keys,
)
from darkhaloscope.config.sections import (
    PIXEL_VERSION,
    AuditSection,
    ClusterSection,
    Experiment,
    GatesSection,
    Splits,
)

__all__ = [
    "PIXEL_VERSION",
    "AuditSection",
    "ClusterSection",
    "CoreMask",
    "Experiment",
    "FixSection",
    "GatesSection",
    "Splits",
    "digest_of",
    "load_document",
    "load_experiment",
    "parse_experiment",
    "replace_keys",
]
