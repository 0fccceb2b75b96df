"""One function a command: what the terminal does, a notebook does.

Each takes plain values, shows its progress on a rich console, and returns what it made.

inputs    a synthetic sky, a table of targets, a plan
estimate  what a run will take, from a few of its bricks
cache     copies of the coadds that are needed
runs      from an experiment, or a finished data set, to a verdict
studies   several experiments compared
completeness  what fraction of injections is recovered
detect    networks on a data set: trained, scored, judged
lenses    published lenses, scored and held against galaxies like them
folders   what is done with a run's folder
tiers     what a run must have shown before a larger one starts
checks    the renderer's physics checks
common    exit codes, options of a cluster, what several say or drop
"""

from darkhaloscope.commands.cache import cache, cache_exit_code
from darkhaloscope.commands.checks import selftest
from darkhaloscope.commands.common import EXIT_BUG, EXIT_INCOMPLETE, EXIT_OURS, EXIT_USER
from darkhaloscope.commands.completeness import completeness
from darkhaloscope.commands.detect import Ablated, Judged, ablation, evaluate, score, train
from darkhaloscope.commands.estimate import Estimate, estimate
from darkhaloscope.commands.folders import (
    export,
    repair,
    repair_exit_code,
    repair_failed,
    status,
    verify,
    verify_exit_code,
)
from darkhaloscope.commands.inputs import plan, sky, targets
from darkhaloscope.commands.lenses import LensOutcome, lenses
from darkhaloscope.commands.runs import Outcome, audit_dataset, demo, make_report, run
from darkhaloscope.commands.studies import StudyOutcome, run_study

__all__ = [
    "EXIT_BUG",
    "EXIT_INCOMPLETE",
    "EXIT_OURS",
    "EXIT_USER",
    "Ablated",
    "Estimate",
    "Judged",
    "LensOutcome",
    "Outcome",
    "StudyOutcome",
    "ablation",
    "audit_dataset",
    "cache",
    "cache_exit_code",
    "completeness",
    "demo",
    "estimate",
    "evaluate",
    "export",
    "lenses",
    "make_report",
    "plan",
    "repair",
    "repair_exit_code",
    "repair_failed",
    "run",
    "run_study",
    "score",
    "selftest",
    "sky",
    "status",
    "targets",
    "train",
    "verify",
    "verify_exit_code",
]
