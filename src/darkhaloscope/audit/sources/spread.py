"""Rows of the larger of two classes: as many as the other has, spread over the whole of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


def spread(number: Rows, rows: int, length: int) -> Rows:
    """Places in a stack of ``length`` images that stand for rows ``number`` of ``rows``; ascending with it.

    The stack is cut into ``rows`` equal pieces, and of each one image is taken. Which one, a hash of the
    piece's number decides: equal steps would see but one phase of what comes round in a stack. So the order
    in which a class is stored has no say in what is seen of it, nor have the blocks in which it is read.
    """
    first, end = number * length // rows, (number + 1) * length // rows
    return first + (_mixed(number) % (end - first).astype(np.uint64)).astype(np.int64)


def _mixed(number: Rows) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea & Flood 2014, doi:10.1145/2714064.2660195)."""
    x = (number.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def cuts(places: tuple[Rows, Rows], chunks: tuple[int, int], wanted: int, most: int) -> list[slice]:
    """Blocks of rows that hold whole stored chunks of two stacks, where that can be.

    Where the chunks of the two never end together, those of the larger stack are kept whole.

    Parameters
    ----------
    places : (ndarray, ndarray)
        Where the images of each row lie in the two stacks.
    chunks : (int, int)
        Images in which each is stored.
    wanted : int
        Images of the larger stack over which a block goes: the larger it is, the fewer rows a block has.
    most : int
        Rows that a block has at most.
    """
    n = len(places[0])
    larger = int(places[1][-1] > places[0][-1])
    step = min(int(np.ceil(wanted * n / (1 + int(places[larger][-1])))), most)
    changes = [np.diff(p // chunk) > 0 for p, chunk in zip(places, chunks, strict=True)]
    # The smaller stack's chunks count in rows: a block that holds one reads none more than twice.
    ways = ((changes[0] & changes[1], step), (changes[larger], max(step, chunks[1 - larger])))
    out: list[slice] = []
    start = 0
    while start < n:
        ends = (np.flatnonzero(c[start + m - 1 : start + most]) + start + m for c, m in ways)
        end = next((int(e[0]) for e in ends if len(e)), n if n - start <= most else start + step)
        out.append(slice(start, end))
        start = end
    return out
