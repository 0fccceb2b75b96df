"""What recovered means: a score above a threshold, or a plain criterion on a column."""

from __future__ import annotations

import io
import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope import storage
from darkhaloscope.audit.intervals import RESAMPLES, resample_weights
from darkhaloscope.completeness.fraction import Fractions, Scored, Sure, fractions
from darkhaloscope.completeness.rows import SPLIT, Injections
from darkhaloscope.errors import UserError

Floats = NDArray[np.float64]

MIN_FALSE_POSITIVES = 10
"""A false-positive rate is claimed from at least so many false positives."""

OPERATORS: Mapping[str, Callable[[Floats, float], NDArray[np.bool_]]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip

_CRITERION = re.compile(r"\s*([A-Za-z_]\w*)\s*(>=|<=|>|<)\s*(\S+)\s*")
_COLUMNS = ["brick", "slot", "image", "region_id", "region_split", "score"]
_TARGET = (1 << 32) - 1  # the bits of a slot that name the target in its brick
_OF_NEGATIVES = 1  # stream of the resampling of negatives, apart from that of the test rows
_MOST = 20_000_000


class Criterion(NamedTuple):
    """``column`` compared with ``limit``; a column of bands is read in the reference band."""

    column: str
    operator: str
    limit: float

    @property
    def text(self) -> str:
        return f"{self.column} {self.operator} {self.limit:g}"

    def holds(self, columns: xr.Dataset, reference: int) -> NDArray[np.bool_]:
        """Where it holds; never where the column is missing.

        Raises
        ------
        UserError
            There is no such column, or it holds no numbers.
        """
        numeric = [
            str(name)
            for name, variable in columns.data_vars.items()
            if variable.dtype.kind == "f" and "y" not in variable.dims
        ]
        if self.column not in numeric:
            raise UserError(
                f"the criterion {self.text!r} names no column of numbers; they are {', '.join(numeric)}"
            )
        values = columns[self.column].values
        values = values[:, reference] if values.ndim == 2 else values
        known = np.isfinite(values)
        return np.asarray(known & OPERATORS[self.operator](np.where(known, values, 0), self.limit))


def parse_criterion(text: str) -> Criterion:
    """Read ``NAME OP NUMBER``, e.g. ``arc_snr > 10``; OP is one of > >= < <=.

    Raises
    ------
    UserError
        It is anything else.
    """
    match = _CRITERION.fullmatch(text)
    try:
        if match is not None and np.isfinite(limit := float(match[3])):
            return Criterion(match[1], match[2], limit)
    except ValueError:
        pass
    raise UserError(
        f"the criterion {text!r} is not a column, one of > >= < <=, and a number, like 'arc_snr > 10'"
    )


class Threshold(NamedTuple):
    """A score with a stated fraction of the negatives above it.

    Attributes
    ----------
    fpr : float
        The rate asked for; ``false_positives`` / ``negatives`` is what it came to.
    value : float
        A row is recovered when its score is above it.
    replicates : ndarray (resample,)
        Thresholds of resampled regions.
    negatives, false_positives, regions : int
        Galaxies, those above the threshold, and regions that they lie in.
    """

    fpr: float
    value: float
    replicates: Floats
    negatives: int
    false_positives: int
    regions: int


def threshold_at(
    score: Floats, region: NDArray[Any], fpr: float, seed: int = 0, what: str = "val"
) -> Threshold:
    """The lowest threshold that at most a fraction ``fpr`` of the negatives is above.

    Parameters
    ----------
    score : ndarray (negative,)
        One a galaxy.
    region : ndarray (negative,)
        Any key of their regions.
    fpr : float
        Between 0 and 1.
    what : str
        Where the negatives come from, for the refusal.

    Raises
    ------
    UserError
        Fewer than 10 negatives are above it: the rate cannot be claimed.
    """
    if not 0.0 < fpr < 1.0:
        raise UserError(f"a false-positive rate lies between 0 and 1, not at {fpr:g}")
    n = len(score)
    order = np.argsort(-score, kind="stable")
    ranked = score[order]
    allowed = int(np.floor(fpr * n + 1e-9))
    value = float(ranked[min(allowed, n - 1)]) if n else float("nan")
    above = int((score > value).sum())
    if allowed < MIN_FALSE_POSITIVES or above < MIN_FALSE_POSITIVES:
        least = (
            f"; ask for {_up(MIN_FALSE_POSITIVES / n)} or more" if n > MIN_FALSE_POSITIVES else ""
        )
        tied = " (others tie at the threshold)" if allowed >= MIN_FALSE_POSITIVES else ""
        raise UserError(
            f"a false-positive rate of {fpr:g} needs at least {MIN_FALSE_POSITIVES} false positives, "
            f"and among the {n:,} negative galaxies of {what} it has {above}{tied}{least}"
        )
    keys, index = np.unique(region, return_inverse=True)
    drawn = resample_weights(len(keys), seed, _OF_NEGATIVES)
    sizes = np.bincount(index.reshape(-1), minlength=len(keys)).astype(float)
    replicates = _resampled(ranked, index.reshape(-1)[order], drawn, fpr * (drawn @ sizes))
    return Threshold(fpr, value, replicates, n, above, len(keys))


def _up(rate: float) -> str:
    """Two digits of a rate, rounded up, so that what is advised is enough."""
    power = 10.0 ** (np.floor(np.log10(rate)) - 1)
    return f"{np.ceil(rate / power - 1e-9) * power:.2g}"


def _resampled(ranked: Floats, region: NDArray[np.int64], drawn: Floats, quota: Floats) -> Floats:
    """In each resampling the score at which its quota of false positives is used up."""
    out = np.full(RESAMPLES, ranked[-1])
    depth = min(len(ranked), 2 * int(quota.max()) + 100)
    todo = np.arange(RESAMPLES)
    while len(todo):
        step = max(_MOST // depth, 1)
        left = []
        for first in range(0, len(todo), step):
            some = todo[first : first + step]
            count = np.cumsum(drawn[np.ix_(some, region[:depth])], axis=1)
            over = count > quota[some, None] + 1e-9
            reached = over.any(axis=1)
            out[some[reached]] = ranked[np.argmax(over[reached], axis=1)]
            left.append(some[~reached])
        if depth == len(ranked):
            break  # what is left allows all: the lowest score stands
        todo, depth = np.concatenate(left), min(len(ranked), 4 * depth)
    return out


@dataclass(frozen=True)
class Recovered:
    """Which test injections are recovered, and what that means in words.

    Attributes
    ----------
    what : Sure or Scored
    text : str
        The definition, for people.
    column : str
        Of a criterion; empty for a detector.
    facts : dict
        Numbers behind it, as JSON takes them.
    """

    what: Sure | Scored
    text: str
    column: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def by_criterion(rows: Injections, criterion: Criterion) -> Recovered:
    """Recovered where a criterion holds; a failed row has no value, and is not."""
    found = criterion.holds(rows.columns, rows.reference) & rows.ok
    facts = {"criterion": criterion.text}
    return Recovered(Sure(found), criterion.text, criterion.column, facts)


def read_scores(url: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A detector's scores and what the file says of them (its metadata ``darkhaloscope``).

    Raises
    ------
    UserError
        There is no such file, or it is none of scores.
    """
    try:
        table = pq.read_table(io.BytesIO(storage.read(url)), columns=_COLUMNS)
        metadata = json.loads((table.schema.metadata or {}).get(b"darkhaloscope", b"{}"))
    except FileNotFoundError:
        raise UserError(f"there are no scores at {url}; dhs score writes them") from None
    except (pa.ArrowException, ValueError, KeyError) as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"{url} is no file of scores as dhs score writes them: {text}") from None
    return table.to_pandas(), metadata if isinstance(metadata, dict) else {}


def by_scores(
    rows: Injections,
    scores: pd.DataFrame,
    metadata: Mapping[str, Any],
    fpr: float,
    *,
    seed: int = 0,
    label: str = "the scores",
) -> Recovered:
    """Recovered where a detector's score is above the threshold that val's negatives set.

    Parameters
    ----------
    rows : Injections
    scores : DataFrame
        One row an image: ``brick``, ``slot``, ``image`` (``stamp``, ``ctrl``), ``region_id``,
        ``region_split``, ``score``.
    metadata : mapping
        ``data_identity`` and ``detector`` of the scores.
    fpr : float
    label : str
        The file, for refusals.

    Raises
    ------
    UserError
        The scores are another data set's, lack rows, or have too few negatives for the rate.
    """
    of_data = str(metadata.get("data_identity", ""))
    if rows.identity and of_data != rows.identity:
        raise UserError(
            f"{label} are of another data set (identity {of_data[:12] or 'not said'}, this run's is "
            f"{rows.identity[:12]}); score this run with dhs score"
        )
    galaxies = _negatives(scores)
    val = galaxies[galaxies["region_split"] == "val"]
    threshold = threshold_at(val["score"].to_numpy(float), val["region_id"].to_numpy(), fpr, seed)
    score, unscored = _stamp_scores(rows, scores, label)
    facts: dict[str, Any] = {
        "fpr": threshold.fpr,
        "threshold": threshold.value,
        "val_negatives": threshold.negatives,
        "val_false_positives": threshold.false_positives,
        "val_regions": threshold.regions,
        "unscored": unscored,
        "detector": str(metadata.get("detector", "")),
    }
    seen = _on_test(galaxies[galaxies["region_split"] == SPLIT], threshold, seed)
    if seen is not None:
        facts["test_fpr"] = [float(v[0]) for v in (seen.value, seen.lo, seen.hi)]
        facts["test_negatives"] = int(seen.rows[0])
        facts["test_false_positives"] = int(seen.recovered[0])
    text = (
        f"score > {threshold.value:.4g}, a false-positive rate of {fpr:g} "
        f"({threshold.false_positives:,} of {threshold.negatives:,} galaxies of val)"
    )
    return Recovered(
        Scored(score, threshold.value, threshold.replicates, threshold.regions), text, "", facts
    )


def _negatives(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a galaxy without an arc: rows of one target show the same pixels."""
    plain = scores[(scores["image"] == "ctrl") & np.isfinite(scores["score"])]
    target = plain["slot"].to_numpy(np.int64) & _TARGET
    return plain.assign(target=target).drop_duplicates(["brick", "target"])


def _stamp_scores(rows: Injections, scores: pd.DataFrame, label: str) -> tuple[Floats, int]:
    """The score of each injection with pixels, NaN elsewhere; how many of them have none that is finite."""
    stamps = scores[scores["image"] == "stamp"].drop_duplicates(["brick", "slot"])
    by_key = stamps.set_index(["brick", "slot"])["score"]
    keys = rows.keys()
    there, ok = keys.isin(by_key.index), rows.ok
    lacking = int((ok & ~there).sum())
    if lacking:
        raise UserError(
            f"{label} lack {lacking:,} of the {int(ok.sum()):,} injections of the {SPLIT} split that have "
            "pixels; score the whole run with dhs score"
        )
    score = by_key.reindex(keys).to_numpy(float)
    score = np.where(ok & np.isfinite(score), score, np.nan)
    return score, int((ok & ~np.isfinite(score)).sum())


def _on_test(galaxies: pd.DataFrame, threshold: Threshold, seed: int) -> Fractions | None:
    """The false-positive rate on galaxies that did not set the threshold."""
    if galaxies.empty:
        return None
    region = np.unique(galaxies["region_id"].to_numpy(object), return_inverse=True)[1]
    above = Sure(galaxies["score"].to_numpy(float) > threshold.value)
    n = len(galaxies)
    return fractions(above, np.zeros(n, np.int64), 1, region.reshape(-1), np.arange(n), seed=seed)
