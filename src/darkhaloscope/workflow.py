"""The Dask graph, and nothing else: which task does what, under which name, after what.

A run is, per block, tasks that load and inject bricks (``inject-000003-0591m305``, or
``inject-000003-0591m305..0596m305`` where one takes several) and one that measures and writes
(``write-000003``); then a tree of ``reduce`` tasks in block order, and ``rerender`` tasks over the audit
rows. An audit of an existing data set replaces the first two by ``measure-000003``. Keys name stage,
block and bricks: a brick that straddles two blocks is two tasks. The tasks of a block are annotated with
``run`` and ``block``, for whoever looks at the scheduler. Tasks are pure, so any of them may run
twice. Which blocks are in flight, where, and what is done when something dies, is ``driver``'s.
"""

from __future__ import annotations

import functools
import io
import json
import logging
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, overload

import dask
import numpy as np
import pandas as pd
import xarray as xr
import xxhash
from dask.highlevelgraph import HighLevelGraph
from dask.typing import Key
from distributed import Client, as_completed, get_worker

from darkhaloscope import audit, fix, storage, store, survey
from darkhaloscope.audit import AuditSpec
from darkhaloscope.config import Experiment, parse_experiment
from darkhaloscope.errors import Reason
from darkhaloscope.inject import empty_cube, inject_brick, load_brick
from darkhaloscope.plan import Piece, Plan, brick_rows
from darkhaloscope.prepare import RowSource
from darkhaloscope.store import Layout
from darkhaloscope.survey import Cutouts, galaxy_image

logger = logging.getLogger(__name__)

FAN_IN = 8
"""Statistics that one reduce task merges."""

RERENDER_ROWS = 32
"""Rows of one re-rendering task: small enough for progress, large enough for Dask. Never a matter of
how many workers there are, so that sums over rows are the same to the last bit."""

EVENT_EVERY_S = 1.0
"""A task that takes several bricks tells of them at most this often."""

TOPIC = "darkhaloscope-bricks"
"""Under which workers tell the scheduler of finished bricks."""

Arrays = dict[str, np.ndarray]


class Work(NamedTuple):
    """One brick's part of a task: its targets, and which of its rows lie in the block."""

    brick: str
    targets: pd.DataFrame
    rows: slice
    set_apart: bool
    """In quarantine: its rows fail, its files are not touched."""


class Packed(Sequence[Work]):
    """The work of bricks that follow each other, their targets as bytes until somebody looks at them. A
    scheduler makes objects of a graph, and messages of its objects: it is to do neither with tables."""

    def __init__(self, bricks: Sequence[tuple[str, int, slice, bool]], targets: bytes) -> None:
        self._bricks, self._targets = bricks, targets

    @classmethod
    def of(
        cls,
        pieces: Sequence[Piece],
        targets: pd.DataFrame,
        first: Sequence[int],
        set_apart: frozenset[str],
    ) -> Packed:
        """Of pieces whose targets lie in a table: where each one's begin, and where the last one's end."""
        bricks = [
            (piece.brick, stop - start, piece.rows, piece.brick in set_apart)
            for piece, start, stop in zip(pieces, first[:-1], first[1:], strict=True)
        ]
        return cls(bricks, pickle.dumps(targets.iloc[first[0] : first[-1]]))

    def __reduce__(self) -> tuple[Any, ...]:
        return Packed, (self._bricks, self._targets)

    @property
    def bricks(self) -> list[str]:
        """Their names."""
        return [brick for brick, *_ in self._bricks]

    @functools.cached_property
    def _work(self) -> list[Work]:
        targets = pickle.loads(self._targets)  # noqa: S301 (the driver's own, out of its task)
        work, start = [], 0
        for brick, count, rows, set_apart in self._bricks:
            work.append(Work(brick, targets.iloc[start : start + count], rows, set_apart))
            start += count
        return work

    def __len__(self) -> int:
        return len(self._bricks)

    @overload
    def __getitem__(self, which: int) -> Work: ...

    @overload
    def __getitem__(self, which: slice) -> list[Work]: ...

    def __getitem__(self, which: int | slice) -> Work | list[Work]:
        return self._work[which]


class Kernels(NamedTuple):
    """What the tasks of a block do: :func:`inject_bricks` and :func:`write_piece`, or stand-ins."""

    inject: Callable[..., Any]
    write: Callable[..., dict[str, Any]]


def key(stage: str, *parts: object) -> str:
    """A task's name as the dashboard shows it: ``write-000003-1f0c…`` is stage ``write``."""
    return "-".join([stage, *map(str, parts)])


def token(run: str, spec: AuditSpec) -> str:
    """Keeps the keys of two runs on one scheduler apart."""
    return xxhash.xxh64_hexdigest(f"{run}\0{spec.to_json()}".encode())[:8]


# --- what the tasks do ------------------------------------------------------------------------


