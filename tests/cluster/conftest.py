"""A cluster with the Dask operator, an S3 server, and a namespace a file of tests that accepts restricted
pods only. The files run side by side: what they share is made once, by whoever needs it first, and taken
away by the process that began them all."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import certificates
import kube
import pytest
from setting import (
    ENDPOINT,
    EXPERIMENT,
    IMAGE,
    KEY,
    OPERATOR,
    SECRET,
    STORE,
    TOOLS,
    Local,
    credentials,
    pod,
)

Values = dict[str, Any]
Once = Callable[[str, Callable[[], Any]], Any]

ORDER = ("test_run", "test_life", "test_wrong", "test_hub", "test_orphans", "test_volume")
"""What takes longest, and matters most, comes first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In the order of ``ORDER``."""
    items.sort(key=lambda item: ORDER.index(item.path.stem) if item.path.stem in ORDER else -1)


def pytest_runtest_setup() -> None:
    """What there is no time for fails, since nothing has been tested; ``run`` sets the time."""
    if time.time() > float(os.environ.get("DHS_TEST_UNTIL", "inf")):
        pytest.fail("no time is left (DHS_TEST_SECONDS)", pytrace=False)


def _namespace(name: str, **labels: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """What the files shared is taken away, once all of them have ended."""
    if hasattr(session.config, "workerinput") or "KUBECONFIG" not in os.environ:
        return
    found = set(kube.kubectl("get", "namespaces", "-o", "name").split())
    if f"namespace/{OPERATOR}" in found:
        kube.call("helm", "uninstall", "dask-operator", "-n", OPERATOR, "--wait")
        crds = kube.kubectl("get", "crd", "-o", "name").split()
        kube.kubectl("delete", *[crd for crd in crds if crd.endswith(".kubernetes.dask.org")])
    ours = [name for name in (OPERATOR, STORE) if f"namespace/{name}" in found]
    if ours:
        kube.kubectl("delete", "namespace", *ours)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Once:
    """Make something once for all processes, whose result others read; it can be written as JSON."""
    base = tmp_path_factory.getbasetemp()
    folder = base if worker_id == "master" else base.parent

    def make(name: str, how: Callable[[], Any]) -> Any:
        with (folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            made = folder / f"{name}.json"
            if not made.exists():
                made.write_text(json.dumps(how()))
            return json.loads(made.read_text())

    return make


@pytest.fixture(scope="session")
def operator(once: Once, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Dask operator, from its own chart; gives its namespace."""
    if "KUBECONFIG" not in os.environ:
        pytest.skip("KUBECONFIG is not set; `make test-cluster` says how to get a cluster")
    return str(once("operator", lambda: _install_operator(tmp_path_factory)))


def _install_operator(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("operator")
    where = "import dask_kubernetes, pathlib; print(pathlib.Path(dask_kubernetes.__file__).parent)"
    package = kube.call("docker", "run", "--rm", "--entrypoint", "python", TOOLS, "-c", where)
    made = kube.call("docker", "create", TOOLS).strip()
    chart = f"{package.strip()}/operator/deployment/helm/dask-kubernetes-operator"
    kube.call("docker", "cp", f"{made}:{chart}", str(folder / "chart"))
    kube.call("docker", "rm", made)
    name, tag = TOOLS.rsplit(":", 1)
    kube.apply(_namespace(OPERATOR))
    kube.call(
        "helm", "upgrade", "--install", "dask-operator", str(folder / "chart"), "-n", OPERATOR,
        "--set", f"image.name={name}", "--set", f"image.tag={tag}", "--wait",
    )  # fmt: skip
    return OPERATOR


@pytest.fixture(scope="session")
def store(once: Once) -> str:
    """SeaweedFS with one user; gives the endpoint that pods reach."""
    return str(once("store", _start_store))


def _start_store() -> str:
    actions = ["Read", "Write", "List", "Tagging"]  # and no Admin, who makes buckets by writing
    credentials = [{"accessKey": KEY, "secretKey": SECRET}]
    users = {"identities": [{"name": "dhs", "credentials": credentials, "actions": actions}]}
    server = [
        "server", "-dir=/tmp", "-s3", "-s3.config=/etc/weed/users.json", "-ip=127.0.0.1",
        "-ip.bind=0.0.0.0", "-master.volumeSizeLimitMB=256", "-volume.max=50",
        "-master.telemetry=false",
    ]  # fmt: skip
    weed = pod("s3", STORE, TOOLS, server, labels={"app": "s3"}, container={
        "command": ["weed"],
        "readinessProbe": {"tcpSocket": {"port": 8333}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"}, {"name": "users", "mountPath": "/etc/weed"},
        ],
    })  # fmt: skip
    weed["spec"]["volumes"].append({"name": "users", "configMap": {"name": "users"}})
    meta = {"namespace": STORE}
    kube.apply(
        _namespace(STORE),
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "users", **meta},
         "data": {"users.json": json.dumps(users)}},
        weed,
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s3", **meta},
         "spec": {"selector": {"app": "s3"}, "ports": [{"port": 8333}]}},
    )  # fmt: skip
    kube.kubectl("wait", "-n", STORE, "--for=condition=Ready", "pod/s3", "--timeout=90s")
    bucket = ("exec", "-i", "-n", STORE, "s3", "--", "weed", "shell")
    kube.kubectl(*bucket, given="s3.bucket.create -name dhs\n")
    return ENDPOINT


