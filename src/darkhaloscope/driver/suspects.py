"""Which bricks of a block kill their workers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field

from distributed import Client, KilledWorker

from darkhaloscope import workflow
from darkhaloscope.driver.workers import Workers
from darkhaloscope.errors import Incomplete
from darkhaloscope.workflow import Kernels, Work

LONE_TRIES = 3
"""How often something is tried alone before one gives up."""


def killers(work: Sequence[Work], kills: Callable[[Sequence[Work]], bool]) -> list[Work]:
    """The bricks that kill a worker each by itself, by halves."""
    if not work or not kills(work):
        return []
    if len(work) == 1:
        return list(work)
    half = len(work) // 2
    return killers(work[:half], kills) + killers(work[half:], kills)


@dataclass
class Probes:
    """Bricks tried alone on a cluster where nothing else runs.

    Parameters
    ----------
    client : Client
    workers : Workers
    run : str
        The run's folder.
    experiment : str
        As JSON.
    kernels : Kernels
    mark : str
        End of the keys.
    meanwhile : callable
        Called again and again while one waits; raises :class:`Incomplete` where the run is to stop.
    """

    client: Client
    workers: Workers
    run: str
    experiment: str
    kernels: Kernels
    mark: str
    meanwhile: Callable[[], None]
    _tries: Counter[int] = field(default_factory=Counter)

    def kills(self, block: int, work: Sequence[Work]) -> bool:
        """Whether some bricks, alone on the cluster, kill one fresh worker after another.

        Raises
        ------
        Incomplete
            Their machines are lost with the workers, so nobody knows.
        """
        for _ in range(LONE_TRIES):
            self.workers.look(now=True)
            nannies = self.workers.nannies
            try:
                self._probe(block, work)
            except KilledWorker:
                if self.workers.came_back(nannies):
                    return True
            except CancelledError:
                self.workers.forget()
            else:
                return False
        raise Incomplete(
            f"block {block} lost worker after worker, and their machines with them; call the "
            "same command again, it resumes"
        )

    def _probe(self, block: int, work: Sequence[Work]) -> None:
        number = self._tries[block]
        self._tries[block] += 1
        bricks = workflow.brick_range([one.brick for one in work])
        probe = self.client.submit(
            workflow.probe_bricks,
            self.kernels.inject,
            self.run,
            self.experiment,
            work,
            block,
            key=workflow.key("probe", f"{block:06d}", bricks, f"{self.mark}.{number}"),
        )
        while not probe.done():
            try:
                self.meanwhile()
            except Incomplete:
                probe.cancel()
                raise
            time.sleep(0.05)
        probe.result()
