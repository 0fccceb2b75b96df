"""From an experiment, or a finished data set, to a verdict and its report."""

from __future__ import annotations

import contextlib
import importlib.resources
import io
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
from dask.system import CPU_COUNT
from distributed import Client
from rich.console import Console

from darkhaloscope import (
    __version__,
    audit,
    driver,
    metrics,
    prepare,
    status,
    storage,
    store,
    workflow,
)
from darkhaloscope.audit import AuditResult, AuditSpec, PairSource
from darkhaloscope.cluster import connect
from darkhaloscope.commands.common import (
    EXIT_BUG,
    EXIT_FAILED_ROWS,
    check_writable,
    drop_conclusions,
    say_splits,
    with_cluster,
)
from darkhaloscope.commands.inputs import sky, targets
from darkhaloscope.commands.tiers import require_passed, run_below
from darkhaloscope.config import Experiment
from darkhaloscope.driver import Brake
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.mapping import load_mapping
from darkhaloscope.plan import Plan
from darkhaloscope.prepare import AuditSettings, StoredPairs
from darkhaloscope.progress import Bar
from darkhaloscope.store import Layout

DEMO_SKY = 5
"""Seed of the demo's sky: it has a brick without g files, one with empty ones, and ends of footprints."""

COUNTED_TARGETS = 100_000
"""Up to so many, a run begins with how many targets each split has; of more, that takes minutes."""


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


