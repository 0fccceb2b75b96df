"""Byte ranges of S3 objects by plain requests: the object's own bytes, and s3fs for all that goes wrong."""

from __future__ import annotations

import os
from typing import Any

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
