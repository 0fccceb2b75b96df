"""Where the graph runs: a local cluster, a scheduler that is running already, or a cluster of the run's
own on Kubernetes. Gives a Client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import dask
from dask.system import CPU_COUNT
from dask.utils import parse_bytes, parse_timedelta
from distributed import Client, KilledWorker, LocalCluster
from distributed.comm.core import CommClosedError, FatalCommClosedError
from distributed.comm.core import connect as comm_to
from distributed.security import Security
from distributed.system import MEMORY_LIMIT
from distributed.utils import get_mp_context

from darkhaloscope import __version__, storage, tls
from darkhaloscope.cluster import kubernetes
from darkhaloscope.config import ClusterSection, load_experiment
from darkhaloscope.driver import Warm
from darkhaloscope.driver.versions import unlike, what_is_here
from darkhaloscope.errors import Incomplete, UserError

logger = logging.getLogger(__name__)

_SETTINGS = {
    # Blocks are placed by hand (workflow.py); stealing would carry pixels across the network.
    "distributed.scheduler.work-stealing": False,
    # A worker that is busy in a long native call is not dead.
    "distributed.scheduler.worker-ttl": "15 minutes",
    # A task that killed three fresh workers is given up, and looked into (driver.py).
    "distributed.scheduler.allowed-failures": 2,
    # Every connection keeps its last messages for developers, by default 1,000: of a survey's run that
    # is all its targets, in the scheduler.
    "distributed.admin.low-level-log-length": 10,
}

_MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(2**25), "MALLOC_MMAP_THRESHOLD_": str(2**23)}
"""What the C library of a local worker is told, in bytes. Dask has a worker give memory back at once, and
rendering asks for the same arrays again: a third of the processor's time went into pages. Arrays of 8 MiB
and more are given back still. The Dockerfile says the same."""

FORKED_FROM = ["darkhaloscope.cluster.forked"]
"""What the process holds that local workers are forked from; imported once, and not once a worker."""

CONNECT_TIMEOUT = "20s"
"""How long a running scheduler has to answer."""

RECONNECT_TIMEOUT = "10 minutes"
"""How long a scheduler that was lost has to come back."""

DRIVER_MEMORY = 2**30
"""Bytes that local workers leave to the driver."""


@contextlib.contextmanager
def connect(section: ClusterSection, run: str) -> Iterator[Client]:
    """A Dask client for the time of a run, whose folder names its cluster on Kubernetes.

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
        with _any(section, run) as client:
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
def _any(section: ClusterSection, run: str) -> Iterator[Client]:
    with dask.config.set(_SETTINGS):
        if section.kind == "kubernetes":
            with (
                kubernetes.run_cluster(section, run) as address,
                _remote(address, seen=True) as client,
            ):
                yield client
            return
        if section.address is not None:
            with _remote(section.address) as client:
                yield client
            return
        with (
            _environment(_MALLOC),
            _forked(),
            _local(section) as cluster,
            Client(cluster) as client,
        ):
            try:
                client.register_plugin(Warm(environment=dict(os.environ)), name=Warm.name)
            except OSError as error:  # the connection to one that has gone since
                raise _did_not_start(error) from error
            yield client


@contextlib.contextmanager
def _local(section: ClusterSection) -> Iterator[LocalCluster]:
    """A scheduler in this process, and workers in others."""
    try:
        cluster = LocalCluster(
            n_workers=section.workers or local_workers(section.memory),
            threads_per_worker=1,
            processes=True,
            memory_limit=section.memory,
            dashboard_address="127.0.0.1:0",
            host="127.0.0.1",
            silence_logs=logging.CRITICAL,
        )
    except RuntimeError as error:  # what Dask makes of all that befalls a cluster as it starts
        raise _did_not_start(error) from error
    try:
        yield cluster
    finally:
        try:
            cluster.close()
        except AssertionError as error:  # a process that was to replace a lost one had not begun
            logger.warning("a local worker was not waited for: %s", error)


def _did_not_start(error: BaseException) -> Incomplete:
    return Incomplete(
        f"the local cluster did not start: {_first_line(_origin(error))}; where a worker was killed, for "
        "want of memory most likely, give fewer workers (--workers) or each more (cluster.memory); call the "
        "same command again"
    )


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Environment variables that processes begin with. Dask's own way (``pre-spawn-environ``) yields to
    what the environment says, and each local cluster leaves its settings there for the next."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _forked() -> Iterator[None]:
    """Local workers are forked, where that is safe, from one process that has imported everything: a worker
    is then there in a tenth of a second, and they share the memory of what was imported."""
    if sys.platform != "linux":
        yield
        return
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        get_mp_context()  # names what Dask itself would have imported, once
        multiprocessing.get_context("forkserver").set_forkserver_preload(FORKED_FROM)
        yield


