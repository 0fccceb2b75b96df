"""Pictures of what was injected and of what a reader sees: profiles, core AUC, footprint.

Every function takes the audit's tables and gives pictures, none where there is nothing to draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from darkhaloscope.audit.dose import PER_SAMPLE, RAW
from darkhaloscope.errors import Reason
from darkhaloscope.report.load import Findings
from darkhaloscope.report.style import (
    EXPECTED,
    GRID,
    INK,
    LIMIT,
    MUTED,
    OBSERVED,
    band_style,
    bars,
    legend,
    panel,
    ramp,
    stratum,
    svg,
)

SHAPES = ("s", "^", "D", "v", "P", "X", "*", "<", ">", "h")


@dataclass(frozen=True)
class Picture:
    """A drawing as a data URI, what it shows in words, and whether it takes twice the width."""

    uri: str
    alt: str
    wide: bool = False


def finish(figure: Figure, alt: str) -> Picture:
    """A drawn figure as a picture."""
    return Picture(svg(figure), alt)


def numbers(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """A column as floats."""
    return table[column].to_numpy(dtype=float)


def known(table: pd.DataFrame, column: str) -> bool:
    """Whether a column holds any number."""
    return bool(np.isfinite(numbers(table, column)).any())


def rerendered(
    axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], label: str, marker: str = "D"
) -> None:
    """Open marks of what the re-rendered arcs give; none, and none in the legend, where that is not known."""
    if np.isfinite(x).any() and np.isfinite(y).any():
        axes.plot(x, y, marker, color=EXPECTED, ls="none", markersize=6, markerfacecolor="none",
                  markeredgewidth=1.6, label=label)  # fmt: skip


def limit_band(axes: Axes, limit: float, *, about: float = 0.0, label: str = "limit") -> None:
    """Two dashed lines at a limit on either side."""
    if not np.isfinite(limit):
        return
    for sign, text in ((1, label), (-1, None)):
        axes.axhline(about + sign * limit, color=LIMIT, lw=1.2, ls=(0, (4, 3)), label=text)


def radial_profiles(found: Findings) -> list[Picture]:
    """Mean of ``stamp - ctrl`` against radius by stratum of theta_e, one picture a band."""
    table = found["profiles"]
    strata = [s for s in pd.unique(table["stratum"]) if s != "all"]
    colours = dict(zip(strata, ramp(len(strata)), strict=True))
    out = []
    for band in sorted(found.bands, key=lambda b: b != found.reference):
        part = table[(table["band"] == band) & (numbers(table, "pixels") > 0)]
        if part.empty:
            continue
        figure, axes = panel(f"band {band}", "radius from the target [pixel]", "stamp − ctrl [nMgy / pixel]",
                             (4.2, 4.0))  # fmt: skip
        for name in strata:
            line = part[part["stratum"] == name]
            if line.empty:
                continue
            r, mean = numbers(line, "r"), numbers(line, "mean")
            lo, hi = numbers(line, "lo"), numbers(line, "hi")
            n = int(line["pairs"].iloc[0])
            axes.plot(r, mean, color=colours[name], lw=1.6, label=f"{stratum(name)} ({n:,})")
            axes.fill_between(r, lo, hi, color=colours[name], alpha=0.25, lw=0)
        peak = np.nanmax(np.abs(numbers(part, "mean")))
        if peak > 0:
            start = 10.0 ** np.floor(np.log10(peak * 1e-4))
            axes.set_yscale("symlog", linthresh=start, linscale=0.6)
            axes.set_ylim(bottom=min(0.0, 1.2 * float(np.nanmin(numbers(part, "mean")))))
        legend(figure, axes, 3, r"$\theta_E$ [arcsec] (pairs)")
        out.append(finish(figure, f"mean radial profile of stamp minus ctrl in band {band}"))
    return out


def annulus_pictures(found: Findings) -> list[Picture]:
    """Offsets in the outer annuli by stratum, and what remains beside the re-rendered arcs."""
    out = []
    table = found["annulus"].dropna(subset=["offset_sky_sigma"])
    for inner in pd.unique(table["r_in"]):
        part = table[table["r_in"] == inner]
        edge = float(part["r_out"].iloc[0])
        figure, axes = panel(f"{inner:g} ≤ r < {edge:g} px", r"stratum of $\theta_E$ [arcsec]",
                             "stamp − ctrl [sky σ / pixel]")  # fmt: skip
        strata = list(pd.unique(part["stratum"]))
        for k, band in enumerate(found.bands):
            line = part[part["band"] == band]
            x = np.array([strata.index(s) for s in line["stratum"]], dtype=float)
            colour, marker = band_style(band, found.bands)
            bars(axes, x + 0.16 * (k - (len(found.bands) - 1) / 2),
                 *(numbers(line, c) for c in ("offset_sky_sigma", "lo", "hi")),
                 color=colour, fmt=marker, markersize=5, label=band)  # fmt: skip
        axes.axhline(0, color=INK, lw=0.8)
        axes.set_xticks(range(len(strata)), [stratum(s) for s in strata], rotation=30, ha="right")
        legend(figure, axes, 6, "band")
        out.append(finish(figure, f"offset in the annulus from {inner:g} to {edge:g} pixels"))
    rest = found["closure_annulus"].dropna(subset=["residual"])
    if len(rest):
        figure, axes = panel("measured − re-rendered", "band, annulus [pixel]", "[sky σ / pixel]")
        labels = []
        for k, line in enumerate(rest.to_dict("records")):
            colour, marker = band_style(str(line["band"]), found.bands)
            values = (np.array([float(line[c])]) for c in ("residual", "lo", "hi"))
            bars(axes, np.array([float(k)]), *values, color=colour, fmt=marker, markersize=5)
            labels.append(f"{line['band']}, {line['r_in']:g}–{line['r_out']:g}")
        limit = found.limit("residual_pedestal")
        limit_band(axes, limit)
        axes.axhline(0, color=INK, lw=0.8)
        axes.set_xlim(-0.6, len(rest) - 0.4)
        axes.set_xticks(range(len(rest)), labels, rotation=30 if len(rest) > 3 else 0)
        legend(figure, axes, 1)
        out.append(finish(figure, "offset in the outer annuli, measured minus re-rendered"))
    return out


def core_auc(found: Findings) -> list[Picture]:
    """Observed and re-rendered core AUC by stratum, and their difference against the tolerance."""
    table = found["auc_by_stratum"].dropna(subset=["auc"])
    if table.empty:
        return []
    out = []
    for family, label in (
        ("theta_e", r"$\theta_E$ [arcsec]"),
        ("core_snr", "re-rendered S/N in the core"),
    ):
        part = table[table["family"].isin(["all", family])]
        if len(part) < 2 and family != "theta_e":
            continue
        place = np.arange(len(part), dtype=float)[::-1]
        names = [
            f"{stratum(s)}  ({int(n):,})"
            for s, n in zip(part["stratum"], part["pairs"], strict=True)
        ]
        title = f"by {label}" if len(part) > 1 else "all rows"
        figure, axes = panel(title, "AUC in the central 10×10 pixels", "", (4.2, 4.0))
        bars(axes, place + 0.13, *(numbers(part, c) for c in ("auc", "auc_lo", "auc_hi")),
             horizontal=True, color=OBSERVED, fmt="o", markersize=6, label="observed")  # fmt: skip
        rerendered(axes, numbers(part, "auc_rerendered"), place - 0.13, "re-rendered arcs")
        axes.axvline(0.5, color=MUTED, lw=1)
        axes.set_yticks(place, names)
        axes.set_ylim(-0.6, len(part) - 0.4)
        low = np.nanmin([0.5, *numbers(part, "auc"), *numbers(part, "auc_rerendered")])
        axes.set_xlim(low - 0.04, 1.02)
        legend(figure, axes, 2)
        beside = " beside re-rendered" if known(part, "auc_rerendered") else ""
        out.append(finish(figure, f"core AUC by {family}, observed{beside}"))
    return [*out, _excess(found, table)] if known(table, "excess") else out


def _excess(found: Findings, table: pd.DataFrame) -> Picture:
    part = table[table["family"].isin(["all", "theta_e", "core_snr"])]
    place = np.arange(len(part), dtype=float)[::-1]
    figure, axes = panel("excess: observed − re-rendered", "difference of AUC", "", (4.2, 4.0))
    bars(axes, place, *(numbers(part, c) for c in ("excess", "excess_lo", "excess_hi")),
         horizontal=True, color=OBSERVED, fmt="o", markersize=6)  # fmt: skip
    symbol = {"theta_e": r"$\theta_E$ ", "core_snr": "S/N ", "all": ""}
    axes.set_yticks(
        place,
        [symbol[f] + stratum(s) for f, s in zip(part["family"], part["stratum"], strict=True)],
    )
    axes.set_ylim(-0.6, len(part) - 0.4)
    axes.axvline(0, color=INK, lw=0.8)
    limit = found.limit("excess_auc")
    if np.isfinite(limit):
        axes.axvline(limit, color=LIMIT, lw=1.2, ls=(0, (4, 3)), label=f"tolerance {limit:g}")
        legend(figure, axes, 1)
        ends = np.nan_to_num(
            np.concatenate([numbers(part, c) for c in ("excess", "excess_lo", "excess_hi")])
        )
        reach = 1.15 * max(float(np.max(np.abs(ends))), 1.2 * limit)
        axes.set_xlim(-reach, reach)
    return finish(figure, "difference between observed and re-rendered AUC by stratum")


def learning_curve(found: Findings) -> list[Picture]:
    """Core AUC against the number of pairs that trained and tested the reader."""
    table = found["learning_curve"].dropna(subset=["auc"])
    if table.empty:
        return []
    figure, axes = panel("learning curve", "pairs", "AUC in the central 10×10 pixels", (4.2, 4.0))
    pairs = numbers(table, "pairs")
    axes.plot(pairs, numbers(table, "auc"), color=OBSERVED, lw=1)
    bars(axes, pairs, *(numbers(table, c) for c in ("auc", "auc_lo", "auc_hi")),
         color=OBSERVED, fmt="o", markersize=6)  # fmt: skip
    for gate, style in (("core_auc", (0, (4, 3))), ("core_auc_strict", (0, (1, 1.5)))):
        limit = found.limit(gate)
        if np.isfinite(limit):
            axes.axhline(limit, color=LIMIT, lw=1.2, ls=style, label=f"{gate} {limit:g}")
    axes.axhline(0.5, color=MUTED, lw=1)
    if len(pairs) > 1:
        axes.set_xscale("log")
    axes.set_xticks(pairs, [f"{p:,.0f}" for p in pairs], rotation=30 if len(pairs) > 3 else 0)
    axes.minorticks_off()
    legend(figure, axes, 2)
    return [finish(figure, "core AUC against the number of pairs")]


def dose(found: Findings) -> list[Picture]:
    """Core AUC against the fraction of the arc that is added, observed beside re-rendered."""
    table = found["dose"].dropna(subset=["auc"])
    if table.empty or not found.paired:
        return []
    figure, axes = panel("AUC against dose", "fraction of the arc", "AUC in the central 10×10 pixels",
                         (4.2, 4.5))  # fmt: skip
    for scale, marker in ((RAW, "o"), (PER_SAMPLE, "s")):
        part = table[table["scale"] == scale]
        x = numbers(part, "dose") + (0.0 if scale == RAW else 0.03)
        label = "" if scale == RAW else ", normalised per sample"
        bars(axes, x, *(numbers(part, c) for c in ("auc", "auc_lo", "auc_hi")), color=OBSERVED,
             fmt=marker, markersize=5, label=f"observed{label}")  # fmt: skip
        rerendered(axes, x, numbers(part, "auc_rerendered"), f"re-rendered{label}",
                   "D" if scale == RAW else "^")  # fmt: skip
    axes.axhline(0.5, color=MUTED, lw=1)
    legend(figure, axes, 1)
    beside = " beside re-rendered" if known(table, "auc_rerendered") else ""
    return [finish(figure, f"core AUC against dose, observed{beside}")]


def footprint(found: Findings) -> list[Picture]:
    """Where the rows lie: regions by the fraction of their rows that failed, and why."""
    table = found["footprint"]
    table = table[numbers(table, "pairs") > 0] if len(table) else table
    if table.empty:
        return []
    if not (known(table, "ra") and known(table, "dec")) or "ra" in found.lacks:
        return _reasons(found)
    ra, dec = numbers(table, "ra"), numbers(table, "dec")
    if np.ptp(ra) > 180:  # across RA 0
        ra = np.where(ra > 180, ra - 360, ra)
    failed = numbers(table, "failed") / numbers(table, "pairs")
    reasons = [r.text for r in Reason if r.failed]
    main = np.argmax(table[reasons].to_numpy(dtype=float), axis=1)
    figure, axes = panel(
        "outcomes on the sky", "right ascension [deg]", "declination [deg]", (5.6, 4.4)
    )
    size = 70 if len(table) < 60 else 28 if len(table) < 600 else 8
    crowded, edge = len(table) > 600, 0.8 if len(table) < 600 else 0.2
    clean = failed == 0
    axes.scatter(ra[clean], dec[clean], s=size, marker="o", c=GRID, edgecolors=MUTED, linewidths=edge,
                 label="no failed row", rasterized=crowded)  # fmt: skip
    dots = None
    for k, reason in enumerate(reasons):
        here = ~clean & (main == k)
        if here.any():
            dots = axes.scatter(ra[here], dec[here], s=1.3 * size, marker=SHAPES[k % len(SHAPES)],
                                c=100 * failed[here], cmap="cividis_r", vmin=0, vmax=100 * failed.max(),
                                edgecolors=INK, linewidths=edge / 2, rasterized=crowded,
                                label=reason.replace("_", " "))  # fmt: skip
    if dots is not None:
        figure.colorbar(dots, ax=axes, label="rows that failed [%]", shrink=0.8)
    axes.invert_xaxis()
    axes.margins(0.12)
    axes.ticklabel_format(useOffset=False)
    axes.locator_params(nbins=5)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value % 360:g}")
    stretch = 1 / max(np.cos(np.deg2rad(np.mean(dec))), 0.05)
    span = max(np.ptp(ra) / stretch, 1e-3), max(np.ptp(dec), 1e-3)
    if 0.2 < span[0] / span[1] < 5:
        axes.set_aspect(stretch, adjustable="datalim")
    legend(figure, axes, 3)
    return [
        Picture(svg(figure), "map of regions by fraction of failed rows", wide=True),
        *_reasons(found),
    ]


def _reasons(found: Findings) -> list[Picture]:
    table = found["reasons"]
    rows = table.assign(rows=numbers(table, "rows"))
    total = rows.groupby("reason", sort=False)["rows"].sum()
    whole = float(total.sum())
    total = total[total.index != "ok"].sort_values(kind="stable")
    if total.empty:
        return []
    figure, axes = panel("rows that are not ok", "rows", "", (4.2, 1.5 + 0.4 * len(total)))
    place = np.arange(len(total))
    axes.barh(place, total.to_numpy(), color=OBSERVED, height=0.6)
    for at, n in zip(place, total.to_numpy(), strict=True):
        axes.text(
            float(n), float(at), f" {n:,.0f} ({100 * n / whole:.3g} %)", va="center", fontsize=9
        )
    axes.set_yticks(place, [str(r).replace("_", " ") for r in total.index])
    axes.set_xlim(0, 1.45 * float(total.max()))
    axes.set_ylim(-0.8, len(total) - 0.2)
    axes.grid(visible=False, axis="y")
    return [finish(figure, "number of rows that are not ok, by reason")]
