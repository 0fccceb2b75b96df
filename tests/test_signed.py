"""Byte ranges of S3 objects by plain requests: the object's own bytes, and s3fs for all that goes wrong."""

from __future__ import annotations

import os
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
    monkeypatch.setattr(signed, "_trusted", {})
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
