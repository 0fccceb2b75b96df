"""The experiment file: what is injected into what, and what is asked of the result.

An experiment is one YAML file. Every key is checked here, with its unit and its range, before anything
is read or written; a mistake is one sentence (:class:`~darkhaloscope.errors.UserError`). The sections
``survey`` (but not its place), ``targets`` (its contents), ``stamp``, ``plan``, ``lens``, ``source``,
``psf``, ``render``, ``fix`` and ``store`` decide pixels and rows: they make the data set's identity.
All others may change between two runs of the same data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

import yaml
from dask.utils import parse_bytes
from pydantic import (
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)

from darkhaloscope.config.base import Address, Band, Section
from darkhaloscope.config.digest import digest_of
from darkhaloscope.config.fixes import FixSection
from darkhaloscope.config.physics import (
    LATER_KEYS,
    LensSection,
    PsfSection,
    RenderSection,
    SourceSection,
)
from darkhaloscope.draw import Draw
from darkhaloscope.variables import (
    OPTIONAL_KINDS,
    REQUIRED_GATES,
    GateName,
    default_bad_bits,
    default_reference_band,
)

PIXEL_VERSION = 4
"""Raised by hand whenever a change of the code changes a pixel or a row of the same experiment."""

MOST_BLOCK_ROWS = 65_536
"""Rows of the largest block: 3 GiB of raw pixels at 64x64 grz, of which a worker holds several."""


def _block_rows(value: Any) -> Any:
    """A power of two from 64 to :data:`MOST_BLOCK_ROWS`, or ``auto``."""
    number = isinstance(value, int) and 64 <= value <= MOST_BLOCK_ROWS and not value & (value - 1)
    if number or value == "auto":
        return value
    raise ValueError(f"{value!r} is not a power of two from 64 to {MOST_BLOCK_ROWS}, nor auto")


class SurveySection(Section):
    """Where the coadds are, and what they hold."""

    root: Address
    """The release's folder: a local path or any fsspec URL (``s3://…``, ``https://…``)."""
    hemisphere: Literal["south", "north"] | None = "south"
    """Folder below ``root``; none for releases that have none (DR6)."""
    layout: Literal["release", "flat"] = "release"
    """``flat``: all files of all bricks in ``root`` itself."""
    bands: tuple[Band, ...] = ("g", "r", "z")
    reference_band: Band | None = None
    """Stands wherever a formula needs one band; default r, else the first of z, g, i there is."""
    absent: tuple[Literal["maskbits", "psfsize"], ...] = ()
    """File kinds that this release does not have: their columns are missing, no row fails."""
    bricks_table: Address | None = None
    """The release's ``survey-bricks-*.fits.gz``: its ``psfsize_{band}`` of a brick stands in where the
    map has no width at a target."""
    bad_bits: tuple[str, ...] | None = None
    """Names of the maskbits that count as bad pixels; default those of the survey room."""

    @model_validator(mode="after")
    def _bands_are_a_set(self) -> SurveySection:
        if not self.bands:
            raise ValueError("bands is empty; give at least one of g, r, i, z")
        if len(set(self.bands)) != len(self.bands):
            raise ValueError(f"bands {list(self.bands)} names a band twice")
        if self.reference_band is not None and self.reference_band not in self.bands:
            raise ValueError(
                f"reference_band {self.reference_band} is not among the bands {list(self.bands)}"
            )
        return self

    @property
    def reference(self) -> str:
        """The reference band: as given, else r, else the first of z, g, i that the survey has."""
        return self.reference_band or default_reference_band(self.bands)

    @property
    def bad(self) -> tuple[str, ...]:
        """Mask bits that make a bad pixel: as given, else the default of these bands."""
        return default_bad_bits(self.bands) if self.bad_bits is None else self.bad_bits


class ReadSection(Section):
    """How the coadds are read; the pixels are the same."""

    mode: Literal["auto", "ranges", "whole"] = "auto"
    """Whole files, only the byte ranges that stamps need, or file by file what costs less."""
    checksums: bool = False
    """Whether every file is compared with the release's ``brick-*.sha256sum``; reads whole files."""
    stop_after: int = Field(20, ge=0)
    """Bricks in a row, in the plan's order, that fail alike for their files' sake stop a run; 0: none
    do."""

    @model_validator(mode="after")
    def _checksums_need_whole_files(self) -> ReadSection:
        if self.checksums and self.mode == "ranges":
            raise ValueError("checksums are of whole files; take mode: ranges out, or checksums")
        return self


class Splits(Section):
    """Fractions of the regions in each split; they add up to 1."""

    train: float = Field(0.7, ge=0, le=1)
    val: float = Field(0.15, ge=0, le=1)
    test: float = Field(0.15, ge=0, le=1)

    @model_validator(mode="after")
    def _sum_is_one(self) -> Splits:
        total = self.train + self.val + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + val + test = {total:g}; the three must add up to 1")
        return self

    @property
    def fractions(self) -> tuple[float, float, float]:
        """The three, in order."""
        return self.train, self.val, self.test


