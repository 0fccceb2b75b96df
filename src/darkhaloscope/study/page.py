"""What came out of a study: one picture, one page."""

from __future__ import annotations

from importlib import resources

import matplotlib
import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from darkhaloscope.report.style import EXPECTED, INK, LIMIT, MUTED, OBSERVED, RC, number, svg
from darkhaloscope.study.arms import Study
from darkhaloscope.study.compare import ALL, Conclusion, front_points, line_of
from darkhaloscope.study.readers import READERS
from darkhaloscope.study.zones import WHOLE, ZONES

HEAD = [
    "arm", "core AUC", "excess over physics", "leak map, most", "(a) linear", "(a) profile",
    "(a) at the edge", "(b) linear", "(b) profile", "(b) − none", "flux kept", "small lenses lost",
    "core, leak, (b), small", "note",
]  # fmt: skip
RULES = ("core_auc", "leak", "physics_loss", "small_lost")
LABEL_ROOM, LABEL_GAP = 0.15, 0.016
"""Of the names beside points, in units of AUC: room at the right, and between two lines."""
MARKS = {"pass": "✓", "fail": "✗", "not_enough": "?"}


def study_page(name: str, study: Study, found: Conclusion, definition: str) -> tuple[str, Figure]:
    """The page as HTML, and its picture; the same results give the same text.

    Parameters
    ----------
    definition : str
        The study's file, every default filled in.
    """
    figure = picture(found)
    text = resources.files("darkhaloscope.study").joinpath("study.html.j2").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page = environment.from_string(text).render(
        name=name,
        sentence=found.sentence,
        rules=study.rules,
        small=study.small_theta_e_over_psf,
        lost=study.lost_below,
        head=HEAD,
        rows=summary(found),
        pareto=", ".join(found.pareto),
        picture=svg(figure),
        table=found.table.to_dict("records"),
        columns=list(found.table.columns),
        number=number,
        definition=definition,
    )
    return page, figure


def summary(found: Conclusion) -> list[list[str]]:
    """One row an arm, as text."""
    table = found.table
    rows = []
    for judged in found.judged:
        arm = judged.arm

        def cell(quantity: str, arm: str = arm, **where: str) -> str:
            return _with_interval(line_of(table, arm, quantity, **where))

        loss = line_of(table, arm, "b", reader="profile", zone=WHOLE)
        rows.append(
            [
                arm,
                cell("core_auc"),
                cell("excess_core_auc"),
                cell("leak_maximum"),
                cell("a", reader="linear", zone=WHOLE),
                cell("a", reader="profile", zone=WHOLE),
                cell("a", reader="profile", zone="edge"),
                cell("b", reader="linear", zone=WHOLE),
                cell("b", reader="profile", zone=WHOLE),
                _with_interval(loss, "difference"),
                cell("flux_kept"),
                cell("small_lost"),
                " ".join(MARKS[judged.rules[rule]] for rule in RULES),
                judged.note,
            ]
        )
    return rows


def markdown(found: Conclusion) -> str:
    """The recommendation and one row an arm, for a page of documentation."""
    lines = [found.sentence, "", f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    lines += [f"| {' | '.join(row)} |" for row in summary(found)]
    return "\n".join([*lines, "", f"Pareto front: {', '.join(found.pareto)}.", ""])


def _with_interval(line: pd.Series | None, column: str = "value") -> str:
    if line is None or not np.isfinite(float(line[column])):
        return "–"
    names = ("lo", "hi") if column == "value" else (f"{column}_lo", f"{column}_hi")
    lo, hi = (float(line[n]) for n in names)
    ends = f" [{lo:.3f}, {hi:.3f}]" if np.isfinite(lo) and np.isfinite(hi) else ""
    return f"{float(line[column]):.3f}{ends}"


def picture(found: Conclusion) -> Figure:
    """Pareto front; core AUC beside physics by stratum; (a) and (b) by reader and zone."""
    arms = [j.arm for j in found.judged]
    height = 2.6 + 0.34 * len(arms)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(13.0, 2 * height), layout="constrained")
        axes = figure.subplots(2, 2)
        _front(axes[0, 0], found)
        _strata(axes[0, 1], found, arms)
        titles = {
            "a": "(a) fixed told from unfixed: AUC",
            "b": "(b) trained on the arm, read on unfixed arcs: AUC",
        }
        for place, (quantity, title) in zip(axes[1], titles.items(), strict=True):
            keys = [(reader, zone) for reader in READERS for zone in ZONES]
            values = [
                [_value(found.table, arm, quantity, reader=r, zone=z) for r, z in keys]
                for arm in arms
            ]
            _grid(place, title, arms, [f"{r}\n{z}" for r, z in keys], values)
    return figure