def run(
    experiment: str | Experiment,
    *,
    out: str | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    require_gate: str | None = None,
    brake: Brake | None = None,
    metrics_port: int | None = None,
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
    require_gate : str, optional
        Folder of a run that must have passed its gates, with the same arcs on fewer targets. An experiment
        with a key ``after`` requires the run of that name, by default beside this run's folder.
    brake : Brake, optional
        Pulled from elsewhere, it stops the run once the blocks in flight are whole.
    metrics_port : int, optional
        Where Prometheus finds ``/metrics`` for the time of this call.

    Raises
    ------
    UserError
        A mistake in the experiment, its targets, its survey, or the folder; or the run that must have
        passed has not.
    """
    console = console or Console()
    exp = prepare.experiment_of(experiment, with_cluster(overrides, cluster, workers))
    folder = storage.absolute((out or f"runs/{exp.name}").rstrip("/"))
    with metrics.served(metrics_port) as watched:
        if (below := run_below(exp, folder, require_gate)) is not None:
            require_passed(below, exp)
            console.print(f"gate: {below} passed", soft_wrap=True, highlight=False)
        made = prepare.plan_of(exp)
        layout = prepare.layout_of(made)
        watched.planned = {"rows": layout.rows, "blocks": layout.blocks}
        # Before a brick is read, or a cluster started.
        store.check_run(folder, layout, exp.identity_document(made.contents))
        prepare.check_plan(folder, made)
        reading = prepare.preflight(made)
        spec = prepare.spec_of(exp, prepare.planned_strata(made), n_regions=made.n_regions)
        if made.targets.first[-1] <= COUNTED_TARGETS:
            say_splits(made.regions, made.splits(), console)
        else:
            console.print(f"{made.n_regions} regions; dhs plan counts targets by split")
        watched.stage = "workers"
        with connect(exp.cluster, folder) as client:  # first: without workers nothing is begun
            console.print(f"dashboard: {client.dashboard_link}", soft_wrap=True)
            console.print(f"reading: {reading}", soft_wrap=True, highlight=False)
            _begin(folder, made, layout, console)
            watched.stage = "blocks"
            markers = _make_blocks(client, folder, made, layout, spec, brake, watched, console)
            watched.stage = "audit"
            if all(m["statistics_spec"] == workflow.spec_digest(spec) for m in markers):
                stats = workflow.reduce_run(client, folder, markers, spec)
            else:
                console.print("the audit section changed: finished blocks are measured again")
                stats = workflow.measure_dataset(client, prepare.StoredPairs(folder), spec)
            # No column stays in memory: the driver's does not grow with the survey.
            columns = store.open_dataset(folder, cache=False)
            result = _conclude(client, columns, folder, stats, spec, exp, console)
        watched.stage = "report"
        notes = sorted({note for marker in markers for note in marker["notes"]})
        return _finish(folder, folder, result, _outcomes(markers), exp, notes, console)


def _begin(folder: str, made: Plan, layout: Layout, console: Console) -> None:
    """Make the run's folder, or take up the one that is there; of an earlier verdict nothing is left."""
    exp = made.experiment
    document = exp.identity_document(made.contents)
    if store.create_run(folder, layout, exp.to_yaml(), document, __version__):
        if (last := status.writes_now(folder)) is not None:
            console.print(
                f"a run gave a sign of life here {last:.0f} s ago; if it is not dead, both make the "
                "same files",
                soft_wrap=True,
                highlight=False,
            )
        prepare.complete_plan(folder, made)
    if made.joint is not None:
        store.write_joint(folder, made.joint)
    drop_conclusions(folder)


def _make_blocks(
    client: Client,
    folder: str,
    made: Plan,
    layout: Layout,
    spec: AuditSpec,
    brake: Brake | None,
    watched: metrics.Collector,
    console: Console,
) -> list[dict[str, Any]]:
    """Make the blocks that are not there yet, with a bar; gives what is kept of all markers."""
    with Bar(console, "inject and write", layout.rows, "rows") as bar:

        def on_block(block: int, was_there: bool) -> None:
            rows = layout.rows_of(block)
            bar.advance(rows.stop - rows.start, skipped=was_there)

        return driver.run_blocks(
            client,
            folder,
            made,
            layout,
            spec,
            on_block,
            bricks_per_task=made.experiment.cluster.fixed_bricks_per_task,
            brake=brake,
            on_progress=watched.hear,
        )


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
    if not prepare.is_run(source) and out is None:
        raise UserError(f"{source} is no run's folder; say where the results go with --out")
    settings = prepare.settings_of(source, with_cluster(None, cluster, workers), mapping)
    spec = prepare.spec_of_source(pairs, settings)
    folder = storage.absolute((out or source).rstrip("/"))
    check_writable(folder)  # hours before the first result is written there
    columns = pairs.columns
    where = {} if prepare.is_run(source) else _provenance(source, mapping)
    with connect(settings.cluster, folder) as client:
        console.print(f"dashboard: {client.dashboard_link}", soft_wrap=True)
        drop_conclusions(folder)
        blocks = pairs.blocks()
        console.print(f"measuring {blocks[-1].stop} rows in {len(blocks)} blocks")
        stats = workflow.measure_dataset(client, pairs, spec)
        prepare.check_apart(pairs, stats)
        result = _conclude(client, columns, folder, stats, spec, settings, console, where, pairs)
    outcomes = Counter({reason.text: int(stats["outcomes"][:, reason].sum()) for reason in Reason})
    return _finish(source, folder, result, outcomes, settings, [], console)


def make_report(folder: str, *, source: str | None = None, console: Console | None = None) -> str:
    """Draw ``report.html`` of a finished run or audit again; gives its place."""
    console = console or Console()
    from darkhaloscope import report  # matplotlib is slow to import

    place = report.write_report(source or folder, folder)
    console.print(f"report: {place}", soft_wrap=True)
    return place


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


def _outcomes(markers: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Rows of finished blocks by reason."""
    rows: Counter[str] = Counter()
    for marker in markers:
        for by_reason in marker["counts"].values():
            rows.update(by_reason)
    return rows


def _conclude(
    client: Client,
    columns: xr.Dataset,
    folder: str,
    stats: dict[str, Any],
    spec: AuditSpec,
    exp: Experiment | AuditSettings,
    console: Console,
    where: Mapping[str, Any] | None = None,
    source: StoredPairs | PairSource | None = None,
) -> AuditResult:
    """Re-render, judge, and write ``verdict.json`` and ``audit/*``.

    ``where`` are further keys of the verdict: where a foreign data set comes from; ``source`` is that set,
    whose columns are named in what is said of rows.
    """
    began = time.monotonic()
    catalogue = exp.source.catalogue if isinstance(exp, Experiment) else None
    # Where no arc can be drawn again there is nothing to watch.
    bar = Bar(console, "re-render", 1, "pieces") if spec.redraws else None
    with bar or contextlib.nullcontext():
        rerendered = workflow.rerender_rows(
            client, folder, stats, spec, bar.reached if bar else lambda done, of: None, catalogue
        )
    if source is not None:
        told = prepare.in_their_words(source, rerendered["message"].tolist())
        rerendered["message"] = np.array(told, dtype=np.str_)
    drawn = int((rerendered["message"] == "").sum())
    says = (
        f"re-rendered {drawn} audit rows, {len(rerendered['whole_hash'])} of them whole, in "
        f"{time.monotonic() - began:.0f} s"
        if spec.redraws
        else "no arc can be drawn again"
    )
    console.print(f"{says}; reducing", highlight=False)
    quality = audit.quality(columns, spec.reference_band, spec.lacks)
    chosen = audit.selection(columns, spec)

    def redraw(rows: audit.Arrays, spec: AuditSpec, tolerance: float) -> audit.Arrays:
        return workflow.rerender_piece(rows, spec, catalogue, tolerance)

    limits = prepare.limits_of(exp)
    result = audit.conclude(stats, rerendered, quality, limits, spec, chosen, redraw)
    for name, table in result.tables.items():
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        storage.write(storage.join(folder, "audit", f"{name}.parquet"), buffer.getvalue())
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **result.examples)
    storage.write(storage.join(folder, "audit", "examples.npz"), buffer.getvalue())
    # Not in the verdict, which is the same whenever the same data are audited.
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    made = json.dumps({"finished": now, "version": __version__})
    storage.write(storage.join(folder, "audit", "made.json"), made.encode())
    result.verdict.update(where or {})
    storage.write(storage.join(folder, "verdict.json"), audit.to_json(result.verdict).encode())
    return result


def _provenance(source: str, mapping: str | None) -> dict[str, str | None]:
    """Where a foreign data set lies and whose names its columns have, for its verdict."""
    name = None if mapping is None else load_mapping(mapping).name
    return {"source": storage.without_secrets(source), "mapping": name}


def _finish(
    source: str,
    folder: str,
    result: AuditResult,
    outcomes: Counter[str],
    exp: Experiment | AuditSettings,
    notes: Sequence[str],
    console: Console,
) -> Outcome:
    """Draw the report, say what came out, and choose the exit code."""
    from darkhaloscope import report  # matplotlib is slow to import

    place = report.write_report(source, folder)
    verdict, code = result.verdict, result.exit_code
    rows = outcomes.total()
    n_failed = sum(n for reason, n in outcomes.items() if Reason[reason.upper()].failed)
    if n_failed:
        console.print(f"{n_failed} of {rows} rows failed; their reasons are in the report")
    for note in notes[:5]:
        console.print(f"  {note}", soft_wrap=True, highlight=False, markup=False)
    if len(notes) > 5:
        console.print(
            f"  and {len(notes) - 5} more sentences like these, in the markers of the blocks"
        )
    for line in status.how_to_mend(source, outcomes) if prepare.is_run(source) else ():
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if n_failed > exp.max_failed_fraction * rows and code != EXIT_BUG:
        code = EXIT_FAILED_ROWS
        console.print(
            f"{n_failed / rows:.1%} of the rows failed, more than max_failed_fraction = "
            f"{exp.max_failed_fraction:.1%}"
        )
    console.print(f"report:  {place}", soft_wrap=True, highlight=False)
    console.print(f"verdict: {verdict['sentence']}", soft_wrap=True, highlight=False)
    return Outcome(folder, place, verdict, code)