def inject_bricks(
    run: str, experiment: str, work: Sequence[Work], block: int, *, final: bool
) -> list[tuple[pd.DataFrame, xr.Dataset]]:
    """Load and inject bricks one after the other: the planned rows and the cube of each. While one is
    injected the next is read, in a thread: the network is waited for meanwhile.

    ``final`` takes files that are out of reach as they are; those that a store refuses are always taken so.

    ``experiment`` is its JSON text, which a worker reads once; a task's message stays small.

    Raises
    ------
    StorageError
        A file is out of reach and may be in reach later; not if ``final``.
    """
    made, told = [], []
    last = time.monotonic()
    for one, planned, cube in _injected(run, _experiment(experiment), work):
        unreadable = (cube["reason"].values == Reason.UNREADABLE).any()
        if unreadable and not (final or cube.attrs["lasting"]):
            raise storage.StorageError(cube.attrs["notes"][0])
        about = {"run": run, "block": block, "brick": one.brick, "rows": len(planned)}
        logger.info("brick is injected", extra=about)
        made.append((planned, cube))
        told.append(one.brick)
        if time.monotonic() - last > EVENT_EVERY_S or one is work[-1]:
            tell(run, block, told)
            told, last = [], time.monotonic()
    return made


def _injected(
    run: str, experiment: Experiment, work: Sequence[Work]
) -> Iterator[tuple[Work, pd.DataFrame, xr.Dataset]]:
    """Each brick with its rows and its cube; one is read ahead, never more: each is megabytes."""
    with ThreadPoolExecutor(1, "read-ahead") as ahead:
        coming = ahead.submit(_load, run, experiment, work[0])
        for one, after in zip(work, [*work[1:], None], strict=True):
            loaded = coming.result()
            if after is not None:
                coming = ahead.submit(_load, run, experiment, after)
            yield one, *_inject(experiment, one, *loaded)


def inject_piece(run: str, experiment: Experiment, work: Work) -> tuple[pd.DataFrame, xr.Dataset]:
    """Load and inject one brick's rows of one block."""
    return _inject(experiment, work, *_load(run, experiment, work))


def _load(
    run: str, experiment: Experiment, work: Work
) -> tuple[pd.DataFrame, pd.DataFrame, Cutouts | None]:
    """The rows that are planned of a brick in the block, those among which they find their partners, and
    their stamps."""
    joint = None if experiment.plan.joint is None else _joint(storage.join(run, store.JOINT))
    if experiment.fix.core_matched_negatives:  # whose partners may be in another block
        planned = brick_rows(experiment, work.targets, joint)
        rows = planned.iloc[work.rows]
    else:
        rows = planned = brick_rows(experiment, work.targets, joint, work.rows)
    return rows, planned, None if work.set_apart else load_brick(rows, experiment)


def _inject(
    experiment: Experiment,
    work: Work,
    rows: pd.DataFrame,
    planned: pd.DataFrame,
    cutouts: Cutouts | None,
) -> tuple[pd.DataFrame, xr.Dataset]:
    if cutouts is not None:
        return rows, inject_brick(rows, cutouts, experiment, planned)
    cube = empty_cube(rows, experiment)
    cube["reason"].values[:] = Reason.QUARANTINED
    cube.attrs["notes"] = [f"brick {work.brick} is in quarantine: alone it killed its workers."]
    return rows, cube


@functools.lru_cache(maxsize=4)
def _experiment(text: str) -> Experiment:
    return parse_experiment(json.loads(text))


@functools.lru_cache(maxsize=4)
def _joint(url: str) -> pd.DataFrame:
    """The run's joint table, read once a worker."""
    return pd.read_parquet(io.BytesIO(storage.read(url)))


def tell(run: str, block: int, bricks: Sequence[str]) -> None:
    """Log finished bricks with the scheduler; nothing outside a worker."""
    try:
        worker = get_worker()
    except ValueError:
        return
    worker.log_event(TOPIC, {"run": run, "block": block, "bricks": list(bricks)})


def write_piece(
    run: str,
    layout: Layout,
    block: int,
    made: Sequence[Sequence[tuple[pd.DataFrame, xr.Dataset]]],
    spec: AuditSpec,
) -> dict[str, Any]:
    """Measure and write one block; gives its marker, and in ``bricks`` the names of its bricks in order,
    each with the reason (code) that all its rows share, or with 0."""
    parts = [part for task in made for part in task]
    cubes = [cube for _, cube in parts]
    cube = xr.concat(cubes, dim="pair", data_vars="minimal", coords="minimal", compat="override")
    notes = [note for part in cubes for note in part.attrs["notes"]]
    planned = pd.concat([rows for rows, _ in parts], ignore_index=True)
    statistics = audit.measure(cube, spec)
    marker = store.write_block(
        run, layout, block, cube, statistics, spec_digest(spec), notes, planned
    )
    shared = []
    for rows, part in parts:
        reasons = np.unique(part["reason"].values)
        shared.append((str(rows["brick"].iloc[0]), int(reasons[0]) if len(reasons) == 1 else 0))
    return marker | {"bricks": shared}


