"""Pictures of closure: stored arcs beside arcs drawn again, and the core at little dose."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from darkhaloscope.audit.zero_dose import ERROR_FLOOR
from darkhaloscope.report.load import Findings
from darkhaloscope.report.pictures import Picture, finish, limit_band, numbers
from darkhaloscope.report.style import INK, LIMIT, MUTED, band_style, dots, legend, panel

DRAWN_POINTS = 1500
"""Points a band in a scatter; more only blacken it."""


def residual_profiles(found: Findings) -> list[Picture]:
    """What is left of ``stamp - ctrl`` after the re-rendered arc is fitted, against radius, by band."""
    table = found["closure_profile"]
    limit = found.limit("residual_pedestal")
    out = []
    for band in found.bands:
        part = table[table["band"] == band]
        if part.empty:
            continue
        r, rest = numbers(part, "r"), numbers(part, "residual")
        granted = numbers(part, "allowance")
        colour, _ = band_style(band, found.bands)
        figure, axes = panel(
            f"band {band}", "radius from the target [pixel]", "residual [sky σ / pixel]"
        )
        axes.fill_between(
            r, -granted, granted, color=MUTED, alpha=0.18, lw=0, label="error granted"
        )
        axes.fill_between(r, numbers(part, "lo"), numbers(part, "hi"), color=colour, alpha=0.3, lw=0,
                          label="interval")  # fmt: skip
        axes.plot(r, rest, color=colour, lw=1.8, label="residual")
        limit_band(axes, limit)
        axes.axhline(0, color=INK, lw=0.8)
        widest = np.nanmax(np.abs(np.concatenate([rest, [limit]])))
        axes.set_ylim(-1.5 * widest, 1.5 * widest)
        legend(figure, axes, 2)
        out.append(finish(figure, f"residual profile of closure in band {band}"))
    return [*_against_theory(found, table), *out]


def _against_theory(found: Findings, table: pd.DataFrame) -> list[Picture]:
    """Mean profiles as stored (marks) on those of the re-rendered arcs (lines)."""
    if table.empty:
        return []
    figure, axes = panel(
        "stored on re-rendered", "radius from the target [pixel]", "mean arc [sky σ / pixel]"
    )
    for band in found.bands:
        part = table[table["band"] == band]
        colour, marker = band_style(band, found.bands)
        axes.plot(numbers(part, "r"), numbers(part, "rerendered"), color=colour, lw=1.2)
        axes.plot(numbers(part, "r"), numbers(part, "measured"), marker, color=colour, markersize=4,
                  alpha=0.7, label=band)  # fmt: skip
    peak = float(np.nanmax(np.abs(numbers(table, "rerendered"))))
    if peak > 0:
        axes.set_yscale("symlog", linthresh=10.0 ** np.floor(np.log10(peak * 1e-4)), linscale=0.6)
    legend(figure, axes, 6, "line: re-rendered, marks: stored")
    return [finish(figure, "mean profiles of stored and of re-rendered arcs")]


def zero_dose(found: Findings) -> list[Picture]:
    """Stored against re-rendered core light of each pair, and their difference."""
    table = found["zero_dose_points"].dropna()
    if table.empty:
        return []
    one, axes = panel("stored against re-rendered", "re-rendered core [sky σ / pixel]",
                      "stored core [sky σ / pixel]", (4.2, 4.0))  # fmt: skip
    two, rest = panel("difference at small dose", "re-rendered core [sky σ / pixel]",
                      "stored − re-rendered [sky σ / pixel]", (4.2, 4.0))  # fmt: skip
    lit = table["dose"][table["dose"] > 0]
    least = float(np.percentile(lit, 0.5)) if len(lit) else 1.0
    smallest = float(np.clip(10.0 ** np.floor(np.log10(least)), 1e-4, 1.0))
    largest = max(float(table["dose"].max()), 10 * smallest)
    for band in found.bands:
        part = thin(table[table["band"] == band])
        dose, seen = numbers(part, "dose"), numbers(part, "difference")
        dots(axes, dose, seen, band, found.bands)
        dots(rest, dose, seen - dose, band, found.bands)
    line = np.geomspace(smallest, largest, 50)
    axes.plot(line, line, color=INK, lw=0.9, label="slope 1")
    rest.fill_between(line, -ERROR_FLOOR * line, ERROR_FLOOR * line, color=MUTED, alpha=0.18, lw=0,
                      label=f"granted: {ERROR_FLOOR:g} of the dose")  # fmt: skip
    axes.set_xscale("symlog", linthresh=smallest, linscale=0.3)
    axes.set_yscale("symlog", linthresh=smallest, linscale=0.3)
    rest.set_xscale("symlog", linthresh=smallest, linscale=0.3)
    limit = found.limit("residual_pedestal")
    rest.set_yscale("symlog", linthresh=limit if np.isfinite(limit) else 1e-3, linscale=1.0)
    limit_band(rest, limit)
    rest.axhline(0, color=INK, lw=0.8)
    for figure, ax in ((one, axes), (two, rest)):
        legend(figure, ax, 3, scale=2.0)
    return [
        finish(one, "stored against re-rendered core light"),
        finish(two, "difference of stored and re-rendered core light"),
    ]


def closure_scatters(found: Findings) -> list[Picture]:
    """Flux ratio, PSF width, displacement of each closure pair, with the limits of their means."""
    table = found["closure_pairs"]
    if table.empty:
        return []
    out = []
    for column, gate, title, label in (
        ("flux_ratio", "closure_flux", "flux", "flux ratio − 1"),
        ("width_ratio", "closure_blur", "PSF width", "width ratio − 1"),
    ):
        limit = found.limit(gate)
        figure, axes = panel(title, r"$\theta_E$ [arcsec]", label)
        for band in found.bands:
            part = thin(table[table["band"] == band])
            dots(axes, numbers(part, "theta_e"), numbers(part, column) - 1.0, band, found.bands)
        axes.set_yscale(
            "symlog", linthresh=limit / 10 if np.isfinite(limit) else 1e-3, linscale=1.0
        )
        limit_band(axes, limit, label=f"limit {limit:g}")
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, -2 * limit), max(high, 2 * limit))
        axes.axhline(0, color=INK, lw=0.8)
        legend(figure, axes, 4, scale=2.0)
        out.append(finish(figure, f"{label} of closure pairs against Einstein radius"))
    out.append(_displacements(found, table))
    return out


def _displacements(found: Findings, table: pd.DataFrame) -> Picture:
    limit = found.limit("closure_centroid")
    figure, axes = panel("displacement", "Δx [pixel] (West →)", "Δy [pixel] (North ↑)")
    largest = limit if np.isfinite(limit) else 0.05
    for band in found.bands:
        part = thin(table[table["band"] == band])
        dx, dy = numbers(part, "dx"), numbers(part, "dy")
        dots(axes, dx, dy, band, found.bands)
        largest = max(largest, _reach(dx), _reach(dy))
    turn = np.linspace(0, 2 * np.pi, 200)
    if np.isfinite(limit):
        axes.plot(limit * np.cos(turn), limit * np.sin(turn), color=LIMIT, lw=1.2, ls=(0, (4, 3)),
                  label=f"limit {limit:g} px")  # fmt: skip
    axes.set_xlim(-1.25 * largest, 1.25 * largest)
    axes.set_ylim(-1.25 * largest, 1.25 * largest)
    axes.set_aspect("equal")
    axes.locator_params(nbins=3)
    axes.axhline(0, color=INK, lw=0.6)
    axes.axvline(0, color=INK, lw=0.6)
    legend(figure, axes, 4, scale=2.0)
    return finish(figure, "displacement of stored against re-rendered arcs")


def _reach(values: NDArray[np.float64]) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(np.percentile(finite, 99)) if len(finite) else 0.0


def thin(table: pd.DataFrame, most: int = DRAWN_POINTS) -> pd.DataFrame:
    """At most so many rows, evenly spaced."""
    if len(table) <= most:
        return table
    return table.iloc[np.linspace(0, len(table) - 1, most).astype(int)]
