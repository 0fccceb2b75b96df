"""What a run will take, from a few of its bricks made here and thrown away."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from darkhaloscope import audit, lensing, prepare, store
from darkhaloscope.inject import inject_brick, load_brick
from darkhaloscope.plan import Plan
from darkhaloscope.progress import Bar

BRICKS = 3
"""Bricks that are tried, evenly through the plan."""

CUBES = 7
"""Pixel cubes of a block that a worker holds at most: ``ctrl`` and ``arc`` of the bricks, of the block that
they become, and of the next block, and what is encoded. With ``store.invvar`` half as many more."""


class BrickCost(NamedTuple):
    """What one brick took, from its files to encoded bytes."""

    brick: str
    rows: int
    failed: int
    requests: int
    bytes_in: int
    bytes_out: int
    cpu_s: float
    wall_s: float


class Range(NamedTuple):
    """The tried bricks together, and those of them that took least and most, scaled to the run."""

    value: float
    least: float
    most: float


class Estimate(NamedTuple):
    """What a run will take; ``workers`` of one thread each."""

    rows: int
    bricks: int
    workers: int
    requests: Range
    bytes_in: Range
    bytes_out: Range
    cpu_hours: Range
    wall_hours: Range
    worker_memory: float
    """Bytes: what this process took, and ``CUBES`` cubes of a block."""
    tried: tuple[BrickCost, ...]


def estimate(made: Plan, workers: int, *, console: Console | None = None) -> Estimate:
    """Make a few bricks of a plan in this process, and say what the run will take.

    Reading is by brick, and a brick that lies in two blocks is read twice; work and bytes written are by row.
    The spread is that between the tried bricks. Not counted: the audit after the last block, and time in
    which workers wait for the scheduler.

    Parameters
    ----------
    made : Plan
    workers : int

    Raises
    ------
    UserError
        The coadds cannot be read.
    """
    console = console or Console()
    prepare.preflight(made)
    places = np.unique(np.linspace(0, len(made.bricks) - 1, BRICKS).round().astype(int))
    lensing.warm()
    _try_brick(made, str(made.bricks[places[0]]))  # once for what is only done the first time
    tried = []
    with Bar(console, "trying", len(places), "bricks") as bar:
        for place in places:
            tried.append(_try_brick(made, str(made.bricks[place])))
            bar.advance(1)
    found = extrapolate(tried, made, workers)
    _show(found, console)
    return found


def extrapolate(tried: Sequence[BrickCost], made: Plan, workers: int) -> Estimate:
    """From the costs of some bricks to those of a whole plan."""
    edges = np.arange(1, made.blocks) * made.block
    straddling = int((~np.isin(edges, made.first_row)).sum())
    visits = len(made.bricks) + straddling

    def scaled(cost: Callable[[BrickCost], float], by_row: bool) -> Range:
        share = [one.rows if by_row else 1 for one in tried]
        total = made.rows if by_row else visits
        costs = [cost(one) for one in tried]
        each = [total * c / s for c, s in zip(costs, share, strict=True)]
        return Range(total * sum(costs) / sum(share), min(each), max(each))

    cube = made.block * len(made.experiment.survey.bands) * made.experiment.stamp.size**2 * 4
    cubes = CUBES * 3 // 2 if made.experiment.store.invvar else CUBES
    return Estimate(
        made.rows,
        len(made.bricks),
        workers,
        scaled(lambda one: one.requests, by_row=False),
        scaled(lambda one: one.bytes_in, by_row=False),
        scaled(lambda one: one.bytes_out, by_row=True),
        scaled(lambda one: one.cpu_s / 3600, by_row=True),
        scaled(lambda one: one.wall_s / 3600 / workers, by_row=True),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + cubes * cube,
        tuple(tried),
    )


def _try_brick(made: Plan, brick: str) -> BrickCost:
    """Load, inject, measure and encode one brick, and keep nothing."""
    exp = made.experiment
    spec = prepare.spec_of(exp, prepare.planned_strata(made), n_regions=made.n_regions)
    wall, cpu = time.perf_counter(), time.process_time()
    rows = made.brick_rows(brick)
    cutouts = load_brick(rows, exp)
    cube = inject_brick(rows, cutouts, exp)
    statistics = audit.measure(cube, spec)
    alone = prepare.layout_of(made)._replace(
        rows=len(rows), block=max(64, 1 << (len(rows) - 1).bit_length())
    )
    encoded = store.encode_block(alone, 0, cube)
    written = sum(len(data) for data in encoded.values() if data is not None)
    written += len(store.encode_statistics(statistics))
    return BrickCost(
        brick,
        len(rows),
        int((~cube["cutout_ok"].values).sum()),
        cutouts.requests,
        cutouts.bytes,
        written,
        time.process_time() - cpu,
        time.perf_counter() - wall,
    )


def _show(found: Estimate, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("", "estimate", "by the tried brick that took least", "most"):
        table.add_column(name, justify="left" if not name else "right")
    for label, values, unit in (
        ("GETs", found.requests, 1.0),
        ("read, GB", found.bytes_in, 1e9),
        ("written, GB", found.bytes_out, 1e9),
        ("CPU hours", found.cpu_hours, 1.0),
        (f"hours with {found.workers} workers", found.wall_hours, 1.0),
    ):
        table.add_row(label, *(f"{value / unit:.3g}" for value in values))
    console.print(table)
    failed, rows = (sum(getattr(one, name) for one in found.tried) for name in ("failed", "rows"))
    names = ", ".join(one.brick for one in found.tried)
    console.print(
        f"{found.rows} rows of {found.bricks} bricks take {found.cpu_hours.value:.3g} CPU hours, "
        f"{found.wall_hours.value:.3g} hours with {found.workers} workers of one thread and "
        f"{found.worker_memory / 2**30:.2g} GiB each, if they read as fast as this machine: measured on "
        f"{len(found.tried)} bricks ({names}), {failed} of whose {rows} rows failed",
        soft_wrap=True,
        highlight=False,
    )
