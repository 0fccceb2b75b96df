"""From an experiment file to its plan, its layout and which rows its audit keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from darkhaloscope import audit, storage, store, survey
from darkhaloscope.audit import AuditSpec
from darkhaloscope.config import (
    AuditSection,
    Experiment,
    load_experiment,
    parse_experiment,
    replace_keys,
)
from darkhaloscope.errors import UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.plan import MemoryTargets, Plan, TargetList, WithBrickWidths, open_targets
from darkhaloscope.store import Layout
from darkhaloscope.survey.bricktable import brick_widths
from darkhaloscope.survey.targets import read_table

COUNTED_BRICKS = 256
"""Up to so many bricks, injections are counted rather than expected."""


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
    targets = _targets_of(exp)
    if exp.survey.bricks_table is not None:
        widths = brick_widths(exp.survey.bricks_table, exp.survey.bands)
        targets = WithBrickWidths(targets, widths)
    return Plan(exp, targets, joint)


def _targets_of(exp: Experiment) -> TargetList:
    if exp.targets.path is not None and not exp.targets.positions:
        in_pieces = open_targets(exp.targets.path)
        if in_pieces is not None:
            return in_pieces
    frames = []
    if exp.targets.path is not None:
        frames.append(survey.read_targets(exp.targets.path))
    if exp.targets.positions:
        beside = frames[0] if frames else None
        frames.append(survey.position_targets(exp.targets.positions, beside))
    return MemoryTargets(pd.concat(frames, ignore_index=True))


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
    """Injections that a plan expects in each stratum of theta_e, without those that it says are cut.

    Counted where the plan is small; else from the prior alone, before any row is evaluated.
    """
    exp = made.experiment
    edges, least = exp.audit.theta_e_edges, np.float32(exp.fix.theta_e_min or 0.0)
    if len(made.bricks) <= COUNTED_BRICKS:
        radii = [rows.loc[rows["lens_model"] > 0, "theta_e"] for _, rows in made.iter_bricks()]
        counted = np.concatenate(radii)
        return audit.stratum_counts(counted[counted.astype(np.float32) >= least], edges)
    prior = made.theta_e_prior()
    injections = made.drawn_rows * (1 - exp.plan.control_fraction)
    kept = prior[prior.astype(np.float32) >= least]
    return tuple(
        round(injections * count / len(prior)) for count in audit.stratum_counts(kept, edges)
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
        **caps_of(exp.audit),
    )


def caps_of(asked: AuditSection) -> dict[str, Any]:
    """Rows of each kind; what is kept whole is kept of the audit rows, and closure looks at these."""
    whole = min(asked.whole_cap, asked.cap)
    return {"cap": asked.cap, "whole_cap": whole, "closure": min(asked.closure, whole)}


def write_plan(folder: str, made: Plan) -> None:
    """``plan/*.parquet``: every planned row, one part a block; of a longer plan before, none is left."""
    for block in range(made.blocks):
        store.write_plan(folder, block, made.block_rows(block))
    store.drop_plan(folder, made.blocks)


def check_plan(folder: str, made: Plan) -> None:
    """See that the plan that is there, if any, is this one: every part of a small plan, else the first; of
    the others, their blocks' writers see.

    Raises
    ------
    UserError
        It has other rows, or more of them.
    """
    there = sorted(store.planned_blocks(folder))
    if there and there[-1] >= made.blocks:
        place = storage.join(folder, "plan")
        raise UserError(
            f"{place} has parts of a longer plan than this experiment's {made.blocks} blocks; delete it and "
            "run again, or choose a new --out"
        )
    for block in there if len(made.bricks) <= COUNTED_BRICKS else there[:1]:
        store.check_part(folder, block, store.encode_plan(made.block_rows(block)))


def complete_plan(folder: str, made: Plan) -> None:
    """Write the parts of the plan that finished blocks lack: a repair, or somebody, dropped them."""
    for block in sorted(set(store.finished_blocks(folder)) - store.planned_blocks(folder)):
        if block < made.blocks:
            store.write_plan(folder, block, made.block_rows(block))
