"""Defects planted into clean pairs, each with the names that an audit may give it.

Every defect changes pixels or bookkeeping and leaves the parameters of the arcs, so that arcs drawn again
for the clean pairs serve them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from audit_pairs import SIZE, SKY, Ds, Plant, draw, with_arc
from scipy.ndimage import shift as moved

from darkhaloscope.geometry import stamp_centre

UNIT = SKY[None, :, None, None]
DRAWN = (
    "theta_e", "lens_q", "lens_pa", "gamma1", "gamma2", "lens_dx", "lens_dy", "src_reff", "src_n",
    "src_q", "src_pa", "src_dx", "src_dy",
)  # fmt: skip


@dataclass(frozen=True)
class Defect:
    """``plant`` at its reference ``size``; ``names``: the cause, or its degenerate family."""

    plant: Plant
    size: str
    names: frozenset[str]


def drawn_otherwise(
    ds: Ds, width_is: str = "nea", rounded: bool = False, mirror: bool = False
) -> Ds:
    """The same rows with arcs that were drawn by another convention."""
    columns = {name: ds[name].values.copy() for name in DRAWN}
    if mirror:
        columns["lens_pa"] = 180 - columns["lens_pa"]
        columns["src_dx"], columns["gamma2"] = -columns["src_dx"], -columns["gamma2"]
    target = np.stack([ds["target_x"].values, ds["target_y"].values], axis=1)
    if rounded:
        target = np.full_like(target, stamp_centre(SIZE))
    flux, psfsize = ds["src_flux"].values, ds["psfsize"].values
    rows = np.flatnonzero(ds["lens_model"].values != 0)
    arcs = np.array([draw(columns, flux, psfsize, target, i, width_is)[0] for i in rows])
    return with_arc(ds, lambda _: arcs)


def _core(ds: Ds) -> Ds:
    box = np.zeros((SIZE, SIZE))
    box[SIZE // 2 - 5 : SIZE // 2 + 5, SIZE // 2 - 5 : SIZE // 2 + 5] = 0.02
    return with_arc(ds, lambda arc: arc + UNIT * box)


def _one_band(ds: Ds) -> Ds:
    return with_arc(ds, lambda arc: arc + 0.02 * UNIT * np.array([1, 0, 0])[None, :, None, None])


def _noise(ds: Ds) -> Ds:
    rng = np.random.default_rng(5)
    return with_arc(ds, lambda arc: arc + 0.7 * UNIT * rng.normal(size=arc.shape))


def _other_place(ds: Ds) -> Ds:
    ctrl = ds["ctrl"].values[ds["lens_model"].values != 0].astype(float)
    gap = moved(ctrl, (0, 0, 0, 0.4), order=3, mode="nearest") - ctrl
    return with_arc(ds, lambda arc: arc + gap)


def _half_pixel(ds: Ds) -> Ds:
    return with_arc(ds, lambda arc: moved(arc, (0, 0, 0.5, 0.5), order=5, mode="constant"))


def _controls(ds: Ds) -> Ds:
    out = ds.copy(deep=True)
    out["psfsize"].values[ds["lens_model"].values == 0] *= 1.3
    return out


def _split(ds: Ds) -> Ds:
    out = ds.copy(deep=True)
    out["region_split"].values[0] = (out["region_split"].values[0] + 1) % 3
    return out


def _defect(plant: Plant, size: str, *names: str) -> Defect:
    return Defect(plant, size, frozenset(names))


DEFECTS: dict[str, Defect] = {
    "flux doubled": _defect(lambda ds: with_arc(ds, lambda a: 2 * a), "2", "flux_scale"),
    "zero point": _defect(lambda ds: with_arc(ds, lambda a: 1.05 * a), "1.05", "flux_scale"),
    "pedestal": _defect(
        lambda ds: with_arc(ds, lambda a: a + 0.01 * UNIT), "0.01 sky sigma", "pedestal"
    ),
    "pedestal in the core": _defect(_core, "0.02 sky sigma", "core_pedestal"),
    "sky offset in one band": _defect(_one_band, "0.02 sky sigma", "pedestal"),
    "shift by 1 px": _defect(
        lambda ds: with_arc(ds, lambda a: np.roll(a, 1, axis=-1)), "1 px", "shift"
    ),
    "shift by half a px": _defect(_half_pixel, "0.5 px in x and y", "shift"),
    "wrapped kernel": _defect(
        lambda ds: with_arc(ds, lambda a: np.roll(a, SIZE // 2, axis=-1)), "half a stamp", "shift"
    ),
    "rows shuffled": _defect(
        lambda ds: with_arc(ds, lambda a: np.roll(a, 1, axis=0)), "all", "unexplained_residual"
    ),
    "noise in one class": _defect(_noise, "0.7 sky sigma", "noise_one_class"),
    "ctrl of another place": _defect(_other_place, "0.4 px", "stamp_displaced"),
    "region in two splits": _defect(_split, "one row", "split_leak"),
    "controls selected": _defect(_controls, "seeing x 1.3", "selection_shortcut"),
    "psfsize as Moffat FWHM": _defect(
        lambda ds: drawn_otherwise(ds, width_is="fwhm"), "1.23", "blur"
    ),
    "target rounded": _defect(
        lambda ds: drawn_otherwise(ds, rounded=True), "up to 0.5 px", "shift"
    ),
    "angles mirrored": _defect(
        lambda ds: drawn_otherwise(ds, mirror=True), "all", "unexplained_residual"
    ),
}
