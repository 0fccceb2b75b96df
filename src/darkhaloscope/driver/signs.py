"""Signs of life of a run: what workers tell of their bricks, what its folder, its log and whoever listens
are told of it all."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distributed import Client, Future

from darkhaloscope import storage, store, workflow
from darkhaloscope.errors import Reason, UserError

logger = logging.getLogger(__name__)

PROGRESS_EVERY_S = 5.0

Progress = dict[str, Any]
"""How far a run is: of all blocks, and with ``fresh`` of what this call has made."""

OnProgress = Callable[[Progress], None]


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
    on_progress : callable
        Told the same as the folder.
    """

    def __init__(self, run: str, flying: Mapping[str, Try], on_progress: OnProgress) -> None:
        self._run = run
        self._flying = flying
        self._on_progress = on_progress
        self._started = time.time()
        self._said = -1e9
        self.rows_fresh = self.bytes_fresh = 0
        """Of blocks that were finished since."""
        self.again = 0
        """Blocks that were submitted once more."""
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
        """Write ``progress.json``, if the last one is older than ``every`` seconds.

        Raises
        ------
        UserError
            The run's folder went away.
        """
        now = time.monotonic()
        if now - self._said < every:
            return
        self._said = now
        progress = self._progress(state, markers, workers)
        self._on_progress(progress)
        with contextlib.suppress(storage.StorageError):
            if state == "running" and not storage.exists(storage.join(self._run, store.RUN_JSON)):
                raise UserError(
                    f"{self._run} went away while the run wrote there: its {store.RUN_JSON} is gone, and "
                    "nothing more is made; see that the place stays (who cleans it, what is mounted there), "
                    "and run again"
                )
            store.write_progress(self._run, progress)

    def _progress(
        self, state: str, markers: Mapping[int, Mapping[str, Any]], workers: Sequence[str]
    ) -> Progress:
        counts: Counter[str] = Counter()
        for marker in markers.values():
            counts.update(_by_reason(marker))
        return {
            "state": state,
            "started": self._started,
            "written": time.time(),
            "blocks_whole": len(markers),
            "rows_by_reason": dict(counts),
            "rows_fresh": self.rows_fresh,
            "bytes": sum(marker["bytes"] for marker in markers.values()),
            "bytes_fresh": self.bytes_fresh,
            "again": self.again,
            "running": [
                {
                    "block": one.block,
                    "bricks": one.bricks,
                    "bricks_done": min(self.injected[one.block], one.bricks),
                }
                for one in self._flying.values()
            ],
            "workers": len(workers),
        }

    def whole(self, marker: Mapping[str, Any]) -> None:
        """Log a block with its rows by reason, and each brick of it whose rows all failed alike."""
        about = {"run": self._run, "block": marker["block"]}
        reasons = _by_reason(marker)
        rows = sum(reasons.values())
        logger.info("block is whole", extra={**about, "rows": rows, "reasons": dict(reasons)})
        for brick, code in marker.get("bricks", ()):
            if code != Reason.NOT_WRITTEN and Reason(code).failed:
                said = f"all its rows of this block failed: {Reason(code).text}"
                logger.warning(said, extra={**about, "brick": brick})

    def trouble(self, message: str, block: int, **more: str) -> None:
        """Log what became of a block."""
        logger.warning(message, extra={"run": self._run, "block": block, **more})


def _by_reason(marker: Mapping[str, Any]) -> Counter[str]:
    """Rows of a block by reason, of all kinds."""
    counts: Counter[str] = Counter()
    for by_reason in marker["counts"].values():
        counts.update(by_reason)
    return counts
