"""What the driver and the scheduler cost at survey scale, with kernels that do nothing or sleep.

Two measurements. The whole-survey graph (180,152 bricks, 10.6 million rows) with kernels that do nothing:
driver time a brick, driver memory, time to the first block. And a real scheduler with workers that sleep
for a brick's measured time: the share of their time in which they work, in steady state. Workers are
threads of a few processes, one thread each, so that a thousand of them fit on one machine: they speak to
the scheduler over TCP as real ones do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from distributed import Client, LocalCluster, Worker, get_worker
from rich.console import Console
from rich.table import Table

from darkhaloscope import driver, prepare, store, workflow
from darkhaloscope.cluster import _SETTINGS
from darkhaloscope.config import parse_experiment
from darkhaloscope.workflow import Kernels

SURVEY_BRICKS, TARGETS_PER_BRICK = 180_152, 59
BRICK_S = 0.2
"""Seconds that a brick takes on one core, load to rounding."""
WRITE_S = 0.5
"""Seconds that the writing of a block takes."""
WORKERS = (16, 64, 240, 1000)
STEADY_FROM = 1.0
"""Blocks a worker after which a run is in its steady state. It is measured up to the last block that is
waited for, when the workers still have others to make."""
BLOCKS_EACH = 5
"""Blocks that each worker makes in a measurement: some 150 bricks."""
PROCESSES = 4
"""Processes that workers are threads of, at most."""


def write_survey(folder: Path, bricks: int) -> str:
    """A target table of a whole survey, as ``dhs targets`` writes it; gives its path."""
    path = str(folder / f"targets-{bricks}.parquet")
    names = sorted({f"{i // 900:04d}{'mp'[i % 2]}{i // 2 % 450:03d}" for i in range(bricks)})
    per_group = 1000
    writer = None
    for start in range(0, bricks, per_group):
        here = names[start : start + per_group]
        count = len(here) * TARGETS_PER_BRICK
        rng = np.random.default_rng(start)
        table = pa.table(
            {
                "brick": np.repeat(here, TARGETS_PER_BRICK),
                "objid": np.tile(np.arange(TARGETS_PER_BRICK), len(here)),
                "target_id": np.arange(count) + start * TARGETS_PER_BRICK,
                "ra": rng.uniform(0, 360, count),
                "dec": rng.uniform(-20, 30, count),
                **{f"mag_{band}": rng.uniform(17, 21, count) for band in "grz"},
            }
        ).replace_schema_metadata({b"units": b"{}"})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
    return path


def survey_plan(targets: str) -> Any:
    """The plan of the seeds' priors, one row a target."""
    return prepare.plan_of(
        parse_experiment(
            {
                "survey": {"root": "/nowhere"},
                "targets": {"path": targets},
                "lens": {"theta_e": {"uniform": [0.3, 1.0]}},
                "source": {"dmag": {"uniform": [0.5, 3]}},
            }
        )
    )


def idle_inject(run: str, experiment: Any, work: Any, block: int, *, final: bool) -> int:
    """Do nothing, but tell of it."""
    workflow.tell(run, block, [one.brick for one in work])
    return len(work)


def idle_write(run: str, layout: Any, block: int, made: Any, spec: Any) -> dict[str, Any]:
    """A marker of a block that nobody wrote."""
    return {"block": block, "counts": {}, "statistics": "", "statistics_spec": "", "notes": []}


def sleepy_inject(run: str, experiment: Any, work: Any, block: int, *, final: bool) -> Any:
    """Take a brick's time for each brick; gives when it ended, the seconds, where, and how many."""
    time.sleep(BRICK_S * len(work))
    workflow.tell(run, block, [one.brick for one in work])
    return time.time(), BRICK_S * len(work), get_worker().address, len(work)


def sleepy_write(run: str, layout: Any, block: int, made: Any, spec: Any) -> dict[str, Any]:
    """Take the time of writing a block; the marker says when its tasks ended, what they took, and how
    many bricks came from other workers."""
    time.sleep(WRITE_S)
    tasks = [part[:2] for part in made] + [(time.time(), WRITE_S)]
    crossed = sum(part[3] for part in made if part[2] != get_worker().address)
    return {"block": block, "counts": {"all": {}}, "statistics": (tasks, crossed),
            "statistics_spec": "", "notes": []}  # fmt: skip


def cpu_here() -> tuple[int, float]:
    """This process, and the processor time that it has taken."""
    return os.getpid(), time.process_time()


class Enough(Exception):  # noqa: N818 (not a fault)
    """As many blocks as were asked for are done."""


