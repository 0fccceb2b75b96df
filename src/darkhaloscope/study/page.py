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
from darkhaloscope.study.arms import REFERENCE, Study
from darkhaloscope.study.compare import Conclusion
from darkhaloscope.study.numbers import ALL, COUNTS, NO_TEST, line_of
from darkhaloscope.study.readers import READERS
from darkhaloscope.study.rules import front_points
from darkhaloscope.study.zones import WHOLE, ZONES

HEAD = [
    "arm", "core AUC", "core − none", "excess over its physics", "leak map, most", "(a) linear",
    "(a) profile", "(a) at the edge", "(b) linear", "(b) profile", "(b) − none", "(c) profile",
    "brightness gap", "flux kept", "small lenses lost", "core, leak, (b), small", "note",
]  # fmt: skip
UNTESTED = " *"
"""Behind a number that could not have come out otherwise."""
RULES = ("core_auc", "leak", "physics_loss", "small_lost")
LABEL_ROOM, LABEL_GAP = 0.15, 0.016
"""Of the names beside points, in units of AUC: room at the right, and between two lines."""
MARKS = {"pass": "✓", "fail": "✗", "not_enough": "?"}


def study_page(
    name: str,
    study: Study,
    found: Conclusion,
    outcomes: pd.DataFrame,
    pairs: str,
    definition: str,
) -> tuple[str, Figure]:
    """The page as HTML, and its picture; the same results give the same text.

    Parameters
    ----------
    outcomes : DataFrame
        Pairs by arm and outcome: :attr:`darkhaloscope.study.Read.outcomes`.
    pairs : str
        What became of them, in a sentence.
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
        strata_head=strata_head(found),
        strata=strata_rows(found),
        pairs=pairs,
        outcomes=outcomes.to_dict("records"),
        pareto=", ".join(found.pareto),
        picture=svg(figure),
        table=found.table.astype(dict.fromkeys(COUNTS, float)).to_dict("records"),
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

        core = line_of(table, arm, "core_auc")
        loss = line_of(table, arm, "b", reader="profile", zone=WHOLE)
        gaps = (line_of(table, arm, "brightness_gap", zone=z) for z in ("ctrl", "negatives"))
        rows.append(
            [
                arm,
                cell("core_auc"),
                _with_interval(core, "difference"),
                cell("excess_core_auc"),
                cell("leak_maximum"),
                cell("a", reader="linear", zone=WHOLE),
                cell("a", reader="profile", zone=WHOLE),
                cell("a", reader="profile", zone="edge"),
                cell("b", reader="linear", zone=WHOLE),
                cell("b", reader="profile", zone=WHOLE),
                _with_interval(loss, "difference"),
                cell("c", reader="profile", zone=WHOLE),
                " → ".join(_with_interval(gap) for gap in gaps),
                cell("flux_kept"),
                cell("small_lost"),
                " ".join(MARKS[judged.rules[rule]] for rule in RULES),
                judged.note,
            ]
        )
    return rows


def _strata_of(found: Conclusion) -> list[str]:
    """The strata that have rows, all of them first."""
    return list(pd.unique(found.table.loc[found.table["quantity"] == "core_auc", "stratum"]))


def strata_head(found: Conclusion) -> list[str]:
    """Head of the table of core AUCs by stratum."""
    return ["arm", *(s if s == ALL else f"θ_E/PSF {s}" for s in _strata_of(found))]


def strata_rows(found: Conclusion) -> list[list[str]]:
    """Core AUC of each arm by stratum, with pairs, hosts and regions, as text."""
    rows = []
    for judged in found.judged:
        cells = []
        for stratum in _strata_of(found):
            line = line_of(found.table, judged.arm, "core_auc", stratum=stratum)
            counts = "" if line is None else f" ({line.pairs}, {line.hosts}, {line.regions})"
            cells.append(_with_interval(line) + counts)
        rows.append([judged.arm, *cells])
    return rows


def markdown(found: Conclusion, pairs: str) -> str:
    """The recommendation, one row an arm, and core AUCs by stratum, for a page of documentation.

    Parameters
    ----------
    pairs : str
        What became of the planned pairs, in a sentence.
    """
    lines = [
        found.sentence,
        "",
        f"{pairs[0].upper()}{pairs[1:]}.",
        "",
        *_table(HEAD, summary(found)),
    ]
    lines += [
        "", f"`{UNTESTED.strip()}`: not a test, it could not have come out otherwise. Brightness gap: of the "
        "core, before → after the arm's choice of negatives.",
        "", f"Pareto front: {', '.join(found.pareto)}.",
        "", "Core AUC by stratum, with pairs, hosts and regions; no interval below five regions.",
        "", *_table(strata_head(found), strata_rows(found)), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table in Markdown."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _with_interval(line: pd.Series | None, column: str = "value") -> str:
    if line is None or not np.isfinite(float(line[column])):
        return "–"
    names = ("lo", "hi") if column == "value" else (f"{column}_lo", f"{column}_hi")
    lo, hi = (float(line[n]) for n in names)
    if str(line["note"]).startswith(NO_TEST):
        return f"{float(line[column]):z.3f}{UNTESTED}"
    ends = f" [{lo:z.3f}, {hi:z.3f}]" if np.isfinite(lo) and np.isfinite(hi) else ""
    return f"{float(line[column]):z.3f}{ends}"


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
            "a": "(a) the arm's injections told from plain ones: AUC",
            "b": "(b) trained on the arm, read on plain arcs: AUC",
        }
        for place, (quantity, title) in zip(axes[1], titles.items(), strict=True):
            keys = [(reader, zone) for reader in READERS for zone in ZONES]
            cells = [
                [line_of(found.table, arm, quantity, reader=r, zone=z) for r, z in keys]
                for arm in arms
            ]
            _grid(place, title, arms, [f"{r}\n{z}" for r, z in keys], cells)
    return figure


def _front(axes: Axes, found: Conclusion) -> None:
    points = front_points(found.table)
    axes.set_title("what a fix buys and costs", loc="left", fontweight="bold")
    axes.set_xlabel("core AUC in excess of the arm's own physics")
    axes.set_ylabel("(b) AUC on plain arcs, profile reader")
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
    shown = ((LIMIT, "full", "recommended"), (OBSERVED, "full", "Pareto front"),
             (MUTED, "full", "another arm"), (MUTED, "none", "hollow: equal cores, not a test"))  # fmt: skip
    for colour, fill, label in shown:
        axes.plot([], [], "o", color=colour, fillstyle=fill, label=label)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=4, fontsize=8, frameon=False)
    front = points[points["arm"].isin(found.pareto)].sort_values("x")
    step_x, step_y = (front[column].to_numpy(float) for column in ("x", "y"))
    axes.step(step_x, step_y, where="post", color=EXPECTED, linewidth=1.0)
    axes.axvline(0.0, color=MUTED, linewidth=0.8, linestyle="--")
    axes.set_xlim(right=max(0.0, float(points["x"].max())) + LABEL_ROOM)


def _label_heights(x: list[float], y: list[float]) -> list[float]:
    """Heights of the labels: those of points, pushed down where labels would overlap: labels to the right of
    points less than a label's width apart, whichever comes first."""
    heights = list(y)
    placed: list[int] = []
    for i in sorted(range(len(y)), key=lambda i: -y[i]):
        near = [heights[j] for j in placed if abs(x[j] - x[i]) < LABEL_ROOM]
        heights[i] = min([y[i], *(height - LABEL_GAP for height in near)])
        placed.append(i)
    return heights


