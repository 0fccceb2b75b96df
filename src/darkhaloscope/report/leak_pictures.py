"""Pictures of the leak map, of metadata, of alignment, and of arcs by Einstein radius."""

from __future__ import annotations

import numpy as np
import pandas as pd

from darkhaloscope.audit.growth import RECORDED, RERENDERED, TREND
from darkhaloscope.audit.leak_map import BLOCK, GRID, RINGS
from darkhaloscope.report.closure_pictures import thin
from darkhaloscope.report.load import Findings
from darkhaloscope.report.pictures import Picture, finish, known, numbers, rerendered
from darkhaloscope.report.style import (
    EXPECTED,
    INK,
    LIMIT,
    MUTED,
    OBSERVED,
    band_style,
    bars,
    dots,
    legend,
    number,
    panel,
    stratum,
)

MOST_COLUMNS = 12


def leak_pictures(found: Findings) -> list[Picture]:
    """AUC of rings, and of a grid of blocks: as seen, and what the re-rendered arcs leave of it."""
    table = found["leak_map"]
    rings = table[table["reader"] == RINGS]
    if rings.empty:
        return []
    place = np.arange(len(rings), dtype=float)
    figure, axes = panel(
        "by ring", "radius from the centre [pixel]",
        f"AUC of {'stamp against ctrl' if found.paired else 'lens against no lens'}", (4.2, 4.0),
    )  # fmt: skip
    bars(axes, place, *(numbers(rings, c) for c in ("auc", "auc_lo", "auc_hi")),
         color=OBSERVED, fmt="o", markersize=5, label="observed")  # fmt: skip
    rerendered(axes, place, numbers(rings, "auc_rerendered"), "re-rendered arcs")
    axes.axhline(0.5, color=MUTED, lw=1)
    labels = [str(p).removesuffix(" px").replace("-", "–") for p in rings["part"]]
    axes.set_xticks(place, labels, rotation=60, ha="right", fontsize=8)
    legend(figure, axes, 2)
    beside = " beside re-rendered" if known(rings, "auc_rerendered") else ""
    out = [finish(figure, f"AUC of each ring, observed{beside}")]
    blocks = table[table["reader"] == BLOCK]
    for column, title, about in (("auc", "by block: observed", 0.5),
                                 ("excess", "by block: excess", 0.0)):  # fmt: skip
        values = numbers(blocks, column)
        if len(values) != GRID * GRID or not np.isfinite(values).any():
            continue
        reach = max(float(np.nanmax(np.abs(values - about))), found.limit("excess_auc"), 0.01)
        figure, axes = panel(title, "x [pixel] (West →)", "y [pixel] (North ↑)", (4.2, 4.0))
        xs, ys = numbers(blocks, "x"), numbers(blocks, "y")
        side = (xs.max() - xs.min()) / (GRID - 1)
        ends = (xs.min() - side / 2, xs.max() + side / 2, ys.min() - side / 2, ys.max() + side / 2)
        image = axes.imshow(values.reshape(GRID, GRID), origin="lower", extent=ends, cmap="RdBu_r",
                            vmin=about - reach, vmax=about + reach)  # fmt: skip
        axes.grid(visible=False)
        figure.colorbar(image, ax=axes, shrink=0.8, label="AUC" if about else "difference of AUC")
        out.append(finish(figure, f"map of blocks over the stamp, {title}"))
    return out


def selection_pictures(found: Findings) -> list[Picture]:
    """How well each metadata column tells injections from controls."""
    table = found["selection"].head(MOST_COLUMNS)
    if table.empty:
        return []
    place = np.arange(len(table), dtype=float)[::-1]
    figure, axes = panel("injections against controls", "AUC of metadata", "", (4.2, 4.4))
    bars(axes, place, *(numbers(table, c) for c in ("auc", "lo", "hi")), horizontal=True,
         color=OBSERVED, fmt="o", markersize=6)  # fmt: skip
    axes.axvline(0.5, color=INK, lw=0.8)
    limit = 0.5 + found.limit("excess_auc")
    if np.isfinite(limit):
        axes.axvline(
            limit, color=LIMIT, lw=1.2, ls=(0, (4, 3)), label=f"tolerance {limit:g}, all columns"
        )
        legend(figure, axes, 1)
    axes.set_yticks(place, [str(c).replace("_", " ") for c in table["column"]])
    axes.set_ylim(-0.6, len(table) - 0.4)
    return [finish(figure, "AUC of metadata columns between injections and controls")]


