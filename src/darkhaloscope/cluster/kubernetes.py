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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import yaml
from distributed import Client

from darkhaloscope import store, tls
from darkhaloscope.cluster import api
from darkhaloscope.cluster.pods import (
    Json,
    component_of,
    count_ready,
    restarts,
    trouble_of,
    why_pending,
)
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
WORKER_S = 5.0
"""How long a scheduler is asked for its workers before one looks again at their pods."""
OPERATOR_S = 60.0
"""How long the operator has to say anything of a new cluster, and another job to leave this one's name."""
GOING_S = 180.0
"""How long what was deleted has to go: the operator, looking at it by a timer, keeps it for a minute."""
SAY_EVERY_S = 60.0
"""How often one says what is waited for: nodes that must be bought take minutes."""
STRAGGLERS_S = 60.0
"""How long a run with at least one worker waits for the others before it begins."""
_NO_OPERATOR = (
    "this Kubernetes cluster knows no DaskCluster; install the Dask operator first "
    "(docs/kubernetes.md)"
)

_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


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
    host = f"{cluster_name(run)}-scheduler.{namespace}.svc"
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
    Incomplete
        The API server does not answer; or there is no worker for a run that has blocks already, which
        once had some and will again.
    """
    driver = Driver.of_this_pod()
    manifest = manifest_of(section, run, driver)
    cluster = _create_or_adopt(manifest[0], driver, {driver.uid})
    try:
        for document in manifest[1:]:
            # The operator gives a DaskAutoscaler the cluster for its owner.
            _create_or_adopt(document, driver, {driver.uid, cluster.metadata["uid"]})
        watch = Watch(cluster)
        address = scheduler_address(run, driver.namespace, tls=section.tls)
        try:
            _wait_for_pods(watch, section.patience)
            _wait_for_a_worker(address, watch, section.patience)
        except NoWorkerError as error:
            raise (Incomplete if store.finished_blocks(run) else UserError)(str(error)) from error
        yield address
    except UserError as error:
        if not error.passes:
            _delete(cluster)
        raise
    _delete(cluster)


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


def _create_or_adopt(document: dict[str, Any], driver: Driver, ours: set[str]) -> Any:
    """The run's DaskCluster, or what belongs to it: the one that is there if one of ``ours`` owns it, else a
    new one."""
    kr8s = api.installed_kr8s()
    kind, name = document["kind"], document["metadata"]["name"]
    dask_object = api.dask_object(kind)
    began = time.monotonic()
    while True:
        try:
            found = api.asked(lambda: dask_object.get(name, namespace=driver.namespace))
        except kr8s.NotFoundError:
            if (made := _create(document, driver)) is not None:
                return made
            # Somebody was faster, or a try before that went through: see who.
            if time.monotonic() - began > GOING_S:
                raise Incomplete(
                    f"the API server makes no {kind} {name}, which it says is there, and gives none"
                ) from None
            time.sleep(POLL_S)
            continue
        owners = {owner["uid"] for owner in found.metadata.get("ownerReferences", [])}
        going = "deletionTimestamp" in found.metadata
        if owners & ours and not going:
            logger.info("adopting the %s %s", kind, name)
            return found
        if time.monotonic() - began > (GOING_S if going else OPERATOR_S):
            why = "does not go" if going else "belongs to another job"
            raise UserError(
                f"the {kind} {name} is there and {why}; wait until that run has ended, or "
                f"`kubectl -n {driver.namespace} delete {kind.lower()} {name}`"
            )
        time.sleep(POLL_S)


def _create(document: dict[str, Any], driver: Driver) -> Any | None:
    """What a document describes, made; none where it is there already."""
    kr8s = api.installed_kr8s()
    kind, name = document["kind"], document["metadata"]["name"]
    made = api.dask_object(kind)(document, namespace=driver.namespace)
    try:
        api.asked(made.create, known=(404, 409))
    except kr8s.NotFoundError:
        raise UserError(_NO_OPERATOR) from None
    except kr8s.ServerError as error:
        if api.status_of(error) == 409:
            return None
        raise UserError(_NO_OPERATOR) from None
    logger.info("created the %s %s", kind, name)
    return made


def _delete(cluster: Any) -> None:
    """Take a cluster away; where that fails its idle time-out does it, and the run is as it is."""
    logger.info("deleting the Dask cluster %s", cluster.name)
    try:
        api.asked(cluster.delete)
    except api.installed_kr8s().NotFoundError:
        logger.info("it was gone already")
    except UserError as error:
        logger.warning("the Dask cluster %s is left to its idle time-out (%s)", cluster.name, error)


# --- waiting --------------------------------------------------------------------------------------


class NoWorkerError(UserError):
    """Nothing is wrong that one could name, but no worker came in time."""


class Watch:
    """Looks at the pods of a cluster that is to come up.

    Restarts count only from when one looks on: a cluster that is adopted may have lost its scheduler
    more than once, and each time every worker ended. Without a scheduler workers end as well, so that
    theirs count from when it is ready.
    """

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.before: dict[str, int] | None = None

    def look(self) -> list[Json]:
        """The pods as they are now.

        Raises
        ------
        UserError
            They will never be ready.
        """
        pods = api.asked(lambda: api.listed("Pod", self.cluster))
        if self.before is None:
            self.before = restarts(pods)
        if not count_ready(pods, "scheduler"):
            self.before |= restarts(pod for pod in pods if component_of(pod) == "worker")
        if trouble := trouble_of(pods, self.before):
            raise UserError(trouble)
        return pods

    def check_there(self) -> None:
        """See that the cluster is still there.

        Raises
        ------
        Incomplete
            Its idle time-out took it away, or somebody did.
        """
        try:
            api.asked(self.cluster.refresh)
        except api.installed_kr8s().NotFoundError:
            raise Incomplete(
                f"the Dask cluster {self.cluster.name} was taken away before it had a worker"
            ) from None

    def no_worker(self, pods: list[Json], patience: float) -> NoWorkerError:
        """What is raised where none of these pods is a worker in time."""
        return NoWorkerError(f"no worker after {patience:.0f} s: {self.why(pods)}")

    def why(self, pods: list[Json]) -> str:
        """What is known of a cluster of these pods that does not come up."""
        return why_pending(pods, api.asked(lambda: api.listed("Deployment", self.cluster)))


def _wait_for_pods(watch: Watch, patience: float) -> None:
    """Until the scheduler and the workers are ready, or one sentence says why they will not be."""
    cluster = watch.cluster
    wanted = int(cluster.spec.worker.get("replicas", 1))
    began = time.monotonic()
    first_worker: float | None = None
    said = began
    while True:
        pods = watch.look()
        scheduler = count_ready(pods, "scheduler")
        workers = count_ready(pods, "worker")
        now = time.monotonic()
        if workers and first_worker is None:
            first_worker = now
        late = workers > 0 and first_worker is not None and now - first_worker > STRAGGLERS_S
        if scheduler and (workers >= wanted or late):
            logger.info("%d of %d workers are ready", workers, wanted)
            return
        if not pods and now - began > OPERATOR_S:
            watch.check_there()
            if "phase" not in cluster.raw.get("status", {}):
                raise UserError(
                    f"nobody answers to the Dask cluster {cluster.name}: the Dask operator does not "
                    "run, or does not watch this namespace"
                )
        if now - began > patience:
            raise watch.no_worker(pods, patience)
        if now - said > SAY_EVERY_S:
            logger.info("%d of %d workers are ready: %s", workers, wanted, watch.why(pods))
            said = now
        time.sleep(POLL_S)


def _wait_for_a_worker(address: str, watch: Watch, patience: float) -> None:
    """Until a worker has told the scheduler of itself, which is later than its pod is ready."""
    tls.clear_errors_first()
    until = time.monotonic() + patience
    while True:
        try:
            with Client(address, timeout=WORKER_S, set_as_default=False) as client:
                client.wait_for_workers(1, timeout=WORKER_S)
            return
        except (OSError, TimeoutError) as error:
            pods = watch.look()
            watch.check_there()
            if time.monotonic() > until:
                if not count_ready(pods, "worker"):
                    raise watch.no_worker(pods, patience) from error
                raise NoWorkerError(
                    f"pods are ready, but after {patience:.0f} s the scheduler {address} knows no "
                    "worker; may the driver and the workers reach it (networkPolicy)?"
                ) from error
            time.sleep(POLL_S)
