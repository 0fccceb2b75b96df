"""A release's life on a cluster: who reaches whom, what is granted, what an upgrade and its end leave."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import kube
import pytest
from setting import IMAGE, SLOWLY, STORE, pod

pytestmark = pytest.mark.cluster

RELEASE = "life"

KNOCK = """
import itertools, socket
from concurrent.futures import ThreadPoolExecutor

def knock(door):
    try:
        socket.create_connection(door, timeout=3).close()
        return "answers"
    except OSError as error:
        return type(error).__name__

doors = list(itertools.product({hosts!r}, range(8786, 8792)))
with ThreadPoolExecutor(len(doors)) as pool:
    for door, said in zip(doors, pool.map(knock, doors), strict=True):
        print(*door, said)
"""


def _long(values: dict[str, Any]) -> dict[str, Any]:
    """A run that lasts until it is taken away."""
    given = copy.deepcopy(values)
    given["run"]["out"] = "s3://dhs/life"
    given["experiment"]["inline"]["plan"]["repeats"] = 400
    given["worker"]["resources"]["limits"]["cpu"] = SLOWLY
    return given


@pytest.fixture(scope="module")
def release(values: dict[str, Any], runs: str) -> Iterator[str]:
    kube.install(RELEASE, runs, _long(values))
    kube.wait_until(
        "both workers are ready",
        lambda: kube.workers_ready(RELEASE, runs) == 2,
        90,
    )
    yield RELEASE
    kube.uninstall(RELEASE, runs)


def _answers(name: str, namespace: str, *hosts: str) -> list[list[int]]:
    """The ports, a list a host, that answer to who knocks from a pod."""
    printed = kube.python(name, namespace, KNOCK.format(hosts=hosts))
    lines = [line.split() for line in printed.splitlines()]
    return [
        [int(port) for at, port, said in lines if (at, said) == (host, "answers")] for host in hosts
    ]


def test_strangers_get_no_answer_and_a_notebook_does(
    release: str, runs: str, notebook: str
) -> None:
    driver = kube.drivers(release, runs)[-1]
    pods = [kube.dask_pods(release, runs, of)[0] for of in ("scheduler", "worker")] + [driver]
    hosts = [one["status"]["podIP"] for one in pods]
    for namespace in (runs, STORE):
        kube.apply(pod("stranger", namespace, IMAGE, ["sleep", "infinity"]))
    # Only what listens can be closed to others: the driver knocks at the other two, and at itself.
    inside = functools.partial(_answers, driver["metadata"]["name"], runs, *hosts)
    served = ({8786}, {8788, 8789, 8790}, {8791})
    kube.wait_until("all listen", lambda: all(map(set.issubset, served, inside())), 90)
    for namespace in (runs, STORE):
        kube.kubectl(
            "wait", "-n", namespace, "--for=condition=Ready", "pod/stranger", "--timeout=60s"
        )
        assert _answers("stranger", namespace, *hosts) == [[], [], []]
        kube.kubectl("delete", "pod", "-n", namespace, "stranger", "--wait=false")
    assert _answers(notebook, runs, *hosts) == [[8786, 8787], [], []]


def test_a_notebook_connects_by_the_runs_folder(release: str, runs: str, notebook: str) -> None:
    code = """
import darkhaloscope
client = darkhaloscope.connect("s3://dhs/life/")
print(sorted(client.scheduler_info()["workers"]).__len__(), "workers")
print(client.submit(sum, [40, 2]).result())
"""
    kube.wait_until("the run has begun", lambda: kube.blocks_done("life"), 90)
    assert kube.python(notebook, runs, code).split() == ["2", "workers", "42"]


def test_nothing_is_compiled_in_a_pod(release: str, runs: str) -> None:
    """Workers that have rendered have no compiled function but the image's."""
    kube.wait_until("the run has begun", lambda: kube.blocks_done("life"), 90)
    for worker in kube.dask_pods(release, runs, "worker"):
        assert kube.compiled(worker["metadata"]["name"], runs) == []


HOLD = """
import secrets
from distributed import Client

with Client("localhost:8786") as client:
    here = {{"workers": [{worker!r}], "allow_other_workers": True, "priority": 1}}
    held = client.map(lambda _: secrets.token_hex(), range(20), pure=False, **here)
    client.publish_dataset(held=held)
    print(client.gather(held))
"""
HANDED_ON = """
from distributed import Client

with Client("localhost:8786") as client:
    print(client.gather(client.get_dataset("held")))
    client.unpublish_dataset("held")
    said = [event for _, event in client.get_events({worker!r})]
    (end,) = [event for event in said if event.get("action") == "remove-worker"]
    print(list(end["lost-computed-tasks"]))
"""
"""Results that no second call would give; which of them, and of the run's own, went with their worker."""


