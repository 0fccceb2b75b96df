"""Objects appear whole, are created once, and troubles are one sentence; on disk and on S3."""

from __future__ import annotations

import asyncio
import errno
import http.server
import os
import pickle
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import MagicMock

import aiohttp
import botocore.exceptions
import fsspec
import pytest
from botocore.exceptions import ClientError
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem
from s3fs.errors import translate_boto_error

from darkhaloscope import partial, storage
from darkhaloscope.errors import UserError
from darkhaloscope.storage import StorageError


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


def test_a_bare_name_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage.write("targets.parquet", b"x")
    assert (tmp_path / "targets.parquet").read_bytes() == b"x"


def test_files_are_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    storage.write(str(tmp_path / "x"), b"1")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~mask


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    storage.write(str(tmp_path / "a" / "whole"), b"1")
    (tmp_path / "a" / "whole.x1y2.partial").write_bytes(b"ha")
    assert storage.sweep(str(tmp_path)) == 1
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["whole"]
    assert storage.sweep("memory://nothing") == 0


def test_what_a_live_writer_holds_is_left_alone(tmp_path: Path) -> None:
    host = socket.gethostname()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {
        "mine": f"x~{host}~{os.getpid()}~ab.partial",
        "dead": f"x~{host}~{ended.pid}~ab.partial",
        "elsewhere": "x~other-host~1~ab.partial",
        "abandoned": "x~third-host~1~ab.partial",
    }
    for name in names.values():
        (tmp_path / name).write_bytes(b"ha")
    os.utime(tmp_path / names["abandoned"], (0, 0))
    assert storage.sweep(str(tmp_path)) == 2
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {names["mine"], names["elsewhere"]}


def test_a_put_that_is_under_way_elsewhere_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 answers 409 while two conditional puts race; neither may have won."""
    answers = [ConnectionError("409"), ConnectionError("409")]
    for answer in answers:
        answer.__cause__ = ClientError(
            {"Error": {"Code": "ConditionalRequestConflict"}}, "PutObject"
        )
    fs = fsspec.filesystem("memory")
    pipe_file = fs.pipe_file

    def conflict(path: str, data: bytes, **options: Any) -> None:
        if answers:
            raise answers.pop()
        pipe_file(path, data, **options)

    monkeypatch.setattr(fs, "pipe_file", conflict)
    monkeypatch.setattr(storage, "_CONFLICT_PAUSES_S", (0.0, 0.0, 0.0))
    storage.create("memory://conflict/x", b"1")
    assert storage.read("memory://conflict/x") == b"1"


def test_bytes_of_what_lies_below_a_folder(tmp_path: Path) -> None:
    """A disk is listed by other means than a store: the answers are the same."""
    for name in ("a", "b/c", "b/d/e", ".hidden"):
        storage.write(str(tmp_path / "run" / name), name.encode())
        storage.write(f"memory://listed/{tmp_path.name}/run/{name}", name.encode())
    (tmp_path / "run" / "empty").mkdir()
    (tmp_path / "run" / "gone").symlink_to(tmp_path / "nothing")
    found = storage.sizes(str(tmp_path / "run"))
    assert found == {"a": 1, "b/c": 3, "b/d/e": 5, ".hidden": 7}
    place = f"memory://listed/{tmp_path.name}/run"
    assert storage.sizes(place) == found
    for root in (str(tmp_path), place.removesuffix("/run")):
        several = list(storage.sizes_of([storage.join(root, "run", n) for n in ("b", "none", "a")]))
        assert several[:2] == [{"c": 3, "d/e": 5}, {}]
    (tmp_path / "shut").mkdir()
    if os.geteuid():
        (tmp_path / "shut").chmod(0)
        with pytest.raises(StorageError, match="cannot list"):
            storage.sizes(str(tmp_path))


def test_no_space_lasts_and_a_busy_server_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lasting = ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENOTDIR")
    says = dict.fromkeys(lasting, "lasting") | dict.fromkeys(("EBUSY", "EIO", "ESTALE"), "passing")
    for name, trouble in says.items():
        number = getattr(errno, name)
        error = OSError(number, os.strerror(number))
        monkeypatch.setattr(partial, "write", lambda *_, e=error: (_ for _ in ()).throw(e))
        with pytest.raises(storage.StorageError, match=os.strerror(number)) as caught:
            storage.write(str(tmp_path / "x"), b"1")
        assert pickle.loads(pickle.dumps(caught.value)).trouble == trouble, name  # noqa: S301


def test_what_a_store_refuses_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the address or the credentials are to blame for is the user's to mend, though a block waits."""
    answers: list[tuple[BaseException, str]] = [
        (translate_boto_error(client_error(code)), trouble)
        for trouble, codes in S3_SAYS.items()
        for code in codes
    ]
    answers += [(web_error(n), trouble) for trouble, codes in WEB_SAYS.items() for n in codes]
    answers += [(aiohttp.ClientConnectionError("refused"), "passing")]
    answers += [(aiohttp.InvalidURL("no port"), "mistaken"), (ValueError("no port"), "mistaken")]
    answers += [(TimeoutError(), "passing"), (ConnectionRefusedError(), "passing")]
    answers += [(botocore.exceptions.EndpointConnectionError(endpoint_url="x"), "passing")]
    answers += [(botocore.exceptions.NoCredentialsError(), "mistaken")]
    # A key from a Secret that ends with the end of a line, as `echo KEY | base64` makes it.
    unsendable = ValueError("Forbidden control character detected in headers.")
    answers += [(botocore.exceptions.HTTPClientError(error=unsendable), "mistaken")]
    answers += [(botocore.exceptions.HTTPClientError(error=OSError("broken pipe")), "passing")]
    # An https:// of a server that speaks http; a certificate of nobody known; a line that breaks.
    ssl_says = {
        "WRONG_VERSION_NUMBER": "mistaken",
        "CERTIFICATE_VERIFY_FAILED": "mistaken",
        "EOF": "passing",
    }
    for said, trouble in ssl_says.items():
        answers += [
            (botocore.exceptions.SSLError(endpoint_url="x", error=f"[SSL: {said}]"), trouble)
        ]
    for error, trouble in answers:
        monkeypatch.setattr(storage, "_open", lambda _, e=error: (_ for _ in ()).throw(e))
        with pytest.raises(storage.StorageError) as caught:
            storage.read("s3://bucket/key")
        assert caught.value.trouble == trouble, error
        assert caught.value.passes == (trouble == "passing")


