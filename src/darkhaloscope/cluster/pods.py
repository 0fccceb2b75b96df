"""What the pods of a Dask cluster say of it: ready, pending, or never to be.

Pods and deployments are mappings, as the API server gives them; nothing here asks it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

CRASHES = 3
"""Restarts of one container, while one watches, after which nobody hopes any more."""

_HOPELESS = frozenset(
    ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError")
)

Json = Mapping[str, Any]


def restarts(pods: Iterable[Json]) -> dict[str, int]:
    """How often the containers of each pod were started again."""
    return {
        str(pod["metadata"].get("name")): sum(c.get("restartCount", 0) for c in _containers(pod))
        for pod in pods
    }


def component_of(pod: Json) -> str:
    """scheduler or worker."""
    return str(pod["metadata"]["labels"].get("dask.org/component"))


def _conditions(thing: Json) -> dict[str, Json]:
    return {c["type"]: c for c in thing.get("status", {}).get("conditions", [])}


def _containers(pod: Json) -> list[Json]:
    return list(pod.get("status", {}).get("containerStatuses", []))


def _is_going(thing: Json) -> bool:
    return "deletionTimestamp" in thing.get("metadata", {})


def _is_ready(pod: Json) -> bool:
    return _conditions(pod).get("Ready", {}).get("status") == "True" and not _is_going(pod)


def count_ready(pods: Iterable[Json], component: str) -> int:
    """How many pods of a component (scheduler, worker) are ready, and not about to go."""
    return sum(_is_ready(pod) for pod in pods if component_of(pod) == component)


def trouble_of(pods: Iterable[Json], before: Mapping[str, int] | None = None) -> str | None:
    """Why a cluster will never come up, in one sentence; none while there is hope.

    There is hope for a component of which one pod is ready, or may still be: a run begins with the
    workers that it gets. There is some for pods that a quota refuses: those that end count in it till
    they are gone.

    Parameters
    ----------
    pods : iterable of mapping
        Of one Dask cluster, as the API server gives them.
    before : mapping of str to int, optional
        Restarts of a pod that do not count, by its name.
    """
    pods = [pod for pod in pods if not _is_going(pod)]
    has_scheduler = count_ready(pods, "scheduler") > 0
    for component in ("scheduler", "worker"):
        mine = [pod for pod in pods if component_of(pod) == component]
        crashes_count = has_scheduler or component == "scheduler"
        troubles = [_trouble_of_pod(pod, before or {}, crashes_count) for pod in mine]
        if troubles and None not in troubles:
            return troubles[0]
    return None


def _refusal(deployment: Json) -> str | None:
    failure = _conditions(deployment).get("ReplicaFailure", {})
    if failure.get("status") != "True":
        return None
    return f"a pod is refused: {failure.get('message', failure.get('reason'))}"


def _trouble_of_pod(pod: Json, before: Mapping[str, int], crashes_count: bool) -> str | None:
    if _is_ready(pod):
        return None
    crashes = sum(ended - before.get(name, 0) for name, ended in restarts([pod]).items())
    for container in _containers(pod):
        if said := _cannot_start(component_of(pod), container):
            return said
        if crashes_count and (said := _keeps_crashing(component_of(pod), container, crashes)):
            return said
    return None


def _cannot_start(component: str, container: Json) -> str | None:
    waiting = container.get("state", {}).get("waiting", {})
    if waiting.get("reason") not in _HOPELESS:
        return None
    if "Image" in waiting["reason"]:
        what = f"the image {container['image']} of a {component} cannot be pulled"
        return f"{what} ({waiting['reason']}); check its name, its tag and the pull secrets"
    return f"a {component} cannot start: {waiting.get('message', waiting['reason'])}"


def _keeps_crashing(component: str, container: Json, crashes: int) -> str | None:
    last = container.get("lastState", {}).get("terminated", {})
    if crashes > 0 and last.get("reason") == "OOMKilled":
        return f"a {component} is killed for want of memory; raise {component}.resources"
    if crashes < CRASHES:
        return None
    return (
        f"a {component} ended {crashes} times, last with exit code {last.get('exitCode')}; see "
        "`kubectl logs --previous` of its pod"
    )


def why_pending(pods: Iterable[Json], deployments: Iterable[Json]) -> str:
    """Which pods are refused, or are not there; else what the first pod that waits says itself."""
    pods = list(pods)
    for deployment in deployments:
        if said := _refusal(deployment):
            return said
    if not any(component_of(pod) == "worker" for pod in pods):
        return "the Dask operator made no pod of a worker, and its log says why"
    for pod in pods:
        if pod.get("status", {}).get("reason") == "Evicted":
            return f"a {component_of(pod)} was evicted: {pod['status'].get('message', 'no reason given')}"
    for pod in pods:
        scheduled = _conditions(pod).get("PodScheduled", {})
        if scheduled.get("status") == "False":
            return f"a {component_of(pod)} finds no node: {scheduled.get('message', 'no reason given')}"
        for container in _containers(pod):
            waiting = container.get("state", {}).get("waiting", {})
            if waiting:
                return f"a {component_of(pod)} waits: {waiting.get('message', waiting['reason'])}"
    return "its pods are not ready; `kubectl describe pods` says more"
