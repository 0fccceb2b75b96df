"""Who is injected with what, in which order: a pure function of the experiment and a brick.

Rows are ordered by brick name, then by ``slot = (j << 32) | k``: k is the target's OBJID in its brick, j
which of the target's rows it is. Every random number of a row comes from one table of uniforms per
brick and j, ``Philox(key=[seed, xxh64(brick)], counter=[0, 0, 0, j])``, row k, one column a parameter:
adding or removing targets, bricks or blocks changes no other row.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xxhash
from numpy.typing import NDArray

from darkhaloscope.config import Experiment, parse_experiment
from darkhaloscope.draw import Draw, Mix
from darkhaloscope.errors import UserError
from darkhaloscope.survey import regions
from darkhaloscope.survey.galaxies import Galaxies, galaxies_digest, select_galaxies
from darkhaloscope.targetlist import (
    MemoryTargets,
    TargetList,
    canonical_numbers,
    contents_digest,
    target_column,
)
from darkhaloscope.variables import LENS_MODELS, MAG_ZERO_POINT, SOURCE_MODELS

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

_MAX_OBJID = 2**22 - 1
"""An OBJID fits in 22 bits of a DESI TARGETID."""

_PRIOR_POINTS = 55_440
"""Points at which a prior is looked at; many lengths of a list divide it."""

_BLOCK_BYTES = 100 * 2**20
"""Upper limit of one raw float32 cube of a block."""


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


def block_rows(rows: int, size: int, bands: int) -> int:
    """Rows of a block: the largest power of two whose raw float32 cube is <= 100 MiB, at most
    ``rows / 16``, at least 64."""
    most = max(64, min(_BLOCK_BYTES // (size * size * bands * 4), rows // 16))
    return 1 << (most.bit_length() - 1)


def shear_components(
    shear: NDArray[np.float64], pa: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """gamma1, gamma2 on (East, North) axes of a shear that stretches images along ``pa`` (deg).

    With phi = 90 deg - pa counted from East toward North, gamma1 = gamma cos 2 phi and
    gamma2 = gamma sin 2 phi.
    """
    phi = np.deg2rad(90.0 - pa)
    return shear * np.cos(2 * phi), shear * np.sin(2 * phi)


@dataclass(frozen=True)
class Piece:
    """The rows of one brick that lie in one block: ``rows`` of the brick's own order."""

    block: int
    brick: str
    rows: slice


