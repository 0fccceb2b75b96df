"""Objects of a run's folder, on a local disk or behind any fsspec URL.

Three promises that both kinds keep: an object appears whole or not at all; :func:`create` never
replaces what is there; every trouble of the user's making (no permission, no space, no such bucket) is
one sentence.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import itertools
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.implementations.local import LocalFileSystem
from s3fs import S3FileSystem

from darkhaloscope import partial, signed
from darkhaloscope.trouble import StorageError, cause_of, code_of, said_plainly


def join(url: str, *parts: str) -> str:
    """A URL below another one."""
    return "/".join([url.rstrip("/"), *parts])


def absolute(url: str) -> str:
    """The same place whatever a process's working directory: a local path made absolute.

    Raises
    ------
    StorageError
        As :func:`check_address`.
    """
    check_address(url)
    return url if "://" in url else os.path.abspath(url)


def without_secrets(url: str) -> str:
    """An address that can be shown: without user, password and query, which may sign it."""
    scheme, found, rest = url.partition("://")
    if not found:
        return url
    rest = _USER.sub("", rest, count=1).partition("?")[0].partition("#")[0]
    return f"{scheme}://{rest}"


_USER = re.compile(r"^(?:[^/@]*@|[^/@:]*:(?!\d+/)[^@]*@)")
"""User and password before a host; a password of S3 may have a slash in it, what has a port may not."""


def holds_password(url: str) -> bool:
    """Whether an address tells a password before its host: it is not to be kept or shown."""
    user = _USER.match(url.partition("://")[2])
    return user is not None and ":" in user[0]


def check_address(url: str) -> None:
    """See that an address is one, and not a chain of them, as ``simplecache::s3://bucket/run``.

    Nothing is below a folder that is inside a file, and fsspec would take ``runs/a::b`` for ``runs/a``.

    Raises
    ------
    StorageError
        It has ``::`` in it.
    """
    if "::" in url:
        raise StorageError(
            f"{url} has '::' in it, which makes a chain of addresses, and chains are not opened here; give "
            "one path or URL without it, as s3://bucket/folder",
            "mistaken",
        )


_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "FSSPEC_S3_ENDPOINT_URL")
"""Variables of the environment that say where the S3 server is."""


def _check_endpoints() -> None:
    """See that they are addresses. What they say is not repeated: it may hold a password."""
    for name in _ENDPOINTS:
        if (said := os.environ.get(name)) and (wrong := _wrong_with(said)):
            raise StorageError(f"{name} {wrong}", "mistaken")


def _wrong_with(endpoint: str) -> str:
    """What is wrong with the address of a server, and what to do; nothing is an empty text."""
    no_address = "is no address of a server; write it as https://host or http://host:9000"
    try:
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            return no_address
    except ValueError:  # the port is no number, or too large
        return no_address
    if parts.username is None:
        return ""
    return (
        "holds a user or a password, which no signed request takes; take them out, and give keys as "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )


def _open(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    check_address(url)
    if url.startswith(("s3://", "s3a://")):
        _check_endpoints()
    try:
        fs, path = fsspec.core.url_to_fs(url, **({} if "://" in url else {"auto_mkdir": True}))
    except (ValueError, ImportError) as error:  # a protocol that nobody knows, or not installed
        text = f"{url} is no address that can be opened: {cause_of(error)}"
        raise StorageError(text, "mistaken") from None
    return fs, path


def read(url: str) -> bytes:
    """All bytes of an object.

    Raises
    ------
    FileNotFoundError
        There is none.
    StorageError
        It cannot be read: permission, credentials, unknown host, refused connection, or time-outs
        that outlast the library's own retries.
    """
    with said_plainly(url, "read"):
        fs, path = _open(url)
        return bytes(fs.cat_file(path))


def read_objects(folder: str, objects: Sequence[str]) -> dict[str, bytes | None]:
    """All bytes of objects below a folder, asked for at once; None for one that is not there.

    Raises
    ------
    StorageError
        One is, or may be, there, and cannot be read.
    """
    with said_plainly(folder, "read from"):
        fs, path = _open(folder)
        paths = [f"{path}/{name}" for name in objects]
        # By ranges, whole as they are: ``cat`` would take a bracket in a path for a pattern.
        answers = fs.cat_ranges(paths, [None] * len(paths), [None] * len(paths), on_error="return")
        found: dict[str, bytes | None] = {}
        for name, answer in zip(objects, answers, strict=True):
            if isinstance(answer, BaseException) and not isinstance(answer, FileNotFoundError):
                raise answer
            found[name] = None if isinstance(answer, BaseException) else bytes(answer)
        return found


@dataclass(frozen=True)
class Stat:
    """An object's size in bytes (None where a web server does not say), and what changes when it is
    replaced (ETag, time, inode)."""

    size: int | None
    version: tuple[str, ...]


T = TypeVar("T")
Missing = FileNotFoundError | StorageError
"""What stands in a list of answers in the place of an object that is not there, or out of reach."""


def stat_all(urls: Sequence[str]) -> list[Stat | Missing]:
    """Size and version of some objects of one store, asked for together."""
    if not urls:
        return []
    answered = _answer(urls[0], lambda: _plain_infos(urls))
    plain = answered if isinstance(answered, list) else [None] * len(urls)
    left = [url for url, stat in zip(urls, plain, strict=True) if stat is None]
    others = iter(_together(left, _stat))
    return [next(others) if stat is None else stat for stat in plain]


def _plain_infos(urls: Sequence[str]) -> list[Stat | None]:
    """What plain requests say, where there are such; nothing that was listed before is believed."""
    fs, _ = _open(urls[0])
    fs.invalidate_cache()
    if not isinstance(fs, S3FileSystem):
        return [None] * len(urls)
    infos = signed.infos(fs, [_open(url)[1] for url in urls])
    return [None if info is None else _stat_of(info) for info in infos]


def _stat(url: str) -> Stat:
    fs, path = _open(url)
    info = fs.info(path)
    if info.get("type") == "directory":
        raise IsADirectoryError(f"{path} is a folder")
    return _stat_of(info)


def _stat_of(info: Mapping[str, Any]) -> Stat:
    # An ETag alone says it, and whoever asked: plain requests and s3fs write the time in two ways.
    marks = ("ETag",) if info.get("ETag") else ("etag", "LastModified", "mtime", "ino", "created")
    size = info.get("size")
    version = tuple(str(info[mark]) for mark in marks if mark in info)
    return Stat(None if size is None else int(size), version)


def read_all(urls: Sequence[str]) -> list[bytes | Missing]:
    """All bytes of some objects of one store, read together; errors as in :func:`read`."""
    return _together(urls, read)


def digests(urls: Sequence[str]) -> list[str | Missing]:
    """sha256 (hex) of some objects of one store; errors as in :func:`read`.

    Nothing of an object is kept: memory is that of one, or on a network of the few that are read at once.
    """
    return _together(urls, lambda url: hashlib.sha256(read(url)).hexdigest())


_TOGETHER = 16  # requests of one kind at a time where fsspec has no call for many


def _together(urls: Sequence[str], ask: Callable[[str], T]) -> list[T | Missing]:
    """``ask`` of every address, at once where it waits for a network; errors as values."""

    def one(url: str) -> T | Missing:
        return _answer(url, lambda: ask(url))

    if not urls or "://" not in urls[0]:
        return [one(url) for url in urls]
    with ThreadPoolExecutor(_TOGETHER) as pool:
        return list(pool.map(one, urls))


def read_ranges(ranges: Sequence[tuple[str, int, int]]) -> list[bytes | Missing]:
    """Byte ranges (url, first, end) of objects of one store, read together.

    A shorter answer than was asked for (an object that was cut meanwhile) is a StorageError as well. A
    longer one is the whole object: a web server that knows no ranges sends it.
    """
    if not ranges:
        return []
    urls, firsts, ends = zip(*ranges, strict=True)

    def ask() -> list[Any]:
        fs, _ = _open(urls[0])
        place = {url: _open(url)[1] for url in dict.fromkeys(urls)}
        paths = [place[url] for url in urls]
        if isinstance(fs, LocalFileSystem):
            return _local_ranges(paths, firsts, ends)
        found: list[Any] = [None] * len(paths)
        if isinstance(fs, S3FileSystem):
            found = list(signed.read_ranges(fs, list(zip(paths, firsts, ends, strict=True))))
        left = [i for i, answer in enumerate(found) if answer is None]
        if left:
            parts = ([column[i] for i in left] for column in (paths, firsts, ends))
            for i, answer in zip(left, fs.cat_ranges(*parts, on_error="return"), strict=True):
                found[i] = answer
        return found

    def checked(item: tuple[Any, tuple[str, int, int]]) -> bytes:
        answer, (_, first, end) = item
        if isinstance(answer, BaseException):
            raise answer
        if len(answer) < end - first:
            raise OSError(f"a range of {end - first} bytes came back as {len(answer)} bytes")
        return bytes(answer)

    answers = _answer(urls[0], ask)
    if not isinstance(answers, list):
        return [answers] * len(urls)
    return [
        _answer(item[1][0], functools.partial(checked, item))
        for item in zip(answers, ranges, strict=True)
    ]


def _local_ranges(
    paths: Sequence[str], firsts: Sequence[int], ends: Sequence[int]
) -> list[bytes | OSError]:
    """Byte ranges of local files, each opened once for all of its ranges that follow each other."""
    found: list[bytes | OSError] = []
    for path, parts in itertools.groupby(
        zip(paths, firsts, ends, strict=True), lambda part: part[0]
    ):
        spans = [(first, end - first) for _, first, end in parts]
        try:
            with open(path, "rb", buffering=0) as file:
                found += [os.pread(file.fileno(), count, first) for first, count in spans]
        except OSError as error:
            found += [error] * len(spans)
    return found


def _answer(url: str, ask: Callable[[], T]) -> T | Missing:
    """What ``ask`` gives, or the error as a value."""
    try:
        with said_plainly(url, "read"):
            return ask()
    except (FileNotFoundError, StorageError) as error:
        return error


def exists(url: str) -> bool:
    """Whether an object or a folder is there."""
    with said_plainly(url, "look at"):
        fs, path = _open(url)
        fs.invalidate_cache()
        return bool(fs.exists(path))


def names(url: str) -> list[str]:
    """The names of the objects in a folder, sorted; none where there is no folder."""
    with said_plainly(url, "list"):
        fs, path = _open(url)
        fs.invalidate_cache()
        try:
            found = fs.ls(path, detail=False)
        except FileNotFoundError:
            return []
    # Consoles of S3 make a folder as an object of that name, which is no object in the folder.
    inside = (str(name).rstrip("/") for name in found)
    return sorted(name.rsplit("/", 1)[-1] for name in inside if name != path.rstrip("/"))


def write(url: str, data: bytes) -> None:
    """Write one object whole, replacing what was there."""
    folder, _, name = absolute(url).rpartition("/")
    write_all(folder, {name: data})


def write_all(folder: str, objects: Mapping[str, bytes]) -> None:
    """Write objects below a folder, all at once where the store can; each appears whole."""
    with said_plainly(folder, "write to"):
        fs, path = _open(folder)
        if not isinstance(fs, LocalFileSystem):
            fs.pipe({f"{path}/{name}": data for name, data in objects.items()})
            return
        for name, data in objects.items():
            target = os.path.join(path, name)
            os.replace(partial.write(target, data), target)


def create(url: str, data: bytes) -> None:
    """Write one object that must not be there yet; the same bytes already there are success.

    On S3 a conditional put, locally a temporary file and ``link``: of two writers one wins. Where S3
    answers that another put is under way, nobody knows yet who wins: it is asked again.

    Raises
    ------
    FileExistsError
        Other bytes are there.
    """
    with said_plainly(url, "write"):
        fs, path = _open(url)
        for pause in (*_CONFLICT_PAUSES_S, None):
            try:
                _put_new(fs, path, data)
                return
            except OSError as error:
                if code_of(error) == "ConditionalRequestConflict" and pause is not None:
                    time.sleep(pause)
                    continue
                if not (
                    isinstance(error, FileExistsError) or code_of(error) == "PreconditionFailed"
                ):
                    raise
                fs.invalidate_cache()
                try:
                    there = bytes(fs.cat_file(path))
                except FileNotFoundError:
                    if pause is None:
                        raise
                    continue  # taken away since it was in the way, as the claim of a block is
                if there != data:
                    raise FileExistsError(f"{url} is there with other contents") from None
                return


_CONFLICT_PAUSES_S = (0.1, 0.4, 1.6, 6.4)


@contextlib.contextmanager
def alone(folder: str) -> Iterator[None]:
    """Of those who ask for this local folder, one at a time; for as long as it lives.

    Not behind a network, nor on a disk that knows no locks: there two may be in at once, and of two who
    rewrite an object the later one wins.
    """
    fs, path = _open(folder)
    with contextlib.ExitStack() as held:
        if isinstance(fs, LocalFileSystem) and os.path.isdir(path):
            held.callback(os.close, handle := os.open(path, os.O_RDONLY))
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _put_new(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data, mode="create")
        return
    finished = partial.write(path, data)
    try:
        os.link(finished, path)
    finally:
        os.unlink(finished)


def sizes(url: str) -> dict[str, int]:
    """Bytes of every object below a folder, by path relative to it, from one listing."""
    with said_plainly(url, "list"):
        fs, path = _open(url)
        if isinstance(fs, LocalFileSystem):
            return _local_sizes(path)
        fs.invalidate_cache()
        found = fs.find(path, detail=True)
    root = path.rstrip("/") + "/"
    objects = {name: info for name, info in found.items() if name.rstrip("/") != root.rstrip("/")}
    return {name.removeprefix(root): int(info["size"] or 0) for name, info in objects.items()}


def _local_sizes(root: str) -> dict[str, int]:
    """As :func:`sizes`, in a fifth of the time that ``find`` takes: a survey's run has 275,000 files."""
    found = {}
    folders = [(root, "")]
    while folders:
        folder, below = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            if entry.is_dir():
                folders.append((entry.path, f"{below}{entry.name}/"))
                continue
            with contextlib.suppress(FileNotFoundError):  # taken away meanwhile
                found[below + entry.name] = entry.stat().st_size
    return found


def sizes_of(urls: Sequence[str]) -> Iterator[dict[str, int]]:
    """:func:`sizes` of several folders, in their order; on a network some are listed at once."""
    if not urls or "://" not in urls[0]:
        yield from map(sizes, urls)
        return
    with ThreadPoolExecutor(_TOGETHER) as pool:
        yield from pool.map(sizes, urls)


def remove(url: str) -> None:
    """Take one object away; none there is fine."""
    with said_plainly(url, "remove"), contextlib.suppress(FileNotFoundError):
        fs, path = _open(url)
        fs.rm_file(path)


def sweep(url: str) -> int:
    """Remove the temporary files that killed writers left below a local folder; gives their number.

    A file whose writer may live (a process of this machine that runs, or of another machine, within
    the hour) is left alone. An object store has none: an object that was not put whole is not there.
    """
    with said_plainly(url, "tidy"):
        fs, path = _open(url)
        if not isinstance(fs, LocalFileSystem):
            return 0
        left = partial.left_behind(path)
        for name in left:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        return len(left)
