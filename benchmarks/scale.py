"""What the driver and the scheduler cost at survey scale, with kernels that do nothing or sleep.

Two measurements. The whole-survey graph (180,152 bricks, 10.6 million rows) with kernels that do nothing:
driver time a brick, driver memory, time to the first block. And a real scheduler with workers that sleep
for the times that ``benchmarks/run.py`` measures (``--brick-s``, ``--write-s``): the share of their time in
which they work, in steady state. Workers are Dask's own, many in each of a few processes, and speak to the
scheduler over TCP as real ones do; they sleep as coroutines, so that a thousand of them fit on two cores.
What they do on top is a real worker's own work, done here on the cores of scheduler and driver: the table
gives the processor time of each of the three, and how many cores they kept busy.
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
from functools import partial
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from distributed import Client, LocalCluster, Worker
from rich.console import Console
from rich.table import Table
from sleepers import idle_inject, idle_write, sleepy_inject, sleepy_write, slept

from darkhaloscope import driver, prepare, store
from darkhaloscope.cluster import _SETTINGS
from darkhaloscope.config import parse_experiment
from darkhaloscope.workflow import Kernels

SURVEY_BRICKS, TARGETS_PER_BRICK = 180_152, 59
BRICK_S = 0.24
"""Seconds that a brick takes on one core, load to rounding."""
WRITE_S = 3.4
"""Seconds that a block takes on one core to be measured, encoded and written."""
QUIET = {
    "distributed.worker.profile.enabled": False,
    # Looked at twice, and fifty times, a second by every worker: much where a thousand share a core.
    "distributed.admin.system-monitor.interval": "1 minute",
    "distributed.admin.tick.interval": "1 minute",
}
"""Settings of the workers that sleep."""
WORKERS = (16, 64, 240, 1000)
STEADY_FROM = 1.0
"""Blocks a worker after which a run is in its steady state. It is measured up to the last block that is
waited for, when the workers still have others to make."""
BLOCKS_EACH = 7
"""Blocks that each worker makes in a measurement: some 250 bricks, and six of the longest tasks after the
first, where a task takes a whole block."""
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
        whole = Path(place).with_suffix(".partial")
        whole.write_text(json.dumps({"address": cluster.scheduler_address}))
        whole.rename(place)
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

    with dask.config.set({**_SETTINGS, **QUIET}):
        asyncio.run(serve())


def measure_busy(workers: int, blocks_each: int, brick_s: float, write_s: float) -> dict[str, Any]:
    """Share of the workers' time in which they sleep as long as they should, from the end of each one's
    first block (or so) on; processor time of scheduler, driver and workers; and which part of the cubes went
    from worker to worker."""
    processes = max(1, min(PROCESSES, workers // 16))
    kernels = Kernels(partial(sleepy_inject, brick_s), partial(sleepy_write, write_s))
    with tempfile.TemporaryDirectory() as folder:
        made = survey_plan(write_survey(Path(folder), max(2000, workers * blocks_each * 40)))
        with some_workers(workers, processes) as client:
            before = processor_times(client)
            done = run_some(client, made, kernels, workers * blocks_each)
            cpu = {who: spent - before[who] for who, spent in processor_times(client).items()}
            tasks = np.array([one for own in client.run(slept).values() for one in own])
    ends = np.sort([m["statistics"][0] for m in done["markers"]])
    low, high = ends[min(int(workers * STEADY_FROM), len(ends) // 2)], ends[-1]
    begun, over = tasks[:, 0], tasks.sum(axis=1)
    steady = np.clip(np.minimum(over, high) - np.maximum(begun, low), 0, None).sum()
    whole = np.clip(np.minimum(over, high) - begun, 0, None).sum()
    return {
        "workers": workers,
        "blocks": len(ends),
        "bricks_per_task": -(-workers // driver.WORKERS_PER_BRICK),
        "steady_s": float(high - low),
        "steady_tasks": float((high - low) / tasks[:, 1].max()),
        "busy_steady": float(steady / ((high - low) * workers)),
        "busy_whole": float(whole / (done["wall_s"] * workers)),
        "tasks_per_s": float(((begun > low) & (begun <= high)).sum() / (high - low)),
        "scheduler_cpu_ms_per_task": 1e3 * cpu["scheduler"] / len(tasks),
        "worker_cpu_ms_per_task": 1e3 * cpu["workers"] / len(tasks),
        "driver_cpu_ms_per_brick": 1e3 * done["cpu_s"] / done["bricks"],
        "cpus_busy": (cpu["scheduler"] + cpu["workers"] + done["cpu_s"]) / done["wall_s"],
        "scheduler_busy": cpu["scheduler"] / done["wall_s"],
        "driver_busy": done["cpu_s"] / done["wall_s"],
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
    """Both tables, a column a measurement."""
    titles = {
        "driver": "driver, kernels that do nothing",
        "busy": "workers that sleep, {brick_s:g} s a brick, {write_s:g} s a block".format(
            **figures
        ),
    }
    for kind, title in titles.items():
        rows = figures[kind]
        if not rows:
            continue
        first, *others = rows[0]
        table = Table(title=title, title_justify="left")
        table.add_column(first)
        for row in rows:
            table.add_column(f"{row[first]:,}", justify="right")
        for name in others:
            table.add_row(name, *(f"{row[name]:.4g}" for row in rows))
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20,000 bricks, 16 workers")
    parser.add_argument("--bricks", type=int, default=SURVEY_BRICKS)
    parser.add_argument("--blocks", type=int, default=10**9, help="stop after so many blocks")
    parser.add_argument("--bricks-per-task", type=int, help="of the idle kernels; default auto")
    parser.add_argument("--workers", type=int, nargs="*", default=WORKERS)
    parser.add_argument("--brick-s", type=float, default=BRICK_S, help="a brick takes, s")
    parser.add_argument("--write-s", type=float, default=WRITE_S, help="a block's writing takes, s")
    parser.add_argument("--only", choices=("driver", "busy"), help="one of the two measurements")
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
    figures: dict[str, Any] = {
        "driver": [], "busy": [], "brick_s": given.brick_s, "write_s": given.write_s
    }  # fmt: skip
    for size in sorted({min(2000, bricks), bricks}) if given.only != "busy" else ():
        figures["driver"].append(measure_driver(size, blocks, given.bricks_per_task))
    for count in workers if given.only != "driver" else ():
        figures["busy"].append(measure_busy(count, each, given.brick_s, given.write_s))
    show(figures, console)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
