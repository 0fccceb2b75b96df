"""A copy of the files of some bricks, in the release's layout or flat, that is read like a release.

The list of checksums of a brick, ``brick-*.sha256sum``, is copied last: a brick that has one, and whose
files have the release's sizes, is whole and is left alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from darkhaloscope import storage
from darkhaloscope.survey.files import check_sum, keys_of, parse_sums
from darkhaloscope.survey.layout import Survey


@dataclass(frozen=True)
class CachedBrick:
    """What became of one brick.

    Attributes
    ----------
    brick : str
    images : int
        Bands of which the release has an image, or does not let itself be asked.
    copied, kept, absent : int
        Files that were copied, that were there before, and that the release does not have.
    bytes : int
        Of the files that were copied.
    verified : bool
        Whether the release has checksums of it; else a list was made of what was read.
    failed : tuple of str
        A sentence for each file that could not be copied; the brick is then not whole.
    """

    brick: str
    images: int = 0
    copied: int = 0
    kept: int = 0
    absent: int = 0
    bytes: int = 0
    verified: bool = False
    failed: tuple[str, ...] = ()


def cache_brick(release: Survey, copy: Survey, brick: str) -> CachedBrick:
    """Copy the files that are read of one brick, those that are not there yet.

    Raises
    ------
    StorageError
        The copy's place cannot be read or written, or a list of checksums cannot be read.
    """
    keys = keys_of(release)
    urls = [release.url(kind, brick, band) for kind, band in keys]
    targets = [copy.url(kind, brick, band) for kind, band in keys]
    listed, before = _read(release.checksums_url(brick)), _read(copy.checksums_url(brick))
    known = {} if before is None or listed not in (None, before) else parse_sums(before)
    kept: dict[str, str] = {}
    wanted: dict[str, str] = {}
    failed: list[str] = []
    in_release = storage.stat_all(urls)
    images = sum(
        kind == "image" and not isinstance(there, FileNotFoundError)
        for (kind, _), there in zip(keys, in_release, strict=True)
    )
    sizes = zip(in_release, storage.stat_all(targets), strict=True)
    for url, target, (there, here) in zip(urls, targets, sizes, strict=True):
        name = _name(url)
        if isinstance(there, storage.StorageError):
            failed.append(str(there))
        elif isinstance(there, storage.Stat):
            if name in known and isinstance(here, storage.Stat) and here.size == there.size:
                kept[name] = known[name]
            else:
                wanted[url] = target
    absent = len(urls) - len(kept) - len(wanted) - len(failed)
    made: dict[str, str] = {}
    size = 0
    for url, raw in zip(wanted, storage.read_all(list(wanted)), strict=True):
        if not isinstance(raw, bytes):
            failed.append(str(raw))
        elif listed is not None and (wrong := check_sum(url, raw, parse_sums(listed))):
            failed.append(f"{url} was not copied: {wrong}")
        else:
            storage.write(wanted[url], raw)
            made[_name(url)] = hashlib.sha256(raw).hexdigest()
            size += len(raw)
    if made and not failed:
        # Of the other bands of an earlier copy too.
        older = parse_sums(before or b"")
        lines = [f"{digest}  {name}\n" for name, digest in sorted((older | kept | made).items())]
        storage.write(copy.checksums_url(brick), listed or "".join(lines).encode())
    counts = (images, len(made), len(kept), absent, size)
    return CachedBrick(brick, *counts, listed is not None, tuple(failed))


def _name(url: str) -> str:
    return url.rsplit("/", 1)[-1]


def _read(url: str) -> bytes | None:
    try:
        return storage.read(url)
    except FileNotFoundError:
        return None
