"""How pictures look and how numbers read: palette, figure frame, encoding, number format.

Colours are those of Okabe & Ito (2008), told apart by colour-blind readers; bands also differ by
marker. Every picture is SVG without a date and with fixed ids, so the same numbers give the same bytes.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

INK, MUTED, GRID = "#1b1f24", "#6a737d", "#dfe3e8"
OBSERVED, EXPECTED, LIMIT = "#0072b2", "#e69f00", "#d55e00"
BAND_COLOURS = {
    "u": "#56b4e9", "g": "#009e73", "r": "#d55e00", "i": "#cc79a7", "z": "#0072b2", "y": "#1b1f24",
}  # fmt: skip
OTHER_COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#1b1f24")
MARKERS = ("o", "s", "^", "D", "v", "P")

RC: dict[Any, Any] = {
    "svg.hashsalt": "darkhaloscope",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.labelsize": 10.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

_DPI = 200.0
MOST_DIGITS = 12

_NO_DATE: dict[str, Any] = {"Date": None, "Creator": None}
_NO_SOFTWARE: dict[str, Any] = {"Software": None}
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def band_style(band: str, bands: Sequence[str]) -> tuple[str, str]:
    """(colour, marker) of a band: always the same colour for a band that the field knows."""
    k = list(bands).index(band)
    colour = BAND_COLOURS.get(band, OTHER_COLOURS[k % len(OTHER_COLOURS)])
    return colour, MARKERS[k % len(MARKERS)]


def ramp(n: int) -> list[str]:
    """``n`` colours from dark to light that stay ordered in grey."""
    return [matplotlib.colors.to_hex(colormaps["viridis"](v)) for v in np.linspace(0.0, 0.88, n)]


def panel(
    title: str, xlabel: str, ylabel: str, size: tuple[float, float] = (4.2, 3.5)
) -> tuple[Figure, Axes]:
    """An empty picture of ``size`` inches, wide enough to be read on a phone."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
    return figure, axes


def legend(
    figure: Figure, axes: Axes, columns: int, title: str | None = None, scale: float = 1.0
) -> None:
    """What the marks mean, below the picture, so that it hides none of them.

    ``scale`` enlarges the marks of a cloud of small points.
    """
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        box = figure.legend(
            handles, labels, loc="outside lower center", ncols=min(columns, len(handles)), title=title,
            frameon=False, fontsize=9, title_fontsize=9, columnspacing=1.2, handletextpad=0.5,
            markerscale=scale,
        )  # fmt: skip
        for handle in box.legend_handles:
            if isinstance(handle, PathCollection):
                handle.set_alpha(1.0)


def stratum(label: str) -> str:
    """A stratum's name in print: ``>= 2`` becomes ≥ 2, ``1-1.5`` becomes 1–1.5."""
    return label.replace(">=", "≥").replace("-", "–")


def svg(figure: Figure) -> str:
    """A figure as a data URI."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(RC):
        figure.dpi = _DPI
        # Not savefig: it draws everything once more beforehand, for a layout that drawing makes as well.
        FigureCanvasSVG(figure).print_svg(buffer, metadata=_NO_DATE)
    return _uri("image/svg+xml", buffer.getvalue())


def png(rgb: NDArray[np.float64]) -> str:
    """An image (y, x, 3) in 0..1, first row at the bottom, as a data URI of a PNG."""
    buffer = io.BytesIO()
    values = np.clip(rgb, 0.0, 1.0)
    imsave(buffer, values, format="png", origin="lower", metadata=_NO_SOFTWARE)
    return _uri("image/png", buffer.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def number(value: Any, digits: int = 4) -> str:
    """A number as a scientist reads it: 0.00123, 1.23×10⁻⁵, 12,345; an en dash where it is missing."""
    if value is None or not math.isfinite(value):
        return "–"
    value = float(value)
    if value == 0:
        return "0"
    if value == round(value) and abs(value) < 1e7:
        return _minus(f"{value:,.0f}")
    exponent = math.floor(math.log10(abs(value)))
    if -4 <= exponent < 6:
        return _minus(f"{value:,.{max(digits - 1 - exponent, 0)}f}")
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    return _minus(f"{mantissa}×10{str(int(power)).translate(_SUPERSCRIPT)}")


def estimate(value: Any, lo: Any, hi: Any, digits: int = 3) -> tuple[str, str]:
    """A number and ``[lo, hi]``, all three to the same place: two digits of the interval's width at least.

    ``digits`` are those of the largest of the three, where the width does not ask for more. Without an
    interval an en dash stands for it.
    """
    if any(v is None or not math.isfinite(v) for v in (value, lo, hi)):
        known = all(v is not None and math.isfinite(v) for v in (lo, hi))
        return number(value, digits), (
            f"[{number(lo, digits)}, {number(hi, digits)}]" if known else "–"
        )
    largest = max(abs(value), abs(lo), abs(hi))
    if largest == 0:
        return "0", "[0, 0]"
    power = math.floor(math.log10(largest))
    places = digits - 1 - power
    if hi > lo:
        places = max(places, 1 - math.floor(math.log10(hi - lo)))
    places = min(places, MOST_DIGITS - 1 - power)
    if -4 <= power < 6:
        texts = [f"{v:,.{max(places, 0)}f}" for v in (value, lo, hi)]
    else:
        tail = f"×10{str(power).translate(_SUPERSCRIPT)}"
        texts = [f"{v / 10.0**power:.{max(places + power, 0)}f}{tail}" for v in (value, lo, hi)]
    middle, low, high = (_minus(t if set(t) & set("123456789") else t.lstrip("-")) for t in texts)
    return middle, f"[{low}, {high}]"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def percent(value: float) -> str:
    """A fraction in per cent."""
    return "–" if not math.isfinite(value) else f"{100 * value:.3g} %"


def bars(
    axes: Axes,
    x: NDArray[np.float64],
    value: NDArray[np.float64],
    lo: NDArray[np.float64],
    hi: NDArray[np.float64],
    *,
    horizontal: bool = False,
    **kwargs: Any,
) -> None:
    """Points with intervals; where there is no interval the bare point."""
    reach = np.abs(np.nan_to_num(np.stack([value - lo, hi - value])))
    kwargs = {"linestyle": "none", "capsize": 2.5, "elinewidth": 1.4, **kwargs}
    if horizontal:
        axes.errorbar(value, x, xerr=reach, **kwargs)
    else:
        axes.errorbar(x, value, yerr=reach, **kwargs)


def dots(
    axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], band: str, bands: Sequence[str]
) -> None:
    """A cloud of points in the look of their band, as pixels inside the drawing."""
    colour, marker = band_style(band, bands)
    axes.scatter(
        x,
        y,
        s=11,
        color=colour,
        marker=marker,
        alpha=0.5,
        linewidths=0,
        label=band,
        rasterized=True,
    )
