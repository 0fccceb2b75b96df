"""What helm makes of the chart, for tests that look at its documents."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "helm" / "darkhaloscope"
HELM = shutil.which("helm", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "helm"

Json = dict[str, Any]


def helm(*command: str, given: str = "") -> str:
    """What helm prints, given a file of values; a ValueError with its words where it refuses."""
    done = subprocess.run(
        [HELM, *command], input=given, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ValueError(done.stderr)
    return done.stdout


def render(*args: str, out: str = "s3://bucket/run") -> list[Json]:
    """The documents of the release ``small``."""
    given = ["--set", f"run.out={out}", "--set", "experiment.inline.name=x", *args]
    made = helm("template", "small", str(CHART), *given)
    return [document for document in yaml.safe_load_all(made) if document]


def render_values(values: Json, *args: str, release: str = "small") -> list[Json]:
    """The documents of a release with a file of values."""
    made = helm("template", release, str(CHART), "-f", "-", *args, given=yaml.safe_dump(values))
    return [document for document in yaml.safe_load_all(made) if document]


def refused(values: Json) -> str:
    """What helm says of values that it refuses."""
    try:
        render_values(values)
    except ValueError as error:
        return str(error)
    raise AssertionError("helm takes these values")


@contextlib.contextmanager
def api_of(objects: Json) -> Iterator[str]:
    """An API server that has these objects by their path and no others; gives helm's flag for it."""
    kinds = {"/api/v1": "ConfigMap", "/apis/batch/v1": "Job"}
    lists = {
        path: {"kind": "APIResourceList", "groupVersion": path.split("/", 2)[2], "resources": [
            {"name": f"{kind.lower()}s", "kind": kind, "namespaced": True, "verbs": ["get"]}
        ]} for path, kind in kinds.items()
    }  # fmt: skip
    none = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": "NotFound",
        "code": 404,
    }

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = (lists | objects).get(self.path.partition("?")[0])
            body = json.dumps(found or none).encode()
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing: what a test prints is of its own."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            yield f"--kube-apiserver=http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def of_kind(documents: list[Json], kind: str) -> dict[str, Json]:
    """Documents of a kind by their name, without the release's."""
    return {
        d["metadata"]["name"].removeprefix("small-darkhaloscope-"): d
        for d in documents
        if d["kind"] == kind
    }


def cluster_of(documents: list[Json]) -> Json:
    """The DaskCluster that the driver makes."""
    text = of_kind(documents, "ConfigMap")["cluster"]["data"]["cluster.yaml"]
    first: Json = next(yaml.safe_load_all(text))
    return first


def pods_of(documents: list[Json]) -> dict[str, Json]:
    """The specifications of driver, scheduler and worker pods."""
    (job,) = of_kind(documents, "Job").values()
    spec = cluster_of(documents)["spec"]
    return {
        "driver": job["spec"]["template"]["spec"],
        "scheduler": spec["scheduler"]["spec"],
        "worker": spec["worker"]["spec"],
    }


def container_of(pod: Json) -> Json:
    """The only container of a pod."""
    (container,) = pod["containers"]
    return dict(container)
