"""What is wrong is said in one sentence where `kubectl describe` shows it, soon, and ends the Job."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import kube
import pytest
from setting import credentials

pytestmark = pytest.mark.cluster

SOON_S = 120


def _small(memory: str, cpu: str = "50m") -> dict[str, Any]:
    """Resources of a container."""
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "credentials": (
        {"s3.existingSecret": "wrong"},
        "s3://dhs/targets.parquet: Forbidden",
    ),
    "bucket": ({"run.out": "s3://no-such-bucket/never"}, "no-such-bucket"),
    "image": (
        {"worker.image": "localhost/no-such-image:1"},
        "the image localhost/no-such-image:1 of a worker cannot be pulled",
    ),
    "node": (
        {"worker.resources": _small("1Gi", cpu="6"), "cluster.patienceSeconds": 20},
        "a worker finds no node",
    ),
    "quota": (
        {
            "worker.resources": _small("1Gi", cpu="9"),
            "worker.resources.limits.cpu": "9",
            "cluster.patienceSeconds": 20,
        },
        "exceeded quota",
    ),
    "memory": ({"worker.resources": _small("40Mi")}, "a worker is killed for want of memory"),
}
DRIVER = {"image.tag": "no-such-tag", "run.activeDeadlineSeconds": 60}


def _with(values: dict[str, Any], name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Values of a small release with a run of its own and some replaced, by dotted key."""
    changed = copy.deepcopy(values)
    small: dict[str, Any] = {
        "run.out": f"s3://dhs/never-{name}",
        "driver.resources": _small("1Gi"),
        "scheduler.resources": _small("1Gi"),
        "worker.resources": _small("1Gi"),
        "worker.replicas": 1,
    }
    for key, value in (small | changes).items():
        *path, last = key.split(".")
        section = changed
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return changed


@pytest.fixture(scope="module")
def mistaken(values: dict[str, Any], runs: str) -> Iterator[None]:
    """A release a mistake, all at once: each waits most of its time."""
    kube.apply(credentials("wrong", "another-secret", runs))
    wrong = {name: changes for name, (changes, _) in MISTAKES.items()} | {"driver": DRIVER}
    with ThreadPoolExecutor(4) as pool:
        made = [
            pool.submit(kube.install, f"wrong-{name}", runs, _with(values, name, changes))
            for name, changes in wrong.items()
        ]
        for one in made:
            one.result()
        yield
        gone = [pool.submit(kube.uninstall, f"wrong-{name}", runs) for name in wrong]
        for end in gone:
            end.result()
    kube.wait_until("no pod is left", lambda: not [n for n in wrong if _pods(f"wrong-{n}", runs)])


def _pods(release: str, runs: str) -> list[Any]:
    return kube.items("pods", runs, f"darkhaloscope.io/release={release}")


def _ends_with(sentence: str, release: str, runs: str) -> None:
    """One try, exit code 2, one sentence, and no Dask cluster is left."""
    kube.wait_until("the Job has ended", lambda: kube.ended(release, runs), SOON_S)
    assert _lasted_s(release, runs) <= SOON_S
    (driver,) = kube.drivers(release, runs)  # no second try
    assert kube.exit_code(driver) == 2
    words = kube.last_words(driver).strip().splitlines()
    assert sentence in words[-1]
    assert words[-1].startswith("dhs: ")
    mine = f"darkhaloscope.io/release={release}"
    kube.wait_until("no cluster is left", lambda: not kube.items("daskclusters", runs, mine))


def _lasted_s(release: str, runs: str) -> float:
    """Seconds from when a Job was made to when it had ended."""
    job = kube.job_of(release, runs)
    ends = [c["lastTransitionTime"] for c in job["status"]["conditions"] if c["status"] == "True"]
    began = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
    return (max(map(datetime.fromisoformat, ends)) - began).total_seconds()


def test_a_driver_whose_image_is_not_there_ends_at_the_deadline(mistaken: None, runs: str) -> None:
    """First: its pod is there no longer than the deadline lets it."""
    driver = kube.wait_until("a driver pod", lambda: kube.drivers("wrong-driver", runs))[0]
    about = f"involvedObject.name={driver['metadata']['name']},type=Warning"
    events = ("get", "events", "-n", runs, "--field-selector", about)
    kube.wait_until(
        "the pod's events name the image", lambda: "no-such-tag" in kube.kubectl(*events)
    )
    kube.wait_until("the Job has ended", lambda: kube.ended("wrong-driver", runs), 90)
    conditions = kube.job_of("wrong-driver", runs)["status"]["conditions"]
    assert "DeadlineExceeded" in {c.get("reason") for c in conditions}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence(name: str, mistaken: None, runs: str) -> None:
    _ends_with(MISTAKES[name][1], f"wrong-{name}", runs)
