"""Every value of the chart arrives where it should; a wrong one is refused by helm, by its name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from chart import CHART, Json, cluster_of, container_of, of_kind, pods_of, refused, render_values

from darkhaloscope.cluster.kubernetes import cluster_name

OUT = "s3://bucket/run"
Places = dict[str, Any]

ALL = ("driver", "scheduler", "worker", "selftest")
DATA = ("driver", "worker")

# --- what arrives -------------------------------------------------------------------------------


def arrived(documents: list[Json]) -> Json:
    """A release's documents, with what is a list in Kubernetes by its names."""
    pods = pods_of(documents) | {"selftest": of_kind(documents, "Pod")["selftest"]["spec"]}
    made: Json = {who: _by_names(pod) for who, pod in pods.items()}
    (made["job"],) = of_kind(documents, "Job").values()
    maps = of_kind(documents, "ConfigMap")
    made["maps"] = {k: {f: _yaml(text) for f, text in d["data"].items()} for k, d in maps.items()}
    made["cluster"], *scalers = made["maps"]["cluster"]["cluster.yaml"]
    made["scaler"] = next(iter(scalers), None)
    for key, kind in (
        ("accounts", "ServiceAccount"), ("policies", "NetworkPolicy"),
        ("budgets", "PodDisruptionBudget"), ("monitors", "PodMonitor"),
    ):  # fmt: skip
        made[key] = of_kind(documents, kind)
    return made


def _yaml(text: str) -> list[Any]:
    return list(yaml.safe_load_all(text))


def _by_names(pod: Json) -> Json:
    """A pod and its container in one: args, env, mounts and volumes by their names."""
    container = container_of(pod)
    args = [arg.rpartition("=") for arg in container["args"]]
    return {
        **pod,
        **container,
        "args": {key or last: last for key, _, last in args},
        "env": {e["name"]: e.get("value") for e in container.get("env", [])},
        "mounts": {m["name"]: m["mountPath"] for m in container["volumeMounts"]},
        "volumes": {v["name"]: v for v in pod["volumes"]},
    }


def at(made: Any, place: str) -> Any:
    """What lies at a place, as ``driver env NAME``."""
    for key in place.split():
        made = made[int(key) if isinstance(made, list) else key]
    return made


def same(value: Any, *places: str) -> tuple[Any, Places]:
    return value, dict.fromkeys(places, value)


def each(value: Any, place: str, *pods: str, lands: Any = None) -> tuple[Any, Places]:
    return value, {f"{who} {place}": lands or value for who in pods}


NAMED = "namespaceSelector matchLabels kubernetes.io/metadata.name"
SPOT: Json = {"key": "pool", "operator": "In", "values": ["spot", "cheap"]}
NODES: Json = {
    "matchExpressions": [
        SPOT,
        {"key": "example.org/pool", "operator": "Exists"},
        {"key": "cores", "operator": "Gt", "values": ["8"]},
    ],
    "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["node-1"]}],
}
WORKERS: Json = {
    "topologyKey": "kubernetes.io/hostname",
    "labelSelector": {"matchLabels": {"dask.org/component": "worker"}, "matchExpressions": [SPOT]},
    "namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]},
    "namespaces": ["lenses"],
}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"
PODS: Json = {REQUIRED: [WORKERS], PREFERRED: [{"weight": 1, "podAffinityTerm": WORKERS}]}
AFFINITY: Json = {
    "nodeAffinity": {
        REQUIRED: {"nodeSelectorTerms": [NODES]},
        PREFERRED: [{"weight": 100, "preference": NODES}],
    },
    "podAffinity": PODS,
    "podAntiAffinity": PODS,
}
"""Every field that the API has; a DaskCluster loses ``matchLabelKeys``, so they are refused."""
TOLERATIONS: list[Json] = [
    {"operator": "Exists"},
    {"key": "example.org/spot", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "spot", "value": "true", "effect": "NoExecute", "tolerationSeconds": 60},
]