def _strata(axes: Axes, found: Conclusion, arms: list[str]) -> None:
    strata = _strata_of(found)
    cells = [[line_of(found.table, arm, "core_auc", stratum=s) for s in strata] for arm in arms]
    labels = []
    for stratum in strata:
        line = line_of(found.table, REFERENCE, "core_auc", stratum=stratum)
        counts = "" if line is None else f"\n{line.pairs} pairs\n{line.regions} regions"
        labels.append((stratum if stratum == ALL else f"θ_E/PSF\n{stratum}") + counts)
    _grid(axes, "core AUC by Einstein radius (* not a test)", arms, labels, cells)


def _grid(
    axes: Axes, title: str, arms: list[str], labels: list[str], cells: list[list[pd.Series | None]]
) -> None:
    """Lines' numbers as a coloured table, an arm a row; 0.5 is white, and what is not a test has a mark."""
    values = [[np.nan if c is None else float(c["value"]) for c in row] for row in cells]
    axes.set_title(title, loc="left", fontweight="bold")
    axes.grid(visible=False)
    axes.imshow(np.array(values), cmap="PuOr_r", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(range(len(labels)), labels, fontsize=8)
    axes.set_yticks(range(len(arms)), arms, fontsize=8)
    for i, row in enumerate(values):
        for k, value in enumerate(row):
            text = f"{value:.2f}" if np.isfinite(value) else "–"
            cell = cells[i][k]
            if cell is not None and str(cell["note"]).startswith(NO_TEST):
                text += "*"
            bright = not np.isfinite(value) or 0.15 < value < 0.85
            axes.text(
                k, i, text, ha="center", va="center", fontsize=8, color=INK if bright else "white"
            )
