"""What fraction of published lenses a detector finds, at what fraction of galaxies like them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from darkhaloscope import storage
from darkhaloscope.audit.intervals import MIN_REGIONS, Outcome
from darkhaloscope.audit.verdict import Gate
from darkhaloscope.completeness import threshold_at
from darkhaloscope.completeness.fraction import Fractions, Scored, fractions
from darkhaloscope.detect.lenses import CONTROL, LENS, NONLENS
from darkhaloscope.errors import UserError
from darkhaloscope.survey.catalogues import GRADE_REASON

GATE = "real_lens_recall"
RATES = (1e-2, 1e-3, 1e-4)
COLUMNS = [
    "fpr", "of", "value", "lo", "hi", "confidence", "found", "rows", "bricks", "threshold", "negatives",
    "false_positives", "note",
]  # fmt: skip


class Recall(NamedTuple):
    """Recall by false-positive rate and grade, the gate, and a sentence."""

    table: pd.DataFrame
    gate: Gate
    sentence: str
    threshold: float
    """At the gate's rate; NaN where it cannot be claimed."""


def recall(table: pd.DataFrame, fpr: float, least: float, seed: int = 0) -> Recall:
    """Recall of the scored lenses, at thresholds that matched galaxies set.

    Parameters
    ----------
    table : DataFrame
        :func:`darkhaloscope.detect.lenses.score`.
    fpr : float
        The gate's false-positive rate, among matched galaxies.
    least : float
        Recall that the gate asks for.
    """
    scored = table[table["outcome"] == "scored"]
    lenses, controls, others = (scored[scored["kind"] == k] for k in (LENS, CONTROL, NONLENS))
    lines: list[dict[str, object]] = []
    at_gate: tuple[float, Fractions | None, str] = (float("nan"), None, "")
    for rate in sorted({fpr, *RATES}, reverse=True):
        try:
            cut = threshold_at(
                controls["score"].to_numpy(float), controls["brick"].to_numpy(object), rate, seed,
                "the matched sample",
            )  # fmt: skip
        except UserError as error:
            lines.append({"fpr": rate, "of": "lenses", "rows": len(lenses), "note": str(error)})
            if rate == fpr:
                at_gate = float("nan"), None, str(error)
            continue
        facts = {
            "fpr": rate, "threshold": cut.value, "negatives": cut.negatives,
            "false_positives": cut.false_positives,
        }  # fmt: skip
        found = None
        grades = sorted(set(lenses["grade"]) - {""})
        for label, rows in (
            ("lenses", lenses),
            *((f"grade {g}", lenses[lenses["grade"] == g]) for g in grades if len(grades) > 1),
            ("non-lenses", others),
        ):
            if len(rows):
                scores = rows["score"].to_numpy(float)
                made = _fraction(rows, Scored(scores, cut.value, cut.replicates, cut.regions), seed)
                lines.append({**facts, "of": label, **_numbers(made)})
                found = made if label == "lenses" else found
        if rate == fpr:
            at_gate = cut.value, found, ""
    value, found, missing = at_gate
    gate = _gate(found, least, missing or "there is no lens with pixels")
    made_table = pd.DataFrame(lines).reindex(columns=COLUMNS)
    return Recall(made_table, gate, _sentence(gate, found, fpr, table), value)


def _fraction(rows: pd.DataFrame, what: Scored, seed: int) -> Fractions:
    bricks = np.unique(rows["brick"].to_numpy(object), return_inverse=True)[1].reshape(-1)
    n = len(rows)
    return fractions(what, np.zeros(n, np.int64), 1, bricks, np.arange(n), seed=seed)


def _numbers(found: Fractions) -> dict[str, object]:
    sure = np.isfinite(found.confidence[0])
    return {
        "value": found.value[0], "lo": found.lo[0], "hi": found.hi[0], "found": int(found.recovered[0]),
        "confidence": found.confidence[0], "rows": int(found.rows[0]), "bricks": int(found.regions[0]),
        "note": "" if sure else f"fewer than {MIN_REGIONS} bricks: the interval is not called 95 %",
    }  # fmt: skip


def _gate(found: Fractions | None, least: float, missing: str) -> Gate:
    """``pass`` where the interval lies above the limit, ``fail`` where it lies below, else open."""
    nan = float("nan")
    if found is None or not found.rows[0]:
        return Gate(GATE, nan, (nan, nan), least, "not_enough", missing)
    value, lo, hi = (float(v[0]) for v in (found.value, found.lo, found.hi))
    outcome: Outcome = "not_enough"
    says = (
        f"{GATE}: its interval [{lo:.3f}, {hi:.3f}] holds {least:g}; more lenses or galaxies decide"
    )
    if not np.isfinite(found.confidence[0]):
        says = f"{GATE} needs lenses and matched galaxies of {MIN_REGIONS} bricks"
    elif lo >= least:
        outcome = "pass"
    elif hi < least:
        outcome = "fail"
    return Gate(GATE, value, (lo, hi), least, outcome, "" if outcome != "not_enough" else says)


