"""A run on the cluster makes the bytes of a local run of the same image, whatever is killed on the way."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import kube
import pytest

pytestmark = pytest.mark.cluster

RELEASE = "small"

HASHES = """
import fsspec, hashlib, json
fs = fsspec.filesystem("s3")
root = "dhs/{run}/stamps.zarr/"
print(json.dumps({{
    path.removeprefix(root): hashlib.sha256(fs.cat_file(path)).hexdigest() for path in fs.find(root)
}}))
"""

LOCAL = """
from darkhaloscope import commands
import json
if __name__ == "__main__":
    experiment = json.loads({experiment!r})
    import yaml
    open("/tmp/experiment.yaml", "w").write(yaml.safe_dump(experiment))
    outcome = commands.run("/tmp/experiment.yaml", out="s3://dhs/local", workers=1)
    print("exit code", outcome.exit_code)
"""


def hashes(notebook: str, runs: str, run: str) -> dict[str, str]:
    """sha256 of every object of a data set."""
    printed = kube.python(notebook, runs, HASHES.format(run=run))
    return dict(json.loads(printed.splitlines()[-1]))


@pytest.fixture(scope="module")
def local(notebook: str, runs: str, values: dict[str, Any]) -> tuple[dict[str, str], int]:
    """Hashes and exit code of the same experiment in one pod, without any cluster."""
    experiment = kube.json.dumps(values["experiment"]["inline"])
    code = LOCAL.format(experiment=experiment)
    kube.python(notebook, runs, f"open('/tmp/local.py', 'w').write({code!r})")
    run = ("exec", "-n", runs, notebook, "--", "/usr/local/bin/entrypoint", "python")
    printed = kube.kubectl(*run, "/tmp/local.py", seconds=600)
    return hashes(notebook, runs, "local"), int(printed.rsplit("exit code ", 1)[1])


def blocks_done(notebook: str, runs: str, run: str) -> int:
    code = (
        "import fsspec\nfs = fsspec.filesystem('s3')\n"
        f"print(len(fs.glob('dhs/{run}/blocks/*.json')))"
    )
    return int(kube.python(notebook, runs, code).splitlines()[-1])


def ends_with(code: int, runs: str, seconds: float = 600) -> None:
    """The release's Job ends, and its last driver with this exit code."""
    kube.wait_until("the Job has ended", lambda: kube.ended(RELEASE, runs), seconds)
    last = kube.drivers(RELEASE, runs)[-1]
    assert kube.exit_code(last) == code, kube.last_words(last)


def gone(runs: str) -> None:
    """Nothing of the release is left but its finished Job."""
    kube.wait_until(
        "the Dask cluster is gone",
        lambda: not kube.items("daskclusters,pods,services,deployments", runs, DASK),
    )


DASK = f"darkhaloscope.io/release={RELEASE},dask.org/cluster-name"


def test_the_bytes_of_a_local_run(
    values: dict[str, Any], notebook: str, runs: str, local: tuple[dict[str, str], int]
) -> None:
    expected, code = local
    given = copy.deepcopy(values)
    given["run"]["out"] = "s3://dhs/undisturbed"
    said = kube.install(RELEASE, runs, given)
    assert said.count("kubectl -n dhs-runs") == 3  # the notes
    try:
        ends_with(code, runs)
        assert hashes(notebook, runs, "undisturbed") == expected
        gone(runs)
    finally:
        kube.uninstall(RELEASE, runs)


def _kill(component: str) -> Callable[[str], None]:
    def kill(runs: str) -> None:
        pods = kube.dask_pods(RELEASE, runs, component)
        pod = (pods or kube.drivers(RELEASE, runs)[-1:])[0]["metadata"]["name"]
        kube.kubectl("delete", "pod", "-n", runs, pod, "--grace-period=0", "--force")

    return kill


def test_kills_do_not_change_a_byte(
    values: dict[str, Any], notebook: str, runs: str, local: tuple[dict[str, str], int]
) -> None:
    """A worker, the driver and the scheduler are killed in turn, each once some blocks were written."""
    expected, code = local
    given = copy.deepcopy(values)
    given["run"]["out"] = "s3://dhs/killed"
    kube.install(RELEASE, runs, given)
    try:
        done = 0
        for component in ("worker", "driver", "scheduler"):
            kube.wait_until(
                f"a block more than {done}",
                lambda: blocks_done(notebook, runs, "killed") > done,  # noqa: B023 (called at once)
                180,
            )
            done = blocks_done(notebook, runs, "killed")
            assert kube.ended(RELEASE, runs) is None, f"ended before the {component} was killed"
            _kill(component)(runs)
        ends_with(code, runs)
        assert hashes(notebook, runs, "killed") == expected
        gone(runs)
    finally:
        kube.uninstall(RELEASE, runs)
