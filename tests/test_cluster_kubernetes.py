"""The driver's words about a Dask cluster on Kubernetes; what needs a cluster is in tests/cluster."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import dask
import httpx
import pytest
import yaml
from chart import CHART, HELM, render

import darkhaloscope
from darkhaloscope.cluster import api as asking
from darkhaloscope.cluster import guard, kubernetes
from darkhaloscope.cluster.kubernetes import Driver
from darkhaloscope.cluster.pods import count_ready, trouble_of, why_pending
from darkhaloscope.config import ClusterSection
from darkhaloscope.errors import Incomplete, UserError
from darkhaloscope.storage import StorageError

WAIT_FOR_A_WORKER = kubernetes._wait_for_a_worker
DRIVER = Driver("runs", "small-1234", "5e7a")


def manifest(documents: list[dict[str, Any]], tmp_path: Path) -> ClusterSection:
    """A cluster section with the manifest that the chart gives its driver."""
    (data,) = [d["data"] for d in documents if "cluster.yaml" in d.get("data", {})]
    (tmp_path / "cluster.yaml").write_text(data["cluster.yaml"])
    return ClusterSection(kind="kubernetes", manifest=str(tmp_path / "cluster.yaml"))


@pytest.mark.parametrize("out", ["s3://bucket/run", "s3://bucket/run/", "s3://buc/a.b/c//"])
def test_the_chart_and_the_driver_give_a_run_the_same_name(out: str, tmp_path: Path) -> None:
    section = manifest(render(out=out), tmp_path)
    (before,) = yaml.safe_load_all(Path(str(section.manifest)).read_text())
    (cluster,) = kubernetes.manifest_of(section, out, DRIVER)
    assert cluster["metadata"]["name"] == before["metadata"]["name"]
    (owner,) = cluster["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Job", "small-1234", "5e7a")


def test_adaptive_makes_an_autoscaler_of_the_same_owner(tmp_path: Path) -> None:
    given = ["--set", "worker.adaptive.enabled=true", "--set", "worker.adaptive.maximum=9"]
    section = manifest(render(*given), tmp_path)
    cluster, scaler = kubernetes.manifest_of(section, "s3://bucket/run", DRIVER)
    assert scaler["spec"]["cluster"] == cluster["metadata"]["name"] == scaler["metadata"]["name"]
    assert scaler["spec"]["maximum"] == 9
    assert scaler["metadata"]["ownerReferences"] == cluster["metadata"]["ownerReferences"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("wroker.replicas=1", "wroker is not allowed"),
        ("worker.replicas=0", "greater than or equal to 1"),
        ("worker.replicas=two", "Expected: integer"),
        ("worker.resources.limits.memory=9Gi", "make them equal"),
        ("worker.resources.requests.memory=4", "Expected: string"),
        ("run.out=", "run.out is empty"),
        ("run.out=/data/run", "volume.existingClaim"),
        ("experiment.existingConfigMap=mine", "take one out"),
        ("experiment.set.cluster\\.kind=local", "cluster.kind"),
        ("s3.endpoint=weed:8333", "s3.endpoint"),
        ("cluster.idleTimeoutSeconds=0", "idleTimeoutSeconds"),
        ("image.repository=https://registry/x", "image.repository"),
        ("worker.image=My Image", "worker.image"),
        ("run.out=s3://", "names no bucket"),
        ("volume.mountPath=/opt/data", "would hide"),
        ("scheduler=null", "scheduler is required"),
        ("driver.gracePeriodSeconds=1", "gracePeriodSeconds"),
        ("logs=yaml", "must be one of"),
        ("tls.existingSecret=certificates,worker.adaptive.enabled=true", "cannot speak TLS"),
        ("experiment.set.stamp.size=96", "stamp.size: 96 in a file"),
        ("experiment.inline.seed=9007199254740993", "where helm rounds"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        render("--set", wrong)


def test_prometheus_finds_driver_scheduler_and_workers() -> None:
    given = ["--set", "metrics.annotations=true", "--set", "metrics.podMonitor=true"]
    documents = render(*given, "--set", "networkPolicy.monitoringNamespace=watch")
    (job,) = [d["spec"]["template"] for d in documents if d["kind"] == "Job"]
    (data,) = [d["data"]["cluster.yaml"] for d in documents if "cluster.yaml" in d.get("data", {})]
    spec = next(yaml.safe_load_all(data))["spec"]
    (monitor,) = [d["spec"] for d in documents if d["kind"] == "PodMonitor"]
    named = {one["port"] for one in monitor["podMetricsEndpoints"]}
    policies = {
        d["metadata"]["name"].removeprefix("small-darkhaloscope-"): d["spec"]["ingress"]
        for d in documents
        if d["kind"] == "NetworkPolicy"
    }
    pods = {"driver": job, "scheduler": spec["scheduler"], "worker": spec["worker"]}
    for who, found in pods.items():
        port = int(found["metadata"]["annotations"]["prometheus.io/port"])
        (container,) = found["spec"]["containers"]
        assert {p["containerPort"]: p["name"] for p in container["ports"]}[port] in named
        watch = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "watch"}}}
        (rule,) = [one for one in policies[who] if watch in one["from"]]
        assert rule["ports"] == [{"protocol": "TCP", "port": port}]
        assert found["metadata"]["labels"]["darkhaloscope.io/component"] == who
    (command,) = [c["args"] for c in job["spec"]["containers"]]
    assert "--metrics-port=8791" in command


@pytest.mark.parametrize("out", ["s3://bucket/a:", "s3://bucket/#7", "s3://bucket/{x}"])
def test_names_that_yaml_would_read_otherwise_arrive_whole(out: str) -> None:
    (job,) = [d for d in render(out=out) if d["kind"] == "Job"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert f"--out={out}" in container["args"]
    command = [HELM, "template", "123", str(CHART), "--set", "experiment.inline.name=x"]
    numbered = subprocess.check_output([*command, "--set", f"run.out={out}"], text=True)
    labels = [d["metadata"]["labels"] for d in yaml.safe_load_all(numbered) if d]
    assert {one["app.kubernetes.io/instance"] for one in labels} == {"123"}


def test_with_tls_everybody_has_the_certificates_and_the_scheduler_its_own_guard(
    tmp_path: Path,
) -> None:
    documents = render("--set", "tls.existingSecret=certificates")
    section = manifest(documents, tmp_path)
    (cluster,) = kubernetes.manifest_of(section, "s3://bucket/run", DRIVER)
    spec = cluster["spec"]
    assert spec["idleTimeout"] == 0, "the operator could not ask"
    (job,) = [d["spec"]["template"]["spec"] for d in documents if d["kind"] == "Job"]
    scheduler, worker = spec["scheduler"]["spec"], spec["worker"]["spec"]
    for pod in (job, scheduler, worker):
        (container,) = pod["containers"]
        secrets = {v["name"]: v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}
        assert secrets == {"tls": "certificates"}
        (at,) = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "tls"]
        env = {e["name"]: e.get("value", "") for e in container["env"]}
        assert env["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "True"
        files = [value for name, value in env.items() if "__TLS__" in name]
        assert len(files) == 7
        assert all(value.startswith(f"{at}/") for value in files)
    (container,) = worker["containers"]
    env = {e["name"]: e.get("value") for e in container["env"]}
    address = kubernetes.scheduler_address("s3://bucket/run", "default")
    assert env["DASK_SCHEDULER_ADDRESS"] == address.replace("tcp://", "tls://")
    assert worker["automountServiceAccountToken"] is False
    assert scheduler["automountServiceAccountToken"] is True
    roles = {d["metadata"]["name"]: d["rules"] for d in documents if d["kind"] == "Role"}
    (rule,) = roles[scheduler["serviceAccountName"]]
    assert rule["resourceNames"] == [cluster["metadata"]["name"]]
    assert "http" not in yaml.safe_dump(scheduler["containers"][0]["env"]), "no route to retire"
    reach = yaml.safe_dump([d for d in documents if d["kind"] == "NetworkPolicy"])
    assert "dask-operator" not in reach
    assert "dask-operator" in yaml.safe_dump([d for d in render() if d["kind"] == "NetworkPolicy"])


def test_the_jobs_name_changes_with_what_it_runs() -> None:
    def job(*args: str) -> str:
        (name,) = [d["metadata"]["name"] for d in render(*args) if d["kind"] == "Job"]
        return str(name)

    assert job() == job()
    changes = [
        "experiment.inline.seed=3",
        "worker.replicas=5",
        "image.tag=v2",
        "cluster.patienceSeconds=99",
    ]
    assert len({job(), *(job("--set", change) for change in changes)}) == len(changes) + 1


def test_every_container_is_confined() -> None:
    documents = render("--set", "worker.adaptive.enabled=true")
    pods = [d["spec"]["template"]["spec"] for d in documents if d["kind"] == "Job"]
    pods += [d["spec"] for d in documents if d["kind"] == "Pod"]
    (data,) = [d["data"]["cluster.yaml"] for d in documents if "cluster.yaml" in d.get("data", {})]
    cluster = next(yaml.safe_load_all(data))["spec"]
    pods += [cluster["scheduler"]["spec"], cluster["worker"]["spec"]]
    assert len(pods) == 4
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            resources = container["resources"]
            assert resources["requests"]["memory"] == resources["limits"]["memory"]


# --- troubles ---------------------------------------------------------------------------------


def pod(component: str, name: str = "", **status: Any) -> dict[str, Any]:
    labels = {"dask.org/component": component}
    return {"metadata": {"name": name or component, "labels": labels}, "status": status}


def container(**state: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"image": "repo/dhs:1", "restartCount": 0, "state": {}} | state]}


def ended(times: int, **last: Any) -> dict[str, Any]:
    """A container that waits to be started again."""
    waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
    return container(restartCount=times, state=waiting, lastState={"terminated": last})


READY = {"conditions": [{"type": "Ready", "status": "True"}]}
SCHEDULER = pod("scheduler", **READY)
UNPULLED = container(state={"waiting": {"reason": "ImagePullBackOff"}})
REFUSED = {
    "metadata": {"labels": {"dask.org/component": "worker"}},
    "status": {
        "conditions": [
            {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: small"}
        ]
    },
}


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (UNPULLED, "repo/dhs:1 of a worker"),
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


def test_a_pod_without_a_node_says_why() -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "message": "0/3 nodes: Insufficient memory",
    }
    assert "Insufficient memory" in why_pending([pod("worker", conditions=[condition])], [])


# --- TLS --------------------------------------------------------------------------------------


def test_a_client_without_certificates_is_told_of_them() -> None:
    with pytest.raises(UserError, match=r"client\.cert.*docs/kubernetes"):
        kubernetes.scheduler_address("s3://bucket/run", "runs", tls=True)
    with dask.config.set(dict.fromkeys(kubernetes.CERTIFICATES, "/somewhere")):
        address = kubernetes.scheduler_address("s3://bucket/run", "runs", tls=True)
    assert address.startswith("tls://dhs-")


def test_tls_of_a_local_cluster_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="tls://host"):
        ClusterSection(tls=True)


@pytest.mark.parametrize(
    ("idle_s", "limit", "idle"),
    [(600, None, False), (None, 60, False), (600, 60, True), (0, 600, False)],
)
def test_only_an_idle_scheduler_takes_its_cluster_away(
    idle_s: float | None, limit: float | None, idle: bool
) -> None:
    since = None if idle_s is None else time.time() - idle_s
    scheduler: Any = SimpleNamespace(idle_since=since, idle_timeout=limit)
    assert guard.is_idle(scheduler) is idle


# --- against an API server --------------------------------------------------------------------


class NotFoundError(Exception):
    """As kr8s has it."""


class ServerError(Exception):
    """As kr8s has it."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.response = SimpleNamespace(status_code=status)


