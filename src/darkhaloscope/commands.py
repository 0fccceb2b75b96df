"""One function a command: what the terminal does, a notebook does.

Each takes plain values, shows its progress on a rich console, and returns what it made.
"""

from __future__ import annotations

import importlib.resources
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from dask.system import CPU_COUNT
from distributed import Client
from rich.console import Console
from rich.table import Table

from darkhaloscope import (
    __version__,
    audit,
    driver,
    lensing,
    prepare,
    report,
    storage,
    store,
    survey,
    workflow,
)
from darkhaloscope.audit import AuditResult, AuditSpec
from darkhaloscope.cluster import connect
from darkhaloscope.config import ClusterSection, Experiment
from darkhaloscope.driver import Brake
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.mapping import load_mapping
from darkhaloscope.plan import Plan
from darkhaloscope.prepare import AuditSettings
from darkhaloscope.progress import Bar
from darkhaloscope.selftest import Check, run_checks
from darkhaloscope.status import Status, lines, status_of
from darkhaloscope.survey import regions
from darkhaloscope.variables import SPLITS

EXIT_BUG, EXIT_USER = 1, 2
EXIT_INCOMPLETE, EXIT_FAILED_ROWS, EXIT_OURS = 4, 5, 70


DEMO_SKY = 5
"""Seed of the demo's sky: it has a brick without g files, one with empty ones, and ends of footprints."""


@dataclass(frozen=True)
class Outcome:
    """What a run or an audit ended with."""

    folder: str
    report: str
    verdict: dict[str, Any]
    exit_code: int
    """As the design's table: 0 fine, 1 bug or shortcut or failed gate, 3 undecided, 5 failed rows."""

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        return str(self.verdict["sentence"])