def alignment_pictures(found: Findings) -> list[Picture]:
    """Displacement of stamps against their ctrl, the core for shifted ctrl, peak radius, quadrants."""
    out = []
    shifts = found["shift_sensitivity"].dropna(subset=["mean"])
    if len(shifts) == 9:
        figure, axes = panel(
            "core if ctrl were shifted", "shift in x [pixel]", "shift in y [pixel]"
        )
        grid = numbers(shifts, "mean").reshape(3, 3)
        image = axes.imshow(grid, origin="lower", extent=(-1.5, 1.5, -1.5, 1.5), cmap="viridis")
        for value, dy, dx in zip(grid.ravel(), shifts["dy"], shifts["dx"], strict=True):
            bright = value > (grid.min() + grid.max()) / 2
            axes.text(float(dx), float(dy), f"{value:.3g}", ha="center", va="center",
                      color=INK if bright else "white", fontsize=9)  # fmt: skip
        axes.grid(visible=False)
        axes.set_xticks([-1, 0, 1])
        axes.set_yticks([-1, 0, 1])
        figure.colorbar(image, ax=axes, shrink=0.8, label="stamp − ctrl [sky σ / pixel]")
        out.append(finish(figure, "mean core difference for shifted ctrl"))
    pairs = found["closure_pairs"].dropna(subset=["peak_radius"])
    if len(pairs):
        figure, axes = panel(
            "where arcs peak", r"$\theta_E$ [arcsec]", "radius of the peak [pixel]"
        )
        for band in found.bands:
            part = thin(pairs[pairs["band"] == band])
            dots(axes, numbers(part, "theta_e"), numbers(part, "peak_radius"), band, found.bands)
        band = found.reference
        part = thin(pairs[pairs["band"] == band])
        axes.plot(numbers(part, "theta_e"), numbers(part, "peak_radius_rerendered"), "+", color=INK,
                  markersize=4, ls="none", label=f"re-rendered, {band}")  # fmt: skip
        legend(figure, axes, 4, scale=1.5)
        out.append(finish(figure, "radius of the arcs' peak against Einstein radius"))
    quadrants = found["quadrants"].dropna(subset=["value"])
    if len(quadrants):
        out.append(_beside(quadrants, [str(q) for q in quadrants["quadrant"]], "quadrants of the arcs",
                           "quadrant about the target", "fraction of the light"))  # fmt: skip
    return out


CORE_LABELS = {
    "core_fraction": ("light in the core (r < 5 px)", "fraction of the arc"),
    "core_excess": ("what arcs add to the core", "arc / ctrl, r < 5 px"),
    "centre_to_peak": ("centre of the profile", "centre / peak"),
}


def core_pictures(found: Findings) -> list[Picture]:
    """Core fraction, core excess and centre-to-peak ratio by theta_e, beside the re-rendered arcs."""
    table = found["core"]
    table = table[table["family"].isin(["all", "theta_e"])]
    out = []
    for quantity, (title, label) in CORE_LABELS.items():
        part = table[table["quantity"] == quantity].dropna(subset=["value"])
        if len(part):
            names = [stratum(str(s)) for s in part["stratum"]]
            out.append(_beside(part, names, title, r"$\theta_E$ [arcsec]", label))
    return out


def core_slopes(found: Findings) -> list[Picture]:
    """Core light against theta_e, the arc's whole light and its S/N, stored beside re-rendered."""
    lines, points = found["core_slopes"], found["core_points"]
    out = []
    for line in lines.to_dict("records"):
        name = str(line["on"])
        figure, axes = panel(
            f"core against {SLOPE_ON[name][0]}", SLOPE_ON[name][1], "core [nMgy / pixel]"
        )
        x = numbers(points, name)
        axes.plot(x, numbers(points, "core"), ".", color=OBSERVED, markersize=4, alpha=0.5,
                  rasterized=True, label="stored")  # fmt: skip
        axes.plot(x, numbers(points, "core_rerendered"), "+", color=EXPECTED, markersize=4, alpha=0.7,
                  rasterized=True, label="re-rendered")  # fmt: skip
        y = numbers(points, "core")
        ends = np.array([np.nanmin(x), np.nanmax(x)])
        axes.plot(ends, np.nanmean(y) + line["slope"] * (ends - np.nanmean(x)), color=INK, lw=1.2,
                  label=f"slope {number(line['slope'], 2)}, R² {number(line['r2'], 2)}")  # fmt: skip
        legend(figure, axes, 3, scale=2.0)
        out.append(finish(figure, f"light in the core against {SLOPE_ON[name][0]}"))
    return out


