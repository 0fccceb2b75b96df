"""The Dask graph, and nothing else: which task runs what, where, and after what.

A run is, per block, one task a brick (``inject-000003-0591m305``: load and inject) and one that
measures and writes (``write-000003``); then a tree of ``reduce`` tasks in block order, and
``rerender`` tasks over the audit rows. An audit of an existing data set replaces the first two by
``measure-000003``. Keys name stage, block and brick: a brick that straddles two blocks is two tasks.
Tasks are pure, so any of them may run twice. The driver keeps a bounded window of blocks in flight
and places each whole block on one worker, so that pixels do not cross the network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import dask
import numpy as np
import pandas as pd
import xarray as xr
import xxhash
from distributed import Client, Future, as_completed

from darkhaloscope import audit, fix, store, survey
from darkhaloscope.audit import AuditSpec
from darkhaloscope.config import Experiment
from darkhaloscope.inject import inject_brick, load_brick
from darkhaloscope.plan import Piece, Plan, brick_rows
from darkhaloscope.store import Layout
from darkhaloscope.survey import galaxy_image

BLOCKS_PER_WORKER = 2
"""Blocks in flight on one worker: one that is written while the next is read."""

NOTES_PER_BLOCK = 5

FAN_IN = 8
"""Statistics that one reduce task merges."""

RERENDER_ROWS = 32
"""Rows of one re-rendering task: small enough for progress, large enough for Dask. Never a matter of
how many workers there are, so that sums over rows are the same to the last bit."""

Arrays = dict[str, np.ndarray]
OnBlock = Callable[[int, bool], None]
"""Told of each finished block: its number, and whether it was there before."""


def key(stage: str, *parts: object) -> str:
    """A task's name as the dashboard shows it: ``write-000003-1f0c…`` is stage ``write``."""
    return "-".join([stage, *map(str, parts)])


def token(run: str, spec: AuditSpec) -> str:
    """Keeps the keys of two runs on one scheduler apart."""
    return xxhash.xxh64_hexdigest(f"{run}\0{spec.to_json()}".encode())[:8]


# --- what the tasks do ------------------------------------------------------------------------


def inject_piece(
    experiment: Experiment, targets: pd.DataFrame, joint: pd.DataFrame | None, rows: slice
) -> xr.Dataset:
    """Load and inject one brick's rows of one block."""
    planned = brick_rows(experiment, targets, joint).iloc[rows]
    return inject_brick(planned, load_brick(planned, experiment), experiment)


def write_piece(
    run: str, layout: Layout, block: int, cubes: Sequence[xr.Dataset], spec: AuditSpec
) -> dict[str, Any]:
    """Measure and write one block; gives its marker."""
    cube = xr.concat(cubes, dim="pair", data_vars="minimal", coords="minimal", compat="override")
    notes = [note for part in cubes for note in part.attrs["notes"]]
    return store.write_block(
        run, layout, block, cube, audit.measure(cube, spec), spec_digest(spec), notes
    )


def spec_digest(spec: AuditSpec) -> str:
    """Says of stored statistics which rows and strata they were measured with."""
    return xxhash.xxh64_hexdigest(spec.to_json().encode())


def measure_piece(url: str, rows: slice, spec: AuditSpec) -> Arrays:
    """Read some rows of a data set and measure them."""
    return audit.measure(store.read_rows(url, rows), spec)


def read_and_merge(run: str, markers: Sequence[dict[str, Any]], spec: AuditSpec) -> Arrays:
    """Merge the statistics that finished blocks left in the run's folder."""
    return audit.merge([store.read_statistics(run, marker) for marker in markers], spec)


def rerender_piece(rows: Arrays, spec: AuditSpec, catalogue: str | None) -> Arrays:
    """Draw some audit rows again; source images are those of the catalogue, where there is one."""
    if catalogue is None:
        return audit.rerender(rows, spec, fix.apply_fix)
    return audit.rerender(rows, spec, fix.apply_fix, functools.partial(galaxy_image, catalogue))


# --- the graph --------------------------------------------------------------------------------


def run_blocks(
    client: Client,
    run: str,
    plan: Plan,
    layout: Layout,
    spec: AuditSpec,
    on_block: OnBlock,
) -> list[dict[str, Any]]:
    """Make every block that has no marker yet; gives what is kept of all markers, in block order.

    Parameters
    ----------
    client : Client
    run : str
        The run's folder.
    plan : Plan
    layout : Layout
    spec : AuditSpec
    on_block : callable
        Called for each block, also for those that were finished before.
    """
    identity = layout.attributes["identity"]
    markers: dict[int, dict[str, Any]] = {}
    found = (store.read_marker(run, block, identity) for block in store.finished_blocks(run))
    finished = [m for m in found if m is not None and m["block"] < layout.blocks]
    store.check_objects(run, finished)
    for marker in finished:
        markers[marker["block"]] = _kept(marker)
        on_block(marker["block"], True)
    missing = (block for block in range(layout.blocks) if block not in markers)

    mark = token(run, spec)

    def graph(block: int) -> Any:
        cubes = [_inject_task(plan, piece, mark) for piece in plan.pieces(block)]
        return dask.delayed(write_piece)(
            run, layout, block, cubes, spec, dask_key_name=key("write", f"{block:06d}", mark)
        )

    for marker in _windowed(client, missing, graph):
        markers[marker["block"]] = _kept(marker)
        on_block(marker["block"], False)
    return [markers[block] for block in sorted(markers)]