class Api:
    """What kr8s makes of an API server with an operator: it keeps objects and says what is asked of it.

    ``answers`` holds, by what is asked (``get``, ``create DaskCluster``, ``delete``, ``list``), errors
    that come before the next true answers.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Any] = {}
        self.answers: dict[str, list[Exception]] = {}
        self.pods: list[dict[str, Any]] = [SCHEDULER, pod("worker", **READY)]
        self.deployments: list[dict[str, Any]] = []
        self.asked: list[str] = []

    def answer(self, what: str) -> None:
        self.asked.append(what)
        if left := self.answers.get(what):
            raise left.pop(0)

    def new_class(self, kind: str, version: str, **_: Any) -> Any:
        api = self

        class Made(SimpleNamespace):
            def __init__(self, document: dict[str, Any], **_: Any) -> None:
                worker = document["spec"].get("worker", {"replicas": 1})
                super().__init__(
                    metadata=document["metadata"],
                    name=document["metadata"]["name"],
                    namespace="runs",
                    spec=SimpleNamespace(worker=worker),
                    raw=document,
                )

            @staticmethod
            def get(name: str, **_: Any) -> Any:
                api.answer("get")
                if (kind, name) not in api.objects:
                    raise NotFoundError
                return api.objects[kind, name]

            def create(self) -> None:
                api.answer(f"create {kind}")
                if (kind, self.name) in api.objects:
                    raise ServerError(409)
                api.objects[kind, self.name] = self

            def refresh(self) -> None:
                api.answer("refresh")

            def delete(self) -> None:
                api.answer("delete")
                if api.objects.pop((kind, self.name), None) is None:
                    raise NotFoundError

        return Made

    def listed(self, kind: str, _: Any) -> list[dict[str, Any]]:
        self.answer("list")
        return self.pods if kind == "Pod" else self.deployments

    @property
    def kinds(self) -> set[str]:
        return {kind for kind, _ in self.objects}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    """An API server; time passes only where somebody sleeps."""
    made = Api()
    module: Any = ModuleType("kr8s")
    module.ServerError, module.NotFoundError = ServerError, NotFoundError
    module.APITimeoutError = TimeoutError
    monkeypatch.setitem(sys.modules, "kr8s", module)
    monkeypatch.setattr(asking, "dask_object", lambda kind: made.new_class(kind, "v1"))
    monkeypatch.setattr(asking, "listed", made.listed)
    monkeypatch.setattr(kubernetes, "_wait_for_a_worker", lambda *_: None)
    passed = [0.0]
    clock = SimpleNamespace(
        monotonic=lambda: passed[0], sleep=lambda s: passed.__setitem__(0, passed[0] + s)
    )
    monkeypatch.setattr(kubernetes, "time", clock)
    monkeypatch.setattr(asking, "time", clock)
    driver = {"DHS_NAMESPACE": "runs", "DHS_JOB_NAME": "small-1234", "DHS_JOB_UID": "5e7a"}
    for name, value in driver.items():
        monkeypatch.setenv(name, value)
    return made


def a_section(tmp_path: Path, *, adaptive: bool = False, replicas: int = 1) -> ClusterSection:
    documents: list[dict[str, Any]] = [
        {"kind": "DaskCluster", "metadata": {}, "spec": {"worker": {"replicas": replicas}}}
    ]
    if adaptive:
        documents.append({"kind": "DaskAutoscaler", "metadata": {}, "spec": {}})
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump_all(documents))
    return ClusterSection(kind="kubernetes", manifest=str(tmp_path / "cluster.yaml"), patience=300)


def run(at: ClusterSection, tmp_path: Path, within: Exception | None = None) -> None:
    """A run on a cluster of its own, which ends well or with an error."""
    with kubernetes.run_cluster(at, str(tmp_path / "run")):
        if within is not None:
            raise within


def test_a_run_makes_its_cluster_and_takes_it_away(api: Api, tmp_path: Path) -> None:
    with kubernetes.run_cluster(a_section(tmp_path, adaptive=True), str(tmp_path / "run")):
        assert api.kinds == {"DaskCluster", "DaskAutoscaler"}
    assert "DaskCluster" not in api.kinds


def test_a_cluster_stays_where_the_run_is_to_go_on(api: Api, tmp_path: Path) -> None:
    for error in (Incomplete("later"), KeyError("ours"), StorageError("503 Slow Down")):
        with pytest.raises(type(error)):
            run(a_section(tmp_path), tmp_path, error)
        assert api.kinds == {"DaskCluster"}
    assert api.asked.count("create DaskCluster") == 1, "the second try adopted it"
    with pytest.raises(UserError, match="a mistake"):
        run(a_section(tmp_path), tmp_path, UserError("a mistake"))
    assert not api.kinds


def test_an_adopted_cluster_gets_the_autoscaler_that_it_lacks(api: Api, tmp_path: Path) -> None:
    with pytest.raises(Incomplete):
        run(a_section(tmp_path), tmp_path, Incomplete("later"))
    with kubernetes.run_cluster(a_section(tmp_path, adaptive=True), str(tmp_path / "run")):
        assert api.kinds == {"DaskCluster", "DaskAutoscaler"}


def test_what_a_former_upgrade_left_is_waited_for_and_not_taken_for_ours(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator keeps a deleted autoscaler, or cluster, for a minute: then there would be none."""
    run_of = str(tmp_path / "run")
    for kind in ("DaskCluster", "DaskAutoscaler"):
        name = kubernetes.cluster_name(run_of)
        old = api.new_class(kind, "v1")({"kind": kind, "metadata": {"name": name}, "spec": {}})
        old.metadata |= {"deletionTimestamp": "now", "ownerReferences": [{"uid": "old"}]}
        api.objects[kind, name] = old
    polls = []
    sleep = kubernetes.time.sleep

    def go_in_time(seconds: float) -> None:
        sleep(seconds)
        polls.append(seconds)
        if sum(polls) in (90.0, 180.0):
            kind = "DaskCluster" if sum(polls) == 90.0 else "DaskAutoscaler"
            del api.objects[kind, kubernetes.cluster_name(run_of)]

    monkeypatch.setattr(kubernetes.time, "sleep", go_in_time)
    with kubernetes.run_cluster(a_section(tmp_path, adaptive=True), run_of):
        assert [one.metadata["ownerReferences"][0]["uid"] for one in api.objects.values()] == [
            "5e7a", "5e7a",
        ]  # fmt: skip


