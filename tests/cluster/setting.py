"""What the tests of a cluster agree on: names, a restricted pod, a small experiment."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

IMAGE = os.environ.get("DHS_TEST_IMAGE", "darkhaloscope:dev")
TOOLS = os.environ.get("DHS_TEST_TOOLS", "dhs-test-tools:dev")
OPERATOR, STORE = "dask-operator", "dhs-store"
KEY, SECRET = "dhs", "not-a-secret"
ENDPOINT = f"http://s3.{STORE}.svc.cluster.local:8333"

RESTRICTED = {
    "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 100, "fsGroup": 100,
    "seccompProfile": {"type": "RuntimeDefault"},
}  # fmt: skip
CONTAINER = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def pod(name: str, namespace: str, image: str, args: list[str], **more: Any) -> dict[str, Any]:
    """A pod of one restricted container with a /tmp of its own."""
    container = {
        "name": name, "image": image, "args": args, "securityContext": CONTAINER,
        "resources": {"requests": {"cpu": "50m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        **more.pop("container", {}),
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": more.pop("labels", {})},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": RESTRICTED,
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            **more,
        },
    }


def credentials(name: str, secret: str, namespace: str) -> dict[str, Any]:
    """A Secret with S3 credentials, as a user makes one."""
    values = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": secret}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": values}


SLOWLY = "500m"
"""Limit of cpu of workers whose run lasts until it is taken away, and shall leave cores to others."""

EXPERIMENT = {
    "name": "cluster-test",
    "seed": 20,
    "survey": {"root": "s3://dhs/sky", "hemisphere": "south"},
    "targets": {"path": "s3://dhs/targets.parquet"},
    "plan": {"control_fraction": 0.5, "repeats": 16},
    "lens": {"model": "SIE", "theta_e": {"uniform": [0.5, 2.0]}, "q": 0.8},
    "source": {"dmag": 2.0, "reff": 0.3},
    "store": {"block": 64},
    "audit": {"cap": 100, "whole_cap": 100, "closure": 10},
}


class Local(NamedTuple):
    """What the small experiment comes to in one pod, without any cluster."""

    hashes: dict[str, str]
    exit_code: int
    compiled: list[str]
    """Files of numba's cache that the image had not."""
