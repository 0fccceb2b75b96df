"""The driver's words about a Dask cluster on Kubernetes; what needs a cluster is in tests/cluster."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from some_pods import READY, REFUSED, SCHEDULER, UNPULLED, ended, pod

from darkhaloscope.cluster import api as asking
from darkhaloscope.cluster import kubernetes
from darkhaloscope.cluster.kubernetes import Driver
from darkhaloscope.config import ClusterSection
from darkhaloscope.errors import Incomplete, UserError
from darkhaloscope.storage import StorageError

WAIT_FOR_A_WORKER = kubernetes._wait_for_a_worker
DRIVER = Driver("runs", "small-1234", "5e7a")


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
        self.status: dict[str, Any] = {}
        self.asked: list[str] = []

    def answer(self, what: str) -> None:
        self.asked.append(what)
        if left := self.answers.get(what):
            raise left.pop(0)

    def new_class(self, kind: str, version: str, **_: Any) -> Any:
        api = self

        class Made(SimpleNamespace):
            def __init__(self, document: dict[str, Any], namespace: str) -> None:
                assert namespace == "runs"
                worker = document["spec"].get("worker", {"replicas": 1})
                super().__init__(
                    metadata=document["metadata"],
                    name=document["metadata"]["name"],
                    namespace=namespace,
                    spec=SimpleNamespace(worker=worker),
                    raw=document,
                )

            @staticmethod
            def get(name: str, namespace: str) -> Any:
                assert namespace == "runs"
                api.answer("get")
                if (kind, name) not in api.objects:
                    raise NotFoundError
                return api.objects[kind, name]

            def create(self) -> None:
                api.answer(f"create {kind}")
                if (kind, self.name) in api.objects:
                    raise ServerError(409)
                self.metadata |= {"uid": f"{kind} {len(api.asked)}"}
                api.objects[kind, self.name] = self
                if kind == "DaskAutoscaler":  # the operator makes it a child of its cluster
                    (owner,) = (
                        c.metadata["uid"] for (k, _), c in api.objects.items() if k == "DaskCluster"
                    )
                    self.metadata |= {"ownerReferences": [{"uid": owner}]}

            def refresh(self) -> None:
                api.answer("refresh")
                self.raw["status"] = api.status

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
        (cluster,) = (one for (kind, _), one in api.objects.items() if kind == "DaskCluster")
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "small-1234", "uid": "5e7a"}
        assert cluster.metadata["ownerReferences"] == [owner], (
            "else Kubernetes takes it for an orphan"
        )
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


def test_a_driver_that_comes_back_adopts_its_autoscaler(api: Api, tmp_path: Path) -> None:
    """Which is its cluster's by then."""
    section = a_section(tmp_path, adaptive=True)
    with pytest.raises(Incomplete):
        run(section, tmp_path, Incomplete("evicted"))
    with kubernetes.run_cluster(section, str(tmp_path / "run")):
        pass
    assert api.asked.count("create DaskAutoscaler") == 1


