"""Where the graph runs: a local cluster, or a scheduler that is running already. Gives a Client."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from concurrent.futures import CancelledError

import dask
from dask.system import CPU_COUNT
from distributed import Client, KilledWorker, LocalCluster

from darkhaloscope.config import ClusterSection
from darkhaloscope.errors import Incomplete, UserError

_SETTINGS = {
    # Blocks are placed by hand (workflow.py); stealing would carry pixels across the network.
    "distributed.scheduler.work-stealing": False,
    # A worker that is busy in a long native call is not dead.
    "distributed.scheduler.worker-ttl": "15 minutes",
    # A task that killed three fresh workers is given up, and looked into (driver.py).
    "distributed.scheduler.allowed-failures": 2,
}

CONNECT_TIMEOUT = "20s"
"""How long a running scheduler has to answer."""


@contextlib.contextmanager
def connect(section: ClusterSection) -> Iterator[Client]:
    """A Dask client for the time of a run.

    Local workers are processes of one thread each: a block's pixels are then worked on by one core,
    and the memory of a worker is the memory of its blocks.

    Raises
    ------
    UserError
        The scheduler cannot be reached.
    Incomplete
        The scheduler or the workers were lost on the way; the same command again resumes.
    """
    try:
        with _any(section) as client:
            yield client
    except KilledWorker as error:
        raise Incomplete(
            f"the task {error.task} lost worker after worker, for want of memory most likely; "
            "give workers more (cluster.memory) and call the same command again, it resumes"
        ) from error
    except CancelledError as error:
        raise Incomplete(
            "the scheduler was lost; call the same command again, it resumes"
        ) from error


@contextlib.contextmanager
def _any(section: ClusterSection) -> Iterator[Client]:
    with dask.config.set(_SETTINGS):
        if section.address is not None:
            with _remote(section.address) as client:
                yield client
            return
        workers = section.workers or CPU_COUNT
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=section.memory,
                dashboard_address="127.0.0.1:0",
                host="127.0.0.1",
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client


@contextlib.contextmanager
def _remote(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout=CONNECT_TIMEOUT)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot reach a Dask scheduler at {address}: {_first_line(error)}; "
            "start one with `dask scheduler`, or leave --cluster out"
        ) from None
    with client:
        if not client.scheduler_info()["workers"]:
            raise UserError(
                f"the scheduler at {address} has no workers; start some with `dask worker {address}`"
            )
        yield client


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