class TargetsSection(Section):
    """Which galaxies are lenses, and what a region is."""

    path: Address | None = None
    """Table of targets (CSV, FITS or Parquet) with ra and dec in degrees."""
    positions: tuple[tuple[float, float], ...] = ()
    """Further (ra, dec) in degrees, without a magnitude: ``source.mag`` serves them."""
    region: Literal["brick", "healpix"] = "brick"
    """What is kept in one piece by splits, folds and bootstraps: a brick of 0.25 deg, or a pixel of
    HEALPix (nside 64, nested)."""
    splits: Splits = Splits()

    @model_validator(mode="after")
    def _some_targets(self) -> TargetsSection:
        if self.path is None and not self.positions:
            raise ValueError("neither path nor positions is given; name a table of targets")
        for ra, dec in self.positions:
            if not (0 <= ra < 360 and -90 <= dec <= 90):
                raise ValueError(
                    f"position ({ra:g}, {dec:g}) is not on the sky; ra is 0 to 360 and dec -90 to 90 deg"
                )
        return self


class StampSection(Section):
    """The cut-outs."""

    size: int = Field(64, ge=16, le=256)
    """Pixels on a side."""


class PlanSection(Section):
    """How many rows each target gets."""

    repeats: int = Field(1, ge=1, le=10_000)
    """Rows per target; with full grids, rows per target and grid cell."""
    control_fraction: float = Field(0.5, ge=0, le=1)
    """Probability that a row is a control."""
    joint: Address | None = None
    """A table (CSV, FITS or Parquet) whose columns are parameters such as ``lens.theta_e``: a row of it is
    drawn whole, and replaces those parameters."""


class StoreSection(Section):
    """How the data set is laid out."""

    block: Annotated[int | Literal["auto"], BeforeValidator(_block_rows)] = "auto"
    """Rows of one shard, written by one task; a power of two from 64 to 65,536."""
    precision: Literal["rounded", "exact"] = "rounded"
    """``rounded``: ctrl to 1/16 of the sky sigma or finer, arc and invvar to 10 mantissa bits."""
    invvar: bool = False
    """Whether the pixels' inverse variance is stored as well."""


class AuditSection(Section):
    """How much the audit looks at."""

    theta_e_edges: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5, 2.0)
    """Inner edges of the strata of theta_e, arcsec."""
    cap: int = Field(20_000, ge=100)
    """Rows that are re-rendered for the core gate."""
    whole_cap: int = Field(2_000, ge=100)
    """Of these, rows whose whole stamps are kept."""
    closure: int = Field(500, ge=10)
    """Of these, rows of the closure test."""

    @model_validator(mode="after")
    def _edges_rise(self) -> AuditSection:
        if not self.theta_e_edges or list(self.theta_e_edges) != sorted(set(self.theta_e_edges)):
            raise ValueError(f"theta_e_edges {list(self.theta_e_edges)} must rise")
        return self


class GatesSection(Section):
    """What this experiment accepts: limits, and which gates it must pass."""

    closure_flux: float = Field(0.01, gt=0)
    """Largest relative error of the arcs' flux."""
    closure_centroid: float = Field(0.05, gt=0)
    """Largest mean displacement of the arcs, pixels."""
    closure_blur: float = Field(0.02, gt=0)
    """Largest relative error of the arcs' PSF width."""
    residual_pedestal: float = Field(1e-3, gt=0)
    """Largest constant left in the core or far out, sky sigma per pixel."""
    excess_auc: float = Field(0.02, gt=0)
    """Largest AUC(observed) - AUC(re-rendered)."""
    core_auc: float = Field(0.70, gt=0.5, lt=1)
    core_auc_strict: float = Field(0.65, gt=0.5, lt=1)
    required: tuple[GateName, ...] = REQUIRED_GATES
    """Gates that must pass. Core-neutral experiments add ``core_auc``; a correct data set of small
    rings has a high core AUC, so it is not required by default."""


LEAST_MEMORY = "512MiB"
"""Of a local worker, whose limit ends it: as it stands before its first brick it has 350 MiB."""


