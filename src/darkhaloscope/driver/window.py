"""The blocks in flight: a bounded window of them, each placed on one worker."""

from __future__ import annotations

import contextlib
import functools
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

import dask
from distributed import Client, KilledWorker

from darkhaloscope import storage, store, workflow
from darkhaloscope.audit import AuditSpec
from darkhaloscope.driver import signs
from darkhaloscope.driver.signs import OnProgress, Signs, Try
from darkhaloscope.driver.suspects import LONE_TRIES, Probes, killers
from darkhaloscope.driver.workers import Workers
from darkhaloscope.errors import Incomplete
from darkhaloscope.plan import Plan
from darkhaloscope.store import Layout
from darkhaloscope.survey.health import Watch
from darkhaloscope.survey.reading import costs_of
from darkhaloscope.workflow import KERNELS, Kernels

BLOCKS_PER_WORKER = 2
"""Blocks in flight on one worker: one that is written while the next is read."""

WORKERS_PER_BRICK = 32
"""Workers that one scheduler feeds with a brick a task: 160 tasks a second at 0.2 s a brick, a third or less
of what it can. A block's bricks are made one after the other by one worker, so more of them a task cost
nothing but steps in the task stream."""

READ_AHEAD = 8
"""Bricks of a task where coadds lie behind a network: seven of eight are read while others are made."""

PAUSES_S = (2.0, 8.0, 30.0, 60.0)
"""Waits before a block is tried again after something was out of reach; after the last, as it is."""

RESULT_WITHIN_S = 10.0
"""How soon a finished task's marker has come from its worker."""

CLAIMED_OFTEN = 3
"""A block that is found claimed by another writer so often, ten seconds and more, has none that lives."""

NOTES_PER_BLOCK = 5

OnBlock = Callable[[int, bool], None]
"""Told of each finished block: its number, and whether it was there before."""


class Brake:
    """How a run is asked to stop: it then finishes what is in flight, and begins nothing."""

    listening = False
    pulled = False


