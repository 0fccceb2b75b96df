"""The order of an epoch: a pure function of rows, seed and epoch, known before a pixel is read.

Inner chunks of the store (32 pairs) are put in random order and cut into windows; the rows of a window
are put in random order among themselves. So each chunk is read once an epoch, and two windows are in
memory at most.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.views import STAMP, Chosen, Reading

Ints = NDArray[np.int64]


class Order(NamedTuple):
    """Images in the order in which they are read."""

    row: Ints
    image: NDArray[np.uint8]
    """0 ctrl, 1 stamp."""
    label: NDArray[np.uint8]
    """1 holds an arc."""
    weight: NDArray[np.float32]
    window: NDArray[np.int32]
    """Window of each image: never falls."""


def generator(seed: int, stream: int, epoch: int, batch: int = 0) -> np.random.Generator:
    """Random numbers of one purpose, epoch and batch, whoever draws them."""
    key = np.array([seed & (2**64 - 1), 0xDE7EC7 + stream], dtype=np.uint64)
    counter = np.array([0, 0, batch, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def epoch_order(
    chosen: Chosen,
    reading: Reading,
    seed: int,
    epoch: int,
    *,
    chunk: int,
    train: bool,
    stratum: NDArray[np.int16] | None = None,
) -> Order:
    """As many positives as negatives, shuffled.

    Parameters
    ----------
    chosen : Chosen
    reading : Reading
    seed, epoch : int
    chunk : int
        Rows of an inner chunk.
    train : bool
        Whether the schedule of faint arcs holds.
    stratum : ndarray of int16 (row of the data set,), optional
        Bin of each row, of which every batch gets its share.
    """
    rng = generator(seed, 1, epoch)
    p = np.arange(len(chosen.positive))
    if train:
        p = p[~(chosen.arc_snr < reading.faint.least(epoch))]
    own = reading.negatives == "ctrl"
    n = p if own else np.arange(len(chosen.negative))
    if not own:
        p, n = _balanced(p, n, chosen, stratum, rng)
    positive, negative = chosen.positive[p], chosen.negative[n]
    # A stamp and its ctrl are half a window apart: more than a batch, whatever a chunk adds.
    most = max(reading.window, reading.batch_size + 2 * chunk)
    window = _windows(positive if own else np.concatenate([positive, negative]), most, chunk, rng)
    by = _shuffled(positive, window[positive // chunk], stratum, rng)
    if own:
        p = n = p[by]
        if reading.batch == "shuffled":
            n = p[_half_turned(window[chosen.positive[p] // chunk])]
        merged = np.arange(2 * len(p)).reshape(2, -1).T.ravel()
    else:
        p, n = p[by], n[_shuffled(negative, window[negative // chunk], stratum, rng)]
        merged = _merged(window[chosen.positive[p] // chunk], window[chosen.negative[n] // chunk])
    row = np.concatenate([chosen.positive[p], chosen.negative[n]])[merged]
    kinds = np.repeat(np.array([STAMP, chosen.negative_image], np.uint8), [len(p), len(n)])
    label = np.repeat(np.array([1, 0], np.uint8), [len(p), len(n)])
    weight = np.concatenate([chosen.positive_weight[p], chosen.negative_weight[n]])
    return Order(row, kinds[merged], label[merged], weight[merged], window[row // chunk])


def stored_order(
    rows: Ints, images: tuple[int, ...], label: NDArray[np.uint8], chunk: int, window: int
) -> Order:
    """Each of these images of each row once, as they lie in the store.

    ``label`` (row, image) is 1 where the image holds an arc.
    """
    row = np.repeat(rows, len(images))
    image = np.tile(np.array(images, np.uint8), len(rows))
    chunks = row // chunk
    _, first = np.unique(chunks, return_index=True)
    of_chunk = np.zeros(int(chunks.max()) + 1 if len(row) else 0, np.int32)
    of_chunk[chunks[first]] = first // max(window * len(images), 1)
    ones = np.ones(len(row), np.float32)
    return Order(row, image, label.ravel(), ones, of_chunk[chunks])


class ShuffleQuality(NamedTuple):
    """An order of positives against full shuffles of the same rows; every number would be 0 but for chance.

    Spearman rank correlations of the place in the epoch with the place in the store, and of the stored
    places of two positives that follow each other.
    """

    place: float
    neighbours: float
    full_shuffle: float
    """Standard deviation of either in a full shuffle: 1 / sqrt(n - 1)."""
    positives: int
    """How many there are."""
    chunks_per_batch: float
    """Chunks of the store that a batch's positives come from, in the mean; and in a full shuffle."""
    chunks_per_batch_full: float


