"""What was measured: a picture an axis, the grid, one page."""

from __future__ import annotations

from importlib import resources

import matplotlib
import numpy as np
import pandas as pd
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from darkhaloscope.completeness.axes import AXES, Axis
from darkhaloscope.completeness.function import Completeness
from darkhaloscope.completeness.measure import OVERALL, UNKNOWN, Measured
from darkhaloscope.completeness.rows import SETS
from darkhaloscope.report.style import (
    BAND_COLOURS,
    EXPECTED,
    MARKERS,
    MUTED,
    OBSERVED,
    RC,
    bars,
    legend,
    number,
    panel,
    stratum,
    svg,
)

COLOURS = dict(zip(SETS, (OBSERVED, BAND_COLOURS["g"], EXPECTED), strict=True))
NAMES = {"all": "all planned", "clean": "clean", "no_psf_fallback": "no PSF fallback"}


def completeness_page(run: str, found: Measured) -> tuple[str, dict[str, Figure]]:
    """The page as HTML and its pictures by name; the same results give the same text."""
    figures = pictures(found)
    page = filled(
        "darkhaloscope.completeness",
        "completeness.html.j2",
        run=run,
        sentence=found.sentence,
        notes=found.notes,
        facts=found.recovered.facts,
        priors=[prior.text for prior in found.priors],
        pictures=[(name, svg(figure)) for name, figure in figures.items()],
        removed=found.removed.to_dict("records"),
        table=found.table.to_dict("records"),
        columns=list(found.table.columns),
        empty=_said(found.table, "empty"),
        number=number,
    )
    return page, figures


def filled(package: str, template: str, **values: object) -> str:
    """A package's HTML template with its values filled in: escaped, and none of them missing."""
    text = resources.files(package).joinpath(template).read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(text).render(**values)


def _said(table: pd.DataFrame, word: str) -> str:
    """Bins of all planned injections that are empty, by axis."""
    none = table[table["note"].str.startswith(word) & (table["set"] == "all")]
    parts = [
        f"{axis}: {', '.join(stratum(str(b)) for b in group['bin'])}"
        for axis, group in none.groupby("axis", sort=False)
    ]
    return "; ".join(parts)


def pictures(found: Measured) -> dict[str, Figure]:
    """One picture an axis that was measured, and one of the function of all planned injections."""
    drawn = {}
    for axis in AXES:
        lines = found.table[(found.table["axis"] == axis.name) & (found.table["bin"] != UNKNOWN)]
        if lines["injections"].sum() > 0:
            drawn[axis.name] = _curve(axis, lines, found.table)
    if "all" in found.functions and len(found.functions["all"].axes) == 2:
        drawn["function"] = _map(found.functions["all"])
    return drawn


def _curve(axis: Axis, lines: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Fractions by bin; hollow where the interval is not called 95 %, a gap where a bin is empty."""
    unit = f" [{axis.unit}]" if axis.unit else ""
    figure, axes = panel(axis.title, axis.name + unit, "recovered fraction", size=(5.2, 3.8))
    for k, name in enumerate(SETS):
        part = lines[lines["set"] == name]
        x = np.arange(len(part)) + 0.16 * (k - 1)
        value, lo, hi = (part[c].to_numpy(float) for c in ("value", "lo", "hi"))
        sure = np.isfinite(part["confidence"].to_numpy(float))
        for rows, face in ((sure, COLOURS[name]), (~sure, "white")):
            if rows.any():
                label = NAMES[name] if rows is sure or not sure.any() else None
                bars(
                    axes, x[rows], value[rows], lo[rows], hi[rows], color=COLOURS[name],
                    marker=MARKERS[k], markerfacecolor=face, markersize=5.5, label=label,
                )  # fmt: skip
        overall = table[(table["set"] == name) & (table["axis"] == OVERALL)]["value"]
        axes.axhline(float(overall.iloc[0]), color=COLOURS[name], linewidth=0.7, linestyle=":")
    first = lines[lines["set"] == "all"]
    labels = [
        f"{stratum(str(b))}\n{n:,}" if n else f"{stratum(str(b))}\nempty"
        for b, n in zip(first["bin"], first["injections"], strict=True)
    ]
    axes.set_xticks(range(len(labels)), labels, fontsize=7.5)
    axes.set_ylim(-0.03, 1.03)
    with matplotlib.rc_context(RC):
        legend(figure, axes, 3)
    return figure


def _map(function: Completeness) -> Figure:
    """The grid of two axes as colours, NaN as ground."""
    cells = function.cells
    figure, axes = panel("the function, all planned", cells.axes[0], cells.axes[1], size=(5.2, 4.0))
    axes.grid(visible=False)
    axes.set_facecolor("#ececec")
    mesh = axes.pcolormesh(*cells.edges, cells.value.T, vmin=0.0, vmax=1.0, cmap="viridis")
    mesh.set_rasterized(True)
    for (i, k), value in np.ndenumerate(cells.value):
        x, y = (0.5 * (e[j] + e[j + 1]) for e, j in zip(cells.edges, (i, k), strict=True))
        bright = np.isfinite(value) and value < 0.6
        text = f"{value:.2f}" if np.isfinite(value) else "–"
        colour = "white" if bright else MUTED if not np.isfinite(value) else "black"
        axes.text(x, y, text, ha="center", va="center", fontsize=6.5, color=colour)
    figure.colorbar(mesh, ax=axes, label="recovered fraction")
    return figure