@dataclass
class BlockRun:
    """See :func:`run_blocks`."""

    client: Client
    run: str
    plan: Plan
    layout: Layout
    spec: AuditSpec
    on_block: OnBlock
    bricks_per_task: int | None
    brake: Brake
    kernels: Kernels
    on_progress: OnProgress = lambda _: None
    markers: dict[int, dict[str, Any]] = field(default_factory=dict)
    flying: dict[str, Try] = field(default_factory=dict)
    again: deque[tuple[float, int]] = field(default_factory=deque)
    """(not before, block): to be tried once more."""
    tries: Counter[int] = field(default_factory=Counter)
    """Submissions of each block; part of its keys."""
    pauses: Counter[int] = field(default_factory=Counter)
    """How often a block met something out of reach."""
    claimed: Counter[int] = field(default_factory=Counter)
    """How often a block was claimed by another writer, since a claim of it was last taken away."""
    suspects: list[int] = field(default_factory=list)
    settled: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        # Never the keys of an earlier run in this process, whose futures may still be remembered.
        self.mark = workflow.token(f"{self.run}\0{time.time_ns()}", self.spec)
        self.identity = self.layout.attributes["identity"]
        self.watch = Watch(self.plan.experiment.read.stop_after)
        self.signs = Signs(self.run, self.flying, self.on_progress)
        self.workers = Workers(self.client, lambda: self.signs.listen(self.client))

    # ---- the loop

    def all(self) -> list[dict[str, Any]]:
        self._take_finished()
        self.set_apart = store.bricks_set_apart(self.run)
        left = iter([b for b in range(self.layout.blocks) if b not in self.markers])
        self.signs.listen(self.client)
        self.brake.listening = True
        try:
            self._until_done(left)
            while self.suspects:
                self._try_alone(self.suspects.pop(0))
            storage.sweep(self.run)  # what writers that were killed had begun
        finally:
            self.brake.listening = False
            if not self.workers.scheduler_is_lost:
                self.client.unsubscribe_topic(workflow.TOPIC)
            self._say("whole" if len(self.markers) == self.layout.blocks else "stopped")
        return [self.markers[block] for block in sorted(self.markers)]

    def _take_finished(self) -> None:
        """Count the blocks that are whole already."""
        numbers = [b for b in store.finished_blocks(self.run) if b < self.layout.blocks]

        def each() -> Iterator[dict[str, Any]]:
            for marker in store.read_markers(self.run, numbers, self.identity):
                self.markers[marker["block"]] = _kept(marker)
                yield marker

        store.check_objects(self.run, self.layout, each())
        store.release_finished(self.run, self.markers)
        for block in sorted(self.markers):
            self.on_block(block, True)
            self.watch.add(block)

    def _until_done(self, left: Iterator[int]) -> None:
        """Submit and settle until nothing is left but suspects."""
        exhausted = False
        while True:
            self._look()
            halted = self.brake.pulled or self.watch.trouble is not None
            while not halted and len(self.flying) < BLOCKS_PER_WORKER * len(self.workers.addresses):
                block = self._next(left)
                if block is None:
                    exhausted = not self.again
                    break
                self._submit(block)
            if self.watch.trouble is not None and not self.flying:
                for failed in self.watch.alike():  # a resume makes them again
                    store.drop_block(self.run, self.layout, failed)
                    del self.markers[failed]
                raise self.watch.trouble
            if self.brake.pulled and not (self.flying and self.workers.at_work):
                raise self._stopped()
            if exhausted and not self.flying and not self.again:
                return
            self._settle()
            self._say("running", every=signs.PROGRESS_EVERY_S)

    def _stopped(self) -> Incomplete:
        return Incomplete(
            f"stopped as asked, {len(self.markers)} of {self.layout.blocks} blocks are whole; "
            "call the same command again, it resumes"
        )

    def _next(self, left: Iterator[int]) -> int | None:
        if self.again and min(self.again)[0] <= time.monotonic():
            soonest = min(self.again)
            self.again.remove(soonest)
            return soonest[1]
        return next(left, None)

    def _look(self) -> None:
        self.workers.look(one.worker for one in self.flying.values())

    def _say(self, state: str, every: float = 0.0) -> None:
        self.signs.say(state, self.markers, self.workers.addresses, every=every)

    def _submit(self, block: int) -> None:
        taken = Counter(one.worker for one in self.flying.values())
        worker = min(self.workers.addresses, key=lambda address: taken[address])
        number = self.tries[block]
        self.tries[block] += 1
        self.signs.again += number > 0
        workers = self.workers.addresses
        name, graph = workflow.block_graph(
            self.run,
            self.plan,
            self.layout,
            self.spec,
            block,
            bricks_per_task=self.bricks_per_task or self._bricks_per_task(len(workers)),
            mark=f"{self.mark}.{number}" if number else self.mark,
            final=self.pauses[block] >= len(PAUSES_S),
            set_apart=self.set_apart,
            kernels=self.kernels,
        )
        # Without the time-out, blocks submitted within a minute are worked on side by side: a worker
        # then holds the pixels of both, and writes neither until both are nearly done.
        with dask.annotate(run=self.run, block=block):
            future = self.client.get(
                graph,
                name,
                workers=[worker],
                allow_other_workers=True,
                sync=False,
                fifo_timeout="0 ms",
            )
        bricks = len(self.plan.pieces(block))
        del self.signs.injected[block]
        self.flying[future.key] = Try(block, future, worker, bricks)
        future.add_done_callback(lambda done: self.settled.put(done.key))

    def _bricks_per_task(self, workers: int) -> int:
        """One brick; several where one scheduler could not feed the workers, or where reading waits and
        there is a block for every worker."""
        fed = -(-workers // WORKERS_PER_BRICK)
        waits = costs_of(self.plan.experiment.survey.root).wait > 0
        return max(fed, READ_AHEAD) if waits and self.layout.blocks >= workers else fed

    # ---- what became of a block

    def _settle(self) -> None:
        """See what became of the blocks whose futures are done; waits a moment for the first."""
        done = []
        with contextlib.suppress(queue.Empty):
            done.append(self.settled.get(timeout=0.2))
            while True:
                done.append(self.settled.get_nowait())
        for name in done:
            if name in self.flying:
                self._settle_one(self.flying.pop(name))

    def _settle_one(self, one: Try) -> None:
        try:
            self._is_whole(one.future.result(timeout=RESULT_WITHIN_S))
        except KilledWorker:
            self.signs.trouble("it killed its workers, and is looked into", one.block)
            self.suspects.append(one.block)
        except CancelledError:
            self._was_lost(one.block)
        except OSError:
            if one.future.status == "error":
                raise
            # The worker went with what it gave, or the scheduler while it was asked. Whoever waited here
            # for the task to be done again would hand nothing over, and wait for ever.
            self._was_lost(one.block)
        except storage.StorageError as error:
            self._out_of_reach(one.block, error)

    def _is_whole(self, marker: dict[str, Any]) -> None:
        block = marker["block"]
        if block not in self.markers:
            self.markers[block] = _kept(marker)
            rows = self.layout.rows_of(block)
            self.signs.rows_fresh += rows.stop - rows.start
            self.signs.bytes_fresh += self.markers[block]["bytes"]
            self.on_block(block, False)
            self.signs.whole(marker)
            self.watch.add(block, marker.get("bricks", ()), marker["notes"])

    def _was_lost(self, block: int) -> None:
        """Its future is gone, and the scheduler with it perhaps; the block may be whole all the same."""
        self.workers.forget()
        marker = store.read_marker(self.run, block, self.identity)
        if marker is None:
            self.signs.trouble("it was lost with its worker, and is made again", block)
            self.again.append((time.monotonic(), block))
        else:
            self._is_whole(marker)

    def _out_of_reach(self, block: int, error: storage.StorageError) -> None:
        turn = self.pauses[block]
        if error.trouble == "lasting" or turn >= len(PAUSES_S):
            raise error
        pause = PAUSES_S[turn]
        self.claimed[block] += isinstance(error, store.ClaimedError)
        if self.claimed[block] == CLAIMED_OFTEN:
            store.release_claim(self.run, block)  # nobody finished it: its writer is dead
            self.claimed[block], pause = 0, 0.0
        self.signs.trouble(f"it waits: {error}", block)
        self.pauses[block] += 1
        self.again.append((time.monotonic() + pause, block))

    # ---- a block that killed its workers

    def _try_alone(self, block: int) -> None:
        """Make a block that killed workers while nothing else runs."""
        probes = Probes(
            self.client,
            self.workers,
            self.run,
            self.plan.experiment.model_dump_json(),
            self.kernels,
            self.mark,
            self._meanwhile,
        )
        for _ in range(LONE_TRIES):
            self.again.append((0.0, block))
            before = len(self.suspects)
            self._until_done(iter(()))
            if len(self.suspects) == before:
                return
            self.suspects.pop()
            work = workflow.work_of(self.plan, self.plan.pieces(block), self.set_apart)
            live = [one for one in work if not one.set_apart]
            for one in killers(live, functools.partial(probes.kills, block)):
                self.signs.trouble("it kills its workers, and is set apart", block, brick=one.brick)
                store.set_apart(self.run, one.brick, block, self.workers.deaths_allowed())
                self.set_apart |= {one.brick}
        raise Incomplete(
            f"block {block} lost worker after worker, and none of its bricks alone is the cause: for "
            "want of memory most likely; give workers more (cluster.memory) and call the same command "
            "again, it resumes"
        )

    def _meanwhile(self) -> None:
        if self.brake.pulled:
            raise self._stopped()
        self._look()  # where none is left, nobody will do it
        self._say("running", every=signs.PROGRESS_EVERY_S)


def _kept(marker: dict[str, Any]) -> dict[str, Any]:
    """What the driver keeps of a marker: not the checksums of some fifty objects a block."""
    kept = {key: marker[key] for key in ("block", "counts", "statistics", "statistics_spec")}
    size = sum(one["bytes"] for one in marker["objects"].values() if one is not None)
    return kept | {"notes": marker["notes"][:NOTES_PER_BLOCK], "bytes": size}


def run_blocks(
    client: Client,
    run: str,
    plan: Plan,
    layout: Layout,
    spec: AuditSpec,
    on_block: OnBlock,
    *,
    bricks_per_task: int | None = None,
    brake: Brake | None = None,
    kernels: Kernels = KERNELS,
    on_progress: OnProgress = lambda _: None,
) -> list[dict[str, Any]]:
    """Make every block that has no marker yet; gives what is kept of all markers, in block order.

    Parameters
    ----------
    client : Client
    run : str
        The run's folder.
    plan : Plan
    layout : Layout
    spec : AuditSpec
    on_block : callable
        Called for each block, also for those that were finished before.
    bricks_per_task : int, optional
        Bricks that one task takes; if not given, one for up to 32 workers where coadds lie on a disk, and
        at least eight where they lie behind a network.
    brake : Brake, optional
        Pulled by whoever wants the run to stop.
    kernels : Kernels
        What tasks do.
    on_progress : callable
        Told every few seconds how far the run is.

    Raises
    ------
    Incomplete
        Stopped as asked, or the cluster was lost for good.
    StorageError
        Something stays out of reach, or lastingly so.
    UserError
        Bricks in a row failed alike (``read.stop_after``).
    """
    stop = brake or Brake()
    made = BlockRun(
        client, run, plan, layout, spec, on_block, bricks_per_task, stop, kernels, on_progress
    )
    return made.all()
