"""What a run will take, from a few of its bricks made here and thrown away."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import stdtrit

from darkhaloscope import audit, lensing, prepare, store, workflow
from darkhaloscope.audit import AuditSpec
from darkhaloscope.config import Experiment
from darkhaloscope.inject import inject_brick, load_brick
from darkhaloscope.plan import Plan
from darkhaloscope.progress import Bar

BRICKS = 5
"""Bricks that are tried, evenly through the plan."""

CONFIDENCE = 0.9
"""Of the intervals: Student's t of the scatter between the tried bricks."""

START_S = 10.0
"""Seconds from the command to the first brick: the plan, a look at the coadds, workers that come up."""

CORES, WHOLES = 20, 4
"""Rows of a tried brick that are drawn again for the audit: in their core, and whole."""

DRIVER_S, DRIVER_S_A_ROW = 19.0, 4.2e-3
"""Seconds in which the driver alone fits and judges, and those of each row that was drawn again; from
docs/benchmarks.md, "The end of a run". Another driver takes half or twice that."""

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
    cores: int = 0
    """Rows that were drawn again in their core, as an audit does, and the seconds of processor time."""
    core_s: float = 0.0
    wholes: int = 0
    """As ``cores``, of whole stamps."""
    whole_s: float = 0.0


class Range(NamedTuple):
    """What the tried bricks together come to, scaled to the run, with its interval (NaN of one brick)."""

    value: float
    low: float
    high: float


class Estimate(NamedTuple):
    """What a run will take; ``workers`` of one thread each."""

    rows: int
    bricks: int
    workers: int
    requests: Range
    bytes_in: Range
    bytes_out: Range
    cpu_hours: Range
    """Of the blocks, as ``wall_hours``; the audit's come on top."""
    wall_hours: Range
    audit_rows: int
    """Rows that are drawn again after the last block."""
    audit_cpu_hours: Range
    audit_wall_hours: Range
    worker_memory: float
    """Bytes: what this process took, and ``CUBES`` cubes of a block."""
    tried: tuple[BrickCost, ...]


def estimate(made: Plan, workers: int, *, console: Console | None = None) -> Estimate:
    """Make a few bricks of a plan in this process, and say what the run will take.

    Reading is by brick, and a brick that lies in two blocks is read twice; work and bytes written are by row.
    A worker makes whole blocks, so the wall time is that of so many blocks after each other as the busiest
    has, and the start. After the last block the workers draw the audit's rows again, as many in a large run
    as in a small one, and the driver judges alone. Not counted: the reduction of the blocks' statistics, the
    report, and time in which workers wait for the scheduler.

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

    rows = np.array([one.rows for one in tried], float)
    part = len(tried) / len(made.bricks)

    def scaled(cost: Callable[[BrickCost], float], *, by_row: bool) -> Range:
        share = rows if by_row else np.ones(len(tried))
        costs = np.array([cost(one) for one in tried], float)
        return ratio(costs, share, made.rows if by_row else visits, part)

    each = ratio(np.array([one.wall_s for one in tried]), rows, min(made.block, made.rows), part)
    turns = -(-made.blocks // workers)
    cube = made.block * len(made.experiment.survey.bands) * made.experiment.stamp.size**2 * 4
    cubes = CUBES * 3 // 2 if made.experiment.store.invvar else CUBES
    audit_rows, again, judged = _after_the_blocks(tried, made)
    lanes = min(workers, max(-(-audit_rows // workflow.RERENDER_ROWS), 1))
    return Estimate(
        made.rows,
        len(made.bricks),
        workers,
        scaled(lambda one: one.requests, by_row=False),
        scaled(lambda one: one.bytes_in, by_row=False),
        scaled(lambda one: one.bytes_out, by_row=True),
        scaled(lambda one: one.cpu_s / 3600, by_row=True),
        Range(*((START_S + turns * block_s) / 3600 for block_s in each)),
        audit_rows,
        Range(*((a + b) / 3600 for a, b in zip(again, judged, strict=True))),
        Range(*((a / lanes + b) / 3600 for a, b in zip(again, judged, strict=True))),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + cubes * cube,
        tuple(tried),
    )


def _after_the_blocks(tried: Sequence[BrickCost], made: Plan) -> tuple[int, Range, Range]:
    """Rows that the audit draws again, the seconds of processor time that they take, and the driver's."""
    strata, asked = prepare.planned_strata(made), made.experiment.audit
    rows = min(asked.cap, sum(strata))
    wholes = min(asked.closure, asked.whole_cap, rows)
    parts = []
    for total, name in ((rows - wholes, "core"), (wholes, "whole")):
        counts = np.array([getattr(one, f"{name}s") for one in tried], float)
        costs = np.array([getattr(one, f"{name}_s") for one in tried], float)
        if total and counts.any():
            parts.append(ratio(costs, counts, total, min(counts.sum() / total, 1.0)))
    judged = DRIVER_S + DRIVER_S_A_ROW * rows
    again = Range(*(sum(part[i] for part in parts) for i in range(3)))
    return rows, again, Range(judged, judged / 2, judged * 2)


