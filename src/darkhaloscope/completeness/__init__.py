"""What fraction of injected lenses is recovered, as a function of what they are and where they lie.

axes       what a fraction is plotted against, and its bins
rows       the planned injections of the test split, out of a run's columns
recovered  a detector's score above a threshold of stated false-positive rate, or a criterion on a column
fraction   a fraction of clustered rows with its interval
prior      weights that turn the run's prior into another
measure    all of it: curves, a grid, what was removed
function   the grid as a function of its axes, in a file that a population study loads
page       pictures and one HTML page
record     each look at test, in the folder of the detector that was looked at

Of the core package: no torch. ``load(file)`` gives the function.
"""

from darkhaloscope.completeness.fraction import Fractions, fractions
from darkhaloscope.completeness.function import Completeness, load
from darkhaloscope.completeness.measure import Measured, measure
from darkhaloscope.completeness.prior import Prior, parse_priors, prior_weights
from darkhaloscope.completeness.record import detector_of, record_test_use
from darkhaloscope.completeness.recovered import (
    Criterion,
    Recovered,
    Threshold,
    by_criterion,
    by_scores,
    parse_criterion,
    read_scores,
    threshold_at,
)
from darkhaloscope.completeness.rows import Injections, read_injections

__all__ = [
    "Completeness",
    "Criterion",
    "Fractions",
    "Injections",
    "Measured",
    "Prior",
    "Recovered",
    "Threshold",
    "by_criterion",
    "by_scores",
    "detector_of",
    "fractions",
    "load",
    "measure",
    "parse_criterion",
    "parse_priors",
    "prior_weights",
    "read_injections",
    "read_scores",
    "record_test_use",
    "threshold_at",
]