def test_a_quota_that_is_full_for_a_moment_ends_nothing(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pods that end count in it. What stays refused is said at the end of one's patience."""
    api.pods, api.deployments = [SCHEDULER], [REFUSED]
    sleep = kubernetes.time.sleep

    def free(seconds: float) -> None:
        sleep(seconds)
        if kubernetes.time.monotonic() == 120.0:
            api.pods, api.deployments = [SCHEDULER, pod("worker", **READY)], []

    with monkeypatch.context() as patched:
        patched.setattr(kubernetes.time, "sleep", free)
        run(a_section(tmp_path), tmp_path)
    api.pods, api.deployments = [SCHEDULER], [REFUSED]
    with pytest.raises(UserError, match=r"no worker after 300 s .*exceeded quota"):
        run(a_section(tmp_path), tmp_path)
    assert not api.kinds


def test_what_is_refused_leaves_no_cluster(api: Api, tmp_path: Path) -> None:
    api.answers["create DaskAutoscaler"] = [ServerError(403)]
    with pytest.raises(UserError, match="refused"):
        run(a_section(tmp_path, adaptive=True), tmp_path)
    assert not api.kinds


def test_nobody_elses_cluster_is_adopted(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Incomplete):
        run(a_section(tmp_path), tmp_path, Incomplete("later"))
    monkeypatch.setenv("DHS_JOB_UID", "another")
    with pytest.raises(UserError, match="belongs to another job"):
        run(a_section(tmp_path), tmp_path)
    assert api.kinds == {"DaskCluster"}


def test_without_the_operators_kinds_one_is_told_of_it(api: Api, tmp_path: Path) -> None:
    api.answers["create DaskCluster"] = [ServerError(404)]
    with pytest.raises(UserError, match="install the Dask operator first"):
        run(a_section(tmp_path), tmp_path)


def test_an_operator_that_is_not_there_is_said(api: Api, tmp_path: Path) -> None:
    api.pods = []
    with pytest.raises(UserError, match="the Dask operator does not run"):
        run(a_section(tmp_path), tmp_path)
    assert not api.kinds


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("what", ["get", "create DaskCluster", "list", "delete"])
def test_an_api_server_that_is_away_for_a_moment_costs_nothing(
    what: str, status: int, api: Api, tmp_path: Path
) -> None:
    api.answers[what] = [ServerError(status), httpx.ConnectError("refused")]
    run(a_section(tmp_path), tmp_path)
    assert not api.kinds


def test_an_api_server_that_stays_away_ends_a_try_and_not_the_run(api: Api, tmp_path: Path) -> None:
    api.answers["list"] = [ServerError(503) for _ in range(99)]
    with pytest.raises(Incomplete, match="does not answer"):
        run(a_section(tmp_path), tmp_path)
    assert api.kinds == {"DaskCluster"}


@pytest.mark.parametrize("error", [NotFoundError(), ServerError(403), ServerError(503)])
def test_a_cluster_that_cannot_be_deleted_changes_no_exit_code(
    error: Exception, api: Api, tmp_path: Path
) -> None:
    """Gone already by an idle time-out, or left to it."""
    api.answers["delete"] = [error] * 99
    run(a_section(tmp_path), tmp_path)
    with pytest.raises(UserError, match="a mistake"):
        run(a_section(tmp_path), tmp_path, UserError("a mistake"))


def test_a_create_that_went_through_unheard_is_ours(api: Api, tmp_path: Path) -> None:
    """A first answer is lost: the second says that the cluster is there."""
    at = a_section(tmp_path)
    (document,) = kubernetes.manifest_of(at, str(tmp_path / "run"), DRIVER)
    made = api.new_class("DaskCluster", "v1")(document)
    api.answers["get"] = [NotFoundError()]
    api.objects["DaskCluster", made.name] = made
    run(at, tmp_path)
    assert not api.kinds


def test_no_worker_is_a_mistake_at_first_and_a_drought_later(api: Api, tmp_path: Path) -> None:
    reason = {"type": "PodScheduled", "status": "False", "message": "no spot node"}
    api.pods = [SCHEDULER, pod("worker", conditions=[reason])]
    with pytest.raises(UserError, match="no spot node") as first:
        run(a_section(tmp_path), tmp_path)
    assert not isinstance(first.value, Incomplete)
    assert not api.kinds
    (tmp_path / "run" / "blocks").mkdir(parents=True)
    (tmp_path / "run" / "blocks" / "000000.json").write_text("{}")
    with pytest.raises(Incomplete, match="no spot node"):
        run(a_section(tmp_path), tmp_path)
    assert api.kinds == {"DaskCluster"}


def test_a_run_begins_with_the_workers_it_gets_but_not_without(api: Api, tmp_path: Path) -> None:
    late = pod("worker", "late", **UNPULLED)
    api.pods = [SCHEDULER, pod("worker", **READY), late]
    run(a_section(tmp_path, replicas=2), tmp_path)
    going = pod("worker", **READY)
    going["metadata"]["deletionTimestamp"] = "now"
    api.pods = [SCHEDULER, going]
    with pytest.raises(UserError, match="no worker after 300 s"):
        run(a_section(tmp_path), tmp_path)


def test_a_cluster_that_was_taken_away_while_it_came_up_is_made_again(
    api: Api, tmp_path: Path
) -> None:
    api.pods = []
    api.answers["refresh"] = [NotFoundError()]
    with pytest.raises(Incomplete, match="was taken away"):
        run(a_section(tmp_path), tmp_path)


def test_a_scheduler_without_workers_is_said_with_the_pods_trouble_first(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_client(*_: Any, **__: Any) -> None:
        raise OSError

    monkeypatch.setattr(kubernetes, "Client", no_client)
    cluster = SimpleNamespace(name="dhs-x", namespace="runs")
    with pytest.raises(kubernetes.NoWorkerError, match="networkPolicy"):
        WAIT_FOR_A_WORKER("tcp://x", kubernetes.Watch(cluster), 60)
    watch = kubernetes.Watch(cluster)
    watch.look()
    api.pods = [SCHEDULER, pod("worker", **ended(1, reason="OOMKilled"))]
    with pytest.raises(UserError, match="want of memory"):
        WAIT_FOR_A_WORKER("tcp://x", watch, 60)


def test_restarts_count_from_when_one_looks_on(api: Api) -> None:
    cluster = SimpleNamespace(name="dhs-x", namespace="runs")
    watch = kubernetes.Watch(cluster)
    api.pods = [pod("scheduler"), pod("worker", **ended(3, exitCode=1))]
    watch.look()  # adopted, while its scheduler is away
    api.pods = [pod("scheduler"), pod("worker", **ended(7, exitCode=1))]
    watch.look()
    api.pods = [SCHEDULER, pod("worker", **ended(9, exitCode=1))]
    watch.look()
    api.pods = [SCHEDULER, pod("worker", **ended(10, exitCode=1))]
    with pytest.raises(UserError, match="a worker ended 3 times"):
        watch.look()


# --- outside a cluster ------------------------------------------------------------------------


def test_a_run_outside_the_chart_is_told_where_to_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DHS_NAMESPACE", raising=False)
    with pytest.raises(UserError, match=r"DHS_NAMESPACE is not set.*chart"):
        Driver.of_this_pod()


def test_connecting_to_a_local_run_is_a_mistake(tmp_path: Path) -> None:
    text = "survey: {root: x}\ntargets: {positions: [[1, 2]]}\nlens: {theta_e: 1}\n"
    (tmp_path / "experiment.yaml").write_text(text)
    with pytest.raises(UserError, match="local cluster"):
        darkhaloscope.connect(str(tmp_path))


def test_connecting_to_a_run_on_kubernetes_from_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DHS_NAMESPACE", raising=False)
    text = (
        "survey: {root: x}\ntargets: {positions: [[1, 2]]}\nlens: {theta_e: 1}\n"
        "cluster: {kind: kubernetes, manifest: m}\n"
    )
    (tmp_path / "experiment.yaml").write_text(text)
    with pytest.raises(UserError, match="namespace"):
        darkhaloscope.connect(str(tmp_path))
