"""The workers of a scheduler: who is there, and how they are made ready."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from distributed import Client, SpecCluster, Worker, WorkerPlugin

from darkhaloscope import lensing, logs
from darkhaloscope.driver.versions import unlike, what_is_here
from darkhaloscope.errors import Incomplete

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
"""How often the list of workers is fetched."""
WORKERS_WITHIN_S = 600.0
"""How long a run waits where there is no worker at all."""
NANNY_WITHIN_S = 120.0
"""How soon a nanny that lives has a fresh worker."""


class Warm(WorkerPlugin):
    """Sees that a worker has the driver's code and versions, whenever it joins, and compiles the renderer,
    so that no task does. A worker that has others leaves, and its nanny with it.

    Parameters
    ----------
    environment : mapping, optional
        The driver's environment, for workers that are processes of its own: they are forked from one that
        has the environment of its first run.
    """

    name = "darkhaloscope-warm"

    def __init__(self, *, environment: Mapping[str, str] | None = None) -> None:
        self.environment = environment
        self.here = what_is_here()

    def setup(self, worker: Worker) -> None:
        if self.environment is not None:
            os.environ.clear()
            os.environ.update(self.environment)
        if logs.are_json():
            logs.to_json(worker=str(worker.name))
        if other := unlike(what_is_here(), self.here):
            # Dask takes no notice of a plugin that fails.
            logger.error("this worker leaves: it has %s; make it as the driver is", other)
            leave = functools.partial(worker.close, nanny=True, reason="darkhaloscope-unlike")
            worker.loop.add_callback(leave)
            return
        lensing.warm()
        if self.environment is not None:
            # Ctrl-C goes to all processes of a terminal; it is for the driver to say what ends.
            signal.signal(signal.SIGINT, signal.SIG_IGN)


class Workers:
    """Who works for a client's scheduler, looked at now and then.

    Parameters
    ----------
    client : Client
    on_another_scheduler : callable
        Called when the scheduler was lost and another one has its address: it knows nothing of what the
        first was told.

    Attributes
    ----------
    addresses : list of str
        Sorted; none while nobody knows.
    nannies : set of str or None
        Who looks after each; None for a worker that nobody starts again.
    """

    def __init__(self, client: Client, on_another_scheduler: Callable[[], None]) -> None:
        self.client = client
        self.addresses: list[str] = []
        self.nannies: set[str | None] = set()
        self._on_another_scheduler = on_another_scheduler
        self._scheduler: str | None = None
        self._looked = self._seen = -1e9

    @property
    def at_work(self) -> bool:
        """Whether there are workers, and a scheduler that tells of them."""
        return bool(self.addresses) and self.client.status == "running"

    @property
    def scheduler_is_lost(self) -> bool:
        """Whether the scheduler is gone for good."""
        return self.client.status in ("closed", "closing")

    def look(self, awaited: Iterable[str] = (), *, now: bool = False) -> None:
        """Ask the scheduler who is there, if that is not known from a moment ago.

        Parameters
        ----------
        awaited : iterable of str
            Addresses on which something was placed: what waits for one that is gone is handed over.
        now : bool
            Ask in any case.

        Raises
        ------
        Incomplete
            The scheduler is lost, or there has been no worker for too long.
        """
        if time.monotonic() - self._looked < LOOK_EVERY_S and not now:
            return
        if self.scheduler_is_lost:
            raise Incomplete("the scheduler was lost; call the same command again, it resumes")
        if self.client.status == "running":
            with contextlib.suppress(OSError, TimeoutError):
                self._ask(awaited)
        self._looked = time.monotonic()
        if self.addresses or self._seen < 0:
            self._seen = self._looked
        elif self._looked - self._seen > WORKERS_WITHIN_S:
            raise Incomplete(
                "the cluster has no workers any more; start some and call the same command again, "
                "it resumes"
            )

    def _ask(self, awaited: Iterable[str]) -> None:
        said = self.client.scheduler_info(n_workers=-1)
        found = said["workers"]
        self.addresses = sorted(found)
        self.nannies = {info.get("nanny") for info in found.values()}
        if found and any(address not in found for address in awaited):
            self.client.run_on_scheduler(_hand_over)
        if self._scheduler not in (None, said["id"]):
            self.client.register_plugin(Warm(), name=Warm.name)
            self._on_another_scheduler()
        self._scheduler = said["id"]
        cluster = self.client.cluster
        if isinstance(cluster, SpecCluster) and len(found) < len(cluster.worker_spec):
            # Whoever dies while its nanny still waits for it is lost with its nanny. The cluster forgets them
            # after a while (lost-worker-timeout), and starts others only when it is told its size again.
            cluster.scale(len(cluster.worker_spec))

    def forget(self) -> None:
        """Take nothing for known: something was lost."""
        self._looked, self.addresses = -1e9, []

    def came_back(self, nannies: set[str | None]) -> bool:
        """Whether all machines live: every nanny has a worker again. Without nannies nobody knows."""
        if None in nannies:
            return False
        until = time.monotonic() + NANNY_WITHIN_S
        while time.monotonic() < until:
            self.look(now=True)
            if self.nannies >= nannies:
                return True
            time.sleep(0.2)
        return False

    def deaths_allowed(self) -> int:
        """Workers that a task kills before the scheduler gives it up."""
        return int(self.client.run_on_scheduler(_allowed_failures)) + 1


def _hand_over(dask_scheduler: Any) -> None:
    """Give other workers what was placed on one that is gone.

    A task that was to run while there was no worker at all waits for the worker that it was placed on,
    although others may have it: the scheduler looks again only when that very address comes back.
    """
    stuck = [task.key for task in dask_scheduler.unrunnable if task.loose_restrictions]
    dask_scheduler.transitions(dict.fromkeys(stuck, "processing"), stimulus_id="hand-over")


def _allowed_failures(dask_scheduler: Any) -> int:
    return int(dask_scheduler.allowed_failures)
