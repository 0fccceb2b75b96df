"""Objects appear whole, are created once, and troubles are one sentence; on disk and on S3."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from darkhaloscope import storage
from darkhaloscope.errors import UserError


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "run")
    request.getfixturevalue("s3_server")
    return f"s3://dhs-test/{tmp_path.name}"


def test_what_is_written_is_read_back(folder: str) -> None:
    storage.write_all(folder, {"a/b/0": b"one", "c": b"two"})
    assert storage.read(storage.join(folder, "a/b/0")) == b"one"
    assert storage.exists(storage.join(folder, "c"))
    assert storage.names(folder) == ["a", "c"]
    storage.write(storage.join(folder, "c"), b"three")
    assert storage.read(storage.join(folder, "c")) == b"three"


def test_create_keeps_the_first_and_accepts_the_same(folder: str) -> None:
    url = storage.join(folder, "blocks/000000.json")
    storage.create(url, b"first")
    storage.create(url, b"first")
    with pytest.raises(FileExistsError):
        storage.create(url, b"second")
    assert storage.read(url) == b"first"
    assert storage.names(storage.join(folder, "blocks")) == ["000000.json"]


def test_a_missing_object_is_a_file_not_found(folder: str) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read(storage.join(folder, "nothing"))
    assert storage.names(storage.join(folder, "nothing")) == []
    assert not storage.exists(storage.join(folder, "nothing"))


def test_files_are_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    storage.write(str(tmp_path / "x"), b"1")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~mask


def test_no_bucket_is_one_sentence(s3_server: str) -> None:
    with pytest.raises(UserError, match=r"cannot write to s3://dhs-no-such-bucket"):
        storage.write("s3://dhs-no-such-bucket/x/y", b"1")


def test_a_file_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write to"):
        storage.write(str(tmp_path / "file" / "x"), b"1")
