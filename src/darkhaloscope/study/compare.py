"""From the scores of all arms to one table, a Pareto front, and a recommendation by stated rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from darkhaloscope.audit.intervals import resample_weights
from darkhaloscope.study.arms import REFERENCE, Study
from darkhaloscope.study.numbers import Resampled, Result, table_of
from darkhaloscope.study.rules import Judged, judge, pareto, recommend


@dataclass(frozen=True)
class Conclusion:
    """The table, and what follows from it."""

    table: pd.DataFrame
    judged: list[Judged]
    pareto: list[str]
    recommended: str | None
    sentence: str


def compare(results: Mapping[str, Result], study: Study, seed: int) -> Conclusion:
    """Compare the arms of a study, ``none`` first.

    Parameters
    ----------
    results : mapping of str to Result
        By the arms' names; rows of all arms are the same.
    study : Study
    seed : int
        Of the resampling.
    """
    first = results[REFERENCE].scores
    keys, region = np.unique(first["region"], return_inverse=True)
    region = region.reshape(-1).astype(np.int64)
    common = Resampled(first["host"], region, resample_weights(len(keys), seed))
    table = table_of(results, study, common)
    judged = [judge(arm, results[arm], table, study.rules) for arm in results]
    chosen, sentence = recommend(judged, table, results, common)
    return Conclusion(table, judged, pareto(table), chosen, sentence)
