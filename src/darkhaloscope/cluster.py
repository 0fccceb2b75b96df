"""Where the graph runs: a local cluster, or a scheduler that is running already. Gives a Client."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import dask
from distributed import Client, LocalCluster

from darkhaloscope.config import ClusterSection
from darkhaloscope.errors import UserError

_SETTINGS = {
    # Blocks are placed by hand (workflow.py); stealing would carry pixels across the network.
    "distributed.scheduler.work-stealing": False,
    # A worker that is busy in a long native call is not dead.
    "distributed.scheduler.worker-ttl": "15 minutes",
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
    """
    with dask.config.set(_SETTINGS):
        if section.address is not None:
            with _remote(section.address) as client:
                yield client
            return
        workers = section.workers or max(1, len(os.sched_getaffinity(0)))
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=section.memory,
                dashboard_address="127.0.0.1:0",
                host="127.0.0.1",
                silence_logs=logging.ERROR,
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
