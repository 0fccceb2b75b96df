"""A SeaweedFS S3 server on loopback, for tests and benchmarks."""

from __future__ import annotations

import contextlib
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

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "any",
    "AWS_SECRET_ACCESS_KEY": "any",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """A server whose files lie in ``folder``; gives its endpoint.

    Raises
    ------
    RuntimeError
        It does not start.
    """
    weed = shutil.which("weed") or str(Path(sys.executable).with_name("weed"))
    names = (
        "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
        "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc", "s3.port.iceberg",
        "s3.port.lance", "iam.port", "metricsPort",
    )  # fmt: skip
    help_text = subprocess.run([weed, "server", "-h"], capture_output=True, text=True, check=False)
    known = help_text.stdout + help_text.stderr
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
    command += ["-master.volumeSizeLimitMB=512", "-volume.max=50", "-master.telemetry=false"]
    command += [f"-{name}={port}" for name, port in ports.items() if f"-{name} " in known]
    # Keys in its environment would be those that it asks of everybody.
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with (folder / "weed.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
        try:
            endpoint = f"http://127.0.0.1:{ports['s3.port']}"
            _wait_for(endpoint, server, folder / "weed.log")
            yield endpoint
        finally:
            server.kill()
            server.wait(30)


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
    raise RuntimeError(f"the S3 server did not start:\n{log.read_text(errors='replace')[-2000:]}")