def test_what_a_former_upgrade_left_is_waited_for_and_not_taken_for_ours(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator keeps a deleted autoscaler, or cluster, for a minute: then there would be none."""
    run_of = str(tmp_path / "run")
    for kind in ("DaskCluster", "DaskAutoscaler"):
        name = kubernetes.cluster_name(run_of)
        document = {"kind": kind, "metadata": {"name": name}, "spec": {}}
        old = api.new_class(kind, "v1")(document, "runs")
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
        made = {kind: one.metadata for (kind, _), one in api.objects.items()}
    owners = [made[kind]["ownerReferences"][0]["uid"] for kind in ("DaskCluster", "DaskAutoscaler")]
    assert owners == ["5e7a", made["DaskCluster"]["uid"]]


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
    with pytest.raises(UserError, match=r"no worker after 300 s: .*exceeded quota"):
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
    api.status = {"phase": "Created"}  # it does, and makes no pods
    with pytest.raises(UserError, match="made no pod of a worker"):
        run(a_section(tmp_path), tmp_path)


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("what", ["get", "create DaskCluster", "list", "delete"])
def test_an_api_server_that_is_away_for_a_moment_costs_nothing(
    what: str, status: int, api: Api, tmp_path: Path
) -> None:
    api.answers[what] = [ServerError(status), httpx.ConnectError("refused")]
    run(a_section(tmp_path), tmp_path)
    assert not api.kinds


AWAY = [ServerError(500), ServerError(503), ServerError(429), TimeoutError(), httpx.ReadError("")]


@pytest.mark.parametrize("error", AWAY, ids=repr)
def test_an_api_server_that_is_away_is_asked_for_a_minute(error: Exception, api: Api) -> None:
    api.answers["get"] = [error] * 99
    with pytest.raises(Incomplete, match=r"does not answer.*resumes"):
        asking.asked(lambda: api.answer("get"))
    assert asking.time.monotonic() == 60
    assert len(api.asked) == 7


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_what_an_api_server_refuses_is_not_asked_again(status: int, api: Api) -> None:
    api.answers["get"] = [ServerError(status)] * 2
    with pytest.raises(UserError, match=f"refused: status {status}"):
        asking.asked(lambda: api.answer("get"))
    with pytest.raises(ServerError):
        asking.asked(lambda: api.answer("get"), known=(status,))
    assert len(api.asked) == 2
    assert asking.time.monotonic() == 0


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
    made = api.new_class("DaskCluster", "v1")(document, "runs")
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
    there = [True]

    def refresh() -> None:
        if not there[0]:
            raise NotFoundError

    cluster = SimpleNamespace(name="dhs-x", namespace="runs", refresh=refresh)
    with pytest.raises(kubernetes.NoWorkerError, match="networkPolicy"):
        WAIT_FOR_A_WORKER("tcp://x", kubernetes.Watch(cluster), 60)
    assert 60 < kubernetes.time.monotonic() < 70
    api.pods = [SCHEDULER, pod("worker", reason="Evicted", message="exceeds the limit 1M")]
    with pytest.raises(kubernetes.NoWorkerError, match="a worker was evicted: exceeds the limit"):
        WAIT_FOR_A_WORKER("tcp://x", kubernetes.Watch(cluster), 60)
    there[0] = False
    with pytest.raises(Incomplete, match="dhs-x was taken away before it had a worker"):
        WAIT_FOR_A_WORKER("tcp://x", kubernetes.Watch(cluster), 60)
    there[0] = True
    watch = kubernetes.Watch(cluster)
    watch.look()
    api.pods = [SCHEDULER, pod("worker", **ended(1, reason="OOMKilled"))]
    with pytest.raises(UserError, match="want of memory"):
        WAIT_FOR_A_WORKER("tcp://x", watch, 60)


def test_what_is_waited_for_is_said_once_a_minute(
    api: Api, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api.pods, api.deployments = [SCHEDULER], [REFUSED]
    with caplog.at_level("INFO", "darkhaloscope.cluster"), pytest.raises(UserError):
        run(a_section(tmp_path), tmp_path)
    said = [m for m in caplog.messages if "0 of 1 workers are ready: a pod is refused" in m]
    assert len(said) == 4


def test_a_run_begins_once_the_scheduler_knows_a_worker(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pod is ready before."""
    answers: list[Exception | None] = [OSError(), TimeoutError(), None]

    def wait_for_workers(number: int, **_: Any) -> None:
        assert number == 1
        if (error := answers.pop(0)) is not None:
            raise error

    client = SimpleNamespace(wait_for_workers=wait_for_workers)
    monkeypatch.setattr(kubernetes, "Client", lambda *_, **__: contextlib.nullcontext(client))
    WAIT_FOR_A_WORKER("tcp://x", kubernetes.Watch(SimpleNamespace(refresh=dict)), 60)
    assert answers == []


def test_a_run_waits_a_minute_for_the_workers_after_the_first(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.pods = [SCHEDULER]
    sleep = kubernetes.time.sleep

    def come(seconds: float) -> None:
        sleep(seconds)
        if kubernetes.time.monotonic() == 120.0:
            api.pods = [SCHEDULER, pod("worker", **READY)]

    monkeypatch.setattr(kubernetes.time, "sleep", come)
    run(a_section(tmp_path, replicas=2), tmp_path)
    assert 180 < kubernetes.time.monotonic() < 190


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


def test_a_run_outside_the_chart_is_told_where_to_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DHS_NAMESPACE", raising=False)
    with pytest.raises(UserError, match=r"DHS_NAMESPACE is not set.*chart"):
        Driver.of_this_pod()
