"""The chart and the driver: what one gives and the other reads, and which values helm refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import dask
import pytest
import yaml
from chart import CHART, HELM, container_of, pods_of, render

from darkhaloscope.cluster import _SETTINGS as SETTINGS
from darkhaloscope.cluster import kubernetes
from darkhaloscope.cluster.kubernetes import Driver
from darkhaloscope.config import ClusterSection

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
    """Between its limits; the cluster begins with the least."""
    given = "worker.adaptive.enabled=true,worker.adaptive.minimum=3,worker.adaptive.maximum=9"
    section = manifest(render("--set", f"{given},worker.replicas=7"), tmp_path)
    cluster, scaler = kubernetes.manifest_of(section, "s3://bucket/run", DRIVER)
    assert cluster["spec"]["worker"]["replicas"] == 3
    name = cluster["metadata"]["name"]
    assert scaler["spec"] == {"cluster": name, "minimum": 3, "maximum": 9}
    assert scaler["metadata"]["name"] == name
    assert scaler["metadata"]["ownerReferences"] == cluster["metadata"]["ownerReferences"]


def test_a_scheduler_in_a_pod_is_set_as_one_of_a_local_run() -> None:
    """No stealing, three deaths, patience with long calls, and little memory for developers."""
    environment = container_of(pods_of(render())["scheduler"])["env"]
    given = dask.config.collect_env({one["name"]: one["value"] for one in environment})
    there = {key: dask.config.get(key, config=given) for key in SETTINGS}
    assert there == SETTINGS


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
        "serviceAccount.annotations.role=reader",
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
