"""The bytes of one FITS file, as far as they were fetched, and the HDUs that its headers describe."""

from __future__ import annotations

import bisect
import io
import zlib
from collections.abc import Generator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from astropy.io import fits

# astropy raises this one out of its C code and has no public name for it.
from astropy.io.fits.hdu.compressed._compression import CfitsioException
from numpy.typing import NDArray

from darkhaloscope.survey.reading import PREFIX, Ranges

BLOCK = 2880
"""Bytes of a FITS block."""

_LONGEST_HEADER = 400 * BLOCK

# What astropy raises on broken bytes, found by breaking some in many places (see the tests).
BROKEN = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    OverflowError,
    AttributeError,
    zlib.error,
    fits.VerifyError,
    CfitsioException,
)


class CorruptFileError(ValueError):
    """The bytes are not a whole FITS file with an image; the message says what is wrong."""


_FIRST = itemgetter(0)


class Source:
    """One object of ``size`` bytes, of which some were fetched: the pieces, as they came. On a brick's
    hundred megabytes a buffer of the whole, and copies into it, cost as much as their decoding."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.missing: Ranges = [(0, size)] if size else []
        self._pieces: list[tuple[int, bytes]] = []
        """By their first bytes, ascending."""

    @classmethod
    def whole(cls, raw: bytes) -> Source:
        """An object that is all there."""
        source = cls(len(raw))
        source.put(0, raw)
        return source

    def put(self, first: int, data: bytes) -> None:
        """Take what was fetched from byte ``first`` on."""
        end = first + len(data)
        bisect.insort(self._pieces, (first, data), key=_FIRST)
        left: Ranges = []
        for a, b in self.missing:
            left += [(x, y) for x, y in ((a, min(b, first)), (max(a, end), b)) if x < y]
        self.missing = left

    def lacks(self, first: int, end: int) -> Ranges:
        """The parts of a range that were not fetched yet."""
        parts = ((max(a, first), min(b, end)) for a, b in self.missing)
        return [(a, b) for a, b in parts if a < b]

    def get(self, first: int, end: int) -> bytes:
        """The bytes of a range; what was not fetched reads as zeros."""
        end = min(end, self.size)
        place = bisect.bisect(self._pieces, first, key=_FIRST) - 1
        if place >= 0:
            start, piece = self._pieces[place]
            if end <= start + len(piece):
                return piece[first - start : end - start]
        out = np.zeros(max(end - first, 0), np.uint8)
        self._fill(out, first)
        return out.tobytes()

    def stream(self) -> io.BufferedReader:
        """A file object over the bytes that are there by now; all others read as zeros."""
        content = np.zeros(self.size, np.uint8)  # cost no memory until they are touched
        self._fill(content, 0)
        return io.BufferedReader(_Stream(content))

    def _fill(self, out: NDArray[np.uint8], first: int) -> None:
        """What was fetched of the bytes from ``first`` on, each at its place."""
        for start, piece in self._pieces:
            low, high = max(start, first), min(start + len(piece), first + len(out))
            if low < high:
                here = np.frombuffer(piece, np.uint8, high - low, low - start)
                out[low - first : high - first] = here


class _Stream(io.RawIOBase):
    def __init__(self, content: NDArray[np.uint8]) -> None:
        self._content, self._at = content, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._content)}
        self._at = base[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, target: Any) -> int:
        part = self._content[self._at : self._at + len(target)]
        target[: len(part)] = part.data
        self._at += len(part)
        return len(part)


@dataclass(frozen=True)
class Hdu:
    """One HDU: its number, the cards as they stand, and where its data begin."""

    number: int
    header: fits.Header
    data: int


Needs = Generator[tuple[int, int], None, list[Hdu]]


def walk(source: Source) -> Needs:
    """All HDUs of a file, by their headers alone; yields the byte ranges that it needs to go on.

    Raises
    ------
    CorruptFileError
        Where the bytes end before the file does, go on after it, or cannot be parsed.
    """
    if not source.size:
        raise CorruptFileError("it is empty")
    yield (0, min(PREFIX, source.size))
    start = source.get(0, 16)
    if not start.startswith((b"SIMPLE  =", b"XTENSION")):
        text = start.decode("ascii", "replace")
        raise CorruptFileError(f"it does not begin as a FITS file but with {text!a}")
    found: list[Hdu] = []
    at = 0
    while at < source.size:
        if found:
            yield (at, min(at + BLOCK, source.size))
            start = source.get(at, at + BLOCK)
            if not start.startswith(b"XTENSION"):
                if start.strip(b"\0 "):
                    text = f"its last {source.size - at} bytes are no part of a FITS file"
                    raise CorruptFileError(text)
                break
        header, data = yield from _header(source, at)
        end = data + -(-_data_size(header) // BLOCK) * BLOCK
        if source.size < end:
            raise CorruptFileError(f"it is truncated: {source.size} bytes of {end}")
        # Some tools drop the empty HDU 0; to astropy, which wants one, it is always there.
        number = len(found) + (source.get(0, 1) == b"X")
        found.append(Hdu(int(number), header, data))
        at = end
    return found


def _header(source: Source, at: int) -> Generator[tuple[int, int], None, tuple[fits.Header, int]]:
    """The header that begins at byte ``at``, and where it ends."""
    end = at
    while True:
        if end + BLOCK > source.size:
            raise CorruptFileError(f"it is truncated: it ends in a header, at {source.size} bytes")
        if end - at > _LONGEST_HEADER:
            raise CorruptFileError("it cannot be parsed as FITS (a header without an end)")
        if source.lacks(end, end + BLOCK):
            yield (end, min(end + PREFIX // 4, source.size))
        block = source.get(end, end + BLOCK)
        end += BLOCK
        if any(block[card : card + 8] == b"END     " for card in range(0, BLOCK, 80)):
            break
    try:
        header = fits.Header.fromstring(source.get(at, end))
        _data_size(header)
    except BROKEN as error:
        raise unparsable(error) from error
    return header, end


def _data_size(header: fits.Header) -> int:
    """Bytes of the data of one HDU, without padding (FITS standard 4.0, equations 1 and 2)."""
    axes = [int(header[f"NAXIS{n}"]) for n in range(1, int(header["NAXIS"]) + 1)]
    if not axes:
        return 0
    if min(axes) < 0:
        raise ValueError("an axis of negative length")
    count = int(np.prod(axes, dtype=object))
    more = int(header.get("PCOUNT", 0))
    return abs(int(header["BITPIX"])) // 8 * int(header.get("GCOUNT", 1)) * (count + more)


def unparsable(error: BaseException) -> CorruptFileError:
    """What astropy or a card said, as our one sentence."""
    text = " ".join(str(error).split()).split(". ")[0].rstrip(".")
    return CorruptFileError(f"it cannot be parsed as FITS ({text or type(error).__name__})")
