"""A release's life on a cluster: who reaches whom, what is granted, what an upgrade and its end leave."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kube
import pytest
from setting import IMAGE, STORE, pod

pytestmark = pytest.mark.cluster

RELEASE = "life"
NOTEBOOKS = Path(__file__).parents[2] / "notebooks" / "kubernetes"

KNOCK = """
import socket
for port in (8786, 8787, 8788, 8789):
    try:
        socket.create_connection(({host!r}, port), timeout=3).close()
        print(port, "answers")
    except OSError as error:
        print(port, type(error).__name__)
"""


def _long(values: dict[str, Any]) -> dict[str, Any]:
    """A run that lasts until it is taken away."""
    given = copy.deepcopy(values)
    given["run"]["out"] = "s3://dhs/life"
    given["experiment"]["inline"]["plan"]["repeats"] = 400
    return given


@pytest.fixture(scope="module")
def release(values: dict[str, Any], runs: str) -> Iterator[str]:
    kube.install(RELEASE, runs, _long(values))
    kube.wait_until(
        "both workers are ready",
        lambda: len([p for p in kube.dask_pods(RELEASE, runs, "worker") if _ready(p)]) == 2,
        90,
    )
    yield RELEASE
    kube.uninstall(RELEASE, runs)


def _ready(found: dict[str, Any]) -> bool:
    conditions = found["status"].get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _answers(name: str, namespace: str, host: str) -> list[int]:
    printed = kube.python(name, namespace, KNOCK.format(host=host))
    lines = [line.split() for line in printed.splitlines()]
    return [int(port) for port, said in lines if said == "answers"]


def test_strangers_get_no_answer_and_a_notebook_does(
    release: str, runs: str, notebook: str
) -> None:
    scheduler = kube.dask_pods(release, runs, "scheduler")[0]["status"]["podIP"]
    worker = kube.dask_pods(release, runs, "worker")[0]["status"]["podIP"]
    for namespace in (runs, STORE):
        kube.apply(pod("stranger", namespace, IMAGE, ["sleep", "infinity"]))
        kube.kubectl(
            "wait", "-n", namespace, "--for=condition=Ready", "pod/stranger", "--timeout=60s"
        )
        assert _answers("stranger", namespace, scheduler) == []
        assert _answers("stranger", namespace, worker) == []
        kube.kubectl("delete", "pod", "-n", namespace, "stranger")
    assert _answers(notebook, runs, scheduler) == [8786, 8787]
    assert _answers(notebook, runs, worker) == []


def test_a_notebook_connects_by_the_runs_folder(release: str, runs: str, notebook: str) -> None:
    code = """
import darkhaloscope
client = darkhaloscope.connect("s3://dhs/life/")
print(sorted(client.scheduler_info()["workers"]).__len__(), "workers")
print(client.submit(sum, [40, 2]).result())
"""
    kube.wait_until("the run has begun", lambda: _has_begun(notebook, runs), 90)
    assert kube.python(notebook, runs, code).split() == ["2", "workers", "42"]


def _has_begun(notebook: str, runs: str) -> bool:
    code = "import fsspec; print(fsspec.filesystem('s3').exists('dhs/life/blocks/000000.json'))"
    return "True" in kube.python(notebook, runs, code)


def test_the_notebook_that_watches_a_run(release: str, runs: str, notebook: str) -> None:
    kube.wait_until("the run has begun", lambda: _has_begun(notebook, runs), 120)
    source = (NOTEBOOKS / "watch_a_run.ipynb").read_text()
    code = f"""