def test_a_worker_of_a_drained_node_hands_on_what_it_holds(release: str, runs: str) -> None:
    """One worker may be taken at a time, the scheduler never. No task that was done is done again."""
    found = kube.dask_pods(release, runs, "worker")[0]
    name, worker = found["metadata"]["name"], f"tcp://{found['status']['podIP']}:8788"
    scheduler = kube.dask_pods(release, runs, "scheduler")[0]["metadata"]["name"]
    with pytest.raises(AssertionError, match="disruption budget"):
        kube.evict(scheduler, runs)
    held = kube.python(scheduler, runs, HOLD.format(worker=worker)).splitlines()
    kube.evict(name, runs)
    log = ("logs", "-n", runs, scheduler)
    kube.wait_until(
        "the scheduler has retired it",
        lambda: f"Retired worker '{worker}'" in kube.kubectl(*log),
    )
    there = kube.python(scheduler, runs, HANDED_ON.format(worker=worker)).splitlines()
    assert there == [*held, "[]"]
    about = f"involvedObject.name={name},reason=FailedPreStopHook"
    kube.wait_until(
        "two workers are there",
        lambda: kube.workers_ready(release, runs) == 2,
        120,
    )
    assert not kube.kubectl("get", "events", "-n", runs, "--field-selector", about, "-o", "name")


def test_the_driver_may_do_little_and_a_worker_nothing(release: str, runs: str) -> None:
    def may(who: str, verb: str, what: str) -> bool:
        account = f"system:serviceaccount:{runs}:{release}-darkhaloscope-{who}"
        asked = ("auth", "can-i", verb, what, "-n", runs, "--as", account)
        try:
            return kube.kubectl(*asked).strip() == "yes"
        except AssertionError as error:  # who may not is told so by an exit code
            if not str(error).strip().splitlines()[-1].startswith("no"):
                raise
            return False

    assert may("driver", "list", "pods")
    assert may("driver", "create", "daskclusters.kubernetes.dask.org")
    for verb, what in (("get", "secrets"), ("create", "pods"), ("delete", "jobs")):
        assert not may("driver", verb, what)
        assert not may("worker", verb, what)
    assert not may("worker", "list", "pods")
    worker = kube.dask_pods(release, runs, "worker")[0]["metadata"]["name"]
    token = ("exec", "-n", runs, worker, "--", "ls", "/var/run/secrets")
    with pytest.raises(AssertionError, match="No such file"):
        kube.kubectl(*token)


def test_a_driver_of_a_drained_node_is_followed_by_another(release: str, runs: str) -> None:
    """That it had to go counts as no failure of the Job."""
    before = kube.drivers(release, runs)[-1]["metadata"]["name"]
    kube.evict(before, runs)
    kube.wait_until(
        "another driver",
        lambda: [p["metadata"]["name"] for p in kube.drivers(release, runs)] not in ([], [before]),
        120,
    )
    assert kube.job_of(release, runs)["status"].get("failed", 0) == 0


def test_a_run_is_paused_and_goes_on(release: str, runs: str) -> None:
    kube.wait_until("the run has begun", lambda: kube.blocks_done("life"), 180)
    job = kube.job_of(release, runs)["metadata"]["name"]

    def suspend(yes: bool) -> None:
        patch = f'{{"spec": {{"suspend": {str(yes).lower()}}}}}'
        kube.kubectl("patch", "job", "-n", runs, job, "-p", patch)

    suspend(True)
    kube.wait_until("the driver has ended", lambda: not kube.drivers(release, runs), 180)
    before = kube.blocks_done("life")
    assert kube.dask_pods(release, runs, "scheduler"), "its cluster waits"
    suspend(False)
    kube.wait_until("a block more", lambda: kube.blocks_done("life") > before, 180)
    assert kube.ended(release, runs) is None


def test_an_upgrade_makes_a_new_job_and_its_end_leaves_nothing(
    release: str, values: dict[str, Any], runs: str
) -> None:
    before = kube.job_of(release, runs)["metadata"]["name"]
    changed = _long(values)
    changed["worker"]["replicas"] = 1
    kube.install(release, runs, changed)
    after = kube.job_of(release, runs)["metadata"]["name"]
    assert after != before
    kube.wait_until(
        "the new Job has its own cluster of one worker",
        lambda: (
            len(kube.dask_pods(release, runs, "worker")) == kube.workers_ready(release, runs) == 1
            and _owners(runs) == {after}
        ),
        240,
    )
    kube.uninstall(release, runs)
    kinds = (
        "jobs,pods,services,deployments,replicasets,daskclusters,daskworkergroups,daskautoscalers"
    )
    more = "configmaps,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,pvc"
    kube.wait_until("nothing is left", lambda: not _left(f"{kinds},{more}", runs), 90)
    kube.install(release, runs, _long(values))  # the fixture takes it away


def _owners(runs: str) -> set[str]:
    found = kube.items("daskclusters", runs, f"darkhaloscope.io/release={RELEASE}")
    return {owner["name"] for one in found for owner in one["metadata"]["ownerReferences"]}


def _left(kinds: str, runs: str) -> list[str]:
    ours = {"notebook", "quota", "s3", "wrong", "default", "disk", "kube-root-ca.crt"}
    found = [f"{one['kind']} {one['metadata']['name']}" for one in kube.items(kinds, runs)]
    return [one for one in found if one.split()[1] not in ours]


def test_helm_test_passes(release: str, runs: str) -> None:
    said = kube.call("helm", "test", release, "-n", runs, "--timeout", "120s")
    assert "Succeeded" in said
