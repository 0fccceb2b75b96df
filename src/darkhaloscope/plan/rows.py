"""The rows of one brick: a pure function of the experiment and the brick's targets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xxhash
from numpy.typing import NDArray

from darkhaloscope.config import Experiment
from darkhaloscope.draw import Draw, Mix
from darkhaloscope.plan.targetlist import (
    target_column,
)
from darkhaloscope.survey import regions
from darkhaloscope.survey.galaxies import Galaxies, select_galaxies
from darkhaloscope.variables import (
    BY_NAME,
    LENS_MODELS,
    MAG_ZERO_POINT,
    NEGATIVE_KINDS,
    SOURCE_MODELS,
)

COLUMNS = (
    "lens.theta_e",
    "lens.q",
    "lens.pa",
    "lens.shear",
    "lens.shear_pa",
    "lens.dx",
    "lens.dy",
    "source.dmag",
    "source.mag",
    "source.reff",
    "source.n",
    "source.q",
    "source.pa",
    "source.dx",
    "source.dy",
    "source.colour.g",
    "source.colour.r",
    "source.colour.i",
    "source.colour.z",
    "plan.control",
    "plan.joint",
    "plan.lens_model",
    "lens.slope",
    "plan.source_model",
    "source.bulge_fraction",
    "source.bulge_reff",
    "source.bulge_n",
    "source.bulge_q",
    "plan.image",
    "source.image_scale",
    "source.rotation",
)
"""Column of each parameter in the table of uniforms. Never reordered: new ones go at the end."""

UNIFORM_COLUMNS = 32
"""Width of the table of uniforms; columns beyond :data:`COLUMNS` wait for later parameters."""

_PAGE = 4096
"""Rows of the table of uniforms that are drawn at once: OBJIDs may be large and few."""


def uniforms(seed: int, brick: str, j: int, k: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rows ``k`` of the table of uniforms of a brick, shape (len(k), 32), each in [0, 1).

    The table is ``Generator(Philox(key=[seed, xxh64(brick)], counter=[0, 0, 0, j])).random((…, 32))``.
    """
    key = np.array([seed, xxhash.xxh64_intdigest(brick.encode())], dtype=np.uint64)

    def table(first: int, rows: int) -> NDArray[np.float64]:
        stream = np.random.Philox(key=key, counter=np.array([0, 0, 0, j], dtype=np.uint64))
        stream.advance(first * UNIFORM_COLUMNS // 4)  # Philox gives four numbers a step
        return np.random.Generator(stream).random((rows, UNIFORM_COLUMNS))

    made = np.empty((len(k), UNIFORM_COLUMNS))
    page = k // _PAGE
    for number in np.unique(page):
        here = page == number
        first = int(number) * _PAGE
        made[here] = table(first, int(k[here].max()) - first + 1)[k[here] - first]
    return made


def injected(experiment: Experiment, brick: str, k: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows of a brick's targets are injections, shape (rows per target, len(k)); ``k`` ascends.

    Draws the one uniform number that decides, not the whole table: a plan that counts them for all
    bricks takes a tenth of a millisecond a brick.
    """
    fraction = experiment.plan.control_fraction
    turns = experiment.plan.repeats * grid_cells(experiment)
    key = np.array([experiment.seed, xxhash.xxh64_intdigest(brick.encode())], dtype=np.uint64)
    made = np.empty((turns, len(k)), dtype=bool)
    step, place = divmod(COLUMNS.index("plan.control"), 4)  # Philox gives four numbers a step
    for j in range(turns):
        stream = np.random.Philox(key=key, counter=np.array([0, 0, 0, j], dtype=np.uint64))
        draw = np.random.Generator(stream).random
        done = 0
        for i, row in enumerate(k.tolist()):
            wanted = row * (UNIFORM_COLUMNS // 4) + step
            stream.advance(wanted - done)
            made[j, i] = draw(4)[place] >= fraction
            done = wanted + 1
    return made


def regions_of(
    experiment: Experiment, targets: pd.DataFrame
) -> tuple[NDArray[np.str_], NDArray[np.uint8]]:
    """Region and split of each target, as the experiment asks; see :func:`survey.regions.assign`."""
    section = experiment.targets
    return regions.assign(
        targets["ra"].to_numpy(float),
        targets["dec"].to_numpy(float),
        kind=section.region,
        fractions=section.splits.fractions,
        size=experiment.stamp.size,
        brick=targets["brick"].to_numpy(str),
    )


def shear_components(
    shear: NDArray[np.float64], pa: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """gamma1, gamma2 on (East, North) axes of a shear that stretches images along ``pa`` (deg).

    With phi = 90 deg - pa counted from East toward North, gamma1 = gamma cos 2 phi and
    gamma2 = gamma sin 2 phi.
    """
    phi = np.deg2rad(90.0 - pa)
    return shear * np.cos(2 * phi), shear * np.sin(2 * phi)


def brick_rows(
    experiment: Experiment,
    targets: pd.DataFrame,
    joint: pd.DataFrame | None = None,
    rows: slice = slice(None),
) -> pd.DataFrame:
    """Every planned column of the rows of one brick, ordered by slot.

    Parameters
    ----------
    experiment : Experiment
    targets : DataFrame
        The targets of one brick.
    joint : DataFrame, optional
    rows : slice, optional
        Which of them: those of a block. Turns that have none of these are not drawn, but with core-matched
        negatives all are.

    Returns
    -------
    DataFrame
        One row a pair; core-matched negatives after all others. Lens and source columns of controls
        are NaN, ``theta_e`` is 0. Units as in the data set (docs/data-set.md).
    """
    brick = str(targets["brick"].iloc[0])
    k = targets["objid"].to_numpy(np.int64)
    per_target = experiment.plan.repeats * grid_cells(experiment)
    region = regions_of(experiment, targets)
    turns = range(per_target)
    if not experiment.fix.core_matched_negatives:
        start, stop, _ = rows.indices(len(k) * per_target)
        turns = turns[start // len(k) : -(-stop // len(k))]
        rows = slice(start - turns.start * len(k), stop - turns.start * len(k))
    parts = [_rows_of_turn(experiment, targets, brick, region, k, j, joint) for j in turns]
    if experiment.fix.core_matched_negatives:
        parts += [_negatives(part, per_target) for part in parts]
    return pd.concat(parts, ignore_index=True).iloc[rows].reset_index(drop=True)


def _negatives(rows: pd.DataFrame, per_target: int) -> pd.DataFrame:
    """The core-matched negative of each injection among the rows of one turn: a control on its sky."""
    negatives = rows[rows["lens_model"] > 0].copy()
    negatives["partner"] = negatives["slot"]
    negatives["slot"] = negatives["slot"] + (per_target << 32)
    negatives["negative_kind"] = NEGATIVE_KINDS.index("core_matched")
    negatives["theta_e"] = 0.0
    for name in negatives:
        if str(name).startswith(("lens_", "src_", "gamma")):
            stem = name if name in BY_NAME else str(name).rpartition("_")[0]
            negatives[name] = BY_NAME[str(stem)].fill
    return negatives


def _rows_of_turn(
    experiment: Experiment,
    targets: pd.DataFrame,
    brick: str,
    region: tuple[NDArray[np.str_], NDArray[np.uint8]],
    k: NDArray[np.int64],
    j: int,
    joint: pd.DataFrame | None,
) -> pd.DataFrame:
    """Row j of every target of a brick."""
    table = uniforms(experiment.seed, brick, j, k)
    value = _parameter_values(experiment, table, k, j, joint)
    bands = experiment.survey.bands
    control = table[:, COLUMNS.index("plan.control")] < experiment.plan.control_fraction
    lens_model = _codes(table, "lens_model", experiment.lens.model, LENS_MODELS)
    src_model = _codes(table, "source_model", experiment.source.model, SOURCE_MODELS)
    is_sis = lens_model == LENS_MODELS.index("SIS")
    is_image = src_model == SOURCE_MODELS.index("IMAGE")
    shapeless = is_image | (src_model == SOURCE_MODELS.index("POINT"))
    frame: dict[str, object] = {
        "brick": brick,
        "slot": (np.int64(j) << 32) | k,
        "partner": np.int64(-1),
        "target_id": targets["target_id"].to_numpy(np.int64),
        "host_id": targets["target_id"].to_numpy(np.int64),
        "ra": targets["ra"].to_numpy(float),
        "dec": targets["dec"].to_numpy(float),
        "region_id": region[0].astype(object),
        "region_split": region[1],
        "lens_model": np.where(control, 0, lens_model),
        "src_model": np.where(control, 0, src_model),
    }
    gamma1, gamma2 = shear_components(value["lens.shear"], value["lens.shear_pa"])
    mag_ref = target_column(targets, f"mag_{experiment.survey.reference}")
    has_mag = np.isfinite(mag_ref)
    source_mag = np.where(has_mag, mag_ref + value["source.dmag"], value["source.mag"])
    planned = {
        "theta_e": value["lens.theta_e"],
        "lens_q": np.where(is_sis, 1.0, value["lens.q"]),
        "lens_pa": value["lens.pa"],
        "gamma1": gamma1,
        "gamma2": gamma2,
        "lens_dx": value["lens.dx"],
        "lens_dy": value["lens.dy"],
        "src_dmag": np.where(has_mag, value["source.dmag"], np.nan),
        "src_reff": np.where(shapeless, np.nan, value["source.reff"]),
        "src_n": np.where(shapeless, np.nan, value["source.n"]),
        "src_q": np.where(shapeless, np.nan, value["source.q"]),
        "src_pa": np.where(shapeless, np.nan, value["source.pa"]),
        "src_dx": value["source.dx"],
        "src_dy": value["source.dy"],
    }
    if "EPL" in experiment.kinds:
        is_epl = lens_model == LENS_MODELS.index("EPL")
        planned["lens_slope"] = np.where(is_epl, value["lens.slope"], np.nan)
    if "BULGE_DISC" in experiment.kinds:
        has_bulge = src_model == SOURCE_MODELS.index("BULGE_DISC")
        for name in ("fraction", "reff", "n", "q"):
            bulge = value[f"source.bulge_{name}"]
            planned[f"src_bulge_{name}"] = np.where(has_bulge, bulge, np.nan)
    if (galaxies := galaxies_of(experiment)) is not None:
        k_image = (table[:, COLUMNS.index("plan.image")] * len(galaxies.ident)).astype(int)
        frame["src_image"] = np.where(is_image & ~control, galaxies.ident[k_image], -1)
        frame["src_deconvolved"] = is_image & ~control & experiment.source.deconvolved
        larger = value["source.image_scale"]
        planned["src_rotation"] = np.where(is_image, value["source.rotation"], np.nan)
        planned["src_scale"] = np.where(is_image, galaxies.scale[k_image] * larger, np.nan)
        reff = galaxies.reff[k_image] * larger
        planned["src_reff"] = np.where(is_image, reff, planned["src_reff"])
    for band in bands:
        mag = source_mag + value[f"source.colour.{band}"]
        planned[f"src_flux_{band}"] = 10 ** (0.4 * (MAG_ZERO_POINT - mag))
    if experiment.fix.src_reff_max is not None:
        _cap_sizes(planned, experiment.fix.src_reff_max)
    for name, column in planned.items():
        frame[name] = np.where(control, 0.0 if name == "theta_e" else np.nan, column)
    if experiment.fix.core_matched_negatives:
        frame["negative_kind"] = control.astype(np.int64)
    if experiment.fix.cuts:
        frame["cut_theta_e"] = planned["theta_e"]  # of a control: what it would have had
    for band in bands:
        frame[f"host_mag_{band}"] = target_column(targets, f"mag_{band}")
        frame[f"manifest_psfsize_{band}"] = target_column(targets, f"psfsize_{band}")
    return pd.DataFrame(frame, index=range(len(k)))


def _cap_sizes(planned: dict[str, NDArray[np.float64]], largest: float) -> None:
    """Draw larger sources with the half-light radius ``largest`` (arcsec), in place.

    An image shrinks with its pixels, where the catalogue lists its size.
    """
    size = planned["src_reff"]
    if "src_scale" in planned:
        too_large = np.isfinite(planned["src_scale"]) & (size > largest)
        planned["src_scale"] = np.where(
            too_large, planned["src_scale"] * largest / size, planned["src_scale"]
        )
    for name in ("src_reff", "src_bulge_reff"):
        if name in planned:
            planned[name] = np.minimum(planned[name], largest)


def galaxies_of(experiment: Experiment) -> Galaxies | None:
    """The galaxies that sources are drawn from; None where no row can be an image."""
    source = experiment.source
    if "IMAGE" not in experiment.kinds or source.catalogue is None:
        return None
    return select_galaxies(source.catalogue, source.image_mag, source.image_reff)


def _codes(
    table: NDArray[np.float64], name: str, mix: Mix, names: tuple[str, ...]
) -> NDArray[np.int64]:
    """What each row's lens or source is, as its code of the closed list."""
    codes = np.array([names.index(kind.upper()) for kind in mix.names])
    return codes[mix.at(table[:, COLUMNS.index(f"plan.{name}")])]


def _parameter_values(
    experiment: Experiment,
    table: NDArray[np.float64],
    k: NDArray[np.int64],
    j: int,
    joint: pd.DataFrame | None,
) -> dict[str, NDArray[np.float64]]:
    """Every parameter of row j of every target, by its dotted name."""
    cell = j % grid_cells(experiment)
    values = {}
    for name, draw in parameters(experiment).items():
        index = cell % draw.cells
        cell //= draw.cells
        values[name] = draw.at(table[:, COLUMNS.index(name)], cell=index, turn=k + j)
    if joint is not None:
        row = (table[:, COLUMNS.index("plan.joint")] * len(joint)).astype(int)
        values.update({str(name): joint[name].to_numpy(float)[row] for name in joint.columns})
    return values


def parameters(experiment: Experiment) -> dict[str, Draw]:
    """The rule of every parameter, by its dotted name, in the order of :data:`COLUMNS`."""
    lens, source = experiment.lens, experiment.source
    rules = {f"lens.{name}": getattr(lens, name) for name in type(lens).model_fields}
    rules |= {f"source.{name}": getattr(source, name) for name in type(source).model_fields}
    colours = {f"source.colour.{band}": draw for band, draw in source.colour.items()}
    zero = Draw.constant(0.0)
    rules["source.mag"] = source.mag or Draw.constant(float("nan"))
    return {
        name: colours.get(name, zero) if name.startswith("source.colour.") else rules[name]
        for name in COLUMNS
        if not name.startswith("plan.")
    }


def grid_cells(experiment: Experiment) -> int:
    """Cells of the grid that the experiment's full lists span: rows of one target and repeat."""
    cells = 1
    for draw in parameters(experiment).values():
        cells *= draw.cells
    return cells
