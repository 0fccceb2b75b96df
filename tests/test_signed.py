"""Byte ranges of S3 objects by plain requests: the object's own bytes, and s3fs for all that goes wrong."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import fsspec
import pytest
from s3fs import S3FileSystem

from darkhaloscope import signed, storage

DATA = os.urandom(50_000)
PARTS = [(0, 10), (100, 40_000), (49_990, 50_000)]


@pytest.fixture
def fs(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> S3FileSystem:
    monkeypatch.setattr(signed, "_worked", set())
    monkeypatch.setattr(signed, "_barred", {})
    fs = fsspec.filesystem("s3")
    fs.pipe_file("dhs-test/signed/a [1]+b.fz", DATA)
    return fs


def asked_of_s3fs(fs: S3FileSystem, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ranges each call of s3fs's own reader is asked for, from now on."""
    asked: list[int] = []
    before = fs.cat_ranges

    def counting(paths: list[str], *args: Any, **options: Any) -> Any:
        asked.append(len(paths))
        return before(paths, *args, **options)

    monkeypatch.setattr(fs, "cat_ranges", counting)
    return asked


def read() -> list[Any]:
    return storage.read_ranges([("s3://dhs-test/signed/a [1]+b.fz", a, b) for a, b in PARTS])


def test_ranges_come_by_plain_requests(fs: S3FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_of_s3fs(fs, monkeypatch)
    assert read() == [DATA[a:b] for a, b in PARTS]
    assert not asked


def test_what_is_not_the_range_is_left_to_s3fs(
    fs: S3FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One address that is refused, one range that comes back short, and one that is right."""
    asked = asked_of_s3fs(fs, monkeypatch)
    plain = signed._plain()
    before = plain.cat_ranges

    def spoilt(*args: Any, **options: Any) -> list[Any]:
        found = before(*args, **options)
        return [PermissionError("403"), found[1][:-1], found[2]]

    monkeypatch.setattr(plain, "cat_ranges", spoilt)
    assert read() == [DATA[a:b] for a, b in PARTS]
    assert asked == [2]


def test_where_no_plain_request_helps_none_is_tried_again(
    fs: S3FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asked_of_s3fs(fs, monkeypatch)
    monkeypatch.setattr(signed, "_signed", lambda *_: "http://127.0.0.1:9/nobody")
    assert read() == [DATA[a:b] for a, b in PARTS]
    monkeypatch.setattr(signed, "_plain", None)
    assert read() == [DATA[a:b] for a, b in PARTS]
    assert asked == [3, 3]


def stat() -> storage.Stat:
    (found,) = storage.stat_all(["s3://dhs-test/signed/a [1]+b.fz"])
    assert isinstance(found, storage.Stat)
    return found


def test_sizes_and_versions_are_the_same_by_plain_requests_and_by_s3fs(
    fs: S3FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    before = fs.info
    monkeypatch.setattr(fs, "info", lambda path: (asked.append(path), before(path))[1])
    by_plain = stat()
    assert not asked
    assert by_plain.size == len(DATA)
    monkeypatch.setattr(signed, "_signed", lambda *_: "http://127.0.0.1:9/nobody")
    assert stat() == by_plain
    assert len(asked) == 1
    monkeypatch.undo()
    fs.pipe_file("dhs-test/signed/a [1]+b.fz", DATA[::-1])
    assert stat().size == by_plain.size
    assert stat().version != by_plain.version


@pytest.mark.parametrize("lacks", ["ETag", "Content-Length"])
def test_an_answer_without_a_version_or_a_size_is_none(
    fs: S3FileSystem, monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    """No version at all is equal to itself, whatever becomes of the object."""
    by_plain = stat()
    headers = {"Content-Length": "7", "ETag": '"a"'}
    del headers[lacks]

    @contextlib.asynccontextmanager
    async def head(url: str, **_: Any) -> AsyncIterator[Any]:
        yield SimpleNamespace(status=200, headers=headers)

    async def session() -> Any:
        return SimpleNamespace(head=head)

    monkeypatch.setattr(signed._plain(), "set_session", session)
    assert stat() == by_plain


def test_of_some_objects_one_is_not_there(fs: S3FileSystem) -> None:
    urls = [f"s3://dhs-test/signed/{name}" for name in ("a [1]+b.fz", "nothing", "a [1]+b.fz")]
    there, missing, again = storage.stat_all(urls)
    assert isinstance(missing, FileNotFoundError)
    assert there == again == stat()


def test_where_all_is_missing_plain_requests_are_still_tried(
    fs: S3FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a brick that the release does not have, which may be a worker's first."""
    missing = [f"s3://dhs-test/signed/no-{i}" for i in range(3)]
    assert all(isinstance(found, FileNotFoundError) for found in storage.stat_all(missing))
    storage.read_ranges([(url, 0, 10) for url in missing])
    asked = asked_of_s3fs(fs, monkeypatch)
    monkeypatch.setattr(fs, "info", None)
    assert stat().size == len(DATA)
    assert read() == [DATA[a:b] for a, b in PARTS]
    assert not asked


def test_a_no_is_believed_for_a_while(fs: S3FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1e9]
    monkeypatch.setattr(signed, "time", SimpleNamespace(time=lambda: clock[0]))
    with monkeypatch.context() as patched:
        patched.setattr(signed, "_signed", lambda *_: "http://127.0.0.1:9/nobody")
        by_s3fs = stat()
        read()
    asked = asked_of_s3fs(fs, monkeypatch)
    assert (stat(), read()) == (by_s3fs, [DATA[a:b] for a, b in PARTS])
    assert asked == [3]
    clock[0] += 601
    assert (stat(), read()) == (by_s3fs, [DATA[a:b] for a, b in PARTS])
    assert asked == [3]


def test_a_missing_object_is_a_file_not_found(fs: S3FileSystem) -> None:
    (found,) = storage.read_ranges([("s3://dhs-test/signed/nothing", 0, 10)])
    assert isinstance(found, FileNotFoundError)


def test_a_signature_outlives_its_hour_and_a_new_hour_has_its_own(
    fs: S3FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for in the last second of an hour, an address must still be good in the next."""
    clock, asked = [0.0], []
    before = signed._plain().cat_ranges
    monkeypatch.setattr(signed, "time", SimpleNamespace(time=lambda: clock[0]))
    signed._signed.cache_clear()

    def watched(urls: list[str], *args: Any, **options: Any) -> Any:
        asked.append(set(urls))
        return before(urls, *args, **options)

    monkeypatch.setattr(signed._plain(), "cat_ranges", watched)
    signatures = []
    make = fs.url
    monkeypatch.setattr(
        fs, "url", lambda *a, **k: (signatures.append(k["expires"]), make(*a, **k))[1]
    )
    for at in (7200.0, 10799.0, 10801.0):
        clock[0] = at
        assert read() == [DATA[a:b] for a, b in PARTS]
    assert asked[0] == asked[1]
    assert signatures == [7200, 7200]  # one in the first hour, one in the second
    assert parse_qs(urlsplit(asked[2].pop()).query).keys() & {"Expires", "X-Amz-Expires"}
    signed._signed.cache_clear()
