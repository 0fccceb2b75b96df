"""What pods say of a Dask cluster on Kubernetes: ready, pending, or never to be."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from some_pods import READY, REFUSED, SCHEDULER, UNPULLED, container, ended, pod

from darkhaloscope.cluster import api
from darkhaloscope.cluster.pods import count_ready, trouble_of, why_pending


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (UNPULLED, "repo/dhs:1 of a worker"),
        (container(state={"waiting": {"reason": "InvalidImageName"}}), "repo/dhs:1 of a worker"),
        (container(state={"waiting": {"reason": "ErrImageNeverPull"}}), "repo/dhs:1 of a worker"),
        (
            container(
                state={
                    "waiting": {"reason": "CreateContainerConfigError", "message": "no secret s3"}
                }
            ),
            "no secret s3",
        ),
        (ended(1, reason="OOMKilled"), "worker.resources"),
        (ended(3, exitCode=9), "exit code 9"),
    ],
)
def test_a_hopeless_pod_is_said(status: dict[str, Any], says: str) -> None:
    trouble = trouble_of([SCHEDULER, pod("worker", **status)])
    assert trouble is not None
    assert says in trouble
    beside = pod("worker", "another")
    assert trouble_of([SCHEDULER, pod("worker", **status), beside]) is None


def test_what_is_refused_is_said_and_so_is_what_is_not_there() -> None:
    assert "exceeded quota" in why_pending([SCHEDULER], [REFUSED])
    granted = {"metadata": REFUSED["metadata"], "status": {}}
    assert "made no pod of a worker" in why_pending([SCHEDULER], [granted])


@pytest.mark.parametrize("last", [{"exitCode": 0, "reason": "Completed"}, {"reason": "OOMKilled"}])
def test_a_worker_that_is_ready_is_not_condemned_for_its_past(last: dict[str, Any]) -> None:
    """It ends whenever its scheduler does, and is started again."""
    worker = pod("worker", **(ended(3, **last) | READY))
    assert trouble_of([SCHEDULER, worker]) is None
    straggler = pod("worker", "straggler", **UNPULLED)
    assert trouble_of([SCHEDULER, worker, straggler]) is None


def test_workers_may_end_while_there_is_no_scheduler() -> None:
    waiting = pod("scheduler", conditions=[{"type": "PodScheduled", "status": "False"}])
    worker = pod("worker", **ended(3, exitCode=1))
    assert trouble_of([waiting, worker]) is None
    assert trouble_of([worker]) is None
    assert trouble_of([SCHEDULER, worker], {"worker": 2}) is None
    assert trouble_of([SCHEDULER, worker], {"worker": 0}) is not None
    assert "a scheduler ended 3" in str(
        trouble_of([pod("scheduler", **ended(3, exitCode=1)), worker])
    )


def test_a_pod_that_goes_is_neither_ready_nor_trouble() -> None:
    going = pod("worker", **READY)
    going["metadata"]["deletionTimestamp"] = "now"
    assert count_ready([going], "worker") == 0
    hopeless = pod("worker", **UNPULLED)
    hopeless["metadata"]["deletionTimestamp"] = "now"
    assert trouble_of([SCHEDULER, hopeless]) is None


def test_there_is_hope_while_a_pod_starts() -> None:
    starting = container(state={"waiting": {"reason": "ContainerCreating"}})
    twice = container(restartCount=1, lastState={"terminated": {"exitCode": 1}})
    assert trouble_of([pod("worker", **starting), pod("scheduler", **twice)]) is None


def test_a_worker_that_was_evicted_says_why() -> None:
    gone = pod("worker", reason="Evicted", message="Usage of EmptyDir volume tmp exceeds the limit")
    assert why_pending([SCHEDULER, gone], []).endswith("evicted: " + gone["status"]["message"])


def test_a_pod_without_a_node_says_why() -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "message": "0/3 nodes: Insufficient memory",
    }
    assert "Insufficient memory" in why_pending([pod("worker", conditions=[condition])], [])


def test_a_container_that_waits_says_for_what() -> None:
    waits = container(state={"waiting": {"reason": "ContainerCreating", "message": "no volume c"}})
    pods = [SCHEDULER, pod("worker", **waits)]
    assert why_pending(pods, []) == "a worker waits: no volume c"


def test_only_what_belongs_to_the_cluster_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    kind = SimpleNamespace(list=lambda **how: asked.append(how) or [SimpleNamespace(raw=SCHEDULER)])
    kr8s: Any = ModuleType("kr8s")
    kr8s.objects = SimpleNamespace(Pod=kind, new_class=lambda *what, **_: what)
    monkeypatch.setitem(sys.modules, "kr8s", kr8s)
    monkeypatch.setitem(sys.modules, "kr8s.objects", kr8s.objects)
    cluster = SimpleNamespace(name="dhs-x", namespace="runs")
    assert api.listed("Pod", cluster) == [SCHEDULER]
    assert asked == [{"namespace": "runs", "label_selector": {"dask.org/cluster-name": "dhs-x"}}]
    assert api.dask_object("DaskCluster") == ("DaskCluster", "kubernetes.dask.org/v1")
