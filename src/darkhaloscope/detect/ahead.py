"""Chunks and batches of an epoch, made by threads a window ahead, and forgotten when used up."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.detect.chunks import ChunkReader, Pixels
from darkhaloscope.detect.making import Batch, Maker
from darkhaloscope.detect.order import Order
from darkhaloscope.views import STAMP

T = TypeVar("T")


class Ahead:
    """Batches of one order; two windows of chunks are in memory at most, whatever its length.

    Parameters
    ----------
    reader : ChunkReader
    maker : Maker
    order : Order
    epoch : int or None
        None where images are scored.
    workers : int
        Threads; with 0 everything is done when it is asked for.
    """

    def __init__(
        self, reader: ChunkReader, maker: Maker, order: Order, epoch: int | None, workers: int
    ) -> None:
        self.reader, self.maker, self.order, self.epoch = reader, maker, order, epoch
        self.pool = ThreadPoolExecutor(workers) if workers else None
        self.chunks: dict[int, Future[Pixels]] = {}
        last = int(order.window[-1]) if len(order.window) else -1
        self.starts = np.searchsorted(order.window, np.arange(last + 2))
        self.asked = -1
        """The last window whose chunks were asked for."""

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def batch(self, number: int) -> Future[Batch]:
        """The batch of that number; asked for in order."""
        size = self.maker.reading.batch_size
        part = slice(number * size, min((number + 1) * size, len(self.order.row)))
        first, last = (int(self.order.window[i]) for i in (part.start, part.stop - 1))
        # One window more, where somebody reads it meanwhile.
        self._ask(first, min(last + (self.pool is not None), len(self.starts) - 2))
        chunks = {c: self.chunks[c] for c in np.unique(self._chunks(part)).tolist()}

        def make() -> Batch:
            # The pool takes tasks in turn: chunks are read, or being read, before this starts.
            pixels = {c: future.result() for c, future in chunks.items()}
            return self.maker.batch(self.order, part, pixels, self.epoch, number)

        return self._do(make)

    def _ask(self, first: int, last: int) -> None:
        """Read all windows up to ``last``, and forget those before ``first``."""
        self.asked = max(self.asked, first - 1)
        if self.asked >= last:
            return
        needed = np.unique(self._chunks(slice(self.starts[first], self.starts[last + 1])))
        self.chunks = {c: self.chunks[c] for c in needed.tolist() if c in self.chunks}
        while self.asked < last:
            self.asked += 1
            part = slice(self.starts[self.asked], self.starts[self.asked + 1])
            chunks = self._chunks(part)
            stamps = set(chunks[self.order.image[part] == STAMP].tolist())
            for c in np.unique(chunks).tolist():
                self.chunks[c] = self._do(self._read(c, c in stamps))

    def _read(self, chunk: int, stamps: bool) -> Callable[[], Pixels]:
        return lambda: self.reader.read(chunk, stamps=stamps)

    def _chunks(self, part: slice) -> NDArray[np.int64]:
        return self.order.row[part] // self.reader.chunk

    def _do(self, task: Callable[[], T]) -> Future[T]:
        if self.pool is not None:
            return self.pool.submit(task)
        done: Future[T] = Future()
        done.set_result(task())
        return done
