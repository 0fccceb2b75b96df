"""A few bricks, read once, and made into what every arm's readers need."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope import audit
from darkhaloscope.audit import AuditSpec
from darkhaloscope.audit.measure import BAND_COLUMNS, OPTIONAL_COLUMNS, PAIR_COLUMNS
from darkhaloscope.audit.spec import row_hashes
from darkhaloscope.config import CoreMask, Experiment, FixSection
from darkhaloscope.errors import Reason
from darkhaloscope.fix import apply_fix
from darkhaloscope.geometry import core_slice
from darkhaloscope.inject import Drawer, Row, draw_arc, inject_brick, load_brick
from darkhaloscope.lensing import Rendered
from darkhaloscope.plan import brick_rows
from darkhaloscope.study.arms import Arm
from darkhaloscope.study.zones import zones_of
from darkhaloscope.survey import galaxy_image
from darkhaloscope.variables import without_data
from darkhaloscope.views import mask_weight, view_pixels

Arrays = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]

KINDS = ("fixed", "negative", "plain", "ctrl")
"""Images that readers see: the arm's two classes; and the plain arcs, which are those of the arm ``none``,
with the ctrl below them."""

SOUND = "sound"
NO_BAND = "band_without_coverage"
"""Outcomes of a planned pair, beside the reasons of rows: readers need every band."""

ROW_COLUMNS = ["brick", "slot", "hash", "outcome"]

OBJID = 0xFFFFFFFF
"""Bits of a slot that say which galaxy of its brick a row has."""

PHYSICS_TOLERANCE = 1e-4
"""Relative accuracy of the arcs that the independent integrator draws."""


@dataclass(frozen=True)
class Reading:
    """What the parts of all arms have in common.

    ``leak_fraction``: rows whose hash lies below this fraction keep whole stamps for the leak map;
    ``joint``: the joint table of the plan, where it has one.
    """

    spec: AuditSpec
    leak_fraction: float
    joint: pd.DataFrame | None = None


class BrickPart(NamedTuple):
    """What one brick gives to a study."""

    rows: pd.DataFrame
    """Every planned pair and what became of it: :data:`ROW_COLUMNS`; ``sound``, a reason, or a band
    without coverage."""
    arms: dict[str, Arrays]
    """Features of these rows in each arm, by name; empty where the brick has no pair."""
    notes: list[str]
    """A sentence for every file that was in the way."""
    out_of_reach: bool = False
    """Whether the survey could not be read: nothing is known of these pairs yet, and nothing is made."""


def brick_part(
    targets: pd.DataFrame, reference: Arm, arms: Sequence[Arm], reading: Reading
) -> BrickPart:
    """Features of one brick's rows in each arm, by name; the brick is read once.

    Every arm has the injections of ``reference``, in its order; ``use`` says where the arm has an
    injection to read.
    """
    exp = reference.experiment
    rows = brick_rows(exp, targets, reading.joint)
    rows = rows[rows["lens_model"].to_numpy() > 0]
    nothing = BrickPart(pd.DataFrame(columns=ROW_COLUMNS), {}, [])
    if rows.empty:
        return nothing
    cutouts = load_brick(rows, exp)
    if (cutouts.reason == Reason.UNREADABLE).any():
        return nothing._replace(notes=list(cutouts.notes), out_of_reach=True)
    slots = rows["slot"].to_numpy(np.int64)

    cubes: dict[str, xr.Dataset] = {}
    draw = _remembering()

    def made(experiment: Experiment) -> xr.Dataset:
        """The brick's stamps; arms that differ only in how they are read share them."""
        text = _without_name(experiment)
        if text not in cubes:
            planned = brick_rows(experiment, targets, reading.joint)
            # Galaxies of which every row is a control have no cut-out.
            read = np.isin(planned["slot"].to_numpy(np.int64) & OBJID, slots & OBJID)
            wanted = planned[read].reset_index(drop=True)
            cubes[text] = inject_brick(wanted, cutouts, experiment, draw=draw)
        return cubes[text]

    base = _by_slot(made(exp), "slot", slots)
    common = _common(base, reading)
    drawn: dict[str, Floats] = {}
    parts = {}
    for arm in arms:
        untouched = _untouched(arm.experiment)
        text = _without_name(untouched)
        if text not in drawn:
            drawn[text] = _redrawn(_by_slot(made(untouched), "slot", slots), untouched, reading)
        parts[arm.name] = common | _arm_part(arm, made(arm.experiment), base, drawn[text], reading)
    return BrickPart(_outcomes(base, common), parts, list(cutouts.notes))


