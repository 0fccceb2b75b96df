"""How an object is read: whole, or only some byte ranges of it; and what either costs.

The model of a read of one object is

    seconds = requests * request + rounds * wait + bytes / bandwidth

``request`` is what one more costs: the client's own work on it, and its part of ``wait``, since only so many
are in flight at once; ``wait`` the time to the first byte, which all files of a brick that are asked for
together wait for together. Two ranges are one request where the
bytes between them cost less than a request. Decoding costs the same either way and is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Mode = Literal["auto", "ranges", "whole"]
Ranges = list[tuple[int, int]]
"""Byte ranges (first, end), end not included."""

MAX_REQUESTS = 60
"""Of one file: the nearest ranges are joined until there are no more."""

_TILES = 1296  # of an image of a release

PREFIX = 65_536
"""Bytes of a file that are read first: the header (6-15 kB in the releases) and the table of its
1,296 tiles (41 kB) lie in them."""


@dataclass(frozen=True)
class Costs:
    """Seconds of one request, seconds to its first byte, bytes per second."""

    request: float
    wait: float
    bandwidth: float

    @property
    def gap(self) -> int:
        """Bytes that cost as much as a request."""
        return int(self.request * self.bandwidth)


REMOTE = Costs(request=2.1e-3, wait=0.03, bandwidth=4e7)
"""An object store or a web server. request: 0.2 ms of CPU (docs/reading.md) and a sixteenth of wait, as 16
are in flight (:data:`darkhaloscope.signed.AT_ONCE`). Assumed: wait, of an object store in the same region;
bandwidth, 10 Gbit/s of a node shared by 32 workers."""

LOCAL = Costs(request=1e-4, wait=0.0, bandwidth=1e9)
"""A disk: open, seek and read of fsspec's local files; a fast shared disk (both estimates)."""


@dataclass(frozen=True)
class Reading:
    """How the files of a brick are read.

    Parameters
    ----------
    mode : {'auto', 'ranges', 'whole'}
        ``auto``: whole or by ranges, file by file, whichever :func:`expected` says costs less.
    checksums : bool
        Compare every file with the release's own checksum, for which all of it is read.
    """

    mode: Mode = "auto"
    checksums: bool = False

    @property
    def always_whole(self) -> bool:
        """Whether no file is read by ranges."""
        return self.mode == "whole" or self.checksums

    def takes_whole(self, size: int, windows: int, side: int, files: int, costs: Costs) -> bool:
        """Whether a file of ``size`` bytes is read whole for some windows of ``side`` pixels.

        ``files`` are read together, so that each bears its part of the waiting only.
        """
        if self.always_whole:
            return True
        if self.mode == "ranges":
            return False
        requests, wanted = expected(size, windows, side, costs.gap)
        # By ranges: the header and the tiles one after the other, and a last look at the version.
        ranges = (requests + 2) * costs.request + 3 * costs.wait / files
        ranges += (wanted + PREFIX) / costs.bandwidth
        whole = costs.request + costs.wait / files + size / costs.bandwidth
        return whole <= ranges


def expected(size: int, windows: int, side: int, gap: int) -> tuple[float, float]:
    """Requests and bytes that windows at random places need of a file, gaps read over.

    Tiles are 100 pixels wide, 1,296 in a file, as in the releases, and equally long. A window
    touches ((99 + side) / 100)^2 of them; the gaps between pieces of the file are exponential.
    """
    across = (99 + side) / 100
    bare = (1 - across**2 / _TILES) ** windows  # a tile that no window touches
    both = (1 - across * (across + 1) / _TILES) ** windows  # and its neighbour neither
    pieces = max(_TILES * (bare - both), 1)
    mean_gap = max(size * bare / pieces, 1e-9)
    apart = math.exp(-gap / mean_gap)
    read_over = 1 - apart * (1 + gap / mean_gap)
    requests = min(1 + (pieces - 1) * apart, MAX_REQUESTS)
    return requests, size * (1 - bare + bare * read_over)


def costs_of(url: str) -> Costs:
    """The constants for that kind of address."""
    return REMOTE if "://" in url and not url.startswith(("file:", "memory:")) else LOCAL


def join(ranges: Ranges, gap: int, most: int = MAX_REQUESTS) -> Ranges:
    """The fewest ranges that hold all, gaps of up to ``gap`` bytes read over, at most ``most``."""
    ordered = sorted(ranges)
    if not ordered:
        return []
    gaps: list[int] = []
    end = ordered[0][1]
    for first, last in ordered[1:]:
        gaps.append(first - end)
        end = max(end, last)
    if len(gaps) >= most:
        # Gaps longer than the limit part two requests: the (most - 1) longest at most.
        gap = max(gap, sorted(gaps, reverse=True)[most - 1])
    joined = [ordered[0]]
    for (first, last), between in zip(ordered[1:], gaps, strict=True):
        if between <= gap:
            joined[-1] = (joined[-1][0], max(joined[-1][1], last))
        else:
            joined.append((first, last))
    return joined
