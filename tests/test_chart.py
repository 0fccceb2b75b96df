"""What the chart's documents promise: how a Job ends, who reaches whom, who may what, what goes where."""

from __future__ import annotations

import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from chart import CHART, Json, cluster_of, container_of, helm, of_kind, pods_of, render

from darkhaloscope.cluster.kubernetes import cluster_name

NAME = cluster_name("s3://bucket/run")


@pytest.fixture(scope="module")
def plain() -> list[Json]:
    """The chart with the least values."""
    return render()


def job_of(documents: list[Json]) -> Json:
    (job,) = of_kind(documents, "Job").values()
    return job


# --- the Job ----------------------------------------------------------------------------------


def test_a_job_ends_where_a_retry_would_give_the_same(plain: list[Json]) -> None:
    spec = job_of(plain)["spec"]
    ignored, failed = spec["podFailurePolicy"]["rules"]
    assert ignored["action"] == "Ignore"
    assert ignored["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert failed["action"] == "FailJob"
    codes = {"containerName": "driver", "operator": "In", "values": [1, 2, 3, 5]}
    assert failed["onExitCodes"] == codes
    assert spec["backoffLimit"] == 20
    assert spec["activeDeadlineSeconds"] == 604800
    assert "ttlSecondsAfterFinished" not in spec
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_the_job_takes_what_values_say() -> None:
    given = "run.backoffLimit=3,run.activeDeadlineSeconds=90,run.ttlSecondsAfterFinished=7"
    spec = job_of(render("--set", given))["spec"]
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (3, 90)
    assert spec["ttlSecondsAfterFinished"] == 7


def test_keys_of_the_experiment_arrive_as_json() -> None:
    replaced = {"stamp.size": 96, "lens.q": {"uniform": [0.5, 1]}, "name": "007"}
    documents = render("--set-json", f"experiment.set={json.dumps(replaced)}")
    args = container_of(pods_of(documents)["driver"])["args"]
    given = dict(arg.removeprefix("--set=").split("=", 1) for arg in args if "--set=" in arg)
    assert {key: json.loads(given[key]) for key in replaced} == replaced
    assert given["cluster.kind"] == "kubernetes"


def test_an_experiment_of_the_users_own_is_read() -> None:
    made = helm(
        "template", "small", str(CHART), "--set", "run.out=s3://bucket/run",
        "--set", "experiment.existingConfigMap=mine,experiment.key=e.yaml",
    )  # fmt: skip
    documents = [d for d in yaml.safe_load_all(made) if d]
    driver = pods_of(documents)["driver"]
    maps = {v["name"]: v["configMap"]["name"] for v in driver["volumes"] if "configMap" in v}
    assert maps["experiment"] == "mine"
    assert "/etc/darkhaloscope/experiment/e.yaml" in container_of(driver)["args"]
    assert set(of_kind(documents, "ConfigMap")) == {"cluster"}


def test_the_three_commands_find_what_they_name(tmp_path: Path) -> None:
    copy = shutil.copytree(CHART, tmp_path / "chart")
    notes = (copy / "templates" / "NOTES.txt").read_text()
    # helm shows notes only where it reaches a cluster: here they are a text in a document.
    head = "kind: Notes\nmetadata: {name: notes}\ntext: |\n"
    (copy / "templates" / "notes.yaml").write_text(head + textwrap.indent(notes, "  "))
    given = ("--set", "run.out=s3://bucket/run,experiment.inline.name=x")
    printed = helm(
        "template", "small", str(copy), "-n", "lenses", *given, "-s", "templates/notes.yaml"
    )
    said = yaml.safe_load(printed)["text"].splitlines()
    logs, dashboard, state = [line for line in said if "kubectl" in line]
    documents = render()
    job = job_of(documents)
    labels = [job["spec"]["template"]["metadata"]["labels"], job["metadata"]["labels"]]
    labels.append(
        cluster_of(documents)["metadata"]["labels"]
    )  # the operator gives them to its pods
    for command, found in ((logs, labels[:1]), (state, labels)):
        selector = dict(one.split("=") for one in command.rsplit("-l ", 1)[1].split(","))
        assert all(selector.items() <= one.items() for one in found)
    assert f"service/{NAME}-scheduler 8787" in dashboard


def test_helm_test_is_the_selftest(plain: list[Json]) -> None:
    pod = of_kind(plain, "Pod")["selftest"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert container_of(pod["spec"])["args"] == ["dhs", "selftest"]


# --- who reaches whom, who may what -------------------------------------------------------------


def ports(*numbers: int) -> list[Json]:
    return [{"protocol": "TCP", "port": number} for number in numbers]


def namespace(name: str) -> Json:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


RUN = {"podSelector": {"matchLabels": {"darkhaloscope.io/release": "small"}}}
ATTACH = {"podSelector": {"matchLabels": {"darkhaloscope.io/attach": "true"}}}


def test_policies_let_in_who_must_and_nobody_else() -> None:
    documents = render("--set", "networkPolicy.notebookNamespaces={notebooks}")
    policies = {k: d["spec"] for k, d in of_kind(documents, "NetworkPolicy").items()}
    assert {k: p["policyTypes"] for k, p in policies.items()} == {
        who: ["Ingress"] for who in ("driver", "scheduler", "worker")
    }
    assert "ingress" not in policies["driver"]
    assert policies["scheduler"]["ingress"] == [
        {"from": [RUN], "ports": ports(8786)},
        {"from": [namespace("dask-operator")], "ports": ports(8786, 8787)},
        {"from": [ATTACH, namespace("notebooks") | ATTACH], "ports": ports(8786, 8787)},
    ]
    assert policies["worker"]["ingress"] == [{"from": [RUN], "ports": ports(8788, 8789, 8790)}]
    for who, label in (("scheduler", "dask.org/component"), ("worker", "dask.org/component")):
        chosen = policies[who]["podSelector"]["matchLabels"]
        assert chosen == {"darkhaloscope.io/release": "small", label: who}


def test_ports_are_those_of_the_policies(plain: list[Json]) -> None:
    pods = pods_of(plain)
    scheduler, worker = container_of(pods["scheduler"]), container_of(pods["worker"])
    assert {"--port=8786", "--dashboard-address=:8787"} <= set(scheduler["args"])
    fixed = {"--worker-port=8788", "--nanny-port=8789", "--dashboard-address=:8790"}
    assert fixed <= set(worker["args"])
    assert {"--nworkers=1", "--nthreads=1"} <= set(worker["args"])


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_driver_may_do_what_it_does_and_no_more(adaptive: bool) -> None:
    documents = render("--set", f"worker.adaptive.enabled={str(adaptive).lower()}")
    (role,) = of_kind(documents, "Role").values()
    dask = ["kubernetes.dask.org"]
    clusters = {"apiGroups": dask, "resources": ["daskclusters"]}
    scaler = {"apiGroups": dask, "resources": ["daskautoscalers"]}
    scalers = [
        {**scaler, "verbs": ["create"]},
        {**scaler, "resourceNames": [NAME], "verbs": ["get", "list"]},
    ]
    assert role["rules"] == [
        {**clusters, "verbs": ["create"]},
        {**clusters, "resourceNames": [NAME], "verbs": ["get", "list", "delete"]},
        *(scalers if adaptive else []),
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]},
    ]
    (binding,) = of_kind(documents, "RoleBinding").values()
    (subject,) = binding["subjects"]
    assert subject["name"] == pods_of(documents)["driver"]["serviceAccountName"]