@pytest.fixture(scope="module")
def runs(operator: str, store: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The namespace of a file of tests: restricted, with quota and range, with the store's credentials."""
    namespace = request.module.__name__.replace("test_", "dhs-")
    enforce = {"pod-security.kubernetes.io/enforce": "restricted"}
    quota = {
        "requests.cpu": "8", "requests.memory": "16Gi", "limits.cpu": "100", "limits.memory": "32Gi",
        "pods": "20",
    }  # fmt: skip
    # The quota asks every container for a limit of cpu; the range gives it to those without.
    limits = [{"type": "Container", "default": {"cpu": "6"}, "max": {"memory": "32Gi"}}]
    meta = {"name": "quota", "namespace": namespace}
    kube.apply(
        _namespace(namespace, **enforce),
        {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta, "spec": {"hard": quota}},
        {"apiVersion": "v1", "kind": "LimitRange", "metadata": meta, "spec": {"limits": limits}},
        credentials("s3", SECRET, namespace),
    )
    yield namespace
    kube.kubectl("delete", "namespace", namespace)


@pytest.fixture(scope="module")
def tls(runs: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Certificates in the Secret ``tls``; gives its data."""
    made = certificates.make(tmp_path_factory.mktemp("tls"))
    meta = {"name": "tls", "namespace": runs}
    kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": made})
    return made


@pytest.fixture(scope="module")
def notebook(runs: str, store: str) -> str:
    """A pod of the image that may attach to runs; gives its name."""
    env = [
        {"name": "AWS_ENDPOINT_URL", "value": ENDPOINT},
        {"name": "DHS_NAMESPACE", "value": runs},
    ]
    more = {"env": env, "envFrom": [{"secretRef": {"name": "s3"}}]}
    labels = {"darkhaloscope.io/attach": "true"}
    kube.apply(pod("notebook", runs, IMAGE, ["sleep", "infinity"], labels=labels, container=more))
    kube.kubectl("wait", "-n", runs, "--for=condition=Ready", "pod/notebook", "--timeout=90s")
    return "notebook"


@pytest.fixture(scope="module")
def sky(once: Once, notebook: str, runs: str) -> str:
    """A synthetic release and its targets in the store; gives the bucket."""
    return str(once("sky", lambda: _make_sky(notebook, runs)))


def _make_sky(notebook: str, runs: str) -> str:
    made = kube.python(
        notebook, runs,
        "from darkhaloscope import commands\n"
        "commands.sky('s3://dhs/sky', bricks=4, size=512)\n"
        "commands.targets(['s3://dhs/sky/south'], 's3://dhs/targets.parquet')\n",
    )  # fmt: skip
    assert "targets in 4 bricks" in made
    return "s3://dhs"


@pytest.fixture(scope="module")
def local(once: Once, notebook: str, runs: str, sky: str) -> Local:
    """The small experiment in one pod."""

    def run() -> Local:
        code = kube.run_in_a_pod(notebook, runs, EXPERIMENT, "s3://dhs/local")
        return Local(kube.hashes(notebook, runs, "local"), code, kube.compiled(notebook, runs))

    return Local(*once("local", run))


@pytest.fixture(scope="module")
def values(sky: str) -> Values:
    """Values of a small run; ``run.out`` is the caller's."""

    def small(memory: str) -> dict[str, Any]:
        # A number, as the chart's own: of a DaskCluster's amounts the API server takes text alone.
        return {"requests": {"cpu": 0.05, "memory": memory}, "limits": {"memory": memory}}

    name, tag = IMAGE.rsplit(":", 1)
    return {
        "image": {"repository": name, "tag": tag},
        "experiment": {"inline": EXPERIMENT},
        "driver": {"resources": small("2Gi"), "gracePeriodSeconds": 30},
        "scheduler": {"resources": small("1Gi")},
        "worker": {"resources": small("2Gi"), "replicas": 2, "gracePeriodSeconds": 30},
        "cluster": {"idleTimeoutSeconds": 600, "patienceSeconds": 90},
        "s3": {"endpoint": ENDPOINT, "existingSecret": "s3"},
        "run": {},
    }
