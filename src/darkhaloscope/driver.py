"""The blocks of a run: a bounded window of them in flight, each placed on one worker, until all are whole.

Anything may die on the way. A block whose task was lost, or whose files were out of reach, is tried
again under another name; when the scheduler is lost, markers are listed and what has none is submitted
again. A block that killed its workers waits until nothing else runs and is then tried alone, so that
whatever dies then dies of it; it is bisected to the brick, and only a brick that alone killed fresh
workers whose nannies (and so machines) live on is set apart: its rows fail as ``quarantined``.
"""

from __future__ import annotations

import contextlib
import queue
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from typing import Any

from distributed import Client, Future, KilledWorker

from darkhaloscope import storage, store, workflow
from darkhaloscope.audit import AuditSpec
from darkhaloscope.errors import Incomplete
from darkhaloscope.plan import Plan
from darkhaloscope.store import Layout
from darkhaloscope.survey.health import Watch
from darkhaloscope.workflow import KERNELS, Kernels, Work

BLOCKS_PER_WORKER = 2
"""Blocks in flight on one worker: one that is written while the next is read."""

WORKERS_PER_BRICK = 100
"""Workers that one scheduler feeds with a brick a task: 500 tasks a second, 0.2 s a brick."""

PAUSES_S = (2.0, 8.0, 30.0, 60.0)
"""Waits before a block is tried again after something was out of reach; after the last, as it is."""

NOTES_PER_BLOCK = 5
LOOK_EVERY_S = 2.0
"""How often the list of workers is fetched."""
PROGRESS_EVERY_S = 5.0
WORKERS_WITHIN_S = 600.0
"""How long a run waits where there is no worker at all."""
NANNY_WITHIN_S = 120.0
"""How soon a nanny that lives has a fresh worker."""
LONE_TRIES = 3

OnBlock = Callable[[int, bool], None]
"""Told of each finished block: its number, and whether it was there before."""


class Brake:
    """How a run is asked to stop: it then finishes what is in flight, and begins nothing."""

    listening = False
    pulled = False


