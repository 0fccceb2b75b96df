"""What the chart's documents promise: how a Job ends, who reaches whom, who may what, what goes where."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable

import pytest
import yaml
from chart import (
    CHART,
    Json,
    api_of,
    cluster_of,
    container_of,
    helm,
    of_kind,
    pods_of,
    render,
    render_values,
)

from darkhaloscope.cluster.kubernetes import cluster_name

NAME = cluster_name("s3://bucket/run")


@pytest.fixture(scope="module")
def plain() -> list[Json]:
    """The chart with the least values."""
    return render()


@pytest.fixture(scope="module")
def full() -> list[Json]:
    """The chart in the namespace ``lenses`` with what the plain one has not."""
    given = "tls.existingSecret=tls,volume.existingClaim=c,run.ttlSecondsAfterFinished=0"
    metrics = "metrics.annotations=true,metrics.podMonitor=true"
    return render("-n", "lenses", "--set", f"{given},{metrics}")


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
    assert spec["podReplacementPolicy"] == "Failed"  # or two drivers at once
    assert spec["backoffLimit"] == 20
    assert spec["activeDeadlineSeconds"] == 604800
    assert "ttlSecondsAfterFinished" not in spec
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    driver = container_of(pods_of(plain)["driver"])
    assert driver["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_a_job_that_nobody_keeps_goes_at_once(full: list[Json]) -> None:
    assert job_of(full)["spec"]["ttlSecondsAfterFinished"] == 0


def test_an_older_kubernetes_is_refused() -> None:
    """It would leave out podReplacementPolicy."""
    with pytest.raises(ValueError, match=r"1\.29"):
        render("--kube-version", "1.28.9")


def test_a_driver_knows_its_job_and_finds_its_files(plain: list[Json]) -> None:
    pod = pods_of(plain)["driver"]
    driver = container_of(pod)
    fields = {e["name"]: e["valueFrom"]["fieldRef"]["fieldPath"] for e in driver["env"]}
    assert fields == {
        "DHS_NAMESPACE": "metadata.namespace",
        "DHS_JOB_NAME": "metadata.labels['batch.kubernetes.io/job-name']",
        "DHS_JOB_UID": "metadata.labels['batch.kubernetes.io/controller-uid']",
    }
    maps = {d["metadata"]["name"]: d["data"] for d in plain if d["kind"] == "ConfigMap"}
    volumes = {v["name"]: v.get("configMap", {}).get("name") for v in pod["volumes"]}
    mounts = {m["mountPath"]: maps.get(volumes[m["name"]], {}) for m in driver["volumeMounts"]}
    files = re.findall(r"/etc/\S+", " ".join(driver["args"]))
    assert len(files) == 2
    for folder, _, name in (one.rpartition("/") for one in files):
        assert name in mounts[folder]


def test_keys_of_the_experiment_arrive_as_json() -> None:
    replaced = {"stamp.size": 96, "lens.q": {"uniform": [0.5, 1]}, "name": "007"}
    documents = render("--set-json", f"experiment.set={json.dumps(replaced)}")
    args = container_of(pods_of(documents)["driver"])["args"]
    given = dict(arg.removeprefix("--set=").split("=", 1) for arg in args if "--set=" in arg)
    assert {key: json.loads(given[key]) for key in replaced} == replaced
    assert given["cluster.kind"] == "kubernetes"


@pytest.fixture(scope="module")
def noted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """What helm says after an installation, a line an item, by flags."""
    copy = shutil.copytree(CHART, tmp_path_factory.mktemp("notes") / "chart")
    shutil.copy(copy / "templates" / "NOTES.txt", copy / "notes.txt")
    # helm shows notes only where it reaches a cluster: here they are a text in a document.
    document = (
        'kind: Notes\nmetadata: {name: notes}\ntext: {{ tpl (.Files.Get "notes.txt") . | quote }}\n'
    )
    (copy / "templates" / "notes.yaml").write_text(document)
    given = ("--set", "run.out=s3://bucket/run,experiment.inline.name=x")

    def said(*flags: str) -> list[str]:
        made = helm("template", "small", str(copy), "-n", "lenses", *given, *flags)
        (one,) = of_kind([d for d in yaml.safe_load_all(made) if d], "Notes").values()
        return [line.strip() for line in one["text"].splitlines() if line.strip()]

    return said


def test_the_three_commands_find_what_they_name(
    plain: list[Json], noted: Callable[..., list[str]]
) -> None:
    begun, logs, dashboard, state = noted()
    assert (
        begun
        == f"The run s3://bucket/run has begun; its Dask cluster, there in a minute, is {NAME}."
    )
    job = job_of(plain)
    labels = [job["spec"]["template"]["metadata"]["labels"], job["metadata"]["labels"]]
    # The operator gives them to its pods.
    labels.append(cluster_of(plain)["metadata"]["labels"])
    selftest = of_kind(plain, "Pod")["selftest"]["metadata"]["labels"]
    for command, found in ((logs, labels[:1]), (state, [*labels, selftest])):
        selector = dict(one.split("=") for one in command.rsplit("-l ", 1)[1].split(","))
        assert all(selector.items() <= one.items() for one in found)
    assert "logs -f --tail=-1 " in logs  # with a selector kubectl shows ten lines otherwise
    assert f"service/{NAME}-scheduler 8787" in dashboard


@pytest.mark.parametrize("ended", ["Failed", "Complete", None])
def test_an_upgrade_that_changes_nothing_says_what_became_of_the_job(
    ended: str | None, plain: list[Json], noted: Callable[..., list[str]]
) -> None:
    job = job_of(plain)
    name = job["metadata"]["name"]
    if ended:
        job = job | {"status": {"conditions": [{"type": ended, "status": "True"}]}}
    with api_of({f"/apis/batch/v1/namespaces/lenses/jobs/{name}": job}) as server:
        first, *more = noted(server, "--dry-run=server")
    if ended:
        assert f"its Job {name} of before is {ended}" in first
        assert f"kubectl -n lenses delete job {name}" in more
    else:
        assert first.startswith("The run s3://bucket/run goes on")


def test_a_change_of_the_users_own_experiment_makes_a_new_job() -> None:
    values = {"run": {"out": "s3://bucket/run"}, "experiment": {"existingConfigMap": "mine"}}
    jobs = [job_of(render_values(values))]
    for contents in ("{seed: 1}", "{seed: 2}"):
        own = {"kind": "ConfigMap", "apiVersion": "v1", "data": {"experiment.yaml": contents}}
        with api_of({"/api/v1/namespaces/lenses/configmaps/mine": own}) as server:
            jobs.append(job_of(render_values(values, server, "--dry-run=server", "-n", "lenses")))
    assert len({job["metadata"]["name"] for job in jobs}) == len(jobs)


def test_a_long_releases_names_are_its_own() -> None:
    values = {"run": {"out": "s3://bucket/run"}, "experiment": {"inline": {"name": "x"}}}
    releases = (f"{'x' * 30}.dr10-north", f"{'x' * 30}.dr10-south")
    made = [{d["metadata"]["name"] for d in render_values(values, release=r)} for r in releases]
    assert not made[0] & made[1]
    label = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
    assert [name for name in made[0] if not re.fullmatch(rf"{label}(\.{label})*", name)] == []
    assert max(map(len, made[0])) < 64 - len("-abcde")  # of a Job's pod


def test_helm_test_is_the_selftest(plain: list[Json]) -> None:
    pod = of_kind(plain, "Pod")["selftest"]
    assert pod["metadata"]["annotations"] == {
        "helm.sh/hook": "test",
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
    }
    assert pod["metadata"]["labels"]["darkhaloscope.io/component"] == "selftest"
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
    for who in ("scheduler", "worker"):
        chosen = policies[who]["podSelector"]["matchLabels"]
        assert chosen == {"darkhaloscope.io/release": "small", "dask.org/component": who}
    chosen = policies["driver"]["podSelector"]["matchLabels"]
    assert len(chosen) == 2
    assert chosen.items() <= job_of(documents)["spec"]["template"]["metadata"]["labels"].items()


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


def test_roles_are_given_to_the_pods_that_need_them(full: list[Json]) -> None:
    bindings, roles = of_kind(full, "RoleBinding"), of_kind(full, "Role")
    assert bindings.keys() == roles.keys() == {"driver", "scheduler"}
    for who, binding in bindings.items():
        role = {"kind": "Role", "name": roles[who]["metadata"]["name"]}
        assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io"} | role
        account = {"kind": "ServiceAccount", "name": pods_of(full)[who]["serviceAccountName"]}
        assert binding["subjects"] == [account | {"namespace": "lenses"}]


def test_only_who_asks_the_api_server_has_a_token(plain: list[Json]) -> None:
    accounts = {d["metadata"]["name"]: d for d in plain if d["kind"] == "ServiceAccount"}
    assert of_kind(plain, "Pod")["selftest"]["spec"]["automountServiceAccountToken"] is False
    for who, pod in pods_of(plain).items():
        account = accounts[pod["serviceAccountName"]]
        token = pod.get("automountServiceAccountToken", account["automountServiceAccountToken"])
        assert token is (who == "driver")


def test_every_pod_is_restricted(plain: list[Json]) -> None:
    pods = [*pods_of(plain).values(), of_kind(plain, "Pod")["selftest"]["spec"]]
    for pod in pods:
        # Variables of every service in the namespace, and Dask reads those that begin as its own.
        assert pod["enableServiceLinks"] is False
        assert pod["securityContext"] == {
            "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 100,
            "fsGroup": 100, "fsGroupChangePolicy": "OnRootMismatch",  # a volume is ours to write
            "seccompProfile": {"type": "RuntimeDefault"},
        }  # fmt: skip
        assert container_of(pod)["securityContext"]["allowPrivilegeEscalation"] is False


def test_certificates_are_read_by_our_group_alone(full: list[Json]) -> None:
    for pod in pods_of(full).values():
        (secret,) = [v["secret"] for v in pod["volumes"] if "secret" in v]
        assert secret["defaultMode"] == 0o440
        env = {e["name"]: e.get("value") for e in container_of(pod)["env"]}
        named = {k.rpartition("__TLS__")[2]: v for k, v in env.items() if "__TLS__" in k}
        roles = ("SCHEDULER", "WORKER", "CLIENT")
        assert named == {
            "CA_FILE": "/etc/darkhaloscope/tls/ca.crt",
            **{f"{role}__CERT": "/etc/darkhaloscope/tls/tls.crt" for role in roles},
            **{f"{role}__KEY": "/etc/darkhaloscope/tls/tls.key" for role in roles},
        }


def test_pods_mount_nothing_of_their_node_and_write_where_they_must(full: list[Json]) -> None:
    read_only = {
        "emptyDir": False, "persistentVolumeClaim": False, "configMap": True, "secret": True,
    }  # fmt: skip
    for pod in (*pods_of(full).values(), of_kind(full, "Pod")["selftest"]["spec"]):
        kinds = {v["name"]: (v.keys() - {"name"}).pop() for v in pod["volumes"]}
        mounts = {m["name"]: m for m in container_of(pod)["volumeMounts"]}
        assert mounts.keys() == kinds.keys()
        found = {kinds[name]: mount.get("readOnly", False) for name, mount in mounts.items()}
        assert found.items() <= read_only.items()
        (tmp,) = [mounts[name]["mountPath"] for name, kind in kinds.items() if kind == "emptyDir"]
        assert tmp == "/tmp"  # what the entrypoint and Dask write to, of a root that is read-only


# --- what goes where ----------------------------------------------------------------------------


def test_a_worker_knows_its_memory_and_hands_on_what_it_holds(plain: list[Json]) -> None:
    worker = container_of(pods_of(plain)["worker"])
    assert "--memory-limit=$(MEMORY_LIMIT)" in worker["args"]
    (limit,) = [e["valueFrom"] for e in worker["env"] if e["name"] == "MEMORY_LIMIT"]
    assert limit == {"resourceFieldRef": {"containerName": "worker", "resource": "limits.memory"}}
    stop = worker["lifecycle"]["preStop"]["exec"]["command"]
    assert stop == ["/usr/local/bin/entrypoint", "python", "-m", "darkhaloscope.cluster.retire"]
    # It is retired by the operator's name for it.
    assert {"--name=$(DASK_WORKER_NAME)", "--local-directory=/tmp"} <= set(worker["args"])


def test_dask_loads_what_is_ours(full: list[Json]) -> None:
    """A worker is warm before it is known; a scheduler with TLS takes its idle cluster away."""
    scheduler, worker = (container_of(pods_of(full)[who]) for who in ("scheduler", "worker"))
    assert "--preload=darkhaloscope.cluster.preload" in worker["args"]
    assert "--preload=darkhaloscope.cluster.guard" in scheduler["args"]
    own = {e["name"]: e["value"] for e in scheduler["env"] if e["name"].startswith("DHS_")}
    assert own == {"DHS_CLUSTER": NAME, "DHS_NAMESPACE": "lenses"}


def test_the_service_of_a_scheduler_leads_to_it_and_stays_inside(full: list[Json]) -> None:
    service = cluster_of(full)["spec"]["scheduler"]["service"]
    assert service["type"] == "ClusterIP"
    assert service["selector"] == {
        "dask.org/cluster-name": NAME,
        "dask.org/component": "scheduler",
    }
    there = {
        p["name"]: p["containerPort"] for p in container_of(pods_of(full)["scheduler"])["ports"]
    }
    assert there == {"tcp-comm": 8786, "http-dashboard": 8787}
    assert {p["targetPort"]: p["port"] for p in service["ports"]} == there


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


def test_the_scheduler_is_ready_when_it_answers_and_moves_no_task(plain: list[Json]) -> None:
    scheduler = container_of(pods_of(plain)["scheduler"])
    health = {"path": "/health", "port": "http-dashboard"}
    assert scheduler["readinessProbe"]["httpGet"] == scheduler["livenessProbe"]["httpGet"] == health
    assert {"name": "http-dashboard", "containerPort": 8787} in scheduler["ports"]
    env = {e["name"].removeprefix("DASK_DISTRIBUTED__"): e["value"] for e in scheduler["env"]}
    routes = yaml.safe_load(env.pop("SCHEDULER__HTTP__ROUTES"))
    assert "distributed.http.scheduler.api" in routes  # which the operator asks
    assert {"distributed.http.health", "distributed.http.scheduler.prometheus"} <= set(routes)
    alive = scheduler["livenessProbe"]
    assert alive["timeoutSeconds"] >= 5  # a long call holds the scheduler's answer up
    assert alive["periodSeconds"] * alive["failureThreshold"] >= 60
    assert env == {
        "SCHEDULER__WORK_STEALING": "False",
        "SCHEDULER__WORKER_TTL": "15 minutes",
        "SCHEDULER__ALLOWED_FAILURES": "2",
        "ADMIN__LOW_LEVEL_LOG_LENGTH": "10",
    }


def test_an_adaptive_cluster_asks_for_workers_however_short_its_blocks(plain: list[Json]) -> None:
    name = "DASK_DISTRIBUTED__ADAPTIVE__TARGET_DURATION"
    adaptive = render("--set", "worker.adaptive.enabled=true")
    for made, value in ((plain, None), (adaptive, "100ms")):
        env = container_of(pods_of(made)["scheduler"])["env"]
        assert {e["name"]: e.get("value") for e in env}.get(name) == value


def test_metrics_are_where_prometheus_is_told(full: list[Json]) -> None:
    (monitor,) = of_kind(full, "PodMonitor").values()
    assert {one["path"] for one in monitor["spec"]["podMetricsEndpoints"]} == {"/metrics"}
    spec = cluster_of(full)["spec"]
    for told in (job_of(full)["spec"]["template"], spec["scheduler"], spec["worker"]):
        marks = told["metadata"]["annotations"]
        assert marks["prometheus.io/scrape"] == "true"
        assert marks["prometheus.io/path"] == "/metrics"


def test_the_hubs_notebooks_reach_a_run() -> None:
    hub = yaml.safe_load((CHART.parent / "jupyterhub-values.yaml").read_text())["singleuser"]
    assert ATTACH["podSelector"]["matchLabels"].items() <= hub["extraLabels"].items()
    (egress,) = hub["networkPolicy"]["egress"]
    assert egress["ports"] == ports(8786, 8787)
    assert egress["to"][0]["podSelector"]["matchLabels"] == {"dask.org/component": "scheduler"}
    assert (hub["uid"], hub["fsGid"]) == (1000, 100)  # of the image