def sky(
    out: str,
    *,
    bricks: int = 28,
    size: int = 512,
    seed: int = 1,
    lrgs: float = 60.0,
    bands: Sequence[str] = ("g", "r", "z"),
    cluster: str | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> survey.SkySummary:
    """Write a synthetic sky laid out as a DR10 south release, and say what it holds.

    Parameters
    ----------
    out : str
        Root of the release: a path or any fsspec URL.
    bricks, size, seed, lrgs, bands
        See :func:`darkhaloscope.survey.make_sky`.
    cluster, workers
        A running Dask scheduler, or workers of a local one; without either the bricks are made one by
        one in this process. The files are the same.
    """
    console = console or Console()
    out = storage.absolute(out)
    options: dict[str, Any] = {"size": size, "seed": seed, "lrgs": lrgs, "bands": tuple(bands)}
    with Bar(console, "synthetic sky", bricks, "bricks") as bar:

        def on_brick(_: object) -> None:
            bar.advance(1)

        if cluster is None and workers is None:
            summary = survey.make_sky(out, bricks=bricks, on_brick=on_brick, **options)
        else:
            names = survey.sky_bricks(bricks)
            with connect(ClusterSection(address=cluster, workers=workers)) as client:
                parts = workflow.make_bricks(client, out, names, options, on_brick)
            summary = survey.combine(parts)
    console.print(
        f"wrote {len(summary.bricks)} bricks with {summary.lrgs} LRGs below {out} "
        f"({summary.files} files, {summary.bytes / 1e6:.1f} MB)",
        soft_wrap=True,
    )
    return summary


def targets(
    sources: Sequence[str],
    out: str,
    *,
    cuts: str = "lrg",
    limits: Sequence[str] = (),
    region: regions.RegionKind = "brick",
    size: int = 64,
    splits: Sequence[float] = (0.7, 0.15, 0.15),
    console: Console | None = None,
) -> pd.DataFrame:
    """Select lens galaxies from tractor or sweep catalogues, and write them as Parquet.

    The table also says the region and the split of each target (as text); an experiment decides both
    anew, by its ``targets`` section and ``stamp.size``, with the same result for the same settings.

    Parameters
    ----------
    sources : sequence of str
        Catalogue files, or the root of a release whose tractor catalogues are all read.
    out : str
        Where the Parquet file goes.
    cuts : {"lrg", "plain", "all"}
        ``lrg``: the DESI LRG selection of Zhou et al. 2023; ``plain``: extended sources within
        ``limits``; ``all``: every source.
    limits : sequence of str
        For ``plain``: ``z=18:20.3`` or ``g-r=0.5:``, magnitudes (AB) as observed and colours.
    region : {"brick", "healpix"}
    size : int
        Pixels on a side of the stamps that will be cut.
    splits : sequence of 3 floats
        Fractions of the regions in train, val and test.
    """
    console = console or Console()
    if len(splits) != 3 or min(splits) < 0 or abs(sum(splits) - 1) > 1e-9:
        raise UserError(
            f"the splits {', '.join(f'{s:g}' for s in splits)} are not three fractions that add up to 1"
        )
    chosen = survey.select_targets(sources, cuts=cuts, limits=limits)
    if chosen.empty:
        raise UserError(f"no source of {', '.join(sources)} passes the cuts {cuts}; try --cuts all")
    ids, split = regions.assign(
        chosen["ra"], chosen["dec"], kind=region, fractions=splits, size=size, brick=chosen["brick"]
    )
    chosen = chosen.assign(region_id=ids, region_split=np.array(SPLITS)[split])
    survey.write_targets(chosen, out)
    console.print(
        f"{len(chosen)} targets in {chosen['brick'].nunique()} bricks -> {out}", soft_wrap=True
    )
    _say_splits(ids, split, console)
    return chosen


def plan(
    experiment: str | Experiment,
    *,
    out: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Plan:
    """Make the plan of an experiment, say what it would do, and write its rows if told where."""
    console = console or Console()
    made = prepare.plan_of(prepare.experiment_of(experiment, overrides))
    layout = prepare.layout_of(made)
    counts = {"injections": 0, "controls": 0}
    for _, rows in made.iter_bricks():
        control = int((rows["lens_model"] == 0).sum())
        counts["controls"] += control
        counts["injections"] += len(rows) - control
    console.print(
        f"{made.rows} rows ({counts['injections']} injections, {counts['controls']} controls) of "
        f"{int(made.targets.first[-1])} targets in {len(made.bricks)} bricks, {made.blocks} blocks of "
        f"{made.block} rows; identity {layout.attributes['identity'][:12]}",
        soft_wrap=True,
    )
    _say_splits(made.regions[0], made.regions[1], console)
    if out is not None:
        prepare.write_plan(out, made)
        console.print(f"rows written below {storage.join(out, 'plan')}", soft_wrap=True)
    return made


def run(
    experiment: str | Experiment,
    *,
    out: str | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    brake: Brake | None = None,
    console: Console | None = None,
) -> Outcome:
    """Plan, inject, write, reduce and judge; resumes where the folder holds a part of it.

    Parameters
    ----------
    experiment : str or Experiment
        An experiment file (path or URL), or an experiment.
    out : str, optional
        The run's folder (path or URL); default ``runs/<name>``.
    cluster : str, optional
        Address of a running Dask scheduler; without one a local cluster is started.
    workers : int, optional
        Workers of the local cluster.
    brake : Brake, optional
        Pulled from elsewhere, it stops the run once the blocks in flight are whole.

    Raises
    ------
    UserError
        A mistake in the experiment, its targets, its survey, or the folder.
    """
    console = console or Console()
    exp = prepare.experiment_of(experiment, _with_cluster(overrides, cluster, workers))
    folder = storage.absolute((out or f"runs/{exp.name}").rstrip("/"))
    made = prepare.plan_of(exp)
    reading = prepare.preflight(made)
    layout = prepare.layout_of(made)
    document = exp.identity_document(made.contents)
    spec = prepare.spec_of(exp, prepare.planned_strata(made), n_regions=made.n_regions)
    _say_splits(made.regions[0], made.regions[1], console)
    with connect(exp.cluster) as client:  # first: without workers nothing is begun
        console.print(f"dashboard: {client.dashboard_link}", soft_wrap=True)
        console.print(f"reading: {reading}", soft_wrap=True, highlight=False)
        resumed = store.create_run(folder, layout, exp.to_yaml(), document, __version__)
        if resumed and store.finished_blocks(folder) and not store.has_plan(folder):
            prepare.write_plan(folder, made)  # a repair dropped it
        if made.joint is not None:
            store.write_joint(folder, made.joint)
        _drop_conclusions(folder)
        with Bar(console, "inject and write", layout.rows, "rows") as bar:

            def on_block(block: int, was_there: bool) -> None:
                rows = layout.rows_of(block)
                bar.advance(rows.stop - rows.start, skipped=was_there)

            markers = driver.run_blocks(
                client,
                folder,
                made,
                layout,
                spec,
                on_block,
                bricks_per_task=exp.cluster.fixed_bricks_per_task,
                brake=brake,
            )
        same_spec = all(m["statistics_spec"] == workflow.spec_digest(spec) for m in markers)
        if same_spec:
            stats = workflow.reduce_run(client, folder, markers, spec)
        else:
            console.print("the audit section changed: finished blocks are measured again")
            stats = workflow.measure_dataset(client, prepare.StoredPairs(folder), spec)
        result = _conclude(client, store.open_dataset(folder), folder, stats, spec, exp, console)
    notes = sorted({note for marker in markers for note in marker["notes"]})
    return _finish(folder, folder, result, _failed_rows(markers), exp, notes, console)


def audit_dataset(
    source: str,
    *,
    mapping: str | None = None,
    out: str | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> Outcome:
    """Audit a finished data set by reading its pixels; the results go to ``out``, default the run.

    Parameters
    ----------
    source : str
        A run's folder, or any set that docs/audit.md lists: Zarr, NetCDF, HDF5, NPZ, Parquet, FITS.
    mapping : str, optional
        Name of a shipped mapping, or a YAML file: which column of a foreign set says what.
    """
    console = console or Console()
    source = storage.absolute(source.rstrip("/"))
    pairs = prepare.source_of(source, mapping)
    if store.read_run(source) is None and out is None:
        raise UserError(f"{source} is no run's folder; say where the results go with --out")
    settings = prepare.settings_of(source, _with_cluster(None, cluster, workers))
    spec = prepare.spec_of_source(pairs, settings)
    folder = storage.absolute((out or source).rstrip("/"))
    columns = pairs.columns
    with connect(settings.cluster) as client:
        console.print(f"dashboard: {client.dashboard_link}", soft_wrap=True)
        _drop_conclusions(folder)
        blocks = pairs.blocks()
        console.print(f"measuring {blocks[-1].stop} rows in {len(blocks)} blocks")
        stats = workflow.measure_dataset(client, pairs, spec)
        result = _conclude(client, columns, folder, stats, spec, settings, console)
    ok = columns["cutout_ok"].values.astype(bool)
    return _finish(source, folder, result, (int((~ok).sum()), ok.size), settings, [], console)


def verify(run: str, *, threads: int = 4, console: Console | None = None) -> store.Verification:
    """Prove that a run's folder holds what its markers and its plan say; print what does not.

    Parameters
    ----------
    run : str
        A run's folder; a path or any fsspec URL.
    threads : int
        Blocks that are read at once; memory is that of so many blocks.
    """
    console = console or Console()
    run = storage.absolute(run)
    blocks = len(store.finished_blocks(run))
    with Bar(console, "verify", blocks, "blocks") as bar:
        found = store.verify_run(run, threads=threads, on_block=lambda _: bar.advance(1))
    if found.findings:
        table = Table(box=None, pad_edge=False)
        for name in ("block", "where", "brick", "what is wrong"):
            table.add_column(name, overflow="fold")
        for finding in found.findings:
            block = "" if finding.block is None else str(finding.block)
            table.add_row(block, finding.where, finding.brick, finding.says)
        console.print(table)
    wrong = len(found.of_kind("broken", "foreign"))
    console.print(
        f"{found.finished} of {found.blocks} blocks are finished; "
        + (f"{wrong} things are wrong" if wrong else "what is there is what it should be"),
        highlight=False,
    )
    if found.of_kind("broken"):
        console.print(f"dhs repair {run} drops what is broken", soft_wrap=True, highlight=False)
    return found


def verify_exit_code(found: store.Verification) -> int:
    """0 proved complete, 1 something is wrong, 4 right as far as it goes."""
    if found.of_kind("broken", "foreign"):
        return EXIT_BUG
    return 0 if found.finished == found.blocks else EXIT_INCOMPLETE


def repair(run: str, *, threads: int = 4, console: Console | None = None) -> store.Repair:
    """Verify a run's folder and drop what is broken, so that ``dhs run`` makes it again."""
    console = console or Console()
    run = storage.absolute(run)
    done = store.repair_run(run, verify(run, threads=threads, console=console))
    if done.needs_resume:
        _drop_conclusions(run)
    named = ", ".join(map(str, done.blocks)) or "none"
    console.print(
        f"dropped blocks: {named}; plan dropped: {'yes' if done.plan else 'no'}; metadata written "
        f"again: {len(done.metadata)}; leftovers removed: {done.swept}",
        soft_wrap=True,
        highlight=False,
    )
    for finding in done.left:
        console.print(
            f"left alone: {finding.where} {finding.says}",
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    if done.needs_resume:
        console.print("dhs run with the same experiment and --out makes them again")
    return done


def repair_exit_code(done: store.Repair) -> int:
    """0 nothing was or is wrong, 1 something is left that only its owner can mend, 4 to be resumed."""
    if done.left:
        return EXIT_BUG
    return EXIT_INCOMPLETE if done.needs_resume else 0


def export(
    source: str,
    to: str,
    *,
    stamps: bool = False,
    mapping: str = "seed",
    console: Console | None = None,
) -> list[str]:
    """Write a finished data set as Parquet tables in a mapping's column names; gives their names.

    Parameters
    ----------
    source : str
        A run's folder, or a Zarr group of pairs.
    to : str
        An empty folder, or one that is not there; a path or any fsspec URL.
    stamps : bool
        Pixels as well, as ``.npz`` blobs.
    mapping : str
        A shipped mapping's name, or a YAML file.
    """
    console = console or Console()
    names = load_mapping(mapping)
    dataset = store.open_dataset(source)
    prepare.check_complete(dataset, source)
    blocks = prepare.StoredPairs(source).blocks()
    with Bar(console, "export", dataset.sizes["pair"], "rows") as bar:
        written = store.export_tables(
            storage.absolute(source),
            storage.absolute(to.rstrip("/")),
            blocks,
            names,
            stamps=stamps,
            on_block=lambda rows: bar.advance(rows.stop - rows.start),
        )
    console.print(f"{len(written)} tables -> {to}", soft_wrap=True, highlight=False)
    return written


def status(folder: str, *, console: Console | None = None) -> Status:
    """Say how far a run is, from its folder alone: while it runs, and after a crash."""
    console = console or Console()
    found = status_of(storage.absolute(folder.rstrip("/")))
    for line in lines(found):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    return found


def make_report(folder: str, *, source: str | None = None, console: Console | None = None) -> str:
    """Draw ``report.html`` of a finished run or audit again; gives its place."""
    console = console or Console()
    place = report.write_report(source or folder, folder)
    console.print(f"report: {place}", soft_wrap=True)
    return place


def selftest(*, console: Console | None = None) -> list[Check]:
    """Check the renderer against what physics gives, and print a table of the checks.

    See :func:`darkhaloscope.selftest.run_checks`; what fails is explained below the table.
    """
    console = console or Console()
    with console.status("compiling the renderer, once"):
        lensing.warm()
    checks = run_checks()
    table = Table(box=None, pad_edge=False)
    table.add_column("check", no_wrap=True)
    for name in ("measured", "expected", "within"):
        table.add_column(name, justify="right")
    table.add_column("unit")
    table.add_column("")
    for check in checks:
        result = "[green]ok[/green]" if check.passed else "[red]FAILED[/red]"
        numbers = (f"{check.value:.4g}", f"{check.expected:.4g}", f"{check.tolerance:.2g}")
        table.add_row(check.name, *numbers, check.unit, result)
    console.print(table)
    failed = [check for check in checks if not check.passed]
    for check in failed:
        console.print(f"{check.name}: {check.says}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"{len(checks) - len(failed)} of {len(checks)} checks passed", highlight=False)
    return checks


def demo(
    out: str = "demo", *, workers: int | None = None, console: Console | None = None
) -> Outcome:
    """The whole path on a synthetic sky: sky, targets, plan, run, audit, report."""
    console = console or Console()
    out = storage.absolute(out)
    root, table = storage.join(out, "sky"), storage.join(out, "targets.parquet")
    if not storage.exists(table):
        sky(root, seed=DEMO_SKY, workers=workers or CPU_COUNT, console=console)
        targets([storage.join(root, "south")], table, console=console)
    with importlib.resources.as_file(importlib.resources.files("darkhaloscope")) as package:
        return run(
            str(package / "demo.yaml"),
            out=storage.join(out, "run"),
            workers=workers,
            overrides={"survey.root": root, "targets.path": table},
            console=console,
        )


def _say_splits(region: np.ndarray, split: np.ndarray, console: Console) -> None:
    """What came out of the splitting by regions."""
    console.print(
        f"{len(np.unique(region))} regions; targets by split: {regions.counts(split)}",
        soft_wrap=True,
        highlight=False,
    )


def _failed_rows(markers: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(failed rows, all rows) of finished blocks."""
    failed = total = 0
    for marker in markers:
        for counts in marker["counts"].values():
            total += sum(counts.values())
            failed += sum(n for reason, n in counts.items() if reason != Reason.OK.text)
    return failed, total


def _with_cluster(
    overrides: Mapping[str, Any] | None, address: str | None, workers: int | None
) -> dict[str, Any]:
    changed = dict(overrides or {})
    if address is not None:
        changed["cluster.address"] = address
    if workers is not None:
        changed["cluster.workers"] = workers
    return changed


def _drop_conclusions(folder: str) -> None:
    """An earlier verdict is not this data set's until it is reached again."""
    for name in ("verdict.json", "report.html"):
        storage.remove(storage.join(folder, name))


def _conclude(
    client: Client,
    columns: xr.Dataset,
    folder: str,
    stats: dict[str, Any],
    spec: AuditSpec,
    exp: Experiment | AuditSettings,
    console: Console,
) -> AuditResult:
    """Re-render, judge, and write ``verdict.json`` and ``audit/*.parquet``."""
    with Bar(console, "re-render", 1, "pieces") as bar:
        catalogue = exp.source.catalogue if isinstance(exp, Experiment) else None
        rerendered = workflow.rerender_rows(client, folder, stats, spec, bar.reached, catalogue)
    console.print("reducing", highlight=False)
    quality = audit.quality(columns, spec.reference_band)
    chosen = audit.selection(columns, spec)
    result = audit.conclude(stats, rerendered, quality, prepare.limits_of(exp), spec, chosen)
    for name, table in result.tables.items():
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        storage.write(storage.join(folder, "audit", f"{name}.parquet"), buffer.getvalue())
    storage.write(storage.join(folder, "verdict.json"), audit.to_json(result.verdict).encode())
    return result


def _finish(
    source: str,
    folder: str,
    result: AuditResult,
    failed: tuple[int, int],
    exp: Experiment | AuditSettings,
    notes: Sequence[str],
    console: Console,
) -> Outcome:
    """Draw the report, say what came out, and choose the exit code."""
    place = report.write_report(source, folder)
    verdict, code = result.verdict, result.exit_code
    n_failed, rows = failed
    if n_failed:
        console.print(f"{n_failed} of {rows} rows failed; their reasons are in the report")
    for note in notes[:5]:
        console.print(f"  {note}", soft_wrap=True, highlight=False, markup=False)
    if n_failed > exp.max_failed_fraction * rows and code != EXIT_BUG:
        code = EXIT_FAILED_ROWS
        console.print(
            f"{n_failed / rows:.1%} of the rows failed, more than max_failed_fraction = "
            f"{exp.max_failed_fraction:.1%}"
        )
    console.print(f"report:  {place}", soft_wrap=True, highlight=False)
    console.print(f"verdict: {verdict['sentence']}", soft_wrap=True, highlight=False)
    return Outcome(folder, place, verdict, code)
