"""From an experiment file, or a data set, to what a graph needs: plan, layout, audit settings.

Everything here happens on the driver and before any pixel is read, but for a look whether the first
bricks are there at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from darkhaloscope import audit, storage, store, survey
from darkhaloscope.audit import AuditSpec, GateLimits
from darkhaloscope.config import Experiment, load_experiment, parse_experiment, replace_keys
from darkhaloscope.errors import Incomplete, Reason, UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.inject import load_brick, survey_of
from darkhaloscope.plan import Plan, brick_rows
from darkhaloscope.store import Layout
from darkhaloscope.survey.health import check_readable
from darkhaloscope.survey.maskbits import check_names
from darkhaloscope.survey.targets import read_table
from darkhaloscope.targetlist import open_targets
from darkhaloscope.variables import VARIABLES

COUNTED_BRICKS = 256
"""Up to so many bricks, injections are counted rather than expected."""

PREFLIGHT_BRICKS = 5


def experiment_of(
    experiment: str | Experiment, overrides: Mapping[str, Any] | None = None
) -> Experiment:
    """An experiment from its file or as it is, with some keys replaced (dotted names)."""
    if isinstance(experiment, str):
        return load_experiment(experiment, overrides)
    document = experiment.model_dump(mode="json")
    replace_keys(document, overrides or {})
    return parse_experiment(document)


def plan_of(exp: Experiment) -> Plan:
    """The plan of an experiment, its target table and joint table read."""
    joint = read_table(exp.plan.joint) if exp.plan.joint is not None else None
    if exp.targets.path is not None and not exp.targets.positions:
        in_pieces = open_targets(exp.targets.path)
        if in_pieces is not None:
            return Plan(exp, in_pieces, joint)
    frames = []
    if exp.targets.path is not None:
        frames.append(survey.read_targets(exp.targets.path))
    if exp.targets.positions:
        beside = frames[0] if frames else None
        frames.append(survey.position_targets(exp.targets.positions, beside))
    return Plan(exp, pd.concat(frames, ignore_index=True), joint)


def layout_of(made: Plan) -> Layout:
    """The data set that a plan becomes."""
    exp = made.experiment
    identity = exp.identity(made.contents)
    splits = exp.targets.splits.model_dump()
    return Layout(
        made.rows,
        made.block,
        exp.survey.bands,
        exp.stamp.size,
        store.attributes(identity, exp.seed, splits),
        exp.kinds,
    )


def planned_strata(made: Plan) -> tuple[int, ...]:
    """Injections that a plan expects in each stratum of theta_e.

    Counted where the plan is small; else from the prior alone, before any row is evaluated.
    """
    exp = made.experiment
    edges = exp.audit.theta_e_edges
    if len(made.bricks) <= COUNTED_BRICKS:
        radii = [rows.loc[rows["lens_model"] > 0, "theta_e"] for _, rows in made.iter_bricks()]
        return audit.stratum_counts(np.concatenate(radii), edges)
    prior = made.theta_e_prior()
    injections = made.rows * (1 - exp.plan.control_fraction)
    return tuple(
        round(injections * count / len(prior)) for count in audit.stratum_counts(prior, edges)
    )


def spec_of(
    exp: Experiment, strata: tuple[int, ...], *, n_regions: int, seed: int | None = None
) -> AuditSpec:
    """Which rows an audit keeps, from the number of injections in each stratum of theta_e."""
    return AuditSpec(
        seed=exp.seed if seed is None else seed,
        bands=exp.survey.bands,
        reference_band=exp.survey.reference,
        size=exp.stamp.size,
        pixel_scale=PIXEL_SCALE,
        n_regions=n_regions,
        stratum_counts=strata,
        theta_e_edges=exp.audit.theta_e_edges,
        cap=exp.audit.cap,
        whole_cap=min(exp.audit.whole_cap, exp.audit.cap),
        closure=min(exp.audit.closure, exp.audit.whole_cap, exp.audit.cap),
    )


def write_plan(folder: str, made: Plan) -> None:
    """``plan/*.parquet``: every planned row, one part a block; of a longer plan before, none is left."""
    for block in range(made.blocks):
        store.write_plan(folder, block, made.block_rows(block))
    store.drop_plan(folder, made.blocks)


def preflight(made: Plan) -> str:
    """Look at the first bricks, and read one, before anything is made; says what reading costs.

    Raises
    ------
    UserError
        The address cannot be read, none of the first bricks has files, or a band has none.
    """
    exp = made.experiment
    layout = survey_of(exp)
    has_widths = any(f"psfsize_{band}" in made.targets.columns for band in exp.survey.bands)
    if "psfsize" in exp.survey.absent and not has_widths:
        raise UserError(
            "survey.absent names psfsize and the target table has no column psfsize_"
            f"{exp.survey.reference}: no PSF width is known anywhere; add that column (arcsec)"
        )
    if exp.survey.bad_bits is not None:
        check_names(exp.survey.bad_bits, {})
    bricks = [str(b) for b in made.bricks[:PREFLIGHT_BRICKS]]
    seen = {
        band: [b for b in bricks if storage.exists(layout.url("image", b, band))]
        for band in exp.survey.bands
    }
    if not any(seen.values()):
        example = layout.url("image", bricks[0], exp.survey.reference)
        with contextlib.suppress(FileNotFoundError):
            storage.read(example)  # says why, where the place cannot be read at all
        raise UserError(
            f"none of the bricks {', '.join(bricks)} has coadds: there is no {example}; "
            "check survey.root, survey.hemisphere and survey.layout, and the targets' bricks"
        )
    for kind in ("maskbits", "psfsize"):
        if kind in exp.survey.absent or (kind == "psfsize" and has_widths):
            continue
        bands = [None] if kind == "maskbits" else list(exp.survey.bands)
        places = [layout.url(kind, b, band) for b in bricks for band in bands]
        if not any(storage.exists(place) for place in places):
            raise UserError(
                f"the first bricks ({', '.join(bricks)}) have no {kind}: there is no {places[0]}; "
                f"where the release has none, say so with survey.absent: [{kind}]"
            )
    missing = [band for band, found in seen.items() if not found]
    if missing:
        raise UserError(
            f"band {missing[0]} has no file in the first bricks ({', '.join(bricks)}): there is no "
            f"{layout.url('image', bricks[0], missing[0])}; take {missing[0]} out of survey.bands"
        )
    first = next(b for b in bricks if any(b in found for found in seen.values()))
    cutouts = load_brick(brick_rows(exp, made.targets_of(first), made.joint), exp)
    check_readable(cutouts)
    return f"brick {first}, read.mode {exp.read.mode}: {cutouts.cost}"


def limits_of(exp: Experiment) -> GateLimits:
    """The experiment's gates in the audit's terms."""
    return GateLimits(**exp.gates.model_dump())


def check_complete(dataset: xr.Dataset, source: str) -> None:
    """See that a data set can be audited.

    Raises
    ------
    UserError
        Variables are lacking.
    Incomplete
        Rows were never written.
    """
    lacking = [variable.name for variable in VARIABLES if variable.name not in dataset]
    if lacking:
        raise UserError(
            f"{source} lacks the variables {', '.join(lacking[:5])}"
            f"{' and others' if len(lacking) > 5 else ''}; docs/data-set.md lists what an audit needs"
        )
    missing = int((dataset["reason"].values == Reason.NOT_WRITTEN).sum())
    if missing:
        raise Incomplete(
            f"{missing} of {dataset.sizes['pair']} rows of {source} are not written yet; "
            "call dhs run again, it resumes"
        )


def experiment_behind(
    source: str, dataset: xr.Dataset, overrides: Mapping[str, Any] | None = None
) -> Experiment:
    """The experiment of a run, or one that says of a bare data set what it shows of itself."""
    if store.read_run(source) is not None:
        return experiment_of(parse_experiment(store.read_experiment(source), source), overrides)
    bands = [str(band) for band in dataset["band"].values]
    bare = parse_experiment(
        {
            "survey": {"root": source, "bands": bands},
            "targets": {"path": source},
            "stamp": {"size": int(dataset.sizes["x"])},
            "lens": {"theta_e": 1.0},
        },
        source,
    )
    return experiment_of(bare, overrides)