@dataclass
class _Try:
    """One submission of one block."""

    block: int
    number: int
    future: Future
    worker: str
    bricks: int
    done: int = 0


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
    markers: dict[int, dict[str, Any]] = field(default_factory=dict)
    flying: dict[str, _Try] = field(default_factory=dict)
    again: deque[tuple[float, int]] = field(default_factory=deque)
    """(not before, block): to be tried once more."""
    tries: Counter[int] = field(default_factory=Counter)
    """Submissions of each block; part of its keys."""
    pauses: Counter[int] = field(default_factory=Counter)
    """How often a block met something out of reach."""
    suspects: list[int] = field(default_factory=list)
    settled: queue.SimpleQueue[str] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        # Never the keys of an earlier run in this process, whose futures may still be remembered.
        self.mark = workflow.token(f"{self.run}\0{time.time_ns()}", self.spec)
        self.identity = self.layout.attributes["identity"]
        self.workers: list[str] = []
        self.rows_fresh = 0
        self.watch = Watch(self.plan.experiment.read.stop_after)
        self.started = time.time()
        self._looked = self._said = self._seen_worker = -1e9

    # ---- the loop

    def all(self) -> list[dict[str, Any]]:
        self._take_finished()
        self.set_apart = store.bricks_set_apart(self.run)
        left = iter([b for b in range(self.layout.blocks) if b not in self.markers])
        self.client.subscribe_topic(workflow.TOPIC, self._hear)
        self.brake.listening = True
        try:
            self._until_done(left)
            while self.suspects:
                self._try_alone(self.suspects.pop(0))
        finally:
            self.brake.listening = False
            if not self._is_lost:
                self.client.unsubscribe_topic(workflow.TOPIC)
            self._say("stopped" if len(self.markers) < self.layout.blocks else "whole")
        return [self.markers[block] for block in sorted(self.markers)]

    @property
    def _is_lost(self) -> bool:
        """Whether the scheduler is gone for good."""
        return self.client.status in ("closed", "closing")

    def _take_finished(self) -> None:
        """Count the blocks that are whole already."""
        numbers = [b for b in store.finished_blocks(self.run) if b < self.layout.blocks]

        def each() -> Iterator[dict[str, Any]]:
            for marker in store.read_markers(self.run, numbers, self.identity):
                self.markers[marker["block"]] = _kept(marker)
                yield marker

        store.check_objects(self.run, each())
        for block in sorted(self.markers):
            self.on_block(block, True)
            self.watch.add(block)

    def _until_done(self, left: Iterator[int]) -> None:
        """Submit and settle until nothing is left but suspects."""
        exhausted = False
        while True:
            self._look_at_workers()
            halted = self.brake.pulled or self.watch.trouble is not None
            while not halted and len(self.flying) < BLOCKS_PER_WORKER * len(self.workers):
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
            if self.brake.pulled and not self.flying:
                raise self._stopped()
            if exhausted and not self.flying and not self.again:
                return
            with contextlib.suppress(queue.Empty):
                self._settle(self.settled.get(timeout=0.2))
                while True:
                    self._settle(self.settled.get_nowait())
            self._say("running", PROGRESS_EVERY_S)

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

    def _look_at_workers(self) -> None:
        """Who is there; asked of the scheduler now and then."""
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return
        if self._is_lost:
            raise Incomplete("the scheduler was lost; call the same command again, it resumes")
        if self.client.status == "running":
            with contextlib.suppress(OSError, TimeoutError):
                found = self.client.scheduler_info(n_workers=-1)["workers"]
                self.workers = sorted(found)
                self.nannies = {info.get("nanny") for info in found.values()}
                if found and any(one.worker not in found for one in self.flying.values()):
                    self.client.run_on_scheduler(_hand_over)
        self._looked = now
        if self.workers or self._seen_worker < 0:
            self._seen_worker = now
        elif now - self._seen_worker > WORKERS_WITHIN_S:
            raise Incomplete(
                "the cluster has no workers any more; start some and call the same command again, "
                "it resumes"
            )

    def _submit(self, block: int) -> None:
        taken = Counter(one.worker for one in self.flying.values())
        worker = min(self.workers, key=lambda address: taken[address])
        number = self.tries[block]
        self.tries[block] += 1
        graph = workflow.block_graph(
            self.run,
            self.plan,
            self.layout,
            self.spec,
            block,
            bricks_per_task=self.bricks_per_task or -(-len(self.workers) // WORKERS_PER_BRICK),
            mark=f"{self.mark}.{number}" if number else self.mark,
            final=self.pauses[block] >= len(PAUSES_S),
            set_apart=self.set_apart,
            kernels=self.kernels,
        )
        future = self.client.compute(
            graph, workers=[worker], allow_other_workers=True, optimize_graph=False
        )
        bricks = len(self.plan.pieces(block))
        self.flying[future.key] = _Try(block, number, future, worker, bricks)
        future.add_done_callback(lambda done: self.settled.put(done.key))

    # ---- what became of a block

    def _settle(self, name: str) -> None:
        one = self.flying.pop(name, None)
        if one is None:
            return
        try:
            self._is_whole(one.future.result())
        except KilledWorker:
            self.suspects.append(one.block)
        except CancelledError:
            self._was_lost(one.block)
        except storage.StorageError as error:
            self._out_of_reach(one.block, error)

    def _is_whole(self, marker: dict[str, Any]) -> None:
        block = marker["block"]
        if block not in self.markers:
            self.markers[block] = _kept(marker)
            rows = self.layout.rows_of(block)
            self.rows_fresh += rows.stop - rows.start
            self.on_block(block, False)
            self.watch.add(block, marker.get("bricks", ()), marker["notes"])

    def _was_lost(self, block: int) -> None:
        """Its future is gone, and the scheduler with it perhaps; the block may be whole all the same."""
        self._looked, self.workers = -1e9, []
        marker = store.read_marker(self.run, block, self.identity)
        if marker is None:
            self.again.append((time.monotonic(), block))
        else:
            self._is_whole(marker)

    def _out_of_reach(self, block: int, error: storage.StorageError) -> None:
        turn = self.pauses[block]
        if error.lasting or turn >= len(PAUSES_S):
            raise error
        if isinstance(error, store.ClaimedError) and turn:
            store.release_claim(self.run, block)  # nobody finished it: its writer is dead
        self.pauses[block] += 1
        self.again.append((time.monotonic() + PAUSES_S[turn], block))

    # ---- a block that killed its workers

    def _try_alone(self, block: int) -> None:
        """Make a block that killed workers while nothing else runs."""
        for _ in range(LONE_TRIES):
            self.again.append((0.0, block))
            before = len(self.suspects)
            self._until_done(iter(()))
            if len(self.suspects) == before:
                return
            self.suspects.pop()
            work = workflow.work_of(self.plan, self.plan.pieces(block), self.set_apart)
            for one in self._killers(block, [one for one in work if not one.set_apart]):
                store.set_apart(self.run, one.brick, block, self._deaths())
                self.set_apart |= {one.brick}
        raise Incomplete(
            f"block {block} lost worker after worker, and none of its bricks alone is the cause: for "
            "want of memory most likely; give workers more (cluster.memory) and call the same command "
            "again, it resumes"
        )

    def _killers(self, block: int, work: Sequence[Work]) -> list[Work]:
        """The bricks that kill a worker each by itself, by halves."""
        if not work or not self._kills(block, work):
            return []
        if len(work) == 1:
            return list(work)
        half = len(work) // 2
        return self._killers(block, work[:half]) + self._killers(block, work[half:])

    def _kills(self, block: int, work: Sequence[Work]) -> bool:
        """Whether some bricks, alone on the cluster, kill one fresh worker after another."""
        bricks = workflow.brick_range([one.brick for one in work])
        for _ in range(LONE_TRIES):
            self._looked = -1e9
            self._look_at_workers()
            nannies, number = self.nannies, self.tries[block]
            self.tries[block] += 1
            probe = self.client.submit(
                workflow.probe_bricks,
                self.kernels.inject,
                self.run,
                self.plan.experiment.model_dump_json(),
                work,
                block,
                key=workflow.key("probe", f"{block:06d}", bricks, f"{self.mark}.{number}"),
            )
            while not probe.done():
                if self.brake.pulled:
                    probe.cancel()
                    raise self._stopped()
                self._look_at_workers()  # where none is left, nobody will do it
                self._say("running", PROGRESS_EVERY_S)
                time.sleep(0.05)
            try:
                probe.result()
            except KilledWorker:
                if self._came_back(nannies):
                    return True
            except CancelledError:
                self._looked = -1e9
            else:
                return False
        raise Incomplete(
            f"block {block} lost worker after worker, and their machines with them; call the "
            "same command again, it resumes"
        )

    def _came_back(self, nannies: set[str | None]) -> bool:
        """Whether all machines live: every nanny has a worker again. Without nannies nobody knows."""
        if None in nannies:
            return False
        until = time.monotonic() + NANNY_WITHIN_S
        while time.monotonic() < until:
            self._looked = -1e9
            self._look_at_workers()
            if self.nannies >= nannies:
                return True
            time.sleep(0.2)
        return False

    def _deaths(self) -> int:
        """Workers that a task kills before the scheduler gives it up."""
        allowed = self.client.run_on_scheduler(_allowed_failures)
        return int(allowed) + 1

    # ---- signs of life

    def _hear(self, event: tuple[float, Any]) -> None:
        """A worker tells of finished bricks."""
        message = event[1]
        if message["run"] == self.run:
            for one in list(self.flying.values()):
                if one.block == message["block"]:
                    one.done += len(message["bricks"])

    def _say(self, state: str, every: float = 0.0) -> None:
        now = time.monotonic()
        if now - self._said < every:
            return
        self._said = now
        flying = [
            {"block": t.block, "bricks": t.bricks, "bricks_done": t.done}
            for t in list(self.flying.values())
        ]
        counts: Counter[str] = Counter()
        for marker in self.markers.values():
            for by_reason in marker["counts"].values():
                counts.update(by_reason)
        with contextlib.suppress(storage.StorageError):
            store.write_progress(
                self.run,
                {
                    "state": state,
                    "started": self.started,
                    "written": time.time(),
                    "blocks_whole": len(self.markers),
                    "rows_by_reason": dict(counts),
                    "rows_fresh": self.rows_fresh,
                    "running": flying,
                    "workers": len(self.workers),
                },
            )


def _hand_over(dask_scheduler: Any) -> None:
    """Give other workers what was placed on one that is gone.

    A task that was to run while there was no worker at all waits for the worker that it was placed on,
    although others may have it: the scheduler looks again only when that very address comes back.
    """
    stuck = [task.key for task in dask_scheduler.unrunnable if task.loose_restrictions]
    dask_scheduler.transitions(dict.fromkeys(stuck, "processing"), stimulus_id="hand-over")


def _allowed_failures(dask_scheduler: Any) -> int:
    return int(dask_scheduler.allowed_failures)


def _kept(marker: dict[str, Any]) -> dict[str, Any]:
    """What the driver keeps of a marker: not the checksums of some fifty objects a block."""
    kept = {key: marker[key] for key in ("block", "counts", "statistics", "statistics_spec")}
    return kept | {"notes": marker["notes"][:NOTES_PER_BLOCK]}


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
        Bricks that one task takes; by the number of workers if not given, one for up to a hundred.
    brake : Brake, optional
        Pulled by whoever wants the run to stop.
    kernels : Kernels
        What tasks do.

    Raises
    ------
    Incomplete
        Stopped as asked, or the cluster was lost for good.
    StorageError
        Something stays out of reach, or lastingly so.
    UserError
        Bricks in a row failed alike (``read.stop_after``).
    """
    made = BlockRun(
        client, run, plan, layout, spec, on_block, bricks_per_task, brake or Brake(), kernels
    )
    return made.all()
