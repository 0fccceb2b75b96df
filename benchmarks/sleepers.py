"""Kernels that do nothing or sleep, of ``benchmarks/scale.py``.

In a module of their own, as a run's are: Dask sends functions of a script with all that they use, with
every task.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from distributed import Worker, get_worker

from darkhaloscope import workflow
from darkhaloscope.workflow import Packed


def idle_inject(run: str, experiment: Any, work: Packed, block: int, *, final: bool) -> int:
    """Do nothing, but tell of it."""
    workflow.tell(run, block, work.bricks)
    return len(work)


def idle_write(run: str, layout: Any, block: int, made: Any, spec: Any) -> dict[str, Any]:
    """A marker of a block that nobody wrote."""
    return {"block": block, "counts": {"all": {}}, "statistics": "", "statistics_spec": "", "notes": [],
            "objects": {}}  # fmt: skip


async def sleep(seconds: float) -> str:
    """Sleep as a worker, which notes from when and for how long; gives its address."""
    worker = get_worker()
    vars(worker).setdefault("slept", []).append((time.time(), seconds))
    await asyncio.sleep(seconds)
    return str(worker.address)


def slept(dask_worker: Worker) -> list[tuple[float, float]]:
    """What a worker has slept: beginnings and seconds."""
    return list(vars(dask_worker).get("slept", []))


async def sleepy_inject(
    brick_s: float, run: str, experiment: Any, work: Packed, block: int, *, final: bool
) -> tuple[str, int]:
    """Take a brick's time for each brick; gives where, and how many."""
    where = await sleep(brick_s * len(work))
    workflow.tell(run, block, work.bricks)
    return where, len(work)


async def sleepy_write(
    write_s: float, run: str, layout: Any, block: int, made: Any, spec: Any
) -> dict[str, Any]:
    """Take the time of writing a block; in the marker, how many of its bricks came from other workers."""
    here = await sleep(write_s)
    crossed = sum(bricks for where, bricks in made if where != here)
    return {**idle_write(run, layout, block, made, spec), "statistics": (time.time(), crossed)}