def run_some(
    client: Client, made: Any, kernels: Kernels, blocks: int, bricks_per_task: int | None = None
) -> dict[str, Any]:
    """Run some blocks of a plan; gives seconds of driver CPU, of the clock, to the first block, and
    the markers."""
    finished: list[tuple[float, float]] = []

    def on_block(block: int, was_there: bool) -> None:
        finished.append((time.perf_counter(), time.process_time()))
        if len(finished) >= blocks:
            raise Enough

    with tempfile.TemporaryDirectory() as folder:
        layout = prepare.layout_of(made)
        spec = prepare.spec_of(
            made.experiment, prepare.planned_strata(made), n_regions=made.n_regions
        )
        document = made.experiment.identity_document(made.contents)
        store.create_run(folder, layout, made.experiment.to_yaml(), document, "0")
        begun, cpu = time.perf_counter(), time.process_time()
        going = driver.BlockRun(
            client, folder, made, layout, spec, on_block, bricks_per_task, driver.Brake(), kernels
        )
        with suppress(Enough):
            going.all()
        spent = time.process_time() - cpu
    return {
        "wall_s": finished[-1][0] - begun,
        "cpu_s": spent,
        "first_at": finished[0][0],
        "first_cpu": finished[0][1],
        "markers": list(going.markers.values()),
        "bricks": sum(len(made.pieces(block)) for block in going.markers),
    }