def ratio(
    costs: NDArray[np.float64], shares: NDArray[np.float64], total: float, part: float
) -> Range:
    """A total cost from some bricks' costs and shares: the ratio estimator, with its interval.

    Parameters
    ----------
    costs, shares : (brick,) float
        What each tried brick took, and its share (rows, or 1) of ``total``.
    total : float
    part : float
        The tried bricks' part of all bricks: where all were tried nothing is uncertain.
    """
    n = len(costs)
    rate = costs.sum() / shares.sum()
    error = np.nan if part < 1 else 0.0
    if n > 1:
        scatter = np.sum((costs - rate * shares) ** 2) / (n - 1) * (1 - part) / n
        error = stdtrit(n - 1, (1 + CONFIDENCE) / 2) * np.sqrt(scatter) / shares.mean()
    ends = (total * max(rate - error, 0.0), total * (rate + error))
    return Range(float(total * rate), *map(float, ends))


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
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return BrickCost(
        brick,
        len(rows),
        int((~cube["cutout_ok"].values).sum()),
        cutouts.requests,
        cutouts.bytes,
        written,
        cpu,
        wall,
        *_draw_again(cube, spec, exp),
    )


def _draw_again(
    cube: xr.Dataset, spec: AuditSpec, exp: Experiment
) -> tuple[int, float, int, float]:
    """Draw some rows of a brick again as its run's audit would: their number and seconds of processor time,
    in their core and whole."""
    drawn = (cube["lens_model"].values > 0) & cube["cutout_ok"].values
    if not drawn.any():
        return 0, 0.0, 0, 0.0
    strata = audit.stratum_counts(cube["theta_e"].values[drawn], spec.theta_e_edges)
    few = replace(spec, stratum_counts=strata, cap=CORES + WHOLES, whole_cap=WHOLES, closure=WHOLES)
    rows = audit.audit_rows(audit.measure(cube, few), few)
    found: list[tuple[int, float]] = []
    for chosen in (~rows["closure"], rows["closure"]):
        begun = time.process_time()
        workflow.rerender_piece({k: v[chosen] for k, v in rows.items()}, few, exp.source.catalogue)
        found.append((int(chosen.sum()), time.process_time() - begun))
    return (*found[0], *found[1])


def _show(found: Estimate, console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("", "estimate", f"{CONFIDENCE:.0%} interval from", "to"):
        table.add_column(name, justify="left" if not name else "right")
    for label, values, unit in (
        ("GETs", found.requests, 1.0),
        ("read, GB", found.bytes_in, 1e9),
        ("written, GB", found.bytes_out, 1e9),
        ("CPU hours", found.cpu_hours, 1.0),
        (f"hours with {found.workers} workers", found.wall_hours, 1.0),
        ("then the audit, CPU hours", found.audit_cpu_hours, 1.0),
        (f"then the audit, hours with {found.workers} workers", found.audit_wall_hours, 1.0),
    ):
        table.add_row(label, *(f"{value / unit:.3g}" for value in values))
    console.print(table)
    failed, rows = (sum(getattr(one, name) for one in found.tried) for name in ("failed", "rows"))
    names = ", ".join(one.brick for one in found.tried)
    console.print(
        f"{found.rows} rows of {found.bricks} bricks and their audit, which draws {found.audit_rows} rows "
        f"again, take {found.cpu_hours.value + found.audit_cpu_hours.value:.3g} CPU hours, "
        f"{found.wall_hours.value + found.audit_wall_hours.value:.3g} hours with {found.workers} workers of "
        f"one thread and {found.worker_memory / 2**30:.2g} GiB each, if they read as fast as this machine: "
        f"measured on {len(found.tried)} bricks ({names}), {failed} of whose {rows} rows failed. Not "
        "counted: the reduction of the blocks' statistics and the report",
        soft_wrap=True,
        highlight=False,
    )
