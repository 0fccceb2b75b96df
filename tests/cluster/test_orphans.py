"""Clusters whose driver is gone for good, with and without TLS; and who may talk to one with TLS."""

from __future__ import annotations

import copy
import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certificates
import kube
import pytest

pytestmark = pytest.mark.cluster

TLS = "orphan-tls"
RELEASES = {"orphan": {}, TLS: {"existingSecret": "tls"}}


@pytest.fixture(scope="module")
def orphans(values: dict[str, Any], tls: dict[str, str], runs: str) -> Iterator[None]:
    """Two runs, one with TLS, that last until they are taken away; all their workers are ready."""
    for release, section in RELEASES.items():
        given = copy.deepcopy(values)
        given["run"]["out"] = f"s3://dhs/{release}"
        given["experiment"]["inline"]["plan"]["repeats"] = 400
        given["worker"]["replicas"] = 1
        given["cluster"] |= {"idleTimeoutSeconds": 60, "patienceSeconds": 50}
        given["tls"] = section
        kube.install(release, runs, given)
    for release in RELEASES:
        ready = functools.partial(kube.workers_ready, release, runs)
        kube.wait_until(f"a worker of {release} is ready", ready, 120)
    yield
    for release in RELEASES:
        kube.uninstall(release, runs)


KNOCK = """
import dask, darkhaloscope, pathlib, tempfile
from darkhaloscope.cluster.kubernetes import CERTIFICATES, scheduler_address
from distributed import Client

def configured(certificates):
    folder = pathlib.Path(tempfile.mkdtemp())
    for name, text in certificates.items():
        (folder / name).write_text(text)
    names = dict(zip(CERTIFICATES, ("ca.crt", "tls.crt", "tls.key"), strict=True))
    return dask.config.set({{key: str(folder / name) for key, name in names.items()}})

def knock(address):
    try:
        with Client(address, timeout="6s", set_as_default=False) as client:
            return "answers"
    except OSError as error:
        return "refused"

address = scheduler_address({run!r}, {namespace!r})
print("plain", knock(address))
with configured({other!r}):
    print("other", knock(address.replace("tcp:", "tls:")))
with configured({ours!r}):
    client = darkhaloscope.connect({run!r})
    print("ours", client.submit(sum, [40, 2]).result())
"""


def test_only_who_has_a_certificate_is_answered(
    orphans: None, notebook: str, runs: str, tls: dict[str, str], tmp_path: Path
) -> None:
    """A notebook that the policies let through: plain, with another authority's, with the right one."""
    kube.wait_until("a block is whole", lambda: kube.blocks_done("orphan-tls"), 120)
    other = certificates.make(tmp_path)
    code = KNOCK.format(run="s3://dhs/orphan-tls", namespace=runs, other=other, ours=tls)
    said = kube.python(notebook, runs, code).split("\n")
    assert said[:3] == ["plain refused", "other refused", "ours 42"]


def test_a_worker_that_joins_by_tls_takes_none_away(orphans: None, runs: str) -> None:
    chosen = f"darkhaloscope.io/release={TLS}"
    (there,) = kube.items("daskclusters", runs, chosen)
    more = json.dumps({"spec": {"worker": {"replicas": 2}}})
    name = there["metadata"]["name"]
    kube.kubectl("patch", "daskcluster", "-n", runs, name, "--type=merge", "-p", more)
    scheduler = kube.dask_pods(TLS, runs, "scheduler")[0]["metadata"]["name"]
    log = functools.partial(kube.kubectl, "logs", "-n", runs, scheduler)
    kube.wait_until("two joined", lambda: log().count("Register worker") == 2, 120)
    time.sleep(3)  # those that went were gone in a third of a second
    assert "Remove worker" not in log()


def test_a_cluster_without_a_driver_goes_when_it_is_idle(orphans: None, runs: str) -> None:
    """By the operator, who sees through the policies; with TLS by the scheduler itself."""
    for release in RELEASES:
        # Without an owner, only the idle guard can take the cluster away.
        job = kube.job_of(release, runs)["metadata"]["name"]
        kube.kubectl("delete", "job", "-n", runs, job, "--cascade=orphan")
        kube.kubectl("delete", "pod", "-n", runs, "-l", f"job-name={job}", "--grace-period=1")
        (there,) = kube.items("daskclusters", runs, f"darkhaloscope.io/release={release}")
        assert "deletionTimestamp" not in there["metadata"]
    for release in RELEASES:
        gone = functools.partial(_is_gone, release, runs)
        kube.wait_until(f"the cluster of {release} is gone", gone, 180)


def _is_gone(release: str, runs: str) -> bool:
    return not kube.items("daskclusters,pods", runs, f"darkhaloscope.io/release={release}")
