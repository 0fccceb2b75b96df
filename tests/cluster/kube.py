"""Small words for kubectl and helm."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from setting import STORE

CHART = Path(__file__).parents[2] / "helm" / "darkhaloscope"
T = TypeVar("T")


def call(*command: str, given: str | None = None, seconds: float = 300) -> str:
    """Standard output of a command; its standard error is what a failing test shows."""
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=seconds, check=False
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}\n{done.stdout[-4000:]}")
    return done.stdout


def kubectl(*args: str, given: str | None = None, seconds: float = 300) -> str:
    return call("kubectl", *args, given=given, seconds=seconds)


def apply(*manifests: Mapping[str, Any]) -> None:
    kubectl("apply", "-f", "-", given=yaml.safe_dump_all(manifests))


def items(kind: str, namespace: str, selector: str = "") -> list[dict[str, Any]]:
    """Objects of a kind, as the API server gives them."""
    found = kubectl("get", kind, "-n", namespace, "-l", selector, "-o", "json")
    return list(json.loads(found)["items"])


def wait_until(what: str, true: Callable[[], T], seconds: float = 60) -> T:
    """What ``true`` gives, once it is true; a failed test that names ``what`` after some seconds."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(1)
    return value


def install(release: str, namespace: str, values: Mapping[str, Any], *args: str) -> str:
    """Install or upgrade the chart; gives what helm says."""
    return call(
        "helm", "upgrade", "--install", release, str(CHART), "-n", namespace, "-f", "-", *args,
        given=yaml.safe_dump(dict(values)),
    )  # fmt: skip


def uninstall(release: str, namespace: str) -> None:
    """Also waits until its Dask cluster is gone, which no namespace may be deleted before."""
    call("helm", "uninstall", release, "-n", namespace, "--wait")
    mine = f"darkhaloscope.io/release={release}"
    wait_until("no Dask cluster is left", lambda: not items("daskclusters", namespace, mine), 120)


def job_of(release: str, namespace: str) -> dict[str, Any]:
    (job,) = items("jobs", namespace, f"app.kubernetes.io/instance={release}")
    return job


def ended(release: str, namespace: str) -> str | None:
    """``Complete`` or ``Failed`` once the release's Job has ended."""
    conditions = job_of(release, namespace).get("status", {}).get("conditions", [])
    return next(
        (
            c["type"]
            for c in conditions
            if c["status"] == "True" and c["type"] in ("Complete", "Failed")
        ),
        None,
    )


def drivers(release: str, namespace: str) -> list[dict[str, Any]]:
    """Driver pods, the newest last."""
    selector = f"darkhaloscope.io/release={release},darkhaloscope.io/component=driver"
    found = items("pods", namespace, selector)
    return sorted(found, key=lambda pod: pod["metadata"]["creationTimestamp"])


def dask_pods(release: str, namespace: str, component: str) -> list[dict[str, Any]]:
    """The scheduler or worker pods of a release that are there to stay."""
    selector = f"darkhaloscope.io/release={release},dask.org/component={component}"
    found = items("pods", namespace, selector)
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]


def evict(pod: str, namespace: str) -> None:
    """Ask for a pod to go as ``kubectl drain`` asks; a failed test where a budget forbids it."""
    meta = {"name": pod, "namespace": namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": meta}
    where = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
    kubectl("create", "--raw", where, "-f", "-", given=json.dumps(eviction))


def workers_ready(release: str, namespace: str) -> int:
    """Worker pods of a release that are ready."""

    def ready(pod: Mapping[str, Any]) -> bool:
        conditions = pod["status"].get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    return sum(map(ready, dask_pods(release, namespace, "worker")))


def exit_code(pod: Mapping[str, Any]) -> int | None:
    """Of a pod with one container; none while it runs."""
    for status in pod.get("status", {}).get("containerStatuses", []):
        ended = status["state"].get("terminated")
        return None if ended is None else int(ended["exitCode"])
    return None


def last_words(pod: Mapping[str, Any]) -> str:
    """What ``kubectl describe`` shows of a container that ended."""
    (status,) = pod["status"]["containerStatuses"]
    return str(status["state"]["terminated"].get("message", ""))


def python(pod: str, namespace: str, code: str, seconds: float = 300) -> str:
    """What some Python prints in a running pod."""
    command = ("exec", "-i", "-n", namespace, pod, "--", "/usr/local/bin/entrypoint", "python", "-")
    return kubectl(*command, given=code, seconds=seconds)


SUMS = """
cd {folder}
find . -type f -print0 | sort -z | xargs -0 sha256sum
"""


def compiled(pod: str, namespace: str) -> list[str]:
    """Files of numba's cache in a pod that are not the image's: what was compiled there.

    By name alone one would not see what was made again because numba thought the image's too old.
    """
    baked, now = (
        kubectl("exec", "-i", "-n", namespace, pod, "--", "sh", "-eu", given=SUMS.format(folder=f))
        for f in ("/opt/numba-cache", "/tmp/numba-cache")
    )
    assert baked.count(".nbc\n") > 40, "renderer and integrator"
    return sorted(set(now.splitlines()) - set(baked.splitlines()))


LISTED = """
import json, urllib.error, urllib.request
url = "http://127.0.0.1:8888/buckets/dhs/{run}/blocks/?limit=100000"
try:
    page = urllib.request.urlopen(urllib.request.Request(url, headers={{"Accept": "application/json"}}))
    found = json.load(page)["Entries"] or []
except urllib.error.HTTPError as error:
    if error.code != 404:
        raise
    found = []
print(sum(one["FullPath"].endswith(".json") for one in found))
"""


def blocks_done(run: str) -> int:
    """Blocks of a run in the bucket that are whole. The store itself is asked: that is soon said, where a
    pod of the image would spend seconds of processor time on its imports."""
    command = ("exec", "-i", "-n", STORE, "s3", "--", "/opt/venv/bin/python", "-")
    return int(kubectl(*command, given=LISTED.format(run=run)))


HASHES = """
import fsspec, hashlib, json
fs, root = fsspec.url_to_fs({data!r})
print(json.dumps({{
    path.removeprefix(root): hashlib.sha256(fs.cat_file(path)).hexdigest() for path in fs.find(root)
}}))
"""


def hashes(pod: str, namespace: str, run: str) -> dict[str, str]:
    """sha256 of every object of a run's data set, as a pod that can read it finds them."""
    run = run if run.startswith("/") else f"s3://dhs/{run}"
    printed = python(pod, namespace, HASHES.format(data=f"{run}/stamps.zarr/"))
    found = dict(json.loads(printed.splitlines()[-1]))
    assert found, f"{run} holds no data set"
    return found


LOCAL = """
from darkhaloscope import commands
import json, yaml
if __name__ == "__main__":
    open("/tmp/experiment.yaml", "w").write(yaml.safe_dump(json.loads({experiment!r})))
    outcome = commands.run("/tmp/experiment.yaml", out={out!r}, workers=1)
    print("exit code", outcome.exit_code)
"""


def run_in_a_pod(pod: str, namespace: str, experiment: Mapping[str, Any], out: str) -> int:
    """A run on the local cluster of one pod, without any other; gives its exit code."""
    code = LOCAL.format(experiment=json.dumps(experiment), out=out)
    python(pod, namespace, f"open('/tmp/local.py', 'w').write({code!r})")
    command = ("exec", "-n", namespace, pod, "--", "/usr/local/bin/entrypoint", "python")
    printed = kubectl(*command, "/tmp/local.py", seconds=600)
    return int(printed.rsplit("exit code ", 1)[1])