def measure_driver(bricks: int, blocks: int, bricks_per_task: int | None) -> dict[str, Any]:
    """Cost of the driver; its own process, so that its memory is its own."""
    with tempfile.TemporaryDirectory() as folder:
        targets = write_survey(Path(folder), bricks)
        command = [sys.executable, __file__, "--driver", targets, "--blocks", str(blocks)]
        if bricks_per_task is not None:
            command += ["--bricks-per-task", str(bricks_per_task)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def driver_alone(targets: str, blocks: int, bricks_per_task: int | None) -> dict[str, Any]:
    """What :func:`measure_driver` measures, in this process: scheduler and workers are elsewhere."""
    with some_workers(4, processes=1) as client:
        client.wait_for_workers(4)
        empty = {"driver": memory_mb(), "scheduler": client.run_on_scheduler(memory_mb)}
        begun, cpu = time.perf_counter(), time.process_time()
        made = survey_plan(targets)
        prepare.layout_of(made)
        planned = time.process_time() - cpu
        kernels = Kernels(idle_inject, idle_write)
        done = run_some(client, made, kernels, min(blocks, made.blocks), bricks_per_task)
        full = client.run_on_scheduler(memory_mb)
    return {
        "bricks": len(made.bricks),
        "rows": made.rows,
        "bricks_run": done["bricks"],
        "plan_cpu_s": planned,
        "first_block_s": done["first_at"] - begun,
        "first_block_cpu_s": done["first_cpu"] - cpu,
        "cpu_ms_per_brick": 1e3 * done["cpu_s"] / done["bricks"],
        "wall_ms_per_brick": 1e3 * done["wall_s"] / done["bricks"],
        "memory_mb": memory_mb(),
        "memory_grown_mb": memory_mb() - empty["driver"],
        "scheduler_memory_mb": full,
        "scheduler_memory_grown_mb": full - empty["scheduler"],
    }


def memory_mb() -> float:
    """The most memory that this process has taken."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def some_workers(count: int, processes: int) -> Iterator[Client]:
    """A scheduler in a process of its own, and workers as threads of some others."""
    with tempfile.TemporaryDirectory() as folder, dask.config.set(_SETTINGS):
        place = Path(folder) / "scheduler.json"
        started = [subprocess.Popen([sys.executable, __file__, "--scheduler", str(place)])]
        try:
            while not place.exists():
                time.sleep(0.1)
            address = json.loads(place.read_text())["address"]
            for i in range(processes):
                mine = count // processes + (i < count % processes)
                started.append(
                    subprocess.Popen(
                        [sys.executable, __file__, "--serve", str(mine), "--address", address]
                    )
                )
            with Client(address) as client:
                client.wait_for_workers(count, timeout=300)
                yield client
        finally:
            for process in started:
                process.kill()
                process.wait()


def serve_scheduler(place: str) -> None:
    """A scheduler, until it is killed."""
    with (
        dask.config.set(_SETTINGS),
        LocalCluster(
            n_workers=0, processes=False, protocol="tcp://", dashboard_address=None,
            host="127.0.0.1",
        ) as cluster,
    ):  # fmt: skip
        partial = Path(place).with_suffix(".partial")
        partial.write_text(json.dumps({"address": cluster.scheduler_address}))
        partial.rename(place)
        while True:
            time.sleep(3600)


def serve_workers(count: int, address: str) -> None:
    """Workers of one thread each in this process, until it is killed."""

    async def serve() -> None:
        workers = [
            Worker(address, nthreads=1, memory_limit=0, dashboard=False, host="127.0.0.1")
            for _ in range(count)
        ]
        await asyncio.gather(*workers)
        await asyncio.gather(*(worker.finished() for worker in workers))

    with dask.config.set({"distributed.worker.profile.enabled": False, **_SETTINGS}):
        asyncio.run(serve())


def measure_busy(workers: int, blocks_each: int) -> dict[str, Any]:
    """Share of the workers' time in which they work, from the end of each one's first block (or so) on;
    processor time of scheduler and workers; and which part of the cubes went from worker to worker."""
    processes = max(1, min(PROCESSES, workers // 16))
    with tempfile.TemporaryDirectory() as folder:
        made = survey_plan(write_survey(Path(folder), max(2000, workers * blocks_each * 40)))
        with some_workers(workers, processes) as client:
            before = processor_times(client)
            done = run_some(
                client, made, Kernels(sleepy_inject, sleepy_write), workers * blocks_each
            )
            cpu = {who: spent - before[who] for who, spent in processor_times(client).items()}
    tasks = np.array([task for m in done["markers"] for task in m["statistics"][0]])
    tasks = tasks[np.argsort(tasks[:, 0])]
    ends = np.array(sorted(m["statistics"][0][-1][0] for m in done["markers"]))
    low, high = ends[min(int(workers * STEADY_FROM), len(ends) // 2)], ends[-1]
    steady = tasks[(tasks[:, 0] > low) & (tasks[:, 0] <= high), 1].sum()
    return {
        "workers": workers,
        "blocks": len(ends),
        "bricks_per_task": -(-workers // driver.WORKERS_PER_BRICK),
        "steady_s": float(high - low),
        "busy_steady": float(steady / ((high - low) * workers)),
        "busy_whole": float(tasks[:, 1].sum() / (done["wall_s"] * workers)),
        "tasks_per_s": len(tasks) / done["wall_s"],
        "scheduler_cpu_ms_per_task": 1e3 * cpu["scheduler"] / len(tasks),
        "worker_cpu_ms_per_task": 1e3 * cpu["workers"] / len(tasks),
        "driver_cpu_ms_per_brick": 1e3 * done["cpu_s"] / done["bricks"],
        "cpus_busy": (cpu["scheduler"] + cpu["workers"] + done["cpu_s"]) / done["wall_s"],
        "crossing": sum(m["statistics"][1] for m in done["markers"]) / done["bricks"],
    }


def processor_times(client: Client) -> dict[str, float]:
    """Seconds that the scheduler, and all processes of workers, have taken."""
    workers = dict(client.run(cpu_here).values())
    return {
        "scheduler": client.run_on_scheduler(cpu_here)[1],
        "workers": sum(workers.values()),
    }


def show(figures: dict[str, Any], console: Console) -> None:
    """Both tables."""
    table = Table(title="driver, kernels that do nothing")
    names = ("bricks", "bricks_run", "plan_cpu_s", "first_block_cpu_s", "first_block_s",
             "cpu_ms_per_brick", "wall_ms_per_brick", "memory_mb", "memory_grown_mb",
             "scheduler_memory_mb", "scheduler_memory_grown_mb")  # fmt: skip
    for name in names:
        table.add_column(name, justify="right")
    for row in figures["driver"]:
        table.add_row(*(f"{row[name]:.4g}" for name in names))
    console.print(table)
    table = Table(
        title=f"workers that sleep, {BRICK_S:g} s a brick, {WRITE_S:g} s a block's writing"
    )
    names = ("workers", "bricks_per_task", "steady_s", "busy_steady", "busy_whole", "tasks_per_s",
             "scheduler_cpu_ms_per_task", "worker_cpu_ms_per_task", "driver_cpu_ms_per_brick",
             "cpus_busy", "crossing")  # fmt: skip
    for name in names:
        table.add_column(name, justify="right")
    for row in figures["busy"]:
        table.add_row(*(f"{row[name]:.3g}" for name in names))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20,000 bricks, 16 workers")
    parser.add_argument("--bricks", type=int, default=SURVEY_BRICKS)
    parser.add_argument("--blocks", type=int, default=10**9, help="stop after so many blocks")
    parser.add_argument("--bricks-per-task", type=int, help="of the idle kernels; default auto")
    parser.add_argument("--workers", type=int, nargs="*", default=WORKERS)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--driver", help=argparse.SUPPRESS)
    parser.add_argument("--scheduler", help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.WARNING)
    if given.scheduler:
        return serve_scheduler(given.scheduler)
    if given.serve:
        return serve_workers(given.serve, given.address)
    if given.driver:
        print(json.dumps(driver_alone(given.driver, given.blocks, given.bricks_per_task)))
        return None
    bricks, blocks, workers, each = given.bricks, given.blocks, given.workers, BLOCKS_EACH
    if given.quick:
        bricks, blocks, workers, each = min(bricks, 20_000), min(blocks, 20), workers[:1], 2
    console = Console()
    figures: dict[str, Any] = {"driver": [], "busy": []}
    for size in sorted({min(2000, bricks), bricks}):
        figures["driver"].append(measure_driver(size, blocks, given.bricks_per_task))
    for count in workers:
        figures["busy"].append(measure_busy(count, each))
    show(figures, console)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
