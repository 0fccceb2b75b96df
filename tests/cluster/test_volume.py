"""Real pixels, read from and written to a volume, workers that speak TLS: no object store at all."""

from __future__ import annotations

import copy
import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kube
import pytest
import yaml
from setting import IMAGE, pod

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
RELEASE = "real"


def _inputs() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("dr9", "targets-0591m305.csv"):
            tar.add(ROOT / "tests" / "data" / name, name)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def disk(runs: str) -> Iterator[str]:
    """A claim at /data with a real brick on it; gives the pod that holds it as well."""
    meta = {"name": "disk", "namespace": runs}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}
    holder = pod("disk", runs, IMAGE, ["sleep", "infinity"], container={
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"}, {"name": "data", "mountPath": "/data"},
        ],
    })  # fmt: skip
    data = {"name": "data", "persistentVolumeClaim": {"claimName": "disk"}}
    holder["spec"]["volumes"].append(data)
    kube.apply(claim, holder)
    kube.kubectl("wait", "-n", runs, "--for=condition=Ready", "pod/disk", "--timeout=90s")
    unpack = ["kubectl", "exec", "-i", "-n", runs, "disk", "--", "tar", "-xC", "/data"]
    subprocess.run(unpack, input=_inputs(), check=True, capture_output=True)
    yield "disk"
    kube.kubectl("delete", "-n", runs, "pod/disk", "pvc/disk")


def test_a_real_brick_on_a_volume_has_the_bytes_of_a_local_run(
    disk: str, values: dict[str, Any], tls: dict[str, str], runs: str
) -> None:
    experiment = yaml.safe_load((ROOT / "workflows" / "real-brick.yaml").read_text())
    experiment["survey"]["root"] = "/data/dr9"
    experiment["targets"]["path"] = "/data/targets-0591m305.csv"
    experiment["store"] = {"block": 64}
    experiment["audit"] = {"cap": 100, "closure": 10}
    code = kube.run_in_a_pod(disk, runs, experiment, "/data/local")
    given = copy.deepcopy(values)
    given["experiment"]["inline"] = experiment
    given["run"]["out"] = "/data/run"
    given["s3"] = {}
    given["tls"] = {"existingSecret": "tls"}
    given["volume"] = {"existingClaim": "disk", "mountPath": "/data"}
    kube.install(RELEASE, runs, given)
    try:
        kube.wait_until("the Job has ended", lambda: kube.ended(RELEASE, runs), 400)
        last = kube.drivers(RELEASE, runs)[-1]
        assert kube.exit_code(last) == code, kube.last_words(last)
        assert kube.hashes(disk, runs, "/data/run") == kube.hashes(disk, runs, "/data/local")
    finally:
        kube.uninstall(RELEASE, runs)
    assert [c["metadata"]["name"] for c in kube.items("pvc", runs)].count("disk") == 1
