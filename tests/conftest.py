"""Fixtures that several tests share: the real brick, a real S3 server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def real_root() -> str:
    """The release folder of the real brick 0591m305."""
    return str(DATA / "dr9")


def _free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A SeaweedFS S3 server on loopback; gives its endpoint and sets the AWS_* variables."""
    weed = shutil.which("weed") or str(Path(sys.executable).with_name("weed"))
    folder = tmp_path_factory.mktemp("weed")
    names = (
        "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
        "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc", "s3.port.iceberg",
        "s3.port.lance", "iam.port", "metricsPort",
    )  # fmt: skip
    help_text = subprocess.run([weed, "server", "-h"], capture_output=True, text=True, check=False)
    known = help_text.stdout + help_text.stderr
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
    command += ["-master.volumeSizeLimitMB=512", "-volume.max=50", "-master.telemetry=false"]
    command += [f"-{name}={port}" for name, port in ports.items() if f"-{name} " in known]
    log = (folder / "weed.log").open("wb")
    server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    settings = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        _wait_for(endpoint, server, folder / "weed.log")
        fsspec.filesystem("s3").mkdir("dhs-test")
        yield endpoint
    finally:
        server.kill()
        server.wait(30)
        log.close()
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.update({key: value})


def _wait_for(endpoint: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(endpoint, timeout=2)
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.25)
        else:
            return
    pytest.fail(f"the S3 server did not start:\n{log.read_text(errors='replace')[-2000:]}")
