"""What helm makes of the chart, for tests that look at its documents."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "helm" / "darkhaloscope"
HELM = shutil.which("helm", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "helm"

Json = dict[str, Any]


def helm(*command: str) -> str:
    """What helm prints; a ValueError with its words where it refuses."""
    done = subprocess.run([HELM, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr)
    return done.stdout


def render(*args: str, out: str = "s3://bucket/run") -> list[Json]:
    """The documents of the release ``small``."""
    given = ["--set", f"run.out={out}", "--set", "experiment.inline.name=x", *args]
    made = helm("template", "small", str(CHART), *given)
    return [document for document in yaml.safe_load_all(made) if document]


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
