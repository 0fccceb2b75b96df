"""A notebook, or any process beside a run, finds the run's scheduler."""

from __future__ import annotations

from pathlib import Path

import dask
import pytest

import darkhaloscope
from darkhaloscope.cluster import kubernetes
from darkhaloscope.config import ClusterSection
from darkhaloscope.errors import UserError


def test_a_client_without_certificates_is_told_of_them() -> None:
    with pytest.raises(UserError, match=r"client\.cert.*docs/kubernetes"):
        kubernetes.scheduler_address("s3://bucket/run", "runs", tls=True)
    with dask.config.set(dict.fromkeys(kubernetes.CERTIFICATES, "/somewhere")):
        address = kubernetes.scheduler_address("s3://bucket/run", "runs", tls=True)
    assert address.startswith("tls://dhs-")


def test_tls_of_a_local_cluster_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="tls://host"):
        ClusterSection(tls=True)


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