def test_who_reads_data_has_the_clouds_role_and_the_scheduler_has_none() -> None:
    role = "arn:aws:iam::1:role/lenses"
    key = r"serviceAccount.annotations.eks\.amazonaws\.com/role-arn"
    documents = render("--set", f"{key}={role}")
    accounts = {d["metadata"]["name"]: d for d in documents if d["kind"] == "ServiceAccount"}
    annotated = {}
    for who, pod in pods_of(documents).items():
        account = accounts[pod["serviceAccountName"]]
        annotated[who] = list(account["metadata"].get("annotations", {}).values())
        token = pod.get("automountServiceAccountToken", account["automountServiceAccountToken"])
        assert token is (who == "driver")
    assert annotated == {"driver": [role], "scheduler": [], "worker": [role]}


def test_every_pod_is_restricted(plain: list[Json]) -> None:
    pods = [*pods_of(plain).values(), of_kind(plain, "Pod")["selftest"]["spec"]]
    for pod in pods:
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["securityContext"]["runAsUser"] == 1000
        assert container_of(pod)["securityContext"]["allowPrivilegeEscalation"] is False


def test_certificates_are_read_by_our_group_alone() -> None:
    for pod in pods_of(render("--set", "tls.existingSecret=tls")).values():
        (secret,) = [v["secret"] for v in pod["volumes"] if "secret" in v]
        assert secret["defaultMode"] == 0o440


