"""Experiments that differ in one thing each, on the same targets and random numbers, compared.

arms      the file: what is varied, and the rules of the recommendation
zones     where a mask ends, and what readers see inside, at and outside its edge
parts     a few bricks, read once, made into every arm's features
readers   an arm's scores: the core, fixed against unfixed, and trained here but judged on physical arcs
compare   scores to the table: intervals, paired differences, Pareto front, recommendation
page      the picture and the page
graph     all of it on a Dask client; what is finished is not done again
"""

from darkhaloscope.study.arms import Arm, Rules, Sky, Study, load_study
from darkhaloscope.study.compare import Conclusion, compare
from darkhaloscope.study.graph import run_study
from darkhaloscope.study.page import markdown, study_page

__all__ = [
    "Arm",
    "Conclusion",
    "Rules",
    "Sky",
    "Study",
    "compare",
    "load_study",
    "markdown",
    "run_study",
    "study_page",
]
