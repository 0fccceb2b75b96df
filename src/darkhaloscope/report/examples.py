"""Example pairs: which rows, and how three bands become a colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps
from numpy.typing import NDArray

from darkhaloscope import store
from darkhaloscope.audit.examples import SPREAD, WORST
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.errors import UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.report.load import lacks
from darkhaloscope.report.style import number, png
from darkhaloscope.variables import SPLITS, without_data

EXAMPLES = 8
LOOK_ROWS = 200_000
"""Rows among which examples are chosen; a longer data set is looked at in 16 evenly spaced pieces."""

SHOWN = (
    "ctrl", "arc", "nodata", "brick", "slot", "region_split", "theta_e", "arc_snr", "magnification",
    "coverage",
)  # fmt: skip

SCALES = {"u": 10.0, "g": 6.0, "r": 3.4, "i": 3.0, "z": 2.2, "y": 2.0}
"""Factor of each band before the stretch: what makes a galaxy look as on the surveys' own sky viewer."""

WAVELENGTH_ORDER = "ugrizy"
SOFTENING = 20.0
FLOOR = 0.03
FAINT = 0.2
"""Peak of the scaled light below which an arc by itself is shown brighter."""

NO_DATA = (0.35, 0.35, 0.42)


@dataclass(frozen=True)
class Example:
    """One pair: labelled images (data URIs), a headline and where it lies, all text."""

    panels: list[tuple[str, str]]
    head: str
    place: str


@dataclass(frozen=True)
class Examples:
    """The pairs that a page shows, and the ``worst`` ones; ``note`` says in a sentence why there are none."""

    pairs: list[Example]
    worst: list[Example]
    note: str
    attributes: dict[str, str]
    size: int
    bands: list[str]
    chosen: str = ""
    """How the pairs were chosen."""
    paired: bool = True
    compared: bool = True
    """Whether the worst are held against re-rendered arcs."""

    @property
    def scale_bar(self) -> float:
        """Width of a bar of 5 arcsec in per cent of a stamp's."""
        try:
            scale = float(self.attributes.get("pixel_scale_arcsec", PIXEL_SCALE))
        except ValueError:
            scale = PIXEL_SCALE
        return 100.0 * 5.0 / (scale * self.size)


def examples(source: str, kept: Arrays | None = None) -> Examples:
    """Choose and draw a few pairs of a data set; an unreadable one gives none, and says why.

    Parameters
    ----------
    source : str
        A run's folder or a Zarr group of ours.
    kept : dict of ndarray, optional
        :func:`~darkhaloscope.audit.examples.example_pairs`, what the audit kept: the worst pairs, and
        those that are shown where ``source`` is no data set of ours.
    """
    worst = [] if kept is None else _kept(kept, WORST)
    try:
        dataset = store.open_dataset(source)
    except UserError as error:
        return _of_others(kept, worst, f"No examples: {error}", {})
    attributes = {str(k): str(v) for k, v in dataset.attrs.items()}
    lacking = [
        name
        for name in (*SHOWN, "lens_model", "cutout_ok", "host_id", "band")
        if name not in dataset
    ]
    if lacking:
        note = f"No examples: the data set has no {lacking[0]}."
        return _of_others(kept, worst, note, attributes)
    bands = [str(b) for b in dataset["band"].values]
    rows = choose(dataset)
    found = dataset[list(SHOWN)].isel(pair=rows).load() if len(rows) else None
    pairs = [_example(found.isel(pair=k), bands) for k in range(len(rows))] if found else []
    note = "" if pairs else "No examples: the data set holds no injection with pixels."
    chosen = (
        f"{len(pairs)} injections, from small to large Einstein radius, a faint and a bright arc of "
        "each quarter: ctrl, stamp = ctrl + arc, and arc alone"
    )
    size = int(dataset.sizes["x"])
    return Examples(pairs, worst, note, attributes, size, bands, chosen, compared=_compared(kept))


def _of_others(
    kept: Arrays | None, worst: list[Example], note: str, attributes: dict[str, str]
) -> Examples:
    """The pairs that the audit kept, where it kept any."""
    pairs = [] if kept is None else _kept(kept, SPREAD)
    if kept is None or not pairs:
        return Examples([], worst, note, attributes, 0, [])
    attributes = {"pixel_scale_arcsec": str(float(kept["pixel_scale"])), **attributes}
    bands = [str(b) for b in kept["bands"]]
    what = (
        "ctrl, stamp = ctrl + arc, and arc alone"
        if kept["paired"]
        else "an image of the class without lenses, and one of lenses, which are no pair"
    )
    order = (
        "picked at random" if "theta_e" in lacks(kept) else "from small to large Einstein radius"
    )
    chosen = f"{len(pairs)} of the audited rows, {order}: {what}"
    return Examples(
        pairs, worst, "", attributes, int(kept["ctrl"].shape[-1]), bands, chosen,
        bool(kept["paired"]), _compared(kept),
    )  # fmt: skip