FIXED: dict[str, tuple[Any, Places]] = {
    "image.repository": each("r:5000/a/b-c", "image", "driver", "scheduler", lands="r:5000/a/b-c:v1"),
    "image.tag": ("v1", {"selftest image": "r:5000/a/b-c:v1"}),
    "image.pullPolicy": each("Always", "imagePullPolicy", *ALL),
    "image.pullSecrets": each(["p"], "imagePullSecrets", *ALL, lands=[{"name": "p"}]),
    "experiment.inline": ({"seed": 7}, {"maps experiment e.yaml": [{"seed": 7}]}),
    "experiment.key": ("e.yaml", {"driver args /etc/darkhaloscope/experiment/e.yaml": ...}),
    # Kubernetes makes one $ of two, and puts variables for $(NAME).
    "experiment.set": ({"name": "$(HOME)$$"}, {"driver args --set=name": '"$$(HOME)$$$$"'}),
    "run.out": (
        "s3://bucket/a.b/$$/",
        {
            "driver args --out": "s3://bucket/a.b/$$$$/",
            "cluster metadata name": cluster_name("s3://bucket/a.b/$$/"),
        },
    ),
    "run.backoffLimit": same(3, "job spec backoffLimit"),
    "run.activeDeadlineSeconds": same(31_536_000, "job spec activeDeadlineSeconds"),
    "run.ttlSecondsAfterFinished": same(7, "job spec ttlSecondsAfterFinished"),
    # As text: a DaskCluster takes no numbers.
    "driver.resources": each(
        {
            "requests": {"cpu": 0.5, "memory": "2Gi", "ephemeral-storage": "1Gi", "nvidia.com/gpu": 1},
            "limits": {"cpu": 2, "memory": "2048Mi", "ephemeral-storage": "1Gi", "nvidia.com/gpu": "1"},
        },
        "resources", "driver", "selftest",
        lands={
            "requests": {"cpu": "0.5", "memory": "2Gi", "ephemeral-storage": "1Gi", "nvidia.com/gpu": "1"},
            "limits": {"cpu": "2", "memory": "2048Mi", "ephemeral-storage": "1Gi", "nvidia.com/gpu": "1"},
        },
    ),
    "scheduler.resources": (
        {"requests": {"cpu": 2, "memory": "3000M"}, "limits": {"memory": "3G"}},
        {"scheduler resources": {"requests": {"cpu": "2", "memory": "3000M"}, "limits": {"memory": "3G"}}},
    ),
    "worker.resources": (
        {"requests": {"cpu": 1.5, "memory": "5Gi"}, "limits": {"cpu": "1500m", "memory": "5Gi"}},
        {
            "worker resources": {
                "requests": {"cpu": "1.5", "memory": "5Gi"}, "limits": {"cpu": "1500m", "memory": "5Gi"},
            },
        },
    ),
    "driver.gracePeriodSeconds": same(31, "driver terminationGracePeriodSeconds"),
    "worker.gracePeriodSeconds": same(32, "worker terminationGracePeriodSeconds"),
    "driver.nodeSelector": each({"pool": "driver"}, "nodeSelector", "driver", "selftest"),
    "scheduler.nodeSelector": same({"pool": "scheduler"}, "scheduler nodeSelector"),
    "worker.nodeSelector": same({"eks.amazonaws.com/capacityType": "SPOT"}, "worker nodeSelector"),
    "driver.affinity": each({"podAffinity": PODS}, "affinity", "driver", "selftest"),
    "scheduler.affinity": same({"podAntiAffinity": PODS}, "scheduler affinity"),
    "worker.affinity": same(AFFINITY, "worker affinity"),
    "driver.tolerations": each(TOLERATIONS[:1], "tolerations", "driver", "selftest"),
    "scheduler.tolerations": same(TOLERATIONS[1:2], "scheduler tolerations"),
    "worker.tolerations": same(TOLERATIONS, "worker tolerations"),
    "worker.replicas": same(7, "cluster spec worker replicas"),
    "worker.image": same("r/other:2", "worker image"),
    "worker.scratch": same("3Gi", "worker volumes tmp emptyDir sizeLimit"),
    "cluster.idleTimeoutSeconds": (
        99, {"scheduler args --idle-timeout": "99s", "cluster spec idleTimeout": 0},
    ),
    "cluster.patienceSeconds": (77, {"driver args --set=cluster.patience": "77"}),
    "cluster.bricksPerTask": (3, {"driver args --set=cluster.bricks_per_task": "3"}),
    "s3.endpoint": each("https://a.b:9000/p", "env AWS_ENDPOINT_URL", *DATA),
    "s3.region": each("eu-west-1", "env AWS_DEFAULT_REGION", *DATA),
    "s3.existingSecret": each("keys", "envFrom", *DATA, lands=[{"secretRef": {"name": "keys"}}]),
    "volume.existingClaim": each("c", "volumes data persistentVolumeClaim claimName", *DATA),
    "volume.mountPath": each("/mnt/store/", "mounts data", *DATA),
    "serviceAccount.annotations": each(
        {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/lenses"},
        "metadata annotations", "accounts driver", "accounts worker",
    ),
    "tls.existingSecret": (
        "certs",
        {f"{who} volumes tls secret secretName": "certs" for who in ALL[:3]}
        | {f"{who} env DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True" for who in ALL[:3]}
        | {"driver args --set=cluster.tls": "true", "scheduler args --protocol": "tls"},
    ),
    "networkPolicy.enabled": (False, {"policies": {}}),
    "podDisruptionBudget.enabled": (False, {"budgets": {}}),
    "metrics.annotations": (
        True,
        {
            f"{where} metadata annotations prometheus.io/port": port
            for where, port in (
                ("job spec template", "8791"),
                ("cluster spec scheduler", "8787"),
                ("cluster spec worker", "8790"),
            )
        },
    ),
    "metrics.podMonitor": (
        True,
        {"monitors small-darkhaloscope spec selector matchLabels": {"darkhaloscope.io/release": "small"}},
    ),
    "logs": ("json", {"driver args --log": "json", "worker env DHS_LOG": "json"}),
}  # fmt: skip
"""By key, a value other than the default, and what lies where in the release that has all of them."""

ADAPTIVE: dict[str, tuple[Any, Places]] = {
    "run.out": (OUT, {"scaler metadata name": cluster_name(OUT)}),
    "image.digest": each(
        "sha256:" + "a" * 64, "image", *ALL, lands="darkhaloscope@sha256:" + "a" * 64
    ),
    "experiment.existingConfigMap": ("mine", {"driver volumes experiment configMap name": "mine"}),
    "worker.adaptive.enabled": (True, {"scaler kind": "DaskAutoscaler"}),
    "worker.adaptive.minimum": same(3, "scaler spec minimum", "cluster spec worker replicas"),
    "worker.adaptive.maximum": same(9, "scaler spec maximum"),
    "cluster.idleTimeoutSeconds": same(999, "cluster spec idleTimeout"),
    "networkPolicy.operatorNamespace": same(
        "dask", f"policies scheduler spec ingress 1 from 0 {NAMED}"
    ),
    "networkPolicy.notebookNamespaces": (
        ["notebooks"], {f"policies scheduler spec ingress 2 from 1 {NAMED}": "notebooks"},
    ),
    "networkPolicy.monitoringNamespace": (
        "watch",
        {
            f"policies {who} spec ingress {i}": {
                "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "watch"}}}],
                "ports": [{"protocol": "TCP", "port": port}],
            }
            for who, i, port in (("driver", 0, 8791), ("scheduler", 3, 8787), ("worker", 1, 8790))
        },
    ),
}  # fmt: skip
"""The same of values that exclude one of the others."""


def nested(values: Json) -> Json:
    """Values by dotted key as a file has them."""
    made: Json = {}
    for key, value in values.items():
        *sections, last = key.split(".")
        section = made
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = value
    return made


def leaves(values: Json, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no section, by its dotted key."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@pytest.fixture(scope="module", params=["fixed", "adaptive"])
def release(request: pytest.FixtureRequest) -> tuple[dict[str, tuple[Any, Places]], Json]:
    given = {"fixed": FIXED, "adaptive": ADAPTIVE}[request.param]
    values = nested({key: value for key, (value, _) in given.items()})
    return given, arrived(render_values(values))


def test_a_value_arrives(release: tuple[dict[str, tuple[Any, Places]], Json]) -> None:
    given, made = release
    wrong = {}
    for key, (_, places) in given.items():
        for place, expected in places.items():
            found = at(made, place)
            if found != expected and expected is not ...:
                wrong[f"{key}: {place}"] = found
    assert wrong == {}
    assert ("experiment" in made["maps"]) is (given is FIXED)
    assert (made["scaler"] is None) is (given is FIXED)
    scheduler = made["scheduler"]  # reads no data
    assert "envFrom" not in scheduler
    assert "data" not in scheduler["volumes"]
    assert "annotations" not in made["accounts"]["scheduler"]["metadata"]
    if given is FIXED:
        (monitor,) = made["monitors"].values()
        named = {p["name"] for who in ALL[:3] for p in made[who]["ports"]}
        assert {p["port"] for p in monitor["spec"]["podMetricsEndpoints"]} <= named


def test_every_value_is_seen_to_arrive() -> None:
    changed = {**FIXED, **ADAPTIVE}
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    defaults = dict(leaves(values))
    unseen = {
        key for key in defaults if not any(f"{key}.".startswith(f"{one}.") for one in changed)
    }
    assert unseen == set()
    assert [key for key in defaults if key in changed and changed[key][0] == defaults[key]] == []


# --- what is refused ----------------------------------------------------------------------------

WRONG: dict[str, list[Any]] = {
    "image.tag": ["-v1"],
    "image.digest": ["sha256:abc"],
    "experiment.key": [".."],
    "experiment.set": [{"cluster.kind": "local"}],
    "run.activeDeadlineSeconds": [99_999_999_999],
    "driver.resources.requests.cpu": ["0.0", 0, "0", "0m", "one"],
    "scheduler.resources.requests": [{"memroy": "1Gi"}, {"gpu": 1}, {"a.b/gpu": "0"}, {"a.b/gpu": 0.5}],
    "worker.resources.limits.memory": ["0", "0Gi", "1M", 4],
    "worker.resources.limits.ephemeral-storage": ["0", "0Gi", 1],
    "worker.scratch": ["0Gi"],
    "worker.image": ["foo:", "host:5/a:"],
    "worker.nodeSelector": [{"bad key!": "x"}, {"pool": True}, {"pool": 3}, {"a..b/c": "x"}],
    "driver.affinity": [{"nodeAffinty": {}}],
    "cluster.bricksPerTask": ["all", 0, 1.5, "3"],
    "image.repository": ["registry/x y"],
    "s3.existingSecret": ["a" * 254],
    "volume.mountPath": ["/", "data", "//usr", "/data/../usr", "/da:ta", "/data//"],
    "networkPolicy.operatorNamespace": [""],
}  # fmt: skip


def schemas(schema: Json, place: str = "") -> Iterator[tuple[str, set[str], Json]]:
    """Every schema in that of the values: the keys on the way to it, its types, and itself."""
    types = schema.get("type", [])
    yield place, {types} if isinstance(types, str) else set(types), schema
    for key, one in schema.items():
        if isinstance(one, dict):
            parents = "" if key in ("properties", "definitions") else f"{key} "
            yield from schemas(one, f"{place} {parents}".strip())


FREE = {"global", "experiment inline", "experiment set"}
ANY_NUMBER = {"cpu", "tolerationSeconds", "patternProperties"}  # the last are of devices


def test_no_section_takes_unknown_keys_and_no_number_is_without_bounds() -> None:
    found = list(schemas(json.loads((CHART / "values.schema.json").read_text())))
    takes_any = {
        place
        for place, types, schema in found
        if "object" in types and schema.get("additionalProperties", True) is True
    }
    assert takes_any == FREE
    unbounded = [
        place
        for place, types, schema in found
        if types & {"integer", "number"}
        and not {"minimum", "maximum"} <= schema.keys()
        and not ANY_NUMBER & set(place.split())
    ]
    assert unbounded == []


def named(values: Json) -> list[str]:
    """What helm says of wrong values, a line a finding, which begins with the key."""
    said = refused(nested({"run.out": OUT, "experiment.inline": {"name": "x"}} | values))
    return [line.removeprefix("- ") for line in said.splitlines()]


def about(key: str, lines: list[str]) -> bool:
    return any(line.startswith((f"{key}:", f"{key}.")) for line in lines)


def test_wrong_values_are_refused_by_name() -> None:
    for row in itertools.zip_longest(*WRONG.values(), fillvalue=...):
        wrong = {key: value for key, value in zip(WRONG, row, strict=True) if value is not ...}
        lines = named(wrong)
        assert {key: value for key, value in wrong.items() if not about(key, lines)} == {}


def test_placement_that_kubernetes_refuses_is_refused_by_name() -> None:
    x: Json = {"key": "x"}
    tolerations: list[Json] = [
        {"kye": "spot", "operator": "Exists"},
        x | {"operator": "Exists", "value": "true"},
        x | {"tolerationSeconds": 60},
        x | {"effect": "NoSchedule", "tolerationSeconds": 60},
        {"operator": "Equal", "value": "true"},
        {"value": "true"},
        x | {"value": True},
        x | {"effect": "Never"},
    ]
    expressions: list[Json] = [
        x | {"operator": "In"},
        x | {"operator": "NotIn", "values": []},
        x | {"operator": "Exists", "values": ["a"]},
        x | {"operator": "DoesNotExist", "values": ["a"]},
        x | {"operator": "Gt"},
        x | {"operator": "Gt", "values": ["1", "2"]},
        x | {"operator": "Lt", "values": ["few"]},
        x | {"operator": "Is", "values": ["a"]},
        x | {"operator": "In", "values": [1]},
        x | {"operator": "In", "vlaues": ["a"], "values": ["a"]},
        {"operator": "In", "values": ["a"]},
    ]
    host: Json = {"topologyKey": "kubernetes.io/hostname"}
    above = x | {"operator": "Gt", "values": ["1"]}
    terms: list[Json] = [
        {"labelSelector": {}},
        {"topologyKey": ""},
        host | {"labelSelector": {"matchExpressions": [above]}},
        host | {"labelSelector": {"matchLabels": {"a": 1}}},
        host | {"namespaceSelector": {"matchLabel": {}}},
        host | {"matchLabelKeys": ["a"]},
        host | {"namespaces": ["A_b"]},
        host | {"topology": "zone"},
    ]
    fields: list[Json] = [
        {"key": "metadata.uid", "operator": "In", "values": ["a"]},
        {"key": "metadata.name", "operator": "Exists"},
    ]
    lines = named(
        {
            "worker.tolerations": tolerations,
            "worker.affinity.nodeAffinity": {
                REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": expressions, "matchFields": fields}]},
                PREFERRED: [{"weight": 0, "preference": {}}, {"weight": 1}, {"weight": 1, "preference": x}],
            },
            "worker.affinity.podAffinity": {REQUIRED: terms},
            "worker.affinity.podAntiAffinity": {
                PREFERRED: [{"weight": 101, "podAffinityTerm": host}, {"weight": 1}]
            },
        }
    )  # fmt: skip
    term = f"worker.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms.0"
    for place, wrong in (
        ("worker.tolerations", tolerations),
        (f"{term}.matchExpressions", expressions),
        (f"{term}.matchFields", fields),
        (f"worker.affinity.nodeAffinity.{PREFERRED}", [0, 1, 2]),
        (f"worker.affinity.podAffinity.{REQUIRED}", terms),
        (f"worker.affinity.podAntiAffinity.{PREFERRED}", [0, 1]),
    ):
        unsaid = [one for i, one in enumerate(wrong) if not about(f"{place}.{i}", lines)]
        assert unsaid == [], place


def _resources(name: str, asked: Any, limit: Any) -> Json:
    """Of a worker, with so much of one resource."""
    both = {"requests": asked, "limits": limit}
    return {f"worker.resources.{kind}": {name: x} for kind, x in both.items() if x is not None}


CLAIM = {"volume.existingClaim": "c"}
NO_ADDRESS = [
    "minio:9000", "ftp://host", "https://", "https://host:abc", "https://host:0", "https://-h", "http://a b",
    "https://user:pw@host", "https://token@host:99x", "https://h/?key=x", "https://h/#x", "https://h/$(X)",
]  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"run.out": ""}, "run.out is empty"),
        ({"run.out": " "}, "has a space in it"),
        ({"run.out": "file:///data/x"}, "pods can write to s3://bucket/run"),
        ({"run.out": "gs://bucket/x"}, "pods can write to s3://bucket/run"),
        ({"run.out": "simplecache::s3://bucket/x"}, "is a chain of addresses"),
        ({"run.out": "s3://bucket/zip://x::y"}, "is a chain of addresses"),
        ({"run.out": "s3://B_ucket/x"}, "names no bucket"),
        ({"run.out": "s3://bucket/a//b"}, "has //"),
        ({"run.out": "s3://bucket/a/./b"}, "has //"),
        ({"run.out": "s3://bucket/a/.."}, "has //"),
        ({"run.out": "s3://bucket/$(HOME)"}, "Kubernetes puts variables"),
        ({"run.out": "/data/x"}, "is a path in a pod, which is gone with it"),
        ({"run.out": "/data2/x", **CLAIM}, 'is not below volume.mountPath "/data"'),
        ({"run.out": "/data/../etc/x", **CLAIM}, "give the folder without"),
        ({"image.repository": "x:5"}, '"x:5" is no name of an image without its tag'),
        ({"image.repository": "r.org/x:v1"}, "the tag goes to image.tag"),
        *[({"s3.endpoint": one}, "s3.endpoint is no address of a server") for one in NO_ADDRESS],
        ({"s3.endpoint": "https://host:99999/x"}, "a port above 65535"),
        ({"volume.mountPath": "/etc/darkhaloscope"}, "would hide what the image has"),
        ({"volume.mountPath": "/tmp"}, "would hide what the image has"),
        ({"volume.mountPath": "/home/dhs"}, "would hide what the image has"),
        ({"volume.mountPath": "/libx32"}, "would hide what the image has"),
        ({"experiment.inline.cluster.kind": "local"}, "take the section out"),
        ({"experiment.existingConfigMap": "c"}, "are both given"),
        ({"experiment.inline": {}}, "no experiment"),
        ({"experiment.set.stamp": {"size": 96}}, "experiment.set.stamp is a section"),
        ({"experiment.inline.seed": 2**53}, "is not below 2^53"),
        ({"experiment.set.seed": 2**53}, "is not below 2^53"),
        ({"cluster.patienceSeconds": 1800}, "would be taken away while its workers come"),
        (_resources("memory", "2Gi", "4Gi"), "asks for 2Gi of memory and is limited to 4Gi"),
        (_resources("cpu", 3, "500m"), "asks for 3 of cpu and is limited to 500m"),
        (_resources("cpu", "1500m", 1), "asks for 1500m of cpu and is limited to 1"),
        (_resources("ephemeral-storage", "2G", "1Gi"), "ask for less"),
        (_resources("a.b/gpu", 1, None), "asks for 1 of a.b/gpu and is limited to nothing"),
        ({"worker.adaptive.enabled": True, "tls.existingSecret": "c"}, "cannot speak TLS"),
        (
            {"worker.adaptive.enabled": True, "worker.adaptive.minimum": 17},
            "worker.adaptive.minimum is above worker.adaptive.maximum",
        ),
    ],
)  # fmt: skip
def test_values_that_do_not_go_together_are_refused(wrong: Json, says: str) -> None:
    (said,) = [line for line in named(wrong) if "execution error" in line]
    assert says in said


def test_nothing_is_switched_off_by_a_null() -> None:
    values: Json = yaml.safe_load((CHART / "values.yaml").read_text())
    of_none = {"nodeSelector", "affinity", "tolerations"}  # null says the same as nothing
    nulls = {
        f"{section}.{key}": None
        for section, keys in values.items()
        if section != "logs"
        for key in keys.keys() - {"out", "inline"}
    }
    lines = named(nulls)
    expected = [
        f"{section}: {key} is required"
        for section, keys in values.items()
        if section != "logs"
        for key in keys.keys() - of_none - {"out", "inline"}
        if keys[key] is not None
    ]
    assert [one for one in expected if one not in lines] == []


def test_a_path_on_a_claim_is_a_folder() -> None:
    given = {"run.out": "/data/Runs/x", "experiment.inline": {"name": "x"}, **CLAIM}
    made = render_values(nested(given | {"volume.mountPath": "/data/"}))
    assert cluster_of(made)["metadata"]["name"] == cluster_name("/data/Runs/x")
