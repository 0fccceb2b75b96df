"""The experiment file: pydantic models, defaults, identity, and how a file is read."""

from darkhaloscope.config.load import load_experiment, parse_experiment, replace_keys
from darkhaloscope.config.sections import (
    PIXEL_VERSION,
    ClusterSection,
    CoreMask,
    Experiment,
    FixSection,
    Splits,
)

__all__ = [
    "PIXEL_VERSION",
    "ClusterSection",
    "CoreMask",
    "Experiment",
    "FixSection",
    "Splits",
    "load_experiment",
    "parse_experiment",
    "replace_keys",
]
