"""The files of one brick, opened together, and the bytes that some windows of them need.

All files are looked at in the same rounds (sizes, headers, tiles), so that a brick waits for its
store a few times and not once a file; then nothing more is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from darkhaloscope import storage
from darkhaloscope.storage import StorageError
from darkhaloscope.survey.layout import Survey
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

    @property
    def is_whole(self) -> bool:
        """Whether it was read in one piece, so that it cannot change on the way."""
        return self.stat is None

    def fetched(self, answers: Iterable[tuple[int, int, Any]]) -> StorageError | None:
        """Take the answers (first byte, end, bytes or error) of range requests; gives the first error."""
        for first, end, answer in answers:
            self.requests += 1
            if isinstance(answer, FileNotFoundError):  # it was there a moment ago
                return StorageError(f"cannot read {self.url}: it went away while it was read")
            if isinstance(answer, StorageError):
                return answer
            self.bytes += len(answer)
            if len(answer) == end - first:
                self.source.put(first, answer)
            elif (
                len(answer) == self.source.size
            ):  # a server that knows no ranges: here is all of it
                self.source.put(0, answer)
                self.stat = None
            else:
                text = f"a range of {end - first} bytes came back as {len(answer)} bytes"
                return StorageError(f"cannot read {self.url}: {text}")
        return None


Opened = CoaddFile | FileNotFoundError | StorageError | CorruptFileError


Key = tuple[str, str | None]
"""Kind of a file, and its band (None for maskbits)."""


def keys_of(survey: Survey) -> list[Key]:
    """The files of a brick that an experiment reads."""
    maps = {"psfsize", "maskbits"} - survey.absent
    kinds = ("image", "invvar", "psfsize") if "psfsize" in maps else ("image", "invvar")
    keys: list[Key] = [(kind, band) for kind in kinds for band in survey.bands]
    return [*keys, ("maskbits", None)] if "maskbits" in maps else keys


def open_brick(
    survey: Survey, brick: str, reading: Reading, windows: int, side: int
) -> dict[Key, Opened]:
    """Open the files of one brick for windows of ``side`` pixels (psfsize: of one).

    Raises
    ------
    FileNotFoundError
        Checksums are asked for, and the release has none of this brick.
    """
    keys = keys_of(survey)
    urls = [survey.url(kind, brick, band) for kind, band in keys]
    sums = None
    if reading.checksums:
        place = survey.checksums_url(brick)
        try:
            sums = parse_sums(storage.read(place))
        except FileNotFoundError:
            text = f"there are no checksums {place}; take read.checksums out to do without"
            raise FileNotFoundError(text) from None
        except StorageError as error:
            return dict.fromkeys(keys, error)
    sides = [1 if kind == "psfsize" else side for kind, _ in keys]
    return dict(zip(keys, open_files(urls, reading, windows, sides, sums), strict=True))


def parse_sums(raw: bytes) -> dict[str, str]:
    """sha256 by name of file, out of what the program ``sha256sum`` writes."""
    lines = (line.split(maxsplit=1) for line in raw.decode("ascii", "replace").splitlines())
    return {
        parts[1].lstrip("*").strip().rsplit("/", 1)[-1]: parts[0].lower()
        for parts in lines
        if len(parts) == 2
    }


def check_sum(url: str, raw: bytes, sums: Mapping[str, str]) -> CorruptFileError | None:
    """What is wrong with a file, where its checksum is not the release's."""
    name = url.rsplit("/", 1)[-1]
    digest = hashlib.sha256(raw).hexdigest()
    if sums.get(name) == digest:
        return None
    wanted = f"{sums[name][:12]}… of the release" if name in sums else "listed by the release"
    return CorruptFileError(f"its sha256 {digest[:12]}… is not {wanted}")


def open_files(
    urls: Sequence[str],
    reading: Reading,
    windows: int,
    sides: Sequence[int],
    sums: Mapping[str, str] | None = None,
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
    sums : mapping, optional
        sha256 by name of file, that the files must have.
    """
    found: dict[str, Opened] = {}
    whole: dict[str, int] = {}  # requests that were made of each
    if reading.always_whole:
        whole = dict.fromkeys(urls, 0)
    else:
        for url, side, stat in zip(urls, sides, storage.stat_all(urls), strict=True):
            if not isinstance(stat, storage.Stat):
                found[url] = stat
            elif stat.size is None or reading.takes_whole(
                stat.size, windows, side, len(urls), costs_of(url)
            ):
                whole[url] = 1
            else:
                found[url] = CoaddFile(url, Source(stat.size), stat, requests=1)
    for url, raw in zip(whole, storage.read_all(list(whole)), strict=True):
        if isinstance(raw, bytes) and sums is not None and (wrong := check_sum(url, raw, sums)):
            found[url] = wrong
        elif isinstance(raw, bytes):
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
        error = file.fetched([(first, end, next(answers)) for first, end in ranges])
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
    several = [file for file, _ in asked if not file.is_whole and file.requests > 2]
    again = storage.stat_all([file.url for file in several])
    for file, stat in zip(several, again, strict=True):
        file.requests += 1
        if stat != file.stat and file.url not in failed:
            text = f"cannot read {file.url}: it was replaced while it was read; run it again"
            failed[file.url] = StorageError(text)
    return failed
