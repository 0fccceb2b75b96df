"""The files of one brick, opened together, and the bytes that some windows of them need.

All files are looked at in the same rounds (sizes, headers, tiles), so that a brick waits for its
store a few times and not once a file; then nothing more is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkhaloscope import storage
from darkhaloscope.storage import StorageError
from darkhaloscope.survey.reading import MAX_REQUESTS, Ranges, Reading, costs_of, join
from darkhaloscope.survey.source import CorruptFileError, Source
from darkhaloscope.survey.tiles import TiledImage, images_of


@dataclass
class CoaddFile:
    """One file that could be opened: its images, and the bytes that were fetched of it."""

    url: str
    source: Source
    stat: storage.Stat | None
    images: list[TiledImage] = field(default_factory=list)
    requests: int = 0
    bytes: int = 0

    def fetched(self, answers: Iterable[tuple[int, Any]]) -> StorageError | None:
        """Take the answers (first byte, bytes or error) of range requests; gives the first error."""
        for first, answer in answers:
            self.requests += 1
            if isinstance(answer, FileNotFoundError):  # it was there a moment ago
                return StorageError(f"cannot read {self.url}: it went away while it was read")
            if isinstance(answer, StorageError):
                return answer
            self.source.put(first, answer)
            self.bytes += len(answer)
        return None


Opened = CoaddFile | FileNotFoundError | StorageError | CorruptFileError


def open_files(
    urls: Sequence[str], reading: Reading, windows: int, sides: Sequence[int]
) -> list[Opened]:
    """Open some files of one store: sizes, headers and tables of tiles; whole where that is cheaper.

    Parameters
    ----------
    urls : sequence of str
    reading : Reading
    windows : int
        How many windows will be asked for.
    sides : sequence of int
        Their width in pixels, one an address.
    """
    found: dict[str, Opened] = {}
    whole: dict[str, int] = {}  # requests that were made of each
    if reading.mode == "whole":
        whole = dict.fromkeys(urls, 0)
    else:
        for url, side, stat in zip(urls, sides, storage.stat_all(urls), strict=True):
            if not isinstance(stat, storage.Stat):
                found[url] = stat
            elif reading.takes_whole(stat.size, windows, side, len(urls), costs_of(url)):
                whole[url] = 1
            else:
                found[url] = CoaddFile(url, Source(stat.size), stat, requests=1)
    for url, raw in zip(whole, storage.read_all(list(whole)), strict=True):
        if isinstance(raw, bytes):
            source, requests = Source.whole(raw), whole[url] + 1
            found[url] = CoaddFile(url, source, None, requests=requests, bytes=len(raw))
        else:
            found[url] = raw
    found |= _with_images([file for file in found.values() if isinstance(file, CoaddFile)])
    return [found[url] for url in urls]


def _with_images(files: Sequence[CoaddFile]) -> dict[str, Opened]:
    """Files by address with their images, or what is wrong with them."""
    done: dict[str, Opened] = {}
    steps = {file.url: images_of(file.source) for file in files}
    pending = list(files)
    while pending:
        needs: list[tuple[CoaddFile, Ranges]] = []
        for file in pending:
            try:
                lacking: Ranges = []
                while not lacking:
                    lacking = file.source.lacks(*next(steps[file.url]))
                needs.append((file, lacking))
            except StopIteration as end:
                file.images = end.value
                done[file.url] = file
            except CorruptFileError as error:
                done[file.url] = error
        done |= _fetch(needs)
        pending = [file for file, _ in needs if file.url not in done]
    return done


def _fetch(wanted: Sequence[tuple[CoaddFile, Ranges]]) -> dict[str, StorageError]:
    """Read byte ranges of files, all together; gives the errors by address."""
    flat = [(file.url, first, end) for file, ranges in wanted for first, end in ranges]
    answers = iter(storage.read_ranges(flat))
    failed = {}
    for file, ranges in wanted:
        error = file.fetched([(first, next(answers)) for first, _ in ranges])
        if error is not None:
            failed[file.url] = error
    return failed


Needed = Mapping[int, NDArray[np.bool_]]
"""Tiles that are needed of an image, by the image's number in its file."""


def fetch_tiles(wanted: Sequence[tuple[CoaddFile, Needed]]) -> dict[str, StorageError]:
    """Fetch the bytes of some tiles of files; gives what failed, by address.

    A file that was replaced between two requests is a failure as well: its bytes are of two files.
    """
    asked: list[tuple[CoaddFile, Ranges]] = []
    for file, needed in wanted:
        ranges = [
            part
            for number, tiles in needed.items()
            for first, end in file.images[number].byte_ranges(tiles)
            for part in file.source.lacks(first, end)
        ]
        left = MAX_REQUESTS - file.requests - 1  # the last one looks whether it is the same file
        asked.append((file, join(ranges, costs_of(file.url).gap, left)))
    failed = _fetch(asked)
    several = [file for file, _ in asked if file.stat is not None and file.requests > 2]
    again = storage.stat_all([file.url for file in several])
    for file, stat in zip(several, again, strict=True):
        file.requests += 1
        if stat != file.stat and file.url not in failed:
            text = f"cannot read {file.url}: it was replaced while it was read; run it again"
            failed[file.url] = StorageError(text)
    return failed