def _sentence(gate: Gate, found: Fractions | None, fpr: float, table: pd.DataFrame) -> str:
    lenses = table[table["kind"] == LENS]
    without = int((lenses["outcome"] == "not_scored").sum())
    graded = _grades(table)["left_out"]
    read = f"{int((lenses['outcome'] == 'scored').sum()):,} lenses with pixels"
    rest = f"; {without:,} more have none" if without else ""
    rest += f"; grade {', '.join(graded)} was left out" if graded else ""
    if found is None:
        return f"Not measured on {read}{rest}: {gate.missing}."
    lo, hi = gate.interval
    ends = f" [{lo:.3f}, {hi:.3f}]" if np.isfinite(lo) else ""
    says = {"pass": "passes", "fail": "fails", "not_enough": "is open"}[gate.outcome]
    tail = f" ({gate.missing})" if gate.missing else ""
    return (
        f"{gate.value:.3f}{ends} of {read} are found at a false-positive rate of {fpr:g} among "
        f"matched galaxies{rest}; the gate of {gate.limit:g} {says}{tail}."
    )


def verdict(
    found: Recall, rows: pd.DataFrame, required: bool, fpr: float, detector: str
) -> dict[str, object]:
    """The gate as ``verdict.json`` holds gates; a failure is policy, no diagnosis.

    As in an audit: it changes the exit code where the gate is required, not the word. ``fpr`` is the gate's
    rate, ``detector`` the digest of the weights that scored: :func:`measured_gate` compares both.
    """
    gate = found.gate

    def plain(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    missing: Sequence[str] = [gate.missing] if gate.missing else []
    return {
        "schema": 1,
        "verdict": "undecided" if gate.outcome == "not_enough" else "physics",
        "sentence": found.sentence,
        "causes": [],
        "gates": [
            {
                "name": gate.name,
                "value": plain(gate.value),
                "interval": [plain(v) for v in gate.interval],
                "limit": gate.limit,
                "outcome": gate.outcome,
            }
        ],
        "required": [gate.name] if required else [],
        "fpr": fpr,
        "detector": detector,
        "grades": _grades(rows),
        "pairs": int((rows["outcome"] == "scored").sum()),
        "not_tested": list(missing),
    }


def _grades(rows: pd.DataFrame) -> dict[str, list[str]]:
    """Grades of the lenses that counted, and of those that ``--grades`` left out, in lower case."""
    lenses = rows[rows["kind"] == LENS]
    out = lenses["reason"].astype(str).str.startswith(GRADE_REASON)
    return {
        name: sorted(set(lenses.loc[part, "grade"].str.lower()) - {""})
        for name, part in (("counted", ~out), ("left_out", out))
    }


def of_grades(gate: Gate, url: str, grades: Sequence[str]) -> Gate:
    """A gate that ``dhs lenses`` measured; open where it was not measured of the grades that are asked for.

    Parameters
    ----------
    gate : Gate
        :func:`measured_gate`.
    url : str
        The ``verdict.json`` that it stands in.
    grades : sequence of str
        Grades that shall count; all if empty.

    Raises
    ------
    UserError
        The file is damaged.
    """
    wanted = {grade.strip().lower() for grade in grades}
    again = "dhs lenses again, without --grades"  # which are then those of the detector's file
    counted: set[str] = set()
    left: set[str] = set()
    try:
        told = json.loads(storage.read(url)).get("grades")
        if told is not None:
            counted, left = (set(map(str, told[name])) for name in ("counted", "left_out"))
    except FileNotFoundError:
        told = None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{url} is damaged; make it again with dhs lenses") from None
    missing = ""
    if told is None:
        missing = f"{GATE} was measured of nobody knows which grades: {again}"
    elif (wanted and counted - wanted) or (left & wanted if wanted else left):
        missing = (
            f"{GATE} was measured of {_listed(counted)} without {_listed(left)}, and the detector's file "
            f"asks for {_listed(wanted) if wanted else 'all grades'}: "
            f"{again}"
        )
    if not missing or gate.outcome == "not_enough":
        return gate
    return replace(gate, outcome="not_enough", missing=missing)


def _listed(grades: set[str]) -> str:
    return f"the grades {', '.join(sorted(grades))}" if grades else "no grade"


def measured_gate(url: str, detector: str, fpr: float, least: float) -> Gate | None:
    """The gate as ``dhs lenses`` measured it of these weights; None where it has not.

    Parameters
    ----------
    url : str
        The ``verdict.json`` that ``dhs lenses`` wrote.
    detector : str
        Digest of the weights.
    fpr, least : float
        What the detector's file asks for: a gate of another rate or limit decides nothing.

    Raises
    ------
    UserError
        The file is damaged.
    """
    nan = float("nan")
    try:
        document = json.loads(storage.read(url))
        found = next(g for g in document["gates"] if g["name"] == GATE)
        value, lo, hi = (
            nan if v is None else float(v) for v in (found["value"], *found["interval"])
        )
        limit, outcome = float(found["limit"]), found["outcome"]
        rate, weights = float(document["fpr"]), str(document["detector"])
        missing = " ".join(document["not_tested"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, StopIteration):
        raise UserError(f"{url} is damaged; make it again with dhs lenses") from None
    if weights != detector:
        outcome, missing = "not_enough", f"{GATE} was measured of other weights: dhs lenses again"
    elif (rate, limit) != (fpr, least):
        outcome = "not_enough"
        missing = (
            f"{GATE} was measured at a rate of {rate:g} against {limit:g}, and the detector's file asks for "
            f"{least:g} at {fpr:g}: dhs lenses again, without --fpr and --least"
        )
    elif outcome not in ("pass", "fail"):
        outcome = "not_enough"
    return Gate(GATE, value, (lo, hi), least, outcome, missing)