class ClusterSection(Section):
    """Where the graph runs."""

    kind: Literal["local", "kubernetes"] = "local"
    """``kubernetes``: a cluster of the run's own; the chart's driver sets it (docs/kubernetes.md)."""
    manifest: str | None = None
    """File of the DaskCluster that a driver on Kubernetes creates; the chart writes it."""
    patience: float = Field(600, gt=0)
    """Seconds that the workers of a new cluster on Kubernetes have to come up."""
    tls: bool = False
    """Whether the cluster on Kubernetes speaks TLS; Dask's configuration says where the certificates
    are. The chart sets both."""
    address: str | None = None
    """A running scheduler, ``tcp://host:8786``; without one a local cluster is started."""
    workers: int | None = Field(None, ge=1, le=1024)
    """Local worker processes; default one a core, as many as there is memory for."""
    memory: str = "2GiB"
    """Memory limit of a local worker, as ``2GiB``; 512MiB at least."""
    bricks_per_task: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Bricks that one task takes; ``auto``: one, more above 32 workers, and at least eight where coadds lie
    behind a network."""

    @property
    def fixed_bricks_per_task(self) -> int | None:
        """Bricks a task as given; None for ``auto``."""
        return None if self.bricks_per_task == "auto" else self.bricks_per_task

    @field_validator("memory")
    @classmethod
    def _memory_is_a_size(cls, value: str) -> str:
        try:
            size = parse_bytes(value)
        except ValueError:
            raise ValueError(f"{value!r} is no amount of memory; write it as 2GiB") from None
        if size < parse_bytes(LEAST_MEMORY):
            raise ValueError(
                f"{value} is too little: a worker holds 350 MiB before its first brick; give {LEAST_MEMORY} "
                "or more"
            )
        return value

    @model_validator(mode="after")
    def _one_place(self) -> ClusterSection:
        if self.kind == "kubernetes" and self.address is not None:
            raise ValueError("kind is kubernetes, which makes its own scheduler; take address out")
        if self.kind == "kubernetes" and self.manifest is None:
            raise ValueError("kind is kubernetes, but manifest names no file of a DaskCluster")
        if self.kind != "kubernetes" and self.tls:
            raise ValueError(
                "tls is of a cluster that kind: kubernetes makes; a running scheduler says it in its "
                "address, tls://host:8786"
            )
        return self


class Experiment(Section):
    """One experiment, checked, with every default filled in."""

    name: str = Field("experiment", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    seed: int = Field(1, ge=0, lt=2**63)
    after: str | None = None
    """Name of the experiment whose run must have passed its gates before this one starts."""
    survey: SurveySection
    read: ReadSection = ReadSection()
    targets: TargetsSection
    stamp: StampSection = StampSection()
    plan: PlanSection = PlanSection()
    lens: LensSection
    source: SourceSection = SourceSection()
    psf: PsfSection = PsfSection()
    render: RenderSection = RenderSection()
    fix: FixSection = FixSection()
    store: StoreSection = StoreSection()
    audit: AuditSection = AuditSection()
    gates: GatesSection = GatesSection()
    cluster: ClusterSection = ClusterSection()
    max_failed_fraction: float = Field(0.05, ge=0, le=1)
    """More failed rows than this end a complete run with exit code 5."""

    @model_validator(mode="after")
    def _reference_has_no_colour(self) -> Experiment:
        reference = self.survey.reference
        if self.source.colour.get(cast(Band, reference), Draw.constant(0)) != Draw.constant(0):
            raise ValueError(
                f"source.colour.{reference} is not 0, but {reference} is the reference band that "
                f"colours are counted from; take it out"
            )
        return self

    @model_validator(mode="after")
    def _capped_sources_have_a_size(self) -> Experiment:
        if self.fix.src_reff_max is not None and set(self.source.model.names) == {"point"}:
            raise ValueError(
                "fix.src_reff_max is given but source.model is point, which has no size; take it out"
            )
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """Optional kinds (``variables.OPTIONAL_KINDS``) that rows can have, or that are asked for."""
        named = {name.upper() for name in (*self.lens.model.names, *self.source.model.names)}
        named |= {"INVVAR"} if self.store.invvar else set()
        named |= self.fix.kinds
        return tuple(kind for kind in OPTIONAL_KINDS if kind in named)

    def identity_document(self, contents: Mapping[str, str]) -> dict[str, Any]:
        """What decides pixels and rows, as plain JSON values.

        Parameters
        ----------
        contents : mapping
            sha256 of the contents of what the experiment names (``targets``, ``joint``, ``galaxies``).
        """
        full = self.model_dump(mode="json")
        for section, keys in LATER_KEYS.items():
            here = getattr(self, section)
            for key in keys:
                if getattr(here, key) == type(here).model_fields[key].default:
                    del full[section][key]
        del full["source"]["catalogue"]  # its contents decide, not its place
        survey = {
            "hemisphere": self.survey.hemisphere,
            "bands": full["survey"]["bands"],
            "reference_band": self.survey.reference,
            "absent": sorted(full["survey"]["absent"]),
            "bad_bits": sorted(self.survey.bad),
        }
        targets = {"region": self.targets.region, "splits": full["targets"]["splits"]}
        plan = {key: value for key, value in full["plan"].items() if key != "joint"}
        keep = ("seed", "stamp", "lens", "source", "psf", "render", "fix", "store")
        return {
            "pixel_version": PIXEL_VERSION,
            "survey": survey,
            "targets": targets,
            "plan": plan,
            "contents": dict(contents),
            **{key: full[key] for key in keep},
        }

    def identity(self, contents: Mapping[str, str]) -> str:
        """:func:`~darkhaloscope.config.digest_of` of :meth:`identity_document`."""
        return digest_of(self.identity_document(contents))

    def to_yaml(self) -> str:
        """The experiment as a YAML file that :func:`load_experiment` reads back."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
