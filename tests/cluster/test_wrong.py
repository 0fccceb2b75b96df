"""What is wrong is said in one sentence where `kubectl describe` shows it, soon, and ends the Job."""

from __future__ import annotations

import copy
import time
from typing import Any

import kube
import pytest
from setting import RUNS, credentials

pytestmark = pytest.mark.cluster

SOON_S = 120


def _with(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Values with some replaced, by dotted key."""
    changed = copy.deepcopy(values)
    for key, value in changes.items():
        *path, last = key.split(".")
        section = changed
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return changed


@pytest.mark.parametrize(
    ("name", "changes", "sentence"),
    [
        (
            "credentials",
            {"s3.existingSecret": "wrong", "run.out": "s3://dhs/never"},
            "s3://dhs/targets.parquet: Forbidden",
        ),
        ("bucket", {"run.out": "s3://no-such-bucket/never"}, "no-such-bucket"),
        (
            "image",
            {"worker.image": "localhost/no-such-image:1", "run.out": "s3://dhs/never"},
            "the image localhost/no-such-image:1 of a worker cannot be pulled",
        ),
        (
            "node",
            {
                "worker.resources": {
                    "requests": {"cpu": "6", "memory": "2Gi"},
                    "limits": {"memory": "2Gi"},
                },
                "worker.replicas": 1,
                "cluster.patienceSeconds": 20,
                "run.out": "s3://dhs/never",
            },
            "a worker finds no node",
        ),
        (
            "quota",
            {"worker.replicas": 30, "run.out": "s3://dhs/never"},
            "exceeded quota",
        ),
        (
            "memory",
            {
                "worker.resources": {
                    "requests": {"cpu": "50m", "memory": "40Mi"},
                    "limits": {"memory": "40Mi"},
                },
                "worker.replicas": 1,
                "run.out": "s3://dhs/never",
            },
            "a worker is killed for want of memory",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isalpha() else "",
)
def test_a_mistake_is_one_sentence(
    name: str, changes: dict[str, Any], sentence: str, values: dict[str, Any], runs: str
) -> None:
    kube.apply(credentials("wrong", "another-secret"))
    release = f"wrong-{name}"
    began = time.monotonic()
    kube.install(release, runs, _with(values, changes))
    try:
        kube.wait_until("the Job has ended", lambda: kube.ended(release, runs), SOON_S)
        print(f"{name}: {time.monotonic() - began:.0f} s")
        (driver,) = kube.drivers(release, runs)  # no second try
        assert kube.exit_code(driver) == 2
        words = kube.last_words(driver).strip().splitlines()
        print(words)
        assert sentence in words[-1]
        assert words[-1].startswith("dhs: ")
        kube.wait_until(
            "no Dask cluster is left", lambda: not kube.items("daskclusters,deployments", runs)
        )
    finally:
        kube.uninstall(release, runs)
    kube.wait_until("no pod is left", lambda: _releases_pods(release) == [])


def _releases_pods(release: str) -> list[Any]:
    return kube.items("pods", RUNS, f"darkhaloscope.io/release={release}")


def test_a_driver_whose_image_is_not_there_ends_at_the_deadline(
    values: dict[str, Any], runs: str
) -> None:
    wrong = {
        "image.tag": "no-such-tag",
        "run.out": "s3://dhs/never",
        "run.activeDeadlineSeconds": 60,
    }
    kube.install("wrong-driver", runs, _with(values, wrong))
    try:
        driver = kube.wait_until("a driver pod", lambda: kube.drivers("wrong-driver", runs))[0]
        about = f"involvedObject.name={driver['metadata']['name']},type=Warning"
        events = ("get", "events", "-n", runs, "--field-selector", about)
        kube.wait_until(
            "the pod's events name the image", lambda: "no-such-tag" in kube.kubectl(*events)
        )
        kube.wait_until("the Job has ended", lambda: kube.ended("wrong-driver", runs), 90)
        conditions = kube.job_of("wrong-driver", runs)["status"]["conditions"]
        assert "DeadlineExceeded" in {c.get("reason") for c in conditions}
    finally:
        kube.uninstall("wrong-driver", runs)