def _remembering() -> Drawer:
    """Draws an arc once for all arms that have it: what they do to it comes after."""
    arcs: dict[tuple[Any, ...], Rendered] = {}

    def draw(row: Row, widths: Floats, x: float, y: float, experiment: Experiment) -> Rendered:
        how = experiment.model_dump_json(exclude={"name", "fix"})
        key = repr(sorted(row.items())), widths.tobytes(), float(x), float(y), how
        if key not in arcs:
            arcs[key] = draw_arc(row, widths, x, y, experiment)
        return arcs[key]

    return draw


def _without_name(experiment: Experiment) -> str:
    """The experiment as text, but for what its arm is called."""
    return experiment.model_dump_json(exclude={"name"})


def _untouched(experiment: Experiment) -> Experiment:
    """The arm's own lenses and sources, a cap among them, and nothing done to pixels or rows: its physics."""
    only = FixSection(src_reff_max=experiment.fix.src_reff_max)
    return experiment.model_copy(update={"fix": only})


def _by_slot(cube: xr.Dataset, column: str, slots: NDArray[np.int64]) -> xr.Dataset:
    """The rows of a cube whose ``column`` holds these slots, in their order."""
    have = cube[column].values
    place = {int(s): i for i, s in enumerate(have.tolist())}
    return cube.isel(pair=[place[int(s)] for s in slots])


def _redrawn(cube: xr.Dataset, experiment: Experiment, reading: Reading) -> Floats:
    """Arcs as the independent integrator draws them, (row, band, y, x), nMgy; NaN where it cannot."""
    optional = [name for name in OPTIONAL_COLUMNS if name in cube]
    rows: Arrays = {n: cube[n].values for n in (*PAIR_COLUMNS, *optional, *BAND_COLUMNS)}
    rows["hash"] = _hashes(cube, reading)
    rows["closure"] = np.ones(len(rows["hash"]), dtype=bool)
    rows["nodata"] = cube["nodata"].values
    catalogue = experiment.source.catalogue
    images: dict[str, Any] = {}
    if catalogue is not None:
        images["image_of"] = functools.partial(galaxy_image, catalogue)
    again = audit.rerender(
        rows, reading.spec, apply_fix, closure_tolerance=PHYSICS_TOLERANCE, **images
    )
    return np.asarray(again["whole"])


def _hashes(cube: xr.Dataset, reading: Reading) -> NDArray[np.uint64]:
    return row_hashes(reading.spec.seed, cube["brick"].values, cube["slot"].values)


def _common(base: xr.Dataset, reading: Reading) -> Arrays:
    """What is the same in every arm."""
    band = reading.spec.reference_index
    width = base["psf_fwhm_used"].values[:, band].astype(float)
    return {
        "hash": _hashes(base, reading),
        "host": base["host_id"].values,
        "region": reading.spec.region_keys(base["region_id"].values),
        "theta_e": base["theta_e"].values.astype(float),
        "theta_e_over_psf": base["theta_e"].values / width,
        "sound": _usable(base),
        "flux_plain": base["total_injected_flux"].values.astype(float),
    }


def _outcomes(base: xr.Dataset, common: Arrays) -> pd.DataFrame:
    """What became of every planned pair, before any arm does something to it."""
    reasons = [Reason(code).text for code in base["reason"].values.tolist()]
    outcome = np.where(base["reason"].values == Reason.OK, NO_BAND, reasons)
    columns = {
        "brick": base["brick"].values.astype(str),
        "slot": base["slot"].values,
        "hash": common["hash"],
        "outcome": np.where(common["sound"], SOUND, outcome).astype(str),
    }
    return pd.DataFrame(columns, columns=ROW_COLUMNS)