def probe_bricks(
    inject: Callable[..., Any], run: str, experiment: str, work: Sequence[Work], block: int
) -> None:
    """Inject bricks and keep nothing: only to see whether the worker lives through it."""
    inject(run, experiment, work, block, final=True)


def spec_digest(spec: AuditSpec) -> str:
    """Says of stored statistics which rows and strata they were measured with."""
    return xxhash.xxh64_hexdigest(spec.to_json().encode())


def measure_piece(source: RowSource, rows: slice, spec: AuditSpec) -> Arrays:
    """Read some rows of a data set and measure them."""
    return audit.measure(source.block(rows), spec)


def read_and_merge(run: str, markers: Sequence[dict[str, Any]], spec: AuditSpec) -> Arrays:
    """Merge the statistics that finished blocks left in the run's folder."""
    return audit.merge([store.read_statistics(run, marker) for marker in markers], spec)


def rerender_piece(
    rows: Arrays,
    spec: AuditSpec,
    catalogue: str | None,
    closure_tolerance: float = audit.CLOSURE_TOLERANCE,
) -> Arrays:
    """Draw some audit rows again; source images are those of the catalogue, where there is one."""
    if not spec.redraws:
        return audit.undrawn(rows, spec)
    image_of = audit.no_image if catalogue is None else functools.partial(galaxy_image, catalogue)
    return audit.rerender(rows, spec, fix.apply_fix, image_of, closure_tolerance=closure_tolerance)


# --- the graph --------------------------------------------------------------------------------


KERNELS = Kernels(inject_bricks, write_piece)


def block_graph(
    run: str,
    plan: Plan,
    layout: Layout,
    spec: AuditSpec,
    block: int,
    *,
    bricks_per_task: int,
    mark: str,
    final: bool = False,
    set_apart: frozenset[str] = frozenset(),
    kernels: Kernels,
) -> tuple[str, HighLevelGraph]:
    """The tasks of one block, and the name of the one that gives its marker.

    Made as Dask itself has it: a call of ``dask.delayed`` costs half a millisecond a brick.

    Parameters
    ----------
    mark : str
        End of every key: keeps runs on one scheduler apart, and a block's tries.
    final : bool
        What cannot be read now fails its rows.
    set_apart : frozenset of str
        Bricks whose rows fail as ``quarantined``.
    """
    text = plan.experiment.model_dump_json()
    pieces = plan.pieces(block)
    table, first = plan.table_of(pieces)
    write = key("write", f"{block:06d}", mark)
    graph: dict[Key, Any] = {}
    for group in groups(range(len(pieces)), bricks_per_task):
        some = [pieces[i] for i in group]
        work = Packed.of(some, table, first[group[0] : group[-1] + 2], set_apart)
        name = key("inject", f"{block:06d}", brick_range(work.bricks), mark)
        # What a task is given is in its function: Dask looks for tasks in arguments, at length.
        graph[name] = (functools.partial(kernels.inject, run, text, work, block, final=final),)
    graph[write] = (kernels.write, run, layout, block, list(graph), spec)
    return write, HighLevelGraph.from_collections(write, graph)


def work_of(plan: Plan, pieces: Sequence[Piece], set_apart: frozenset[str]) -> list[Work]:
    """What tasks need of bricks that follow each other in the plan."""
    return [
        Work(piece.brick, targets, piece.rows, piece.brick in set_apart)
        for piece, targets in zip(pieces, plan.targets_in(pieces), strict=True)
    ]


def brick_range(bricks: Sequence[str]) -> str:
    """``0591m305``, or ``0591m305..0596m305`` of several."""
    first, last = bricks[0], bricks[-1]
    return first if first == last else f"{first}..{last}"


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
        for i, group in enumerate(groups(markers))
    ]
    return _tree(client, level, spec, mark)


def measure_dataset(client: Client, source: RowSource, spec: AuditSpec) -> Arrays:
    """Measure an existing data set, a task a block, and merge by a tree of tasks."""
    mark = token(source.url, spec)
    level = [
        dask.delayed(measure_piece)(
            source, rows, spec, dask_key_name=key("measure", f"{i:06d}", mark)
        )
        for i, rows in enumerate(source.blocks())
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
            for i, group in enumerate(groups(level))
        ]
        depth += 1
    merged: Arrays = client.compute(level[0], optimize_graph=False).result()
    return merged


def groups(items: Sequence[Any], size: int = FAN_IN) -> list[Sequence[Any]]:
    """Runs of ``size`` items, in order."""
    return [items[i : i + size] for i in range(0, len(items), size)]


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
