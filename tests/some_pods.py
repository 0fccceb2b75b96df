"""Pods of a Dask cluster as an API server gives them: ready, refused, crashing."""

from __future__ import annotations

from typing import Any


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
