"""Experiments that differ in one thing each, on the same targets and random numbers, compared.

arms      the file: what is varied, and the rules of the recommendation
zones     where a mask ends, and what readers see inside, at and outside its edge
parts     a few bricks, read once, made into every arm's features
coadds    which coadds are read
readers   an arm's scores: the core, its arcs against plain ones, and trained here but judged on plain arcs
compare   scores to the table: intervals, paired differences, Pareto front, recommendation
page      the picture and the page
graph     all of it on a Dask client; what is finished is not done again
"""

from darkhaloscope.study.arms import Arm, Rules, Sky, Study, load_study
from darkhaloscope.study.compare import Conclusion, compare
from darkhaloscope.study.graph import Read, Ready, is_made, make_study, prepare_study, read_study

__all__ = [
    "Arm",
    "Conclusion",
    "Read",
    "Ready",
    "Rules",
    "Sky",
    "Study",
    "compare",
    "is_made",
    "load_study",
    "make_study",
    "prepare_study",
    "read_study",
]
