"""A Dask cluster of the run's own on Kubernetes, through the operator of dask-kubernetes.

The chart gives the driver a manifest: a DaskCluster, and perhaps a DaskAutoscaler. The driver creates
it under a name that follows from the run's folder, with its Job as the owner, so that whatever removes
the Job removes the cluster. A driver that comes back finds its cluster by that name and adopts it; at
the end the driver deletes it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import yaml
from distributed import Client

from darkhaloscope.config import ClusterSection
from darkhaloscope.errors import Incomplete, UserError

logger = logging.getLogger(__name__)

PORT = 8786
"""Of every scheduler that the chart's manifest describes."""

CERTIFICATES = tuple(
    f"distributed.comm.tls.{name}" for name in ("ca-file", "client.cert", "client.key")
)
"""Keys of Dask's configuration that a client of a scheduler with TLS needs."""

POLL_S = 2.0
OPERATOR_S = 60.0
"""How long the operator has to say anything of a new cluster, and a former owner's cluster to go."""
STRAGGLERS_S = 60.0
"""How long a run with at least one worker waits for the others before it begins."""
CRASHES = 3
"""Restarts of one container after which nobody hopes any more."""

_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

_HOPELESS = frozenset(
    ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError")
)

Json = Mapping[str, Any]


def cluster_name(run: str) -> str:
    """The DaskCluster of a run's folder; the chart's ``dhs.cluster`` says the same."""
    return f"dhs-{hashlib.sha256(run.strip().rstrip('/').encode()).hexdigest()[:12]}"


def scheduler_address(run: str, namespace: str, *, tls: bool = False) -> str:
    """Where the scheduler of a run answers inside the Kubernetes cluster.

    Raises
    ------
    UserError
        It speaks TLS, and Dask's configuration here names no certificate.
    """
    if tls and None in map(dask.config.get, CERTIFICATES):
        raise UserError(
            f"the scheduler of {run} speaks TLS, and Dask knows no certificate here: its keys "
            f"{', '.join(CERTIFICATES)} name files (docs/kubernetes.md)"
        )
    host = f"{cluster_name(run)}-scheduler.{namespace}.svc.cluster.local"
    return f"{'tls' if tls else 'tcp'}://{host}:{PORT}"


def own_namespace() -> str:
    """The namespace of this pod: as its environment says, else as its service account does."""
    if named := os.environ.get("DHS_NAMESPACE"):
        return named
    try:
        return _ACCOUNT_NAMESPACE.read_text().strip()
    except OSError:
        raise UserError(
            "the run is on Kubernetes, and this process is in no namespace of it; give namespace, or "
            "set DHS_NAMESPACE"
        ) from None


@dataclass(frozen=True)
class Driver:
    """Who makes the cluster: the Job that this process belongs to."""

    namespace: str
    job: str
    uid: str

    @classmethod
    def of_this_pod(cls) -> Driver:
        """As the chart's driver pod says in its environment."""
        try:
            names = ("DHS_NAMESPACE", "DHS_JOB_NAME", "DHS_JOB_UID")
            return cls(*(os.environ[name] for name in names))
        except KeyError as error:
            raise UserError(
                f"cluster.kind is kubernetes, but {error.args[0]} is not set; "
                "runs on Kubernetes are started by the chart (docs/kubernetes.md)"
            ) from None

    def owner(self) -> dict[str, Any]:
        """The ownerReference of everything that this driver creates."""
        return {"apiVersion": "batch/v1", "kind": "Job", "name": self.job, "uid": self.uid}


