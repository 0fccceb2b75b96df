"""All that is measured: curves over every axis, the grid of the function, and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from darkhaloscope.audit.intervals import DESCRIBED_REGIONS, MIN_REGIONS
from darkhaloscope.completeness.axes import AXES, BY_NAME, Axis
from darkhaloscope.completeness.fraction import Fractions, Scored, fractions
from darkhaloscope.completeness.function import Cells, Completeness
from darkhaloscope.completeness.prior import Prior, prior_weights
from darkhaloscope.completeness.recovered import Recovered
from darkhaloscope.completeness.rows import SETS, SPLIT, Injections
from darkhaloscope.errors import UserError

Floats = NDArray[np.float64]

COLUMNS = [
    "set", "axis", "bin", "low", "high", "centre", "value", "lo", "hi", "confidence", "method",
    "recovered", "injections", "hosts", "regions", "effective", "independent", "note",
]  # fmt: skip
OVERALL, UNKNOWN = "overall", "unknown"
OVER = ("theta_e_over_psf", "src_mag")
"""What the function is of, unless other axes are asked for."""

CELL = 50
"""Injections that a cell of the grid should hold, which decides how many cells there are."""
LEAST = 10.0
"""Effective injections below which a cell is not measured."""
MOST_CELLS = 8
"""Cells along an axis at most."""


@dataclass(frozen=True)
class Measured:
    """The results: a table with a line a set, axis and bin; functions by set; sentences."""

    table: pd.DataFrame
    functions: dict[str, Completeness]
    recovered: Recovered
    priors: Sequence[Prior]
    removed: pd.DataFrame
    sentence: str
    notes: list[str] = field(default_factory=list)


def measure(
    rows: Injections,
    recovered: Recovered,
    *,
    over: Sequence[str] = OVER,
    priors: Sequence[Prior] = (),
    seed: int = 0,
) -> Measured:
    """The recovered fraction of planned injections.

    Parameters
    ----------
    rows : Injections
    recovered : Recovered
    over : sequence of str
        One or two axes of the function.
    priors : sequence of Prior
        Other priors than the run's; their weights multiply.
    seed : int
        Of the resampling.

    Raises
    ------
    UserError
        For an axis that is none, or a prior that the run cannot be weighed to.
    """
    _check_over(over)
    weight = prior_weights(rows, priors)
    notes: list[str] = []
    lines: list[dict[str, object]] = []
    functions: dict[str, Completeness] = {}
    skipped = [a.name for a in AXES if recovered.column in a.reads]
    if skipped:
        notes.append(
            f"{recovered.column} decides what is recovered, so nothing is drawn against "
            f"{' and '.join(skipped)}."
        )
    axes = [axis for axis in AXES if axis.name not in skipped]
    grid = [name for name in over if name not in skipped]
    for name in SETS:
        members = rows.members[name]
        whole = _fractions(rows, recovered, np.where(members, 0, -1), 1, weight, seed)
        lines.append(_line(name, OVERALL, "all", whole, 0))
        for axis in axes:
            lines += _curve(rows, recovered, name, axis, members, weight, seed)
        made, note = _function(rows, recovered, name, grid, priors, weight, seed, whole)
        if made is not None:
            functions[name] = made
        if note and note not in notes:
            notes.append(note)
    if unscored := recovered.facts.get("unscored"):
        notes.append(f"{unscored:,} injections with pixels have no finite score: not recovered.")
    table = pd.DataFrame(lines, columns=COLUMNS)
    return Measured(
        table, functions, recovered, priors, rows.removed, _sentence(table, recovered), notes
    )


def _check_over(over: Sequence[str]) -> None:
    unknown = [name for name in over if name not in BY_NAME]
    if unknown or not 1 <= len(over) <= 2 or len(set(over)) != len(over):
        raise UserError(
            f"a function of completeness is over one axis or two of {', '.join(BY_NAME)}, not over "
            f"{', '.join(over) or 'none'}"
        )


def _fractions(
    rows: Injections,
    recovered: Recovered,
    bin_of: NDArray[np.int64],
    bins: int,
    weight: Floats | None,
    seed: int,
) -> Fractions:
    return fractions(recovered.what, bin_of, bins, rows.region, rows.host, weight=weight, seed=seed)


def _line(
    name: str,
    axis: str,
    label: str,
    found: Fractions,
    b: int,
    low: float = np.nan,
    high: float = np.nan,
    centre: float = np.nan,
    note: str = "",
) -> dict[str, object]:
    regions = int(found.regions[b])
    if not found.rows[b]:
        note = "empty: no test injection lies here"
    elif not note and not np.isfinite(found.confidence[b]):
        note = few_regions(regions, found.method[b])
    numbers = (
        name, axis, label, low, high, centre, found.value[b], found.lo[b], found.hi[b],
        found.confidence[b], found.method[b], int(found.recovered[b]), int(found.rows[b]),
        int(found.hosts[b]), regions, found.effective[b], found.independent[b], note,
    )  # fmt: skip
    return dict(zip(COLUMNS, numbers, strict=True))


def few_regions(regions: int, method: str) -> str:
    """Why an interval is not called 95 %."""
    if regions < DESCRIBED_REGIONS:
        rest = "hosts taken as independent" if method == "binomial" else "no interval"
        return f"{regions} regions (below {DESCRIBED_REGIONS}): {rest}, nothing is called 95 %"
    here = f"{regions} regions" if regions < MIN_REGIONS else "the threshold's regions"
    return f"{here} (below {MIN_REGIONS}): the interval is not called 95 %"


def _curve(
    rows: Injections,
    recovered: Recovered,
    name: str,
    axis: Axis,
    members: NDArray[np.bool_],
    weight: Floats | None,
    seed: int,
) -> list[dict[str, object]]:
    values, bins = rows.values[axis.name], len(axis.labels)
    bin_of = axis.bins(values)
    lost = members & (bin_of < 0)
    placed = np.where(members, np.where(lost, bins, bin_of), -1)
    found = _fractions(rows, recovered, placed, bins + 1, weight, seed)
    w = np.ones(len(rows)) if weight is None else weight
    ends = [-np.inf, *axis.edges, np.inf]
    lines = []
    for b, label in enumerate(axis.labels):
        here = placed == b
        total = float(w[here].sum())
        centre = float((w[here] * values[here]).sum() / total) if total > 0 else np.nan
        lines.append(_line(name, axis.name, label, found, b, ends[b], ends[b + 1], centre))
    if lost.any():
        note = "no value on this axis (a failed row has none): in no bin, counted in overall"
        lines.append(_line(name, axis.name, UNKNOWN, found, bins, note=note))
    return lines


def _function(
    rows: Injections,
    recovered: Recovered,
    name: str,
    over: Sequence[str],
    priors: Sequence[Prior],
    weight: Floats | None,
    seed: int,
    whole: Fractions,
) -> tuple[Completeness | None, str]:
    """The grid of one set; what has one value only is no axis of it."""
    members = rows.members[name]
    placed = members & np.logical_and.reduce(
        [np.isfinite(rows.values[axis]) for axis in over] or [members]
    )
    if weight is not None:
        placed &= weight > 0
    varied = [a for a in over if placed.any() and np.ptp(rows.values[a][placed]) > 0]
    dropped = [a for a in over if a not in varied]
    note = (
        f"{' and '.join(dropped)} has one value only: the function is not over it."
        if dropped
        else ""
    )
    if not varied:
        none = "no function is written: no axis of it has more than one value, or the criterion is on it."
        return None, none
    cells = max(int((placed.sum() / CELL) ** (1 / len(varied))), 2)
    edges = {axis: _edges(rows.values[axis][placed], min(cells, MOST_CELLS)) for axis in varied}
    shape = tuple(len(edge) - 1 for edge in edges.values())
    index = np.stack(
        [np.clip(np.digitize(rows.values[a], e[1:-1]), 0, len(e) - 2) for a, e in edges.items()]
    )
    cell = np.where(placed, np.ravel_multi_index(tuple(index), shape), -1).astype(np.int64)
    found = _fractions(rows, recovered, cell, int(np.prod(shape)), weight, seed)
    here = _fractions(rows, recovered, np.where(placed, 0, -1), 1, weight, seed)
    # Rows without a place on the axes (failed ones) are spread over the cells as the others are.
    factor = float(whole.value[0] / here.value[0]) if here.value[0] > 0 else 1.0
    measured = (found.effective >= LEAST) & (found.regions >= DESCRIBED_REGIONS)
    w = np.ones(len(rows)) if weight is None else weight
    nodes = {}
    for k, axis in enumerate(varied):
        top, bottom = (
            np.bincount(index[k][placed], weights=v[placed], minlength=shape[k])
            for v in (w * np.nan_to_num(rows.values[axis]), w)
        )
        nodes[axis] = np.divide(
            top, bottom, out=0.5 * (edges[axis][1:] + edges[axis][:-1]), where=bottom > 0
        )

    def grid(values: Floats) -> Floats:
        return np.where(measured, values, np.nan).reshape(shape)

    made = Cells(
        axes=tuple(varied),
        edges=tuple(edges.values()),
        nodes=tuple(nodes.values()),
        value=grid(found.value * factor),
        lower=grid(found.lo * factor),
        upper=grid(np.minimum(found.hi * factor, 1.0)),
        injections=found.rows.reshape(shape),
        regions=found.regions.reshape(shape),
        effective=found.effective.reshape(shape),
    )
    fewest = int(found.regions[measured].min()) if measured.any() else 0
    if isinstance(recovered.what, Scored):
        fewest = min(fewest, recovered.what.regions)
    about = {
        "set": name,
        "split": SPLIT,
        "data_identity": rows.identity,
        "recovered": recovered.text,
        **recovered.facts,
        "prior": [prior.text for prior in priors] or "as the run drew them",
        "axes": {
            a: {"title": BY_NAME[a].title, "unit": BY_NAME[a].unit or "dimensionless"}
            for a in varied
        },
        "unplaced_factor": factor,
        "fewest_regions": fewest,
        "confidence": 0.95 if fewest >= MIN_REGIONS else None,
    }
    return Completeness(made, about), note


def _edges(values: Floats, cells: int) -> Floats:
    """Edges between which there are equally many values; all of them lie inside."""
    edges = np.unique(np.quantile(values, np.linspace(0.0, 1.0, cells + 1)))
    return np.asarray(edges, float)


def _sentence(table: pd.DataFrame, recovered: Recovered) -> str:
    whole = table[table["axis"] == OVERALL].set_index("set")
    parts = []
    for name in SETS:
        line = whole.loc[name]
        if not line["injections"]:
            parts.append(f"{name}: empty")
            continue
        ends = f" [{line['lo']:.3f}, {line['hi']:.3f}]" if np.isfinite(line["lo"]) else ""
        parts.append(f"{name} {line['value']:.3f}{ends} of {line['injections']:,}")
    first = whole.loc["all"]
    note = f" ({first['note']})" if first["note"] else ""
    return (
        f"Recovered fraction of the planned test injections ({first['hosts']:,} hosts, "
        f"{first['regions']:,} regions; {recovered.text}): {'; '.join(parts)}{note}."
    )