S3_SAYS = {
    "lasting": ("403", "AccessDenied", "ExpiredToken"),
    "mistaken": ("InvalidToken", "NoSuchBucket", "InvalidBucketName"),
    "passing": ("503", "500", "SlowDown", "RequestTimeout"),
}
WEB_SAYS = {"lasting": (401, 403), "mistaken": (400, 405), "passing": (408, 429, 500, 503)}


def client_error(code: str) -> botocore.exceptions.ClientError:
    return botocore.exceptions.ClientError({"Error": {"Code": code, "Message": code}}, "HeadObject")


def web_error(status: int) -> aiohttp.ClientResponseError:
    return aiohttp.ClientResponseError(MagicMock(), (), status=status)


def test_a_folder_that_a_console_made_is_empty(s3_server: str, tmp_path: Path) -> None:
    """It is an object of the folder's name, of no bytes."""
    place = f"s3://dhs-test/{tmp_path.name}/made"
    key = f"{tmp_path.name}/made/"
    fsspec.filesystem("s3").call_s3("put_object", Bucket="dhs-test", Key=key, Body=b"")
    assert storage.names(place) == []
    assert storage.sizes(place) == {}
    storage.write(storage.join(place, "a"), b"x")
    assert storage.names(place) == ["a"]
    assert storage.sizes(place) == {"a": 1}


def test_no_bucket_is_one_sentence(s3_server: str) -> None:
    with pytest.raises(UserError, match=r"cannot write to s3://dhs-no-such-bucket") as caught:
        storage.write("s3://dhs-no-such-bucket/x/y", b"1")
    assert not caught.value.passes


def test_a_file_in_the_way_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write to"):
        storage.write(str(tmp_path / "file" / "x"), b"1")


def test_absent_and_unreadable(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError):
        storage.read(str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError):
        storage.read("memory://nothing/here")
    with pytest.raises(StorageError, match="folder"):
        storage.read(str(tmp_path / "folder"))
    (found,) = storage.stat_all([str(tmp_path / "folder")])
    assert isinstance(found, StorageError)
    with pytest.raises(StorageError, match="nosuch://"):
        storage.read("nosuch://bucket/key")