def _value(table: pd.DataFrame, arm: str, quantity: str, **where: str) -> float:
    line = line_of(table, arm, quantity, **where)
    return float("nan") if line is None else float(line["value"])


def _front(axes: Axes, found: Conclusion) -> None:
    points = front_points(found.table)
    axes.set_title("what a fix buys and costs", loc="left", fontweight="bold")
    axes.set_xlabel("core AUC in excess of physics")
    axes.set_ylabel("(b) AUC on unfixed arcs, profile reader")
    lines = points.to_dict("records")
    places = _label_heights(
        [float(line["x"]) for line in lines], [float(line["y"]) for line in lines]
    )
    for line, height in zip(lines, places, strict=True):
        arm = str(line["arm"])
        x, y, *ends = (float(line[c]) for c in ("x", "y", "x_lo", "x_hi", "y_lo", "y_hi"))
        x_lo, x_hi, y_lo, y_hi = np.nan_to_num(np.abs(np.array(ends) - [x, x, y, y]))
        colour = LIMIT if arm == found.recommended else OBSERVED if arm in found.pareto else MUTED
        axes.errorbar(
            [x], [y], xerr=[[x_lo], [x_hi]], yerr=[[y_lo], [y_hi]], fmt="o", color=colour,
            markerfacecolor="white" if line["note"] else colour, elinewidth=1.0,
        )  # fmt: skip
        axes.annotate(
            arm, (x, y), xytext=(x + 0.02, height), va="center", fontsize=8, color=INK,
            arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.5},
        )  # fmt: skip
    front = points[points["arm"].isin(found.pareto)].sort_values("x")
    step_x, step_y = (front[column].to_numpy(float) for column in ("x", "y"))
    axes.step(step_x, step_y, where="post", color=EXPECTED, linewidth=1.0)
    axes.axvline(0.0, color=MUTED, linewidth=0.8, linestyle="--")
    axes.set_xlim(right=max(0.0, float(points["x"].max())) + LABEL_ROOM)


def _label_heights(x: list[float], y: list[float]) -> list[float]:
    """Heights of the labels: those of points, pushed down where labels of one side would overlap."""
    heights = list(y)
    last = {True: np.inf, False: np.inf}
    for i in sorted(range(len(y)), key=lambda i: -y[i]):
        side = x[i] > -LABEL_ROOM
        heights[i] = last[side] = min(y[i], last[side] - LABEL_GAP)
    return heights


def _strata(axes: Axes, found: Conclusion, arms: list[str]) -> None:
    table = found.table[found.table["quantity"] == "excess_core_auc"]
    strata = [s for s in pd.unique(table["stratum"])]
    values = [[_value(found.table, arm, "core_auc", stratum=s) for s in strata] for arm in arms]
    labels = [s if s == ALL else f"θ_E/PSF\n{s}" for s in strata]
    _grid(axes, "core AUC by Einstein radius", arms, labels, values)


def _grid(
    axes: Axes, title: str, arms: list[str], labels: list[str], values: list[list[float]]
) -> None:
    """Numbers as a coloured table, an arm a row; 0.5 is white."""
    axes.set_title(title, loc="left", fontweight="bold")
    axes.grid(visible=False)
    axes.imshow(np.array(values), cmap="PuOr_r", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set_yticks(range(len(arms)), arms, fontsize=8)
    for i, row in enumerate(values):
        for k, value in enumerate(row):
            text = f"{value:.2f}" if np.isfinite(value) else "–"
            bright = not np.isfinite(value) or 0.15 < value < 0.85
            axes.text(
                k, i, text, ha="center", va="center", fontsize=8, color=INK if bright else "white"
            )