def _usable(cube: xr.Dataset) -> NDArray[np.bool_]:
    """Rows to read: with pixels in every band, and not marked by a cut."""
    covered = (cube["coverage"].values > 0) & (cube["sky_sigma"].values > 0)
    return np.asarray((cube["reason"].values == Reason.OK) & covered.all(axis=1))


def _arm_part(
    arm: Arm, cube: xr.Dataset, base: xr.Dataset, physics: Floats, reading: Reading
) -> Arrays:
    """One arm's features of the rows of ``base``."""
    slots, size = base["slot"].values, reading.spec.size
    own = _by_slot(cube, "slot", slots)
    ctrl = base["ctrl"].values.astype(float)
    extra: Floats | float = 0.0
    if arm.experiment.fix.core_matched_negatives:
        partners = _by_slot(cube, "partner", slots)
        extra = partners["extra"].values.astype(float)
    light = {
        "fixed": ctrl + own["arc"].values,
        "negative": ctrl + extra,
        "plain": ctrl + base["arc"].values,
        "ctrl": ctrl,
        "physics": ctrl + physics,
    }
    good = _good(base)
    weight = None
    if arm.view.input_mask is not None:
        places = (base[name].values.astype(float) for name in ("target_x", "target_y"))
        weight = mask_weight(arm.view.input_mask, size, *places)
    seen = {kind: view_pixels(image, good, weight, arm.view) for kind, image in light.items()}
    unmasked = arm.view.model_copy(update={"input_mask": None})
    core = core_slice(size)
    n = len(slots)

    def in_core(images: Floats) -> NDArray[np.float32]:
        return images[..., core, core].reshape(n, -1).astype(np.float32)

    part: Arrays = {
        "use": _usable(own) & np.isfinite(physics).all(axis=(1, 2, 3)),
        "reason": own["reason"].values.astype(np.uint8),
        "flux": _light_seen(own, weight),
        "core_fixed": in_core(seen["fixed"]),
        "core_negative": in_core(seen["negative"]),
        "core_physics": in_core(view_pixels(light["physics"], good, None, unmasked)),
        "core_ctrl": in_core(view_pixels(ctrl, good, None, unmasked)),
    }
    unit = base["sky_sigma"].values.astype(float)[:, :, None, None]
    if arm.view.normalize:
        unit = np.ones_like(unit)
    zones = zones_of(mask_of(arm), size)
    for kind in KINDS:
        # Rows without a sky sigma are no rows to read; their features are never looked at.
        scaled = np.nan_to_num(seen[kind] / unit)
        part[f"linear_{kind}"] = zones.linear(scaled)
        part[f"profile_{kind}"] = zones.profile(scaled)
    kept = _hashes(base, reading) / 2.0**64 < reading.leak_fraction
    for kind in ("fixed", "negative"):
        part[f"whole_{kind}"] = (seen[kind] / unit)[kept].astype(np.float32)
    shown = view_pixels(light["negative"] + physics, good, weight, arm.view)
    part["whole_physics"] = (shown / unit)[kept].astype(np.float32)
    part["whole_good"] = good[kept]
    part["whole_hash"] = _hashes(base, reading)[kept]
    return part


def mask_of(arm: Arm) -> CoreMask:
    """The mask about whose edge an arm is read: its own, that of its view, or the default circle."""
    return arm.experiment.fix.core_mask or arm.view.input_mask or CoreMask()


def _light_seen(own: xr.Dataset, weight: Floats | None) -> Floats:
    """Flux of the arcs as the arm's readers see them, (row, band): light that an input mask hides is lost to
    them, as that which a core mask took."""
    if weight is None:
        return np.asarray(own["total_injected_flux"].values.astype(float))
    seen = (own["arc"].values * weight).sum(axis=(2, 3))
    return np.where(np.isfinite(own["total_injected_flux"].values), seen, np.nan)


def _good(base: xr.Dataset) -> NDArray[np.bool_]:
    """Pixels with data, (row, band, y, x)."""
    return ~without_data(base["nodata"].values, base.sizes["band"])
