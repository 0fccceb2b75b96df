"""From a data set that is there to what an audit of it needs: its rows, its settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import xarray as xr

from darkhaloscope import audit, storage, store
from darkhaloscope.audit import AuditSpec, GateLimits, PairSource
from darkhaloscope.config import (
    AuditSection,
    ClusterSection,
    Experiment,
    GatesSection,
    parse_experiment,
)
from darkhaloscope.errors import Incomplete, Reason, UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.mapping import load_mapping
from darkhaloscope.prepare.planned import caps_of, experiment_of, spec_of
from darkhaloscope.variables import BY_NAME, VARIABLES, default_reference_band

OTHER_UNIT = ("ellipticity", "array_angle")
"""Groups of a mapping whose columns are not in the unit of their variable."""

_WRONG = re.compile(r"(?<=: )\w+(?= must be )")

MEASURE_ROWS = 1024
"""Rows that one task of an audit reads where a data set has no shards."""


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


def limits_of(exp: Experiment | AuditSettings) -> GateLimits:
    """The gates that are asked for, in the audit's terms."""
    gates = exp.gates
    return GateLimits(**gates.model_dump(), named="required" in gates.model_fields_set)


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
    if isinstance(source, PairSource) and not source.paired:  # of the larger class not all are read
        injected &= np.isin(np.arange(len(injected)), source.places(0))
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
        written=audit.columns_written(columns),
        **caps_of(settings.audit),
    )
    if isinstance(source, StoredPairs):
        return bare
    return replace(
        bare,
        pixel_scale=source.pixel_scale,
        paired=source.paired,
        lacks=source.lacks,
        notes=source.record,
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


def in_their_words(source: StoredPairs | PairSource, messages: Sequence[str]) -> list[str]:
    """Why rows cannot be drawn again, with the columns of the set beside what we call them.

    Parameters
    ----------
    messages : sequence of str
        ``message`` of :func:`~darkhaloscope.audit.rerender.rerender`: ``brick/slot: name must be ...``.
    """
    return [_WRONG.sub(lambda found: _their_name(source, found[0]), text) for text in messages]


def _their_name(source: StoredPairs | PairSource, parameter: str) -> str:
    """A parameter that is out of range, by the columns that it was read from, with their unit."""
    name = "psfsize" if parameter == "psf_nea_fwhm" else parameter
    if (
        not isinstance(source, PairSource)
        or name not in BY_NAME
        or name in source.mapping.constants
    ):
        return name
    variable, groups = BY_NAME[name], source.mapping.groups.items()
    stem = source.mapping.column_of(variable)
    columns = list(dict.fromkeys(stem.format(band=band) for band in source.bands))
    turned = {stem.removesuffix("_{band}"), *columns} & set(dict(source.scaled))
    group = next((g for g, names in groups if name in names), "same")
    unit = "" if group in OTHER_UNIT else variable.unit
    told = [
        f"the column{'s' if len(columns) > 1 else ''} {', '.join(columns)}",
        f"read as {group}" if group != "same" else "",
        f"{'turned into' if turned else 'read in'} {unit}" if unit else "",
    ]
    return f"{name} ({', '.join(part for part in told if part)})"


def check_apart(source: StoredPairs | PairSource, stats: audit.Arrays) -> None:
    """See that two stacks of others are not one and the same.

    Parameters
    ----------
    stats : dict of ndarray
        Merged :func:`~darkhaloscope.audit.measure.measure` of the source: no pixel is read again.

    Raises
    ------
    UserError
        They are equal in every pixel of the injections.
    """
    if not isinstance(source, PairSource) or source.way == ("ctrl", "arc"):
        return
    kept = int(stats["group_pairs"].sum())
    if kept and not any(
        stats[name].any() for name in ("group_profile_sum", "row_core_arc", "whole_arc")
    ):
        raise UserError(
            f"{source.first} and {source.second} of {source.url} are the same in every pixel of all {kept} "
            f"rows that should hold an arc; name in a mapping the images that are {source.way[0]} and "
            f"{source.way[1]}"
        )


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