def _kept(marker: dict[str, Any]) -> dict[str, Any]:
    """What the driver keeps of a marker: not the checksums of some fifty objects a block."""
    kept = {key: marker[key] for key in ("block", "counts", "statistics", "statistics_spec")}
    return kept | {"notes": marker["notes"][:NOTES_PER_BLOCK]}


def _inject_task(plan: Plan, piece: Piece, mark: str) -> Any:
    return dask.delayed(inject_piece)(
        plan.experiment,
        plan.targets_of(piece.brick),
        plan.joint,
        piece.rows,
        dask_key_name=key("inject", f"{piece.block:06d}", piece.brick, mark),
    )


def _windowed(
    client: Client, items: Iterable[int], graph: Callable[[int], Any]
) -> Iterator[dict[str, Any]]:
    """Results of one graph an item, a bounded number in flight, each placed on one worker."""
    source = iter(items)
    placed: dict[str, str] = {}
    running = as_completed([], with_results=True)

    def submit_next() -> bool:
        item = next(source, None)
        if item is None:
            return False
        worker = _least_loaded(client, placed)
        future: Future = client.compute(
            graph(item), workers=[worker], allow_other_workers=True, optimize_graph=False
        )
        placed[str(future.key)] = worker
        running.add(future)
        return True

    window = BLOCKS_PER_WORKER * max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
    for _ in range(window):
        if not submit_next():
            break
    for future, result in running:
        placed.pop(str(future.key), None)
        submit_next()
        yield result


def _least_loaded(client: Client, placed: dict[str, str]) -> str:
    """The worker with the fewest blocks in flight; of equals the first by address."""
    if not client.scheduler_info(n_workers=-1)["workers"]:
        client.wait_for_workers(1)
    workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
    taken = list(placed.values())
    return str(min(workers, key=taken.count))


def reduce_run(
    client: Client, run: str, markers: Sequence[dict[str, Any]], spec: AuditSpec
) -> Arrays:
    """Merge all blocks' statistics by a tree of tasks, in block order."""
    mark = token(run, spec)
    level = [
        dask.delayed(read_and_merge)(
            run,
            [{"block": m["block"], "statistics": m["statistics"]} for m in group],
            spec,
            dask_key_name=key("reduce", 0, f"{i:05d}", mark),
        )
        for i, group in enumerate(_groups(markers))
    ]
    return _tree(client, level, spec, mark)


def measure_dataset(client: Client, url: str, blocks: Sequence[slice], spec: AuditSpec) -> Arrays:
    """Measure an existing data set, a task a block, and merge by a tree of tasks."""
    mark = token(url, spec)
    level = [
        dask.delayed(measure_piece)(url, rows, spec, dask_key_name=key("measure", f"{i:06d}", mark))
        for i, rows in enumerate(blocks)
    ]
    return _tree(client, level, spec, mark)


def make_bricks(
    client: Client,
    root: str,
    names: Sequence[str],
    options: Mapping[str, Any],
    on_brick: Callable[[survey.SkySummary], object],
) -> list[survey.SkySummary]:
    """``survey.make_brick`` of each name, one task a brick; ``on_brick`` as they come."""
    mark = xxhash.xxh64_hexdigest(repr((root, sorted(options.items()))).encode())[:8]
    futures = [
        client.submit(survey.make_brick, root, name, **options, key=key("sky", name, mark))
        for name in names
    ]
    for future in as_completed(futures):
        on_brick(future.result())
    made: list[survey.SkySummary] = client.gather(futures)
    return made


def _tree(client: Client, level: list[Any], spec: AuditSpec, mark: str) -> Arrays:
    depth = 1
    while len(level) > 1:
        level = [
            dask.delayed(audit.merge)(
                group, spec, dask_key_name=key("reduce", depth, f"{i:05d}", mark)
            )
            for i, group in enumerate(_groups(level))
        ]
        depth += 1
    merged: Arrays = client.compute(level[0], optimize_graph=False).result()
    return merged


def _groups(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[i : i + FAN_IN] for i in range(0, len(items), FAN_IN)]


def rerender_rows(
    client: Client,
    place: str,
    stats: Arrays,
    spec: AuditSpec,
    on_piece: Callable[[int, int], None],
    catalogue: str | None = None,
) -> Arrays:
    """Draw the audit rows again on the workers; in the order of their pieces, whoever did them."""
    rows = audit.audit_rows(stats, spec)
    pieces = audit.chunks(rows, -(-len(rows["hash"]) // RERENDER_ROWS)) or [rows]
    mark = token(place, spec)
    futures = [
        client.submit(rerender_piece, piece, spec, catalogue, key=key("rerender", f"{i:05d}", mark))
        for i, piece in enumerate(pieces)
    ]
    for done, _ in enumerate(as_completed(futures), start=1):
        on_piece(done, len(futures))
    return audit.join(client.gather(futures))
