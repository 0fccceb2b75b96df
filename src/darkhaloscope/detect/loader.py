"""Batches of a run for a network, straight from the shards: shuffled, balanced, the same for any workers."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from darkhaloscope.detect.chunks import ChunkReader, Pixels
from darkhaloscope.detect.order import Order, epoch_order, generator, stored_order
from darkhaloscope.errors import UserError
from darkhaloscope.views import (
    CTRL,
    STAMP,
    Reading,
    Scale,
    choose,
    dihedral,
    mask_weight,
    network_input,
)


class Batch(NamedTuple):
    """Images of both classes, ready for a network."""

    images: torch.Tensor
    """(image, channel, y, x) float32."""
    label: torch.Tensor
    """(image,) float32; 1 holds an arc."""
    row: torch.Tensor
    """(image,) int64: row of the data set."""
    image: torch.Tensor
    """(image,) uint8: 0 ctrl, 1 stamp."""
    weight: torch.Tensor
    """(image,) float32."""
    aux: torch.Tensor
    """(image, aux) float32."""


class Loader:
    """Epochs of batches of one split of a run.

    Parameters
    ----------
    run : str
        A run's folder, or its ``stamps.zarr``; a path or any fsspec URL.
    reading : Reading
    split : str
        ``train``, ``val`` or ``test``.
    seed : int
        Order, turns and noise follow from it, the epoch and the batch alone.
    workers : int
        Threads that read and prepare ahead; 0 does it when a batch is asked for.

    Raises
    ------
    UserError
        The data set lacks what the reading asks for.
    """

    def __init__(
        self, run: str, reading: Reading, *, split: str, seed: int, workers: int = 0
    ) -> None:
        self.run, self.reading, self.split, self.seed = run, reading, split, seed
        self.workers = workers
        self._reader = ChunkReader(run)
        self.columns = self._reader.columns
        self._chosen = choose(self._reader.columns, reading, split)
        self.bands, self.size = self._reader.bands, self._reader.size
        self.channels = len(self.bands) * (2 if reading.option == "a" else 1)
        self.identity = str(self._reader.attributes.get("identity", ""))
        columns = self._reader.columns
        self._places = None
        if reading.input_mask is not None:
            self._places = tuple(
                columns[name].values.astype(float) for name in ("target_x", "target_y")
            )
        self.scale: Scale | None = None
        self._at = (0, 0)  # epoch, batches given

    def batches(self, epoch: int) -> int:
        """How many batches an epoch has."""
        return -(-len(self._order(epoch).row) // self.reading.batch_size)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, from where :meth:`resume` said if it said this epoch."""
        start = self._at[1] if self._at[0] == epoch else 0
        return self._give(self._order(epoch), epoch, start)

    def in_order(self, rows: NDArray[np.int64] | None = None) -> Iterator[Batch]:
        """Every chosen image once, as it lies in the store, unturned: for scores.

        With ``rows`` of the data set, in stored order and chosen or not, ctrl and stamp of each; the label
        of a row that is not chosen is 0.
        """
        chosen, images = self._chosen, (CTRL, STAMP)
        wanted = np.union1d(chosen.positive, chosen.negative) if rows is None else rows
        positive = np.isin(wanted, chosen.positive)
        label = positive[:, None] & (np.array(images) == STAMP)
        order = stored_order(
            wanted, images, label.astype(np.uint8), self._reader.chunk, self.reading.window
        )
        if rows is None:
            negative = np.isin(wanted, chosen.negative)
            keep = (
                label | (negative[:, None] & (np.array(images) == chosen.negative_image))
            ).ravel()
            order = Order(*(part[keep] for part in order))
        return self._give(order, None, 0)

    def state(self) -> dict[str, Any]:
        """Where this loader is, for :meth:`resume`: plain JSON."""
        epoch, batch = self._at
        return self._who() | {"epoch": epoch, "batch": batch}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on where a state was taken: ``epoch(state["epoch"])`` starts with the next batch.

        Raises
        ------
        UserError
            The state is of another data set, reading, split or seed.
        """
        for name, value in self._who().items():
            if state.get(name) != value:
                raise UserError(
                    f"the position to resume from is of another {name}: {state.get(name)!r}, not {value!r}; "
                    "start again, or take the change back"
                )
        self._at = (int(state["epoch"]), int(state["batch"]))

    def _who(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.reading.model_dump_json().encode()).hexdigest()
        return {
            "data set": self.identity,
            "reading": digest[:16],
            "split": self.split,
            "seed": self.seed,
        }

    def _order(self, epoch: int) -> Order:
        train = self.split == "train"
        return epoch_order(
            self._chosen, self.reading, self.seed, epoch, chunk=self._reader.chunk, train=train
        )

    def _give(self, order: Order, epoch: int | None, start: int) -> Iterator[Batch]:
        size = self.reading.batch_size
        ends = range(start, -(-len(order.row) // size))
        with _Ahead(self, order, epoch, self.workers) as ahead:
            waiting: deque[Future[Batch]] = deque()
            for number in ends:
                while len(waiting) <= self.workers and number + len(waiting) < ends.stop:
                    waiting.append(ahead.batch(number + len(waiting)))
                batch = waiting.popleft().result()
                if epoch is not None:
                    self._at = (epoch, number + 1)
                yield batch

    def _make(
        self, order: Order, part: slice, pixels: dict[int, Pixels], epoch: int | None, number: int
    ) -> Batch:
        """One batch from chunks in memory."""
        row, image = order.row[part], order.image[part]
        chunk = self._reader.chunk
        n, bands = len(row), len(self.bands)
        images = np.empty((n, bands, self.size, self.size), np.float32)
        nodata = np.empty((n, self.size, self.size), np.uint8)
        for i in range(n):
            held, at = pixels[int(row[i]) // chunk], int(row[i]) % chunk
            nodata[i] = held.nodata[at]
            if image[i] == STAMP:
                assert held.arc is not None
                np.add(held.ctrl[at], held.arc[at], out=images[i])
            else:
                images[i] = held.ctrl[at]
        bits = (np.uint8(1) << np.arange(bands, dtype=np.uint8))[:, None, None]
        empty = (nodata[:, None] & bits) != 0
        weight = None
        if self.reading.input_mask is not None:
            assert self._places is not None
            x, y = (place[row] for place in self._places)
            weight = mask_weight(self.reading.input_mask, self.size, x, y)
        seen = network_input(images, empty, self.reading, weight=weight, scale=self.scale)
        if epoch is not None and self.split == "train" and self.reading.augment:
            turns = generator(self.seed, 2, epoch, number).integers(0, 8, n)
            if self.reading.batch == "paired":
                turns = np.repeat(turns[::2], 2)[:n]  # a stamp and its ctrl turn together
            for i, k in enumerate(turns):
                seen[i] = dihedral(seen[i].copy(), int(k))
        return Batch(
            torch.from_numpy(seen),
            torch.from_numpy(order.label[part].astype(np.float32)),
            torch.from_numpy(row.copy()),
            torch.from_numpy(image.copy()),
            torch.from_numpy(order.weight[part].copy()),
            torch.zeros((n, 0)),
        )


class _Ahead:
    """Chunks and batches of an epoch, made by threads a window ahead; forgets what is used up."""

    def __init__(self, loader: Loader, order: Order, epoch: int | None, workers: int) -> None:
        self.loader, self.order, self.epoch = loader, order, epoch
        self.pool = ThreadPoolExecutor(workers) if workers else None
        self.chunks: dict[int, Future[Pixels]] = {}
        self.asked = -1  # the last window whose chunks were asked for
        self.last = int(order.window[-1]) if len(order.window) else -1
        self.starts = np.searchsorted(order.window, np.arange(self.last + 2))

    def __enter__(self) -> _Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def batch(self, number: int) -> Future[Batch]:
        """The batch of that number; called in order."""
        size = self.loader.reading.batch_size
        part = slice(number * size, min((number + 1) * size, len(self.order.row)))
        first, last = int(self.order.window[part.start]), int(self.order.window[part.stop - 1])
        # One window ahead of the batch, where somebody else reads it.
        self._ask(min(last + (self.pool is not None), self.last), first)
        chunks = {c: self.chunks[c] for c in np.unique(self._chunk(part)).tolist()}

        def make() -> Batch:
            pixels = {c: future.result() for c, future in chunks.items()}
            return self.loader._make(self.order, part, pixels, self.epoch, number)

        # The pool takes tasks in turn: all chunks of a batch are read, or being read, before it starts.
        return self._do(make)

    def _ask(self, window: int, used: int) -> None:
        if self.asked < used - 1:
            self.asked = used - 1
        while self.asked < window:
            self.asked += 1
            part = slice(int(self.starts[self.asked]), int(self.starts[self.asked + 1]))
            chunks = self._chunk(part)
            stamps = np.unique(chunks[self.order.image[part] == STAMP])
            keep = set(self._chunk(slice(int(self.starts[used]), part.stop)).tolist())
            self.chunks = {c: f for c, f in self.chunks.items() if c in keep}
            for c in np.unique(chunks).tolist():
                if c not in self.chunks:
                    want = bool(np.isin(c, stamps))
                    self.chunks[c] = self._do(
                        lambda c=c, want=want: self.loader._reader.read(c, stamps=want)
                    )

    def _chunk(self, part: slice) -> NDArray[np.int64]:
        return self.order.row[part] // self.loader._reader.chunk

    def _do(self, task: Any) -> Future[Any]:
        if self.pool is not None:
            return self.pool.submit(task)
        done: Future[Any] = Future()
        done.set_result(task())
        return done