def _compared(kept: Arrays | None) -> bool:
    return kept is not None and bool(np.isfinite(kept["again"][kept["kind"] == WORST]).any())


def _kept(kept: Arrays, kind: str) -> list[Example]:
    bands = [str(b) for b in kept["bands"]]
    draw = _worst if kind == WORST else _spread
    return [draw(kept, int(k), bands) for k in np.flatnonzero(kept["kind"] == kind)]


def _spread(kept: Arrays, k: int, bands: Sequence[str]) -> Example:
    ctrl, arc = (kept[name][k].astype(float) for name in ("ctrl", "arc"))
    lost = lost_pixels(kept["nodata"][k], len(bands))
    if kept["paired"]:
        panels = _panels(ctrl, arc, lost, bands)
    else:
        seen = (("no lens", ctrl), ("lens", ctrl + arc))
        panels = [(label, png(rgb(image, bands, lost))) for label, image in seen]
    return Example(panels, _headline(kept, k), _place(kept, k, bands))


def _worst(kept: Arrays, k: int, bands: Sequence[str]) -> Example:
    """Stamp, arc, and what is left of it beside the re-rendered one, in the band where that is most."""
    ctrl, arc = (kept[name][k].astype(float) for name in ("ctrl", "arc"))
    lost = lost_pixels(kept["nodata"][k], len(bands))
    panels = _panels(ctrl, arc, lost, bands)[1:]
    unit = kept["sky_sigma"][k].astype(float)[:, None, None]
    rest = (arc - kept["again"][k]) / unit
    if np.isfinite(rest).any():
        band = int(np.nanargmax(np.nan_to_num(np.abs(rest)).max(axis=(1, 2))))
        reach = max(float(np.nanmax(np.abs(rest[band]))), 1e-12)
        label = f"{bands[band]} ±{number(reach, 2)} σ"
        panels.append((label, png(diverging(np.nan_to_num(rest[band]) / reach))))
    return Example(panels, str(kept["why"][k]), _place(kept, k, bands))


def _panels(
    ctrl: NDArray[np.float64],
    arc: NDArray[np.float64],
    lost: NDArray[np.bool_],
    bands: Sequence[str],
) -> list[tuple[str, str]]:
    gain = arc_gain(arc, bands)
    images = (
        ("ctrl", ctrl),
        ("stamp", ctrl + arc),
        (f"arc ×{gain:g}" if gain > 1 else "arc", gain * arc),
    )
    return [(label, png(rgb(image, bands, lost))) for label, image in images]


def _headline(row: Mapping[str, Any], k: int | tuple[()]) -> str:
    """What is known of a row's Einstein radius, S/N and magnification."""
    parts = []
    for column, form in (("theta_e", "θ_E {}″"), ("arc_snr", "S/N {}"), ("magnification", "μ {}")):
        value = float(np.asarray(row[column])[k])
        if column not in lacks(row) and np.isfinite(value):
            parts.append(form.format(number(value, 3)))
    return " · ".join(parts)


def _place(row: Mapping[str, Any], k: int | tuple[()], bands: Sequence[str]) -> str:
    split = dict(enumerate(SPLITS)).get(int(np.asarray(row["region_split"])[k]), "")
    share = np.asarray(row["coverage"])[k]
    empty = [band for band, part in zip(bands, share, strict=True) if not part > 0]
    lacking = f", no data in {' and '.join(empty)}" if empty else ""
    name, slot = (str(np.asarray(row[c])[k]) for c in ("brick", "slot"))
    unsaid = lacks(row)
    place = [
        "" if "brick" in unsaid else f"brick {name}",
        f"{'row' if 'slot' in unsaid else 'slot'} {slot}",
    ]
    return ", ".join(part for part in (*place, split) if part) + lacking


def lost_pixels(nodata: NDArray[np.uint8], bands: int) -> NDArray[np.bool_]:
    """Pixels (y, x) without data in any band."""
    return np.asarray(without_data(nodata[None], bands)[0].all(axis=0))