def shuffle_quality(order: Order, batch_size: int, chunk: int) -> ShuffleQuality:
    """How near an order is to a full shuffle."""
    row = order.row[order.label == 1]
    n = len(row)
    if n < 3:
        nan = float("nan")
        return ShuffleQuality(nan, nan, nan, n, nan, nan)
    # A row stands once, so a Spearman correlation is Pearson's of the ranks.
    rank = np.argsort(np.argsort(row, kind="stable"), kind="stable").astype(float)
    place = float(np.corrcoef(np.arange(n), rank)[0, 1])
    neighbours = float(np.corrcoef(rank[:-1], rank[1:])[0, 1])
    each = max(batch_size // 2, 1)
    full = np.random.default_rng(0).permutation(row)
    mixed = [
        float(np.mean([len(np.unique(r[i : i + each] // chunk)) for i in range(0, n, each)]))
        for r in (row, full)
    ]
    return ShuffleQuality(place, neighbours, float((n - 1) ** -0.5), n, *mixed)


def _balanced(
    p: Ints,
    n: Ints,
    chosen: Chosen,
    stratum: NDArray[np.int16] | None,
    rng: np.random.Generator,
) -> tuple[Ints, Ints]:
    """As many of either class, in each stratum; which ones of the larger class, an epoch draws anew."""
    if stratum is None:
        few = min(len(p), len(n))
        return _some(p, few, rng), _some(n, few, rng)
    of_p, of_n = stratum[chosen.positive[p]], stratum[chosen.negative[n]]
    both = []
    for name in np.intersect1d(of_p, of_n):
        mine, theirs = p[of_p == name], n[of_n == name]
        few = min(len(mine), len(theirs))
        both.append((_some(mine, few, rng), _some(theirs, few, rng)))
    if not both:
        return p[:0], n[:0]
    return (
        np.sort(np.concatenate([mine for mine, _ in both])),
        np.sort(np.concatenate([theirs for _, theirs in both])),
    )


def _some(values: Ints, count: int, rng: np.random.Generator) -> Ints:
    return values if count == len(values) else np.sort(rng.choice(values, count, replace=False))


def _windows(rows: Ints, most: int, chunk: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """Window of every chunk; -1 of one that has no row. All windows are about as large, none is a rest."""
    count = np.bincount(rows // chunk) if len(rows) else np.zeros(0, np.int64)
    there = np.flatnonzero(count)
    shuffled = rng.permutation(there)
    before = np.cumsum(count[shuffled]) - count[shuffled]
    out = np.full(len(count), -1, dtype=np.int32)
    windows = max(int(count.sum()) // most, 1)
    out[shuffled] = before * windows // max(int(count.sum()), 1)
    return out


def _shuffled(
    rows: Ints,
    window: NDArray[np.int32],
    stratum: NDArray[np.int16] | None,
    rng: np.random.Generator,
) -> Ints:
    """Indices of rows by window, in random order within each; strata spread evenly over a window."""
    place = rng.random(len(rows))
    if stratum is not None:
        bins = stratum[rows]
        by = np.lexsort((place, bins, window))
        group = np.stack([window[by], bins[by]])
        starts = np.flatnonzero(np.r_[True, (group[:, 1:] != group[:, :-1]).any(0)])[: len(by)]
        size = np.diff(np.r_[starts, len(by)])
        rank = np.arange(len(by)) - np.repeat(starts, size)
        place[by] = (rank + rng.random(len(by))) / np.repeat(size, size)
    return np.lexsort((place, window))


def _half_turned(window: NDArray[np.int32]) -> Ints:
    """Within each window, the index half a window on: a stamp and its ctrl are that far apart."""
    _, start, size = np.unique(window, return_index=True, return_counts=True)
    first, length = np.repeat(start, size), np.repeat(size, size)
    place = np.arange(len(window)) - first
    return np.asarray(first + (place + length // 2) % length)


def _merged(of_p: NDArray[np.int32], of_n: NDArray[np.int32]) -> Ints:
    """Both classes in one order, window by window, each spread evenly over it."""
    places = []
    for window in (of_p, of_n):
        _, start, size = np.unique(window, return_index=True, return_counts=True)
        place = np.arange(len(window)) - np.repeat(start, size) + 0.5
        places.append(place / np.repeat(size, size))
    return np.lexsort((np.concatenate(places), np.concatenate([of_p, of_n])))