import nbformat, os
from nbclient import NotebookClient
os.environ["DHS_RUN"] = "s3://dhs/life"
made = NotebookClient(nbformat.reads({source!r}, 4), timeout=120).execute()
print([o for c in made.cells for o in c.get("outputs", [])])
"""
    printed = kube.python(notebook, runs, code)
    assert "inject-" in printed or "write-" in printed
    assert re.search(r"[1-9][0-9]* of [0-9]+ rows", printed), printed


def test_the_dashboard_shows_through_a_notebooks_server(
    release: str, runs: str, notebook: str
) -> None:
    """jupyter-server-proxy gives the dashboard of a run, and no other host's pages."""
    code = """
import os, subprocess, time, urllib.error, urllib.request
from darkhaloscope.cluster import kubernetes
command = ["jupyter", "server", "--no-browser", "--port=8899", "--IdentityProvider.token=t"]
home = os.environ | {"HOME": "/tmp"}  # on the hub a volume
server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=home, cwd="/tmp")
def get(path):
    for _ in range(60):
        try:
            request = urllib.request.Request(f"http://127.0.0.1:8899/{path}")
            request.add_header("Authorization", "token t")
            return urllib.request.urlopen(request, timeout=10).read().decode()
        except urllib.error.HTTPError as error:
            return str(error.code)
        except OSError:
            time.sleep(1)
host = kubernetes.scheduler_address("s3://dhs/life", "dhs-runs").split("/")[2].split(":")[0]
print("Dask" in get(f"proxy/{host}:8787/status"), get("proxy/s3.dhs-store:8333/"))
server.terminate()
"""
    assert kube.python(notebook, runs, code).split() == ["True", "403"]


def test_nothing_is_compiled_in_a_pod(release: str, runs: str, notebook: str) -> None:
    """A worker that has rendered has no compiled function but the image's."""
    kube.wait_until("the run has begun", lambda: _has_begun(notebook, runs), 90)
    worker = kube.dask_pods(release, runs, "worker")[0]["metadata"]["name"]
    count = "find {} -name '*.nbc' | sort | sed 's|.*/||' | md5sum"
    baked, now = (
        kube.kubectl("exec", "-n", runs, worker, "--", "sh", "-c", count.format(folder))
        for folder in ("/opt/numba-cache", "/tmp/numba-cache")
    )
    assert baked == now


def test_the_driver_may_do_little_and_a_worker_nothing(release: str, runs: str) -> None:
    def may(who: str, verb: str, what: str) -> bool:
        account = f"system:serviceaccount:{runs}:{release}-darkhaloscope-{who}"
        asked = ("auth", "can-i", verb, what, "-n", runs, "--as", account)
        try:
            return kube.kubectl(*asked).strip() == "yes"
        except AssertionError:
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
            [_ready(p) for p in kube.dask_pods(release, runs, "worker")] == [True]
            and _owners(runs) == {after}
        ),
        120,
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
    ours = {"notebook", "quota", "s3", "wrong", "default", "kube-root-ca.crt"}
    found = [f"{one['kind']} {one['metadata']['name']}" for one in kube.items(kinds, runs)]
    return [one for one in found if one.split()[1] not in ours]


def test_helm_test_passes(release: str, runs: str) -> None:
    said = kube.call("helm", "test", release, "-n", runs, "--timeout", "120s")
    assert "Succeeded" in said


def test_the_idle_guard_sees_through_the_policies(values: dict[str, Any], runs: str) -> None:
    """An orphan, whose driver is gone for good, is taken away by the operator."""
    given = _long(values)
    given["run"]["out"] = "s3://dhs/orphan"
    given["cluster"]["idleTimeoutSeconds"] = 60
    kube.install("orphan", runs, given)
    try:
        kube.wait_until(
            "both workers are ready",
            lambda: len([p for p in kube.dask_pods("orphan", runs, "worker") if _ready(p)]) == 2,
            90,
        )
        # Without an owner, only the idle guard can take the cluster away.
        job = kube.job_of("orphan", runs)["metadata"]["name"]
        kube.kubectl("delete", "job", "-n", runs, job, "--cascade=orphan")
        kube.kubectl("delete", "pod", "-n", runs, "-l", f"job-name={job}", "--grace-period=1")
        assert kube.items("daskclusters", runs, "darkhaloscope.io/release=orphan")
        kube.wait_until(
            "the operator has taken the cluster away",
            lambda: not kube.items("daskclusters", runs, "darkhaloscope.io/release=orphan"),
            150,
        )
    finally:
        kube.uninstall("orphan", runs)