@contextlib.contextmanager
def run_cluster(section: ClusterSection, run: str) -> Iterator[str]:
    """The address of the scheduler of the run's own cluster, for the time of a run.

    The cluster goes when the run ends or a user's mistake ends it. It stays when this process is
    interrupted or fails: the next attempt of the Job adopts it, and the operator's idle time-out
    takes it away where there is none.

    Raises
    ------
    UserError
        The cluster does not come up: one sentence says why.
    """
    driver = Driver.of_this_pod()
    manifest = manifest_of(section, run, driver)
    with _api_said_plainly():
        cluster = _create_or_adopt(manifest, driver)
    try:
        with _api_said_plainly():
            _wait_for_pods(cluster, section.patience)
        address = scheduler_address(run, driver.namespace, tls=section.tls)
        _wait_for_a_worker(address, section.patience)
        yield address
    except Incomplete:
        raise
    except UserError:
        cluster.delete()
        raise
    logger.info("deleting the Dask cluster %s", cluster.name)
    with _api_said_plainly():
        cluster.delete()


def manifest_of(section: ClusterSection, run: str, driver: Driver) -> list[dict[str, Any]]:
    """The documents of ``cluster.manifest``, named after the run and owned by the driver's Job."""
    path = Path(section.manifest or "")
    try:
        documents = [d for d in yaml.safe_load_all(path.read_text()) if d]
    except OSError as error:
        raise UserError(f"cannot read cluster.manifest {path}: {error.strerror}") from None
    except yaml.YAMLError:
        raise UserError(f"cluster.manifest {path} is not valid YAML") from None
    if not documents or documents[0].get("kind") != "DaskCluster":
        raise UserError(f"the first document of cluster.manifest {path} is no DaskCluster")
    for document in documents:
        document["metadata"] |= {
            "name": cluster_name(run),
            "namespace": driver.namespace,
            "ownerReferences": [driver.owner()],
        }
    return documents


def _dask_object(kind: str) -> Any:
    from kr8s.objects import new_class

    return new_class(kind, "kubernetes.dask.org/v1", asyncio=False)


@contextlib.contextmanager
def _api_said_plainly() -> Iterator[None]:
    """What the API server refuses is a sentence."""
    try:
        import kr8s
    except ImportError:
        raise UserError(
            "cluster.kind is kubernetes, which needs `pip install 'darkhaloscope[kubernetes]'`"
        ) from None
    try:
        yield
    except kr8s.ServerError as error:
        raise UserError(f"the Kubernetes API server refused: {error}") from error


def _create_or_adopt(manifest: list[dict[str, Any]], driver: Driver) -> Any:
    """The run's DaskCluster: the one that is there if it is ours, else a new one."""
    import kr8s

    dask_cluster = _dask_object("DaskCluster")
    name = manifest[0]["metadata"]["name"]
    patience = time.monotonic() + OPERATOR_S
    while True:
        try:
            found = dask_cluster.get(name, namespace=driver.namespace)
        except kr8s.NotFoundError:
            break
        owners = [owner["uid"] for owner in found.metadata.get("ownerReferences", [])]
        going = "deletionTimestamp" in found.metadata
        if driver.uid in owners and not going:
            logger.info("adopting the Dask cluster %s", name)
            return found
        if time.monotonic() > patience:
            why = "does not go" if going else "belongs to another job"
            raise UserError(
                f"the Dask cluster {name} is there and {why}; wait until that run has ended, or "
                f"`kubectl -n {driver.namespace} delete daskcluster {name}`"
            )
        time.sleep(POLL_S)
    logger.info("creating the Dask cluster %s", name)
    made = []
    for document in manifest:
        made.append(_dask_object(document["kind"])(document, namespace=driver.namespace))
        try:
            made[-1].create()
        except kr8s.NotFoundError:
            raise UserError(
                "this Kubernetes cluster knows no DaskCluster; install the Dask operator first "
                "(docs/kubernetes.md)"
            ) from None
    return made[0]


# --- waiting --------------------------------------------------------------------------------------


