"""Real lenses on a page: where they rank among galaxies like them, which are found, which are missed."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from darkhaloscope.completeness.page import filled
from darkhaloscope.detect.lenses import CONTROL, LENS, NONLENS, Scored
from darkhaloscope.detect.recall import Recall
from darkhaloscope.report.examples import rgb
from darkhaloscope.report.style import (
    EXPECTED,
    LIMIT,
    MUTED,
    OBSERVED,
    RC,
    bars,
    legend,
    number,
    panel,
    png,
    svg,
)

SHOWN = 12
"""Hits, and misses, that the gallery shows."""


def lenses_page(
    detector: str, scored: Scored, found: Recall, bands: Sequence[str]
) -> tuple[str, dict[str, Figure]]:
    """The page as HTML and its pictures by name; the same results give the same text."""
    table = scored.table
    figures = {"rank": _ranks(table, found), "scores": _scores(table, found)}
    page = filled(
        "darkhaloscope.detect",
        "lenses.html.j2",
        detector=detector,
        sentence=found.sentence,
        outcome=found.gate.outcome,
        pictures=[(name, svg(figure)) for name, figure in figures.items()],
        recall=found.table.to_dict("records"),
        columns=list(found.table.columns),
        galleries=_galleries(scored, found, bands),
        outcomes=outcomes(table).to_dict("records"),
        notes=scored.notes[:50],
        more=max(len(scored.notes) - 50, 0),
        number=number,
    )
    return page, figures


def outcomes(table: pd.DataFrame) -> pd.DataFrame:
    """How many rows ended how, by kind: ``kind``, ``catalogue``, ``outcome``, ``reason``, ``rows``."""
    by = ["kind", "catalogue", "outcome", "reason"]
    return table.groupby(by, sort=False).size().rename("rows").reset_index()


def ranks(table: pd.DataFrame) -> pd.Series:
    """Of each scored row the fraction of scored matched galaxies with a score at least as high."""
    scored = table["outcome"] == "scored"
    controls = np.sort(table.loc[scored & (table["kind"] == CONTROL), "score"].to_numpy(float))
    out = pd.Series(np.nan, index=table.index)
    if len(controls):
        below = np.searchsorted(controls, table.loc[scored, "score"].to_numpy(float), "left")
        out[scored] = 1.0 - below / len(controls)
    return out


def _ranks(table: pd.DataFrame, found: Recall) -> Figure:
    figure, axes = panel(
        "where lenses rank", "fraction of matched galaxies above", "fraction of lenses", (5.2, 3.9)
    )
    rank = ranks(table)
    n = int(((table["kind"] == CONTROL) & (table["outcome"] == "scored")).sum())
    least = 0.5 / max(n, 1)
    for kind, colour, label in ((LENS, OBSERVED, "lenses"), (NONLENS, LIMIT, "known non-lenses")):
        x = np.sort(rank[(table["kind"] == kind)].dropna().to_numpy(float))
        if len(x):
            y = np.arange(1, len(x) + 1) / len(x)
            axes.step(
                np.maximum(x, least), y, where="post", color=colour, label=f"{label} ({len(x):,})"
            )
    line = np.geomspace(least, 1.0, 50)
    axes.plot(line, line, color=MUTED, linestyle="--", linewidth=0.9, label="chance")
    points = found.table[(found.table["of"] == "lenses")].dropna(subset=["value"])
    if len(points):
        x, y, lo, hi = (points[c].to_numpy(float) for c in ("fpr", "value", "lo", "hi"))
        bars(axes, x, y, lo, hi, color=EXPECTED, marker="o", label="recall at a fixed rate")
    axes.set_xscale("log")
    axes.set_ylim(-0.03, 1.03)
    with matplotlib.rc_context(RC):
        legend(figure, axes, 2)
    return figure


def _scores(table: pd.DataFrame, found: Recall) -> Figure:
    figure, axes = panel("scores", "log odds", "fraction of the class", (5.2, 3.9))
    scored = table[table["outcome"] == "scored"]
    finite = scored["score"].to_numpy(float)
    edges = np.linspace(finite.min(), finite.max() + 1e-9, 31) if len(finite) else np.arange(2.0)
    for kind, colour, label in (
        (CONTROL, MUTED, "matched galaxies"),
        (LENS, OBSERVED, "lenses"),
        (NONLENS, LIMIT, "known non-lenses"),
    ):
        values = scored.loc[scored["kind"] == kind, "score"].to_numpy(float)
        if len(values):
            height = np.histogram(values, edges)[0] / len(values)
            axes.stairs(
                height, edges, color=colour, label=f"{label} ({len(values):,})", linewidth=1.4
            )
    if np.isfinite(found.threshold):
        axes.axvline(found.threshold, color=EXPECTED, linestyle="--", label="threshold")
    with matplotlib.rc_context(RC):
        legend(figure, axes, 2)
    return figure


def _galleries(
    scored: Scored, found: Recall, bands: Sequence[str]
) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """(title, [(image, headline, place)]): hits by falling score, misses from the lowest on."""
    table = scored.table
    lenses = table[(table["kind"] == LENS) & (table["outcome"] == "scored")]
    lenses = lenses.sort_values("score", ascending=False, kind="stable")
    rank = ranks(table)
    if not np.isfinite(found.threshold):
        groups = [("Lenses by falling score (no threshold can be claimed)", lenses.head(2 * SHOWN))]
    else:
        above = lenses["score"] > found.threshold
        groups = [("Hits", lenses[above].head(SHOWN)), ("Misses", lenses[~above].tail(SHOWN)[::-1])]
    made = []
    for title, rows in groups:
        pictures = []
        for i in rows.index.to_numpy(int).tolist():
            row = table.loc[i]
            empty = np.asarray(scored.nodata[i].all(axis=0))
            image = png(rgb(scored.images[i].astype(float), bands, empty))
            head = f"{row['name']} {row['grade']}".strip()
            above_it = f"{number(100 * float(rank.loc[i]), 3)} % of matched galaxies"
            place = f"score {number(row['score'], 3)}, above it {above_it}, brick {row['brick']}"
            pictures.append((image, head, place))
        made.append((title, pictures))
    return made