@pytest.mark.parametrize("url", ["simplecache::s3://b/x", "zip://a::s3://b/x", "runs/a::b"])
def test_a_chain_of_addresses_is_one_sentence(url: str) -> None:
    for ask in (storage.absolute, storage.read, storage.exists, storage.names, storage.sizes):
        with pytest.raises(StorageError, match=r"'::' in it.* give one path or URL") as caught:
            ask(url)
        assert url in str(caught.value)
        assert not caught.value.passes
    assert isinstance(storage.stat_all([url])[0], StorageError)


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("http://me:hunter2@127.0.0.1:9", "a user or a password"),
        ("https://me:hunter2@127.0.0.1:99999", "no address"),
        ("http://127.0.0.1:hunter2", "no address"),
        ("me:hunter2@127.0.0.1:9", "no address"),
        ("127.0.0.1:9", "no address"),
        ("s3://hunter2", "no address"),
    ],
)
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_that_is_none_is_one_sentence_without_it(
    endpoint: str, says: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, endpoint)
    with pytest.raises(StorageError, match=f"{variable} .*{says}") as caught:
        storage.exists("s3://bucket/key")
    assert "hunter2" not in str(caught.value)
    assert not caught.value.passes


def test_a_cause_holds_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an endpoint that a profile in a file gives, or of a proxy."""
    error = OSError("cannot connect to http://me:hunter2@proxy:3128/x of http://host")
    monkeypatch.setattr(storage, "_open", lambda _: (_ for _ in ()).throw(error))
    with pytest.raises(StorageError, match="to http://proxy:3128/x of http://host; check"):
        storage.read("s3://bucket/key")


@pytest.fixture
def server() -> Iterator[str]:
    """Answers with the status that the path names; /short promises more bytes than it sends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/")
            self.send_response(200 if name == "short" else int(name))
            self.send_header("Content-Length", "100" if name == "short" else "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            """Nothing on the test's output."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def test_http(server: str) -> None:
    assert storage.read(f"{server}/200") == b"ok"
    with pytest.raises(FileNotFoundError):
        storage.read(f"{server}/404")
    for path in ("403", "500", "short"):
        with pytest.raises(StorageError, match=f"{server}/{path}"):
            storage.read(f"{server}/{path}")


def test_refused_and_unknown_host() -> None:
    with pytest.raises(StorageError, match=r"127\.0\.0\.1"):
        storage.read("http://127.0.0.1:9/x")
    with pytest.raises(StorageError, match=r"no-such-host\.invalid"):
        storage.read("http://no-such-host.invalid/x")


@pytest.mark.parametrize(
    "error",
    [
        botocore.exceptions.NoCredentialsError(),
        botocore.exceptions.EndpointConnectionError(endpoint_url="http://x"),
        botocore.exceptions.ClientError({"Error": {"Code": "SlowDown"}}, "GetObject"),
        aiohttp.ClientPayloadError("cut"),
        PermissionError("Access Denied"),
        TimeoutError(),
    ],
)
def test_errors_of_the_libraries(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    class Filesystem:
        def cat_file(self, path: str) -> bytes:
            raise error

    monkeypatch.setattr(fsspec.core, "url_to_fs", lambda url, **_: (Filesystem(), url))
    with pytest.raises(StorageError, match="s3://bucket/key") as caught:
        storage.read("s3://bucket/key")
    assert "\n" not in str(caught.value)


class FarAway(AsyncFileSystem):
    """A store whose every answer takes a while; counts what is under way at once."""

    protocol = "faraway"
    under_way = most = 0
    kept: ClassVar[dict[str, bytes]] = {}

    async def _wait(self) -> None:
        FarAway.under_way += 1
        FarAway.most = max(FarAway.most, FarAway.under_way)
        await asyncio.sleep(0.03)
        FarAway.under_way -= 1

    async def _pipe_file(self, path: str, value: bytes, **_: object) -> None:
        await self._wait()
        self.kept[path] = value

    async def _cat_file(self, path: str, **_: object) -> bytes:
        await self._wait()
        if path not in self.kept:
            raise FileNotFoundError(path)
        return self.kept[path]


def test_the_objects_of_a_block_are_put_and_read_at_once() -> None:
    """Some 45 objects one after the other would be 45 latencies a block."""
    fsspec.register_implementation("faraway", FarAway, clobber=True)
    objects = {f"a{i}/c/0": bytes([i]) for i in range(45)}
    for act in (
        lambda: storage.write_all("faraway://run", objects),
        lambda: storage.read_objects("faraway://run", [*objects, "none"]),
    ):
        FarAway.most = 0
        found = act()
        assert FarAway.most >= 45
    assert found == {**objects, "none": None}


def test_what_is_taken_away_meanwhile_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "claim"
    path.write_bytes(b"of another writer")
    read = LocalFileSystem.cat_file

    def just_gone(self: LocalFileSystem, name: str, **options: object) -> bytes:
        path.unlink(missing_ok=True)
        return bytes(read(self, name, **options))

    monkeypatch.setattr(LocalFileSystem, "cat_file", just_gone)
    storage.create(str(path), b"mine")
    assert path.read_bytes() == b"mine"