def _wait_for_pods(cluster: Any, patience: float) -> None:
    """Until the scheduler and the workers are ready, or one sentence says why they will not be."""
    wanted = int(cluster.spec.worker.get("replicas", 1))
    began = time.monotonic()
    first_worker: float | None = None
    while True:
        pods = _listed("Pod", cluster)
        if trouble := trouble_of(pods, _listed("Deployment", cluster)):
            raise UserError(trouble)
        scheduler = _count_ready(pods, "scheduler")
        workers = _count_ready(pods, "worker")
        now = time.monotonic()
        if workers and first_worker is None:
            first_worker = now
        late = first_worker is not None and now - first_worker > STRAGGLERS_S
        if scheduler and (workers >= wanted or late):
            logger.info("%d of %d workers are ready", workers, wanted)
            return
        if not pods and now - began > OPERATOR_S:
            cluster.refresh()
            if "phase" not in cluster.raw.get("status", {}):
                raise UserError(
                    f"nobody answers to the Dask cluster {cluster.name}: the Dask operator does not "
                    "run, or does not watch this namespace"
                )
        if now - began > patience:
            raise UserError(
                f"no worker after {patience:.0f} s (cluster.patience): {why_pending(pods)}"
            )
        time.sleep(POLL_S)


def _wait_for_a_worker(address: str, patience: float) -> None:
    """Until a worker has told the scheduler of itself, which is later than its pod is ready."""
    try:
        with Client(address, timeout=patience, set_as_default=False) as client:
            client.wait_for_workers(1, timeout=patience)
    except (OSError, TimeoutError) as error:
        raise UserError(
            f"pods are ready, but after {patience:.0f} s the scheduler {address} knows no worker; may "
            "the driver and the workers reach it (networkPolicy)?"
        ) from error


def _listed(kind: str, cluster: Any) -> list[Json]:
    from kr8s import objects

    found: Iterable[Any] = getattr(objects, kind).list(
        namespace=cluster.namespace, label_selector={"dask.org/cluster-name": cluster.name}
    )
    return [item.raw for item in found]


def _component(pod: Json) -> str:
    return str(pod["metadata"]["labels"].get("dask.org/component"))


def _conditions(thing: Json) -> dict[str, Json]:
    return {c["type"]: c for c in thing.get("status", {}).get("conditions", [])}


def _count_ready(pods: list[Json], component: str) -> int:
    return sum(
        _conditions(pod).get("Ready", {}).get("status") == "True"
        for pod in pods
        if _component(pod) == component and "deletionTimestamp" not in pod["metadata"]
    )


def trouble_of(pods: Iterable[Json], deployments: Iterable[Json]) -> str | None:
    """Why a cluster will never come up, in one sentence; none while there is hope.

    Parameters
    ----------
    pods, deployments : iterable of mapping
        Of one Dask cluster, as the API server gives them.
    """
    for deployment in deployments:
        failure = _conditions(deployment).get("ReplicaFailure", {})
        if failure.get("status") == "True":
            return f"a pod is refused: {failure.get('message', failure.get('reason'))}"
    checks: tuple[Callable[[str, Json], str | None], ...] = (_cannot_start, _keeps_crashing)
    for pod in pods:
        for container in pod.get("status", {}).get("containerStatuses", []):
            for check in checks:
                if said := check(_component(pod), container):
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


def _keeps_crashing(component: str, container: Json) -> str | None:
    ended, last = (
        container.get("restartCount", 0),
        container.get("lastState", {}).get("terminated", {}),
    )
    if ended and last.get("reason") == "OOMKilled":
        return f"a {component} is killed for want of memory; raise {component}.resources"
    if ended < CRASHES:
        return None
    return (
        f"a {component} ended {ended} times, last with exit code {last.get('exitCode')}; see "
        "`kubectl logs --previous` of its pod"
    )


def why_pending(pods: Iterable[Json]) -> str:
    """What the first pod that waits says itself."""
    for pod in pods:
        scheduled = _conditions(pod).get("PodScheduled", {})
        if scheduled.get("status") == "False":
            return (
                f"a {_component(pod)} finds no node: {scheduled.get('message', 'no reason given')}"
            )
        for container in pod.get("status", {}).get("containerStatuses", []):
            waiting = container.get("state", {}).get("waiting", {})
            if waiting:
                return f"a {_component(pod)} waits: {waiting.get('message', waiting['reason'])}"
    return "its pods are not ready; `kubectl describe pods` says more"