class Plan:
    """The whole plan of an experiment, evaluated a brick at a time.

    Parameters
    ----------
    experiment : Experiment
    targets : DataFrame or TargetList
        As :func:`darkhaloscope.survey.read_targets` gives them, or read a piece at a time.
    joint : DataFrame, optional
        The joint table that ``plan.joint`` names.

    Raises
    ------
    UserError
        Two targets share brick and OBJID, an OBJID is out of range, a target has no magnitude and
        ``source.mag`` is not given, the joint table names an unknown parameter, or the catalogue of
        galaxy images cannot be read or has none within the bounds.
    """

    def __init__(
        self,
        experiment: Experiment,
        targets: pd.DataFrame | TargetList,
        joint: pd.DataFrame | None = None,
    ) -> None:
        self.experiment = experiment
        self.joint = joint
        self.targets = MemoryTargets(targets) if isinstance(targets, pd.DataFrame) else targets
        _check_targets(self.targets, experiment, joint)
        if joint is not None:
            _check_joint(joint, experiment)
        _galaxies(experiment)
        self.bricks = self.targets.bricks
        self.rows_per_target = experiment.plan.repeats * _grid_cells(experiment)
        self._first_row = self.targets.first * self.rows_per_target
        self.rows = int(self._first_row[-1])
        auto = block_rows(self.rows, experiment.stamp.size, len(experiment.survey.bands))
        self.block = auto if experiment.store.block == "auto" else int(experiment.store.block)
        self.blocks = -(-self.rows // self.block)

    @functools.cached_property
    def contents(self) -> dict[str, str]:
        """sha256 of the contents of the target table, the joint table and the chosen galaxies.

        Of the targets only what decides rows, brick by brick: no driver needs the whole table for it.
        """
        bands = self.experiment.survey.bands
        made = {"targets": contents_digest(self.targets, bands)}
        if self.joint is not None:
            digest = hashlib.sha256()
            for name in sorted(self.joint.columns):
                digest.update(f"{name}\0".encode())
                digest.update(canonical_numbers(self.joint[name].to_numpy(float)).tobytes())
            made["joint"] = digest.hexdigest()
        if (galaxies := _galaxies(self.experiment)) is not None:
            url = str(self.experiment.source.catalogue)
            made["galaxies"] = galaxies_digest(url, galaxies)
        return made

    @functools.cached_property
    def regions(self) -> tuple[NDArray[np.str_], NDArray[np.uint8]]:
        """Names of all regions, and the split of every target in the plan's order."""
        names: set[str] = set()
        splits = []
        for chunk in self.targets.chunks():
            region, split = regions_of(self.experiment, chunk)
            names.update(np.unique(region).tolist())
            splits.append(split)
        return np.array(sorted(names)), np.concatenate(splits)

    @property
    def n_regions(self) -> int:
        """How many regions hold the targets."""
        return len(self.regions[0])

    def targets_of(self, brick: str) -> pd.DataFrame:
        """The targets of one brick, by OBJID."""
        b = int(np.searchsorted(self.bricks, brick))
        return self.targets.rows(int(self.targets.first[b]), int(self.targets.first[b + 1]))

    def pieces(self, block: int) -> list[Piece]:
        """The bricks of a block, in order, each with its rows."""
        start = block * self.block
        stop = min(start + self.block, self.rows)
        first = int(np.searchsorted(self._first_row, start, side="right")) - 1
        last = int(np.searchsorted(self._first_row, stop, side="left"))
        return [
            Piece(
                block,
                str(self.bricks[b]),
                slice(
                    max(start - int(self._first_row[b]), 0),
                    min(stop, int(self._first_row[b + 1])) - int(self._first_row[b]),
                ),
            )
            for b in range(first, last)
        ]

    def brick_rows(self, brick: str) -> pd.DataFrame:
        """All rows of one brick; see :func:`brick_rows`."""
        return brick_rows(self.experiment, self.targets_of(brick), self.joint)

    def block_rows(self, block: int) -> pd.DataFrame:
        """Every planned row of one block, in order."""
        parts = [self.brick_rows(piece.brick).iloc[piece.rows] for piece in self.pieces(block)]
        return pd.concat(parts, ignore_index=True)

    def theta_e_prior(self) -> NDArray[np.float64]:
        """Einstein radii (arcsec) that are equally likely for an injection: what the plan expects."""
        if self.joint is not None and "lens.theta_e" in self.joint:
            return self.joint["lens.theta_e"].to_numpy(float)
        draw = parameters(self.experiment)["lens.theta_e"]
        number = np.arange(_PRIOR_POINTS)
        cell = number % draw.cells
        return draw.at((number + 0.5) / _PRIOR_POINTS, cell=cell, turn=number)

    def iter_bricks(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """(brick, rows) in the plan's order."""
        for brick in self.bricks:
            yield str(brick), self.brick_rows(str(brick))


def brick_rows(
    experiment: Experiment, targets: pd.DataFrame, joint: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Every planned column of the rows of one brick, ordered by slot.

    Parameters
    ----------
    experiment : Experiment
    targets : DataFrame
        The targets of one brick.
    joint : DataFrame, optional

    Returns
    -------
    DataFrame
        One row a pair. Lens and source columns of controls are NaN, ``theta_e`` is 0. Units as in
        the data set (docs/data-set.md).
    """
    brick = str(targets["brick"].iloc[0])
    k = targets["objid"].to_numpy(np.int64)
    per_target = experiment.plan.repeats * _grid_cells(experiment)
    region = regions_of(experiment, targets)
    parts = [
        _rows_of_turn(experiment, targets, brick, region, k, j, joint) for j in range(per_target)
    ]
    return pd.concat(parts, ignore_index=True)


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
    if (galaxies := _galaxies(experiment)) is not None:
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
    for name, column in planned.items():
        frame[name] = np.where(control, 0.0 if name == "theta_e" else np.nan, column)
    for band in bands:
        frame[f"host_mag_{band}"] = target_column(targets, f"mag_{band}")
        frame[f"manifest_psfsize_{band}"] = target_column(targets, f"psfsize_{band}")
    return pd.DataFrame(frame, index=range(len(k)))


def _galaxies(experiment: Experiment) -> Galaxies | None:
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
    cell = j % _grid_cells(experiment)
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


def _grid_cells(experiment: Experiment) -> int:
    cells = 1
    for draw in parameters(experiment).values():
        cells *= draw.cells
    return cells


def _check_targets(targets: TargetList, experiment: Experiment, joint: pd.DataFrame | None) -> None:
    if not len(targets.bricks):
        raise UserError("the target list is empty; an experiment needs at least one target")
    reference = experiment.survey.reference
    without_mag = total = 0
    for chunk in targets.chunks():
        double = chunk.duplicated(["brick", "objid"])
        if double.any():
            first = chunk[double].iloc[0]
            raise UserError(
                f"two targets share OBJID {first['objid']} in brick {first['brick']}; "
                "remove one, or give them different objid"
            )
        out = ~chunk["objid"].between(0, _MAX_OBJID)
        if out.any():
            raise UserError(
                f"OBJID {chunk['objid'][out].iloc[0]} is outside 0 to {_MAX_OBJID}; "
                "check the column objid"
            )
        without_mag += int((~np.isfinite(target_column(chunk, f"mag_{reference}"))).sum())
        total += len(chunk)
    given = experiment.source.mag is not None or (joint is not None and "source.mag" in joint)
    if without_mag and not given and experiment.plan.control_fraction < 1:
        raise UserError(
            f"{without_mag} of {total} targets have no magnitude in {reference}; "
            "add source.mag, the unlensed magnitude of their sources, to the experiment"
        )


def _check_joint(joint: pd.DataFrame, experiment: Experiment) -> None:
    known: Sequence[str] = list(parameters(experiment))
    unknown = [name for name in joint.columns if name not in known]
    if unknown or joint.empty:
        raise UserError(
            f"the joint table has {len(joint)} rows and the unknown columns {unknown}; "
            f"its columns are parameters: {', '.join(known)}"
        )
    numbers = joint.apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not np.isfinite(numbers).all():
        raise UserError("the joint table holds a value that is missing or no number; mend it")
    for name in joint.columns:
        low, high = joint[name].min(), joint[name].max()
        _check_joint_column(str(name), float(low), float(high), experiment)


def _check_joint_column(name: str, low: float, high: float, experiment: Experiment) -> None:
    """A joint column obeys the same range as the key that it replaces."""
    document = experiment.model_dump(mode="json")
    for value in (low, high):
        place = document
        *path, key = name.split(".")
        for part in path:
            place = place.setdefault(part, {})
        place[key] = value
        parse_experiment(document, f"the joint table, column {name}")
