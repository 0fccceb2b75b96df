"""Signs of life of a run: what workers tell of their bricks, and what its folder says of it all."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future

from darkhaloscope import storage, store, workflow

PROGRESS_EVERY_S = 5.0


@dataclass(frozen=True)
class Try:
    """One submission of one block."""

    block: int
    future: Future
    worker: str
    bricks: int


class Signs:
    """How far a run is: heard from workers, written into its folder.

    Parameters
    ----------
    run : str
        The run's folder.
    flying : mapping of str to Try
        What is in flight; the run's own, looked at as it changes.
    """

    def __init__(self, run: str, flying: Mapping[str, Try]) -> None:
        self._run = run
        self._flying = flying
        self._started = time.time()
        self._said = -1e9
        self.rows_fresh = 0
        """Rows of blocks that were finished since."""
        self.injected: Counter[int] = Counter()
        """Bricks of each block in flight that a worker told of."""

    def listen(self, client: Client) -> None:
        """Hear of bricks from now on."""
        client.subscribe_topic(workflow.TOPIC, self._hear)

    def _hear(self, event: tuple[float, Any]) -> None:
        message = event[1]
        if message["run"] == self._run:
            self.injected[message["block"]] += len(message["bricks"])

    def say(
        self,
        state: str,
        markers: Mapping[int, Mapping[str, Any]],
        workers: Sequence[str],
        *,
        every: float = 0.0,
    ) -> None:
        """Write ``progress.json``, if the last one is older than ``every`` seconds."""
        now = time.monotonic()
        if now - self._said < every:
            return
        self._said = now
        counts: Counter[str] = Counter()
        for marker in markers.values():
            for by_reason in marker["counts"].values():
                counts.update(by_reason)
        with contextlib.suppress(storage.StorageError):
            store.write_progress(
                self._run,
                {
                    "state": state,
                    "started": self._started,
                    "written": time.time(),
                    "blocks_whole": len(markers),
                    "rows_by_reason": dict(counts),
                    "rows_fresh": self.rows_fresh,
                    "running": [
                        {
                            "block": one.block,
                            "bricks": one.bricks,
                            "bricks_done": min(self.injected[one.block], one.bricks),
                        }
                        for one in self._flying.values()
                    ],
                    "workers": len(workers),
                },
            )
