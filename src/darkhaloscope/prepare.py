"""From an experiment file, or a data set, to what a graph needs: plan, layout, audit settings.

Everything here happens on the driver and before any pixel is read, but for a look whether the first
bricks are there at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pandas as pd
import xarray as xr

from darkhaloscope import audit, storage, store, survey
from darkhaloscope.audit import AuditSpec, GateLimits, PairSource
from darkhaloscope.config import (
    AuditSection,
    ClusterSection,
    Experiment,
    GatesSection,
    load_experiment,
    parse_experiment,
    replace_keys,
)
from darkhaloscope.errors import Incomplete, Reason, UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.inject import load_brick, survey_of
from darkhaloscope.mapping import load_mapping
from darkhaloscope.plan import (
    MemoryTargets,
    Plan,
    TargetList,
    WithBrickWidths,
    brick_rows,
    open_targets,
)
from darkhaloscope.store import Layout
from darkhaloscope.survey.bricktable import brick_widths
from darkhaloscope.survey.health import check_not_all_fail, check_readable, shared_trouble
from darkhaloscope.survey.maskbits import check_names
from darkhaloscope.survey.targets import read_table
from darkhaloscope.trial import check_trial
from darkhaloscope.variables import VARIABLES, default_reference_band

COUNTED_BRICKS = 256
"""Up to so many bricks, injections are counted rather than expected."""

PREFLIGHT_BRICKS = 5

SECOND_LOOKS = 3
"""Further bricks that are read before a run where no row of the first can be made."""

MEASURE_ROWS = 1024
"""Rows that one task of an audit reads where a data set has no shards."""


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
        **_caps(exp.audit),
    )


def _caps(asked: AuditSection) -> dict[str, Any]:
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


def preflight(made: Plan) -> str:
    """Look at the first bricks, read one and make a few of its rows, before anything is written; says what
    reading costs.

    Raises
    ------
    UserError
        The address cannot be read, none of the first bricks has files, a band has none, checksums are
        asked for and there are none, bricks from all over the plan fail alike for their files' sake, or the
        rows of the trial are wrong (:mod:`darkhaloscope.trial`).
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
        band: [b for b in bricks if _may_be_there(layout.url("image", b, band), b == bricks[0])]
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
        places = [(layout.url(kind, b, band), b) for b in bricks for band in bands]
        if not any(_may_be_there(place, b == bricks[0]) for place, b in places):
            raise UserError(
                f"the first bricks ({', '.join(bricks)}) have no {kind}: there is no {places[0][0]}; "
                f"where the release has none, say so with survey.absent: [{kind}]"
            )
    missing = [band for band, found in seen.items() if not found]
    if missing:
        raise UserError(
            f"band {missing[0]} has no file in the first bricks ({', '.join(bricks)}): there is no "
            f"{layout.url('image', bricks[0], missing[0])}; take {missing[0]} out of survey.bands"
        )
    first = next(b for b in bricks if any(b in found for found in seen.values()))
    if exp.read.checksums and not _may_be_there(layout.checksums_url(first), True):
        raise UserError(
            f"read.checksums is set and the release has no {layout.checksums_url(first)}; take it out, "
            "or read a copy that dhs cache made: it lists them"
        )
    rows = brick_rows(exp, made.targets_of(first), made.joint)
    tried = [load_brick(rows, exp)]
    check_readable(tried[0])
    spread = np.linspace(0, len(made.bricks) - 1, SECOND_LOOKS + 1).round().astype(int)
    others = [name for name in map(str, made.bricks[np.unique(spread)]) if name != first]
    for name in others[-SECOND_LOOKS:] if exp.read.stop_after else []:
        if shared_trouble(tried[-1]) is Reason.OK:
            break
        rows = brick_rows(exp, made.targets_of(name), made.joint)
        tried.append(load_brick(rows, exp))
    check_not_all_fail(tried)
    cutouts = tried[-1]
    check_trial(exp, rows, cutouts, made.theta_e_prior())
    return f"brick {cutouts.brick}, read.mode {exp.read.mode}: {cutouts.cost}{widths_known(made)}"


def _may_be_there(url: str, is_first: bool) -> bool:
    """Whether a file exists. Out of reach is an error in the first brick only; later it is for its rows to
    say."""
    try:
        return storage.exists(url)
    except storage.StorageError:
        if is_first:  # an answer of S3 says why; to the question for a size it is a number alone
            (answer,) = storage.read_ranges([(url, 0, 1)])
            if isinstance(answer, storage.StorageError):
                raise answer from None
            raise
        return True


def widths_known(made: Plan) -> str:
    """What stands in for a PSF width that the maps do not have, as the end of a sentence."""
    exp = made.experiment
    if isinstance(made.targets, WithBrickWidths):
        known = made.targets.widths.notna()
        lacking = {band: int((~known[f"psfsize_{band}"]).sum()) for band in exp.survey.bands}
        said = [f"{band} in {count}" for band, count in lacking.items() if count]
        text = f"; {exp.survey.bricks_table} gives the PSF widths of {len(known)} bricks"
        return text + (f", but not {', '.join(said)} of them" if said else "")
    if any(f"psfsize_{band}" in made.targets.columns for band in exp.survey.bands):
        return ""
    return (
        f"; no PSF widths of bricks (survey.bricks_table): where a map has none, "
        f"that of {exp.survey.reference} is taken"
    )