def diverging(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values in -1..1 as colours (y, x, 3): blue below 0, white, red above."""
    return np.asarray(colormaps["RdBu_r"](0.5 + 0.5 * values))[..., :3]


def choose(dataset: xr.Dataset, wanted: int = EXAMPLES) -> NDArray[np.int64]:
    """Rows of injections spread over Einstein radius, and over S/N at each radius.

    A function of the rows alone: the radii are cut into ``wanted / 2`` groups of equal number, and from
    each come a faint and a bright one (first and last fifth in S/N), of hosts not yet shown if possible.

    Returns
    -------
    ndarray of int64
        Row numbers, ascending in theta_e.
    """
    rows = _looked_at(dataset.sizes["pair"])
    columns = dataset[["theta_e", "arc_snr", "lens_model", "cutout_ok", "host_id"]]
    pieces = [columns.isel(pair=piece).load() for piece in rows]
    look = xr.concat(pieces, "pair") if pieces else columns
    index = np.concatenate([np.arange(p.start, p.stop) for p in rows]) if rows else np.zeros(0, int)
    use = np.flatnonzero(
        (look["lens_model"].values > 0)
        & look["cutout_ok"].values.astype(bool)
        & np.isfinite(look["theta_e"].values)
    )
    if len(use) == 0:
        return np.zeros(0, dtype=np.int64)
    theta, host = look["theta_e"].values[use], look["host_id"].values[use]
    snr = np.nan_to_num(look["arc_snr"].values[use])
    chosen: list[int] = []
    for group in np.array_split(np.argsort(theta, kind="stable"), max(wanted // 2, 1)):
        ranked = group[np.argsort(snr[group], kind="stable")]
        for place in (0.2, 0.8):
            nearest = ranked[np.argsort(np.abs(np.arange(len(ranked)) - place * (len(ranked) - 1)),
                                        kind="stable")]  # fmt: skip
            fresh = [k for k in nearest if k not in chosen]
            shown = set(host[chosen].tolist())
            new_host = [k for k in fresh[:20] if host[k] not in shown]
            chosen += (new_host or fresh)[:1]
    chosen.sort(key=lambda k: (theta[k], index[use[k]]))
    return index[use[chosen]].astype(np.int64)


def _looked_at(n: int, pieces: int = 16) -> list[slice]:
    if n == 0:
        return []
    if n <= LOOK_ROWS:
        return [slice(0, n)]
    length = LOOK_ROWS // pieces
    starts = np.linspace(0, n - length, pieces).astype(int)
    return [slice(int(s), int(s) + length) for s in starts]


def _example(row: xr.Dataset, bands: Sequence[str]) -> Example:
    lost = lost_pixels(row["nodata"].values, len(bands))
    panels = _panels(row["ctrl"].values.astype(float), row["arc"].values.astype(float), lost, bands)
    columns = {name: row[name].values for name in SHOWN}
    return Example(panels, _headline(columns, ()), _place(columns, (), bands))


def arc_gain(arc: NDArray[np.float64], bands: Sequence[str]) -> float:
    """Factor that makes a faint arc visible by itself: 1, or one digit times a power of ten.

    Parameters
    ----------
    arc : ndarray (band, y, x)
        nMgy.
    """
    scaled = [np.nan_to_num(arc[b]) * SCALES.get(bands[b], 3.0) for b in range(len(bands))]
    peak = float(np.mean(scaled, axis=0).max())
    if not 0.0 < peak < FAINT:
        return 1.0
    return max(float(f"{FAINT / peak:.0e}"), 1.0)


def rgb(
    image: NDArray[np.float64], bands: Sequence[str], lost: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """An image (band, y, x) in nMgy as colours (y, x, 3) in 0..1.

    The asinh stretch of Lupton et al. (2004, PASP 116, 133), which keeps colours: each band times its
    factor plus a floor of 0.03, the mean of the three stretched by asinh(20 I)/sqrt(20). The reddest
    band is red, the bluest blue, green the mean of those between (of both, where there are two).

    Parameters
    ----------
    lost : ndarray (y, x) of bool
        Pixels without data in any band, painted grey.
    """
    known = sorted(
        range(len(bands)),
        key=lambda b: (WAVELENGTH_ORDER.find(bands[b]) if bands[b] in WAVELENGTH_ORDER else 99, b),
    )
    scaled = np.stack([np.nan_to_num(image[b]) * SCALES.get(bands[b], 3.0) for b in known]) + FLOOR
    scaled = np.maximum(scaled, 0.0)
    middle = scaled[1:-1] if len(known) > 2 else scaled
    colour = np.stack([scaled[-1], middle.mean(axis=0), scaled[0]], axis=-1)
    light = colour.mean(axis=-1, keepdims=True)
    stretched = np.arcsinh(SOFTENING * light) / np.sqrt(SOFTENING)
    out = np.divide(colour * stretched, light, out=np.zeros_like(colour), where=light > 0)
    # What is too bright for the screen keeps its colour.
    out /= np.maximum(out.max(axis=-1, keepdims=True), 1.0)
    out[lost] = NO_DATA
    return out