# --- what goes where ----------------------------------------------------------------------------


def test_each_pod_is_placed_by_its_own_section() -> None:
    given = [f"{who}.nodeSelector.pool={who}" for who in ("driver", "scheduler", "worker")]
    spot = "worker.tolerations[0].key=spot,worker.tolerations[0].operator=Exists"
    own = "driver.tolerations[0].key=own,driver.tolerations[0].operator=Exists"
    documents = render("--set", ",".join([*given, spot, own]))
    pods = pods_of(documents)
    assert {who: pod["nodeSelector"] for who, pod in pods.items()} == {
        who: {"pool": who} for who in pods
    }
    placed = {who: [t["key"] for t in pod.get("tolerations", [])] for who, pod in pods.items()}
    assert placed == {"driver": ["own"], "scheduler": [], "worker": ["spot"]}
    selftest = of_kind(documents, "Pod")["selftest"]["spec"]
    assert selftest["tolerations"] == pods["driver"]["tolerations"]


def test_a_worker_knows_its_memory_and_hands_on_what_it_holds(plain: list[Json]) -> None:
    worker = container_of(pods_of(plain)["worker"])
    assert "--memory-limit=$(MEMORY_LIMIT)" in worker["args"]
    (limit,) = [e["valueFrom"] for e in worker["env"] if e["name"] == "MEMORY_LIMIT"]
    assert limit == {"resourceFieldRef": {"containerName": "worker", "resource": "limits.memory"}}
    stop = worker["lifecycle"]["preStop"]["exec"]["command"]
    assert stop[-2:] == ["-m", "darkhaloscope.cluster.retire"]


def test_budgets_are_of_pods_that_there_are(plain: list[Json]) -> None:
    labels = cluster_of(plain)["metadata"]["labels"]
    found = {}
    for who, budget in of_kind(plain, "PodDisruptionBudget").items():
        expected = {**labels, "dask.org/component": who}
        assert budget["spec"]["selector"]["matchLabels"] == expected
        found[who] = budget["spec"]["maxUnavailable"]
    assert found == {"scheduler": 0, "worker": 1}


def test_an_idle_cluster_goes_after_half_an_hour(plain: list[Json]) -> None:
    assert cluster_of(plain)["spec"]["idleTimeout"] == 1800


def test_an_adaptive_cluster_asks_for_workers_however_short_its_blocks(plain: list[Json]) -> None:
    name = "DASK_DISTRIBUTED__ADAPTIVE__TARGET_DURATION"
    adaptive = render("--set", "worker.adaptive.enabled=true")
    for made, value in ((plain, None), (adaptive, "100ms")):
        env = container_of(pods_of(made)["scheduler"])["env"]
        assert {e["name"]: e.get("value") for e in env}.get(name) == value


def test_images_are_those_that_values_name() -> None:
    digest = "sha256:" + "a" * 64
    given = f"image.repository=r/dhs,image.tag=v1,image.digest={digest},image.pullSecrets={{pull}}"
    pods = pods_of(render("--set", given, "--set", "worker.image=r/other:2"))
    images = {who: container_of(pod)["image"] for who, pod in pods.items()}
    assert images == {
        "driver": f"r/dhs@{digest}", "scheduler": f"r/dhs@{digest}", "worker": "r/other:2",
    }  # fmt: skip
    assert all(pod["imagePullSecrets"] == [{"name": "pull"}] for pod in pods.values())
    tagged = pods_of(render("--set", "image.repository=r/dhs,image.tag=v1"))
    assert {container_of(pod)["image"] for pod in tagged.values()} == {"r/dhs:v1"}


def test_driver_and_workers_reach_the_data_and_the_scheduler_does_not() -> None:
    s3 = "s3.endpoint=http://weed:8333,s3.region=eu-west-1,s3.existingSecret=keys"
    pods = pods_of(render("--set", s3, "--set", "volume.existingClaim=claim"))
    for who, pod in pods.items():
        container = container_of(pod)
        env = {e["name"]: e.get("value") for e in container["env"]}
        claims = {
            v["name"]: v["persistentVolumeClaim"]["claimName"]
            for v in pod["volumes"]
            if "persistentVolumeClaim" in v
        }
        if who == "scheduler":
            assert "envFrom" not in container
            assert not claims
            continue
        assert env["AWS_ENDPOINT_URL"] == "http://weed:8333"
        assert env["AWS_DEFAULT_REGION"] == "eu-west-1"
        assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]
        assert claims == {"data": "claim"}
        assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]