@contextlib.contextmanager
def _remote(address: str, *, seen: bool = False) -> Iterator[Client]:
    """A client of a scheduler that is there; one that was seen with a worker has lost what it lacks."""
    try:
        with _reach(address, CONNECT_TIMEOUT) as client:
            if not client.scheduler_info()["workers"]:
                if seen:
                    raise Incomplete(
                        f"the scheduler at {address} lost its workers; call the same command again, "
                        "it resumes"
                    )
                raise UserError(
                    f"the scheduler at {address} has no workers; start some with "
                    f"`dask worker {address} --nthreads 1`"
                )
            _check_workers(client)
        # A client waits for a scheduler that was lost for as long as it once waited to connect.
        client = _reach(address, RECONNECT_TIMEOUT)
    except (OSError, ValueError) as error:
        if seen:
            raise Incomplete(
                f"the Dask scheduler at {address} was there and is lost: {_first_line(error)}; call the "
                "same command again, it resumes"
            ) from None
        raise UserError(
            f"cannot reach a Dask scheduler at {address}: {_first_line(error)}; "
            "start one with `dask scheduler`, or leave --cluster out"
        ) from None
    with client:
        client.register_plugin(Warm(), name=Warm.name)
        yield client


def _reach(address: str, timeout: str) -> Client:
    """A client; a scheduler that closes what it has just let in, as one that begins, is asked again."""
    tls.clear_errors_first()
    until = time.monotonic() + parse_timedelta(CONNECT_TIMEOUT)
    while True:
        try:
            _knock(address)
            return Client(address, timeout=timeout)
        except FatalCommClosedError:  # their certificates do not fit, and never will
            raise
        except CommClosedError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _knock(address: str) -> None:
    """See in bounded time that a scheduler speaks there: a client waits without end for an answer of what
    speaks another language, as a dashboard does.

    Raises
    ------
    OSError
        Nobody answers, or in no way of Dask's.
    """
    seconds = parse_timedelta(CONNECT_TIMEOUT)
    arguments = Security().get_connection_args("client")

    async def once() -> None:
        comm = await asyncio.wait_for(comm_to(address, timeout=seconds, **arguments), seconds)
        comm.abort()

    with ThreadPoolExecutor(1) as apart:  # a notebook has a loop in this one
        try:
            apart.submit(asyncio.run, once()).result()
        except TimeoutError:
            raise TimeoutError(f"nothing of Dask's answers within {CONNECT_TIMEOUT}") from None


def local_workers(memory: str, cores: int = CPU_COUNT, available: int = MEMORY_LIMIT) -> int:
    """Workers of a local cluster: one a core, as many as their memory limits leave room for, at least one.

    Parameters
    ----------
    memory : str
        Limit of one worker, as ``2GiB``.
    cores : int
    available : int
        Bytes of this machine, or of the container.
    """
    return max(1, min(cores, (available - DRIVER_MEMORY) // parse_bytes(memory)))


def _check_workers(client: Client) -> None:
    """See that every worker that is there has this package and what it stands on, in these versions; those
    that come later see it themselves (:class:`darkhaloscope.driver.Warm`).

    Raises
    ------
    UserError
        One has not.
    """
    here = what_is_here()
    for address, there in client.run(what_is_here, on_error="return").items():
        if not isinstance(there, dict):
            raise UserError(
                f"the worker {address} cannot load darkhaloscope {__version__} "
                f"({_first_line(there)}); install the same version there"
            )
        if other := unlike(there, here):
            raise UserError(
                f"the worker {address} has {other}; install the same versions there, and set the same "
                "variables"
            )


def attach(run: str, *, namespace: str | None = None) -> Client:
    """A client of the scheduler of a run that is under way, to watch it or to compute beside it.

    Parameters
    ----------
    run : str
        The run's folder, spelled as the run was told it: path or URL.
    namespace : str, optional
        Kubernetes namespace of the run; default ``DHS_NAMESPACE``, else that of this pod.

    Raises
    ------
    UserError
        The run works in processes of its own, or its scheduler does not answer.
    """
    run = storage.absolute(run.rstrip("/"))
    section = load_experiment(storage.join(run, "experiment.yaml")).cluster
    if section.kind == "kubernetes":
        where = namespace or kubernetes.own_namespace()
        address = kubernetes.scheduler_address(run, where, tls=section.tls)
    elif section.address is not None:
        address = section.address
    else:
        raise UserError(f"{run} works on a local cluster, whose scheduler belongs to its process")
    try:
        return _reach(address, CONNECT_TIMEOUT)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no scheduler of {run} answers at {address}: {_first_line(error)}; the run may have ended"
        ) from None


def _origin(error: BaseException) -> BaseException:
    """What an error was raised for, and that for which, to the first."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