def limits_of(exp: Experiment | AuditSettings) -> GateLimits:
    """The gates that are asked for, in the audit's terms."""
    return GateLimits(**exp.gates.model_dump())


class RowSource(Protocol):
    """A data set that an audit reads block by block."""

    @property
    def url(self) -> str: ...

    def blocks(self) -> list[slice]:
        """Rows of each task."""

    def block(self, rows: slice) -> xr.Dataset:
        """Some rows in memory, with every variable of docs/data-set.md."""


@dataclass(frozen=True)
class StoredPairs:
    """A data set of our own, lazily."""

    url: str

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone: a task needs no copy of all columns."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def blocks(self) -> list[slice]:
        """Rows of each shard, or of 1,024 where there are none."""
        shards = self.columns["ctrl"].encoding.get("shards")
        rows, step = self.columns.sizes["pair"], shards[0] if shards else MEASURE_ROWS
        return [slice(a, min(a + step, rows)) for a in range(0, rows, step)]

    def block(self, rows: slice) -> xr.Dataset:
        """Some rows in memory."""
        return store.read_rows(self.url, rows, without=["invvar"])  # an audit asks ``nodata``

    @cached_property
    def columns(self) -> xr.Dataset:
        """Every variable, pixels among them, none in memory, and none kept there."""
        return store.open_dataset(self.url, cache=False)


@dataclass(frozen=True)
class AuditSettings:
    """What an audit is told beside the data."""

    audit: AuditSection = field(default_factory=AuditSection)
    gates: GatesSection = field(default_factory=GatesSection)
    cluster: ClusterSection = field(default_factory=ClusterSection)
    max_failed_fraction: float = 0.05


def is_run(url: str) -> bool:
    """Whether a place is a run's folder; a single file is none."""
    return storage.exists(storage.join(url, "run.json")) and store.read_run(url) is not None


def source_of(url: str, mapping: str | None = None) -> StoredPairs | PairSource:
    """A data set of ours as it is, any other one through its mapping.

    Raises
    ------
    UserError
        Nothing there can be audited.
    Incomplete
        A run was not finished.
    """
    run = is_run(url)
    if run or (mapping is None and _is_ours(url)):
        if mapping is not None:
            raise UserError(f"{url} is a run of ours, it needs no mapping; leave --mapping out")
        stored = StoredPairs(url)
        check_complete(stored.columns, url)
        if run:
            store.check_stored(url)
        return stored
    return audit.open_source(url, None if mapping is None else load_mapping(mapping))


def _is_ours(url: str) -> bool:
    if not any(
        storage.exists(storage.join(url, *p)) for p in (("zarr.json",), (store.STAMPS, "zarr.json"))
    ):
        return False
    try:
        return {variable.name for variable in VARIABLES} <= set(store.open_dataset(url).data_vars)
    except UserError:  # arrays without names of dimensions: none of ours
        return False


def spec_of_source(
    source: StoredPairs | PairSource, settings: Experiment | AuditSettings
) -> AuditSpec:
    """Which rows an audit of a finished data set keeps, from its columns."""
    columns = source.columns
    excluded = [code for code in Reason if code is not Reason.OK and not code.failed]
    injected = (columns["lens_model"].values > 0) & ~np.isin(columns["reason"].values, excluded)
    theta_e = columns["theta_e"].values[injected]
    n_regions = len(np.unique(columns["region_id"].values.astype(object)))
    if isinstance(settings, Experiment):
        seed = int(columns.attrs.get("seed", settings.seed))
        strata = audit.stratum_counts(theta_e, settings.audit.theta_e_edges)
        return spec_of(settings, strata, n_regions=n_regions, seed=seed)
    bands = tuple(str(band) for band in columns["band"].values)
    bare = AuditSpec(
        seed=int(columns.attrs.get("seed", 1)),
        bands=bands,
        reference_band=default_reference_band(bands),
        size=int(columns.sizes["x"]) if isinstance(source, StoredPairs) else source.size,
        pixel_scale=PIXEL_SCALE,
        n_regions=n_regions,
        stratum_counts=audit.stratum_counts(theta_e, settings.audit.theta_e_edges),
        theta_e_edges=settings.audit.theta_e_edges,
        **_caps(settings.audit),
    )
    if isinstance(source, StoredPairs):
        return bare
    return replace(
        bare,
        pixel_scale=source.pixel_scale,
        paired=source.paired,
        lacks=source.lacks,
        notes=source.notes,
    )


def settings_of(
    url: str, overrides: Mapping[str, Any] | None = None, mapping: str | None = None
) -> Experiment | AuditSettings:
    """The experiment of a run; of any other data set what its mapping says of audit and gates."""
    if is_run(url):
        return experiment_of(parse_experiment(store.read_experiment(url), url), overrides)
    cluster = ClusterSection(
        **{k.removeprefix("cluster."): v for k, v in (overrides or {}).items()}
    )
    if mapping is None:
        return AuditSettings(cluster=cluster)
    said = load_mapping(mapping)
    return AuditSettings(said.audit, said.gates, cluster)


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
    check_written(dataset, source)


def check_written(dataset: xr.Dataset, source: str) -> None:
    """See that every row of a data set was written, whatever became of it.

    Raises
    ------
    Incomplete
        Rows were never written.
    """
    missing = int((dataset["reason"].values == Reason.NOT_WRITTEN).sum())
    if missing:
        raise Incomplete(
            f"{missing} of {dataset.sizes['pair']} rows of {source} are not written yet; "
            "call dhs run again, it resumes"
        )