# --- wrong values -------------------------------------------------------------------------------


def test_nothing_is_switched_off_by_a_null(tmp_path: Path) -> None:
    values: Json = yaml.safe_load((CHART / "values.yaml").read_text())
    of_none = {"nodeSelector", "affinity", "tolerations"}  # null says the same as nothing
    given = {"out", "inline"}
    nulls = {
        section: dict.fromkeys(set(keys) - given)
        for section, keys in values.items()
        if section != "logs"
    }
    (tmp_path / "nulls.yaml").write_text(yaml.safe_dump(nulls))
    with pytest.raises(ValueError, match="is required") as refused:
        render("-f", str(tmp_path / "nulls.yaml"))
    expected = [
        f"{section}: {key} is required"
        for section, keys in nulls.items()
        for key in keys.keys() - of_none
        if values[section][key] is not None
    ]
    assert [one for one in expected if one not in str(refused.value)] == []


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("worker.resources.requests.cpu=3,worker.resources.limits.cpu=500m", "asks for 3 cores"),
        ("worker.nodeSelector.bad key!=x", "worker.nodeSelector"),
        ("worker.tolerations[0].kye=spot", "kye is not allowed"),
        ("worker.affinity.nodeAffinty.x=1", "nodeAffinty is not allowed"),
        ("run.out=file:///data/x", "pods can write to s3://bucket/run"),
        ("run.out=memory://x/y", "pods can write to"),
        ("run.out=http://host/x", "pods can write to"),
        ("run.out=gs://bucket/x", "pods can write to"),
        ("run.out=s3://B_ucket/x", "names no bucket"),
        ("run.out=s3://bucket/a//b", "//"),
        ("run.out=s3://bucket/a/./b", "//"),
        ("run.out=s3://bucket/a/..", "//"),
        ("run.out=s3://bucket/$(HOME)", "Kubernetes puts variables"),
        ("volume.existingClaim=c,run.out=/data/../etc/x", "give the folder without"),
        ("volume.mountPath=//usr", "volume.mountPath"),
        ("volume.mountPath=/data/../usr", "volume.mountPath"),
        ("volume.mountPath=/da:ta", "volume.mountPath"),
        ("image.tag=-v1", "image.tag"),
        ("worker.image=foo:", "worker.image"),
        ("s3.endpoint=http://a b", "s3.endpoint"),
        (f"s3.existingSecret={'a' * 254}", "s3.existingSecret"),
        ("run.activeDeadlineSeconds=99999999999", "activeDeadlineSeconds"),
        ("experiment.key=..", "experiment.key"),
        ("worker.resources.requests.memory=1M", "requests.memory"),
        ("experiment.inline.cluster.kind=local", "take the section out"),
        ("networkPolicy.operatorNamespace=", "operatorNamespace"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: str, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        render("--set", wrong)


@pytest.mark.parametrize(
    ("right", "out"),
    [
        ("volume.existingClaim=c", "/data/runs/x"),
        ("worker.tolerations[0].key=cloud.google.com/gke-spot,worker.tolerations[0].operator=Exists",
         "s3://bucket/a.b/c/"),
        ("worker.resources.limits.cpu=1500m,image.repository=registry.example.org:5000/a/b-c",
         "s3://bucket/run"),
        ("s3.endpoint=https://storage.googleapis.com", "s3://bucket/run"),
        (r"worker.nodeSelector.eks\.amazonaws\.com/capacityType=SPOT", "s3://bucket/run"),
    ],
)  # fmt: skip
def test_right_values_are_not_refused(right: str, out: str) -> None:
    documents = render("--set", right, out=out)
    assert cluster_of(documents)["metadata"]["name"] == cluster_name(out)


def test_a_full_affinity_is_let_through() -> None:
    expression: Json = {"key": "pool", "operator": "In", "values": ["spot"]}
    affinity: dict[str, Any] = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [expression]}]
            }
        },
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 1,
                    "podAffinityTerm": {
                        "topologyKey": "kubernetes.io/hostname",
                        "labelSelector": {"matchLabels": {"dask.org/component": "worker"}},
                    },
                }
            ]
        },
    }
    documents = render("--set-json", f"worker.affinity={json.dumps(affinity)}")
    assert pods_of(documents)["worker"]["affinity"] == affinity
    assert "affinity" not in pods_of(documents)["scheduler"]