SLOPE_ON = {
    "theta_e": ("Einstein radius", r"$\theta_E$ [arcsec]"),
    "flux": ("light of the arc", "arc [nMgy]"),
    "snr": ("S/N", "arc S/N"),
}


def growth_pictures(found: Findings) -> list[Picture]:
    """Light and area of arcs by theta_e, beside the re-rendered ones."""
    table = found["growth"]
    out = []
    for quantity, title, label in (
        ("flux", "light of an arc", "[nMgy]"),
        ("area", "area of an arc", "[arcsec²]"),
    ):
        part = table[(table["quantity"] == quantity) & (table["stratum"] != TREND)]
        part = part.dropna(subset=["value"])
        if len(part):
            names = [stratum(str(s)) for s in part["stratum"]]
            out.append(_beside(part, names, title, r"$\theta_E$ [arcsec]", label))
    return out


def magnifications(found: Findings) -> list[Picture]:
    """Percentiles of recorded magnifications by theta_e, beside the re-rendered ones."""
    table = found["magnification"]
    if table.empty:
        return []
    names = [str(s) for s in pd.unique(table["stratum"])]
    figure, axes = panel("magnification", r"$\theta_E$ [arcsec]", "lensed / intrinsic flux")
    for kind, colour, marker, shift in (
        (RECORDED, OBSERVED, "o", -0.1),
        (RERENDERED, EXPECTED, "D", 0.1),
    ):
        part = table[table["of"] == kind]
        place = np.array([names.index(str(s)) for s in part["stratum"]]) + shift
        axes.vlines(place, numbers(part, "p5"), numbers(part, "p95"), color=colour, lw=1.2)
        axes.vlines(place, numbers(part, "p16"), numbers(part, "p84"), color=colour, lw=3.5)
        axes.plot(place, numbers(part, "median"), marker, color=colour, markersize=6, ls="none",
                  label=kind)  # fmt: skip
        axes.plot(place, numbers(part, "min"), "_", color=colour, markersize=8, ls="none")
        axes.plot(place, numbers(part, "max"), "_", color=colour, markersize=8, ls="none")
    axes.axhline(1.0, color=LIMIT, lw=1.2, ls=(0, (4, 3)), label="no lens")
    axes.set_yscale("log")
    axes.set_xticks(
        range(len(names)), [stratum(s) for s in names], rotation=30 if len(names) > 4 else 0
    )
    legend(figure, axes, 3, "median, 16–84 %, 5–95 %, extremes")
    return [finish(figure, "percentiles of the magnification by Einstein radius")]


def _beside(part: pd.DataFrame, names: list[str], title: str, xlabel: str, ylabel: str) -> Picture:
    figure, axes = panel(title, xlabel, ylabel)
    place = np.arange(len(part), dtype=float)
    bars(axes, place - 0.1, *(numbers(part, c) for c in ("value", "lo", "hi")), color=OBSERVED,
         fmt="o", markersize=6, label="stored")  # fmt: skip
    rerendered(axes, place + 0.1, numbers(part, "rerendered"), "re-rendered")
    axes.set_xticks(place, names, rotation=30 if len(names) > 4 else 0)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    legend(figure, axes, 2)
    return finish(figure, title)


def group_pictures(found: Findings) -> list[Picture]:
    """Closure by split and by PSF source."""
    table = found["groups"]
    table = table[table["quantity"] == "flux_ratio"].dropna(subset=["value"])
    out = []
    for by, title in (("split", "flux by split"), ("psf_source", "flux by PSF source")):
        part = table[table["by"] == by]
        groups = [str(g) for g in pd.unique(part["group"])]
        if len(groups) < 2:
            continue
        figure, axes = panel(title, by.replace("_", " "), "flux ratio − 1")
        for k, band in enumerate(found.bands):
            line = part[part["band"] == band]
            x = np.array([groups.index(str(g)) for g in line["group"]], dtype=float)
            colour, marker = band_style(band, found.bands)
            bars(axes, x + 0.16 * (k - (len(found.bands) - 1) / 2),
                 *(numbers(line, c) - 1.0 for c in ("value", "lo", "hi")), color=colour, fmt=marker,
                 markersize=5, label=band)  # fmt: skip
        axes.axhline(0, color=INK, lw=0.8)
        axes.set_xticks(range(len(groups)), groups)
        legend(figure, axes, 6, "band")
        out.append(finish(figure, title))
    return out
