"""A notebook, or any process beside a run, finds the run's scheduler."""

from __future__ import annotations

import contextlib
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import dask
import pytest

import darkhaloscope
from darkhaloscope import cluster
from darkhaloscope.cluster import kubernetes
from darkhaloscope.config import ClusterSection
from darkhaloscope.driver import Warm
from darkhaloscope.errors import Incomplete, UserError


def test_a_client_without_certificates_is_told_of_them() -> None:
    with pytest.raises(UserError, match=r"client\.cert.*docs/kubernetes"):
        kubernetes.scheduler_address("s3://bucket/run", "runs", tls=True)
    with dask.config.set(dict.fromkeys(kubernetes.CERTIFICATES, "/somewhere")):
        address = kubernetes.scheduler_address("s3://bucket/run", "runs", tls=True)
    assert address.startswith("tls://dhs-")


def test_runs_that_differ_in_case_have_their_own_clusters() -> None:
    """As they have their own objects."""
    assert kubernetes.cluster_name("s3://b/Run") != kubernetes.cluster_name("s3://b/run")


def test_tls_of_a_local_cluster_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="tls://host"):
        ClusterSection(tls=True)


def a_run(folder: Path, cluster: str) -> str:
    """A run's folder that says where the run works."""
    folder.mkdir(exist_ok=True)
    text = "survey: {root: x}\ntargets: {positions: [[1, 2]]}\nlens: {theta_e: 1}\n"
    (folder / "experiment.yaml").write_text(f"{text}cluster: {cluster}\n")
    return str(folder)


ON_KUBERNETES = "{kind: kubernetes, manifest: m}"


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses to which clients were made."""
    addresses: list[str] = []
    monkeypatch.setattr(cluster, "_knock", lambda _: None)
    monkeypatch.setattr(cluster, "Client", lambda address, **_: addresses.append(address))
    return addresses


def test_a_run_on_kubernetes_is_looked_for_in_its_namespace(
    tmp_path: Path, called: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that is given, else that of the environment, else that of the pod's service account."""
    run = a_run(tmp_path / "run", ON_KUBERNETES)
    (tmp_path / "namespace").write_text("of-the-pod\n")
    monkeypatch.setattr(kubernetes, "_ACCOUNT_NAMESPACE", tmp_path / "namespace")
    monkeypatch.setenv("DHS_NAMESPACE", "lenses")
    darkhaloscope.connect(run, namespace="another")
    darkhaloscope.connect(f"{run}/")
    monkeypatch.delenv("DHS_NAMESPACE")
    darkhaloscope.connect(run)
    host = f"{kubernetes.cluster_name(run)}-scheduler"
    assert called == [
        f"tcp://{host}.{namespace}.svc:8786" for namespace in ("another", "lenses", "of-the-pod")
    ]


def test_a_run_with_tls_and_one_of_ones_own_scheduler(tmp_path: Path, called: list[str]) -> None:
    run = a_run(tmp_path / "run", "{kind: kubernetes, manifest: m, tls: true}")
    with dask.config.set(dict.fromkeys(kubernetes.CERTIFICATES, "/somewhere")):
        darkhaloscope.connect(run, namespace="lenses")
    assert called.pop().startswith("tls://dhs-")
    darkhaloscope.connect(a_run(tmp_path / "own", "{address: 'tcp://10.0.0.1:8786'}"))
    assert called == ["tcp://10.0.0.1:8786"]


def test_a_scheduler_that_does_not_answer_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*_: Any, **__: Any) -> None:
        raise OSError("Timed out")

    monkeypatch.setattr(cluster, "_knock", lambda _: None)
    monkeypatch.setattr(cluster, "Client", nobody)
    with pytest.raises(
        UserError, match=r"answers at tcp://dhs-.*: Timed out; the run may have end"
    ):
        darkhaloscope.connect(a_run(tmp_path, ON_KUBERNETES), namespace="lenses")


def test_connecting_to_a_local_run_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="local cluster"):
        darkhaloscope.connect(a_run(tmp_path, "{}"))


def test_connecting_to_a_run_on_kubernetes_from_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DHS_NAMESPACE", raising=False)
    with pytest.raises(UserError, match="namespace"):
        darkhaloscope.connect(a_run(tmp_path, ON_KUBERNETES))


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is done with a scheduler of one worker that is there."""
    done: list[Any] = []

    class There(contextlib.nullcontext[Any]):
        def __enter__(self) -> There:
            return self

        def scheduler_info(self) -> dict[str, Any]:
            return {"workers": {"tcp://w": {}}}

        def run(self, function: Any, **_: Any) -> dict[str, Any]:
            done.append(function.__name__)
            return {"tcp://w": function()}

        def register_plugin(self, plugin: Any, name: str) -> None:
            done.append(name)

    def client(address: str, timeout: str) -> There:
        done.append(timeout)
        return There()

    monkeypatch.setattr(cluster, "_knock", lambda _: None)
    monkeypatch.setattr(cluster, "Client", client)
    return done


OWN = ClusterSection(address="tcp://10.0.0.1:8786")


def test_workers_are_looked_at_and_a_lost_scheduler_has_time_to_come_back(
    reached: list[Any],
) -> None:
    with cluster.connect(OWN, "run"):
        assert reached == ["20s", "what_is_here", "10 minutes", Warm.name]


def test_what_a_lost_scheduler_forgot_is_no_bug_of_ours(reached: list[Any]) -> None:
    with pytest.raises(Incomplete, match="the scheduler was lost"), cluster.connect(OWN, "run"):
        raise CancelledError("write-000003")
