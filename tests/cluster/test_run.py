"""A run on the cluster makes the bytes of a local run of the same image, whatever is killed on the way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import kube
import pytest
from setting import Local

pytestmark = pytest.mark.cluster

RELEASE = "small"


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
    values: dict[str, Any], notebook: str, runs: str, local: Local
) -> None:
    assert local.compiled == []
    given = copy.deepcopy(values)
    given["run"]["out"] = "s3://dhs/undisturbed"
    said = kube.install(RELEASE, runs, given)
    assert said.count(f"kubectl -n {runs}") == 3  # the notes
    try:
        ends_with(local.exit_code, runs)
        assert kube.hashes(notebook, runs, "undisturbed") == local.hashes
        gone(runs)
    finally:
        kube.uninstall(RELEASE, runs)


def _told_to_stop(runs: str) -> None:
    """SIGTERM to the driver, the first process of its pod: it finishes what it does and says so."""
    driver = kube.drivers(RELEASE, runs)[-1]["metadata"]["name"]
    stop = "import os, signal; os.kill(1, signal.SIGTERM)"
    kube.kubectl("exec", "-n", runs, driver, "--", "python", "-c", stop)

    def pod() -> dict[str, Any]:
        return next(p for p in kube.drivers(RELEASE, runs) if p["metadata"]["name"] == driver)

    kube.wait_until("the driver has ended", lambda: kube.exit_code(pod()) is not None, 180)
    assert kube.exit_code(pod()) == 4
    assert "stopped as asked" in kube.last_words(pod())
    kube.wait_until(
        "the Job tries again", lambda: kube.drivers(RELEASE, runs)[-1]["metadata"]["name"] != driver
    )


def _kill(component: str) -> Callable[[str], None]:
    def kill(runs: str) -> None:
        pods = kube.dask_pods(RELEASE, runs, component)
        pod = (pods or kube.drivers(RELEASE, runs)[-1:])[0]["metadata"]["name"]
        kube.kubectl("delete", "pod", "-n", runs, pod, "--grace-period=0", "--force")

    return kill


def test_kills_do_not_change_a_byte(
    values: dict[str, Any], notebook: str, runs: str, local: Local
) -> None:
    """The driver is told to stop, and a worker, the driver and the scheduler are killed in turn, each
    once some blocks were written."""
    given = copy.deepcopy(values)
    given["run"]["out"] = "s3://dhs/killed"
    kube.install(RELEASE, runs, given)
    try:
        done = 0
        for component in ("told to stop", "worker", "driver", "scheduler"):
            kube.wait_until(
                f"a block more than {done}",
                lambda: kube.blocks_done("killed") > done,  # noqa: B023 (called at once)
                180,
            )
            done = kube.blocks_done("killed")
            assert kube.ended(RELEASE, runs) is None, f"ended before the {component} was killed"
            (_told_to_stop if component == "told to stop" else _kill(component))(runs)
        ends_with(local.exit_code, runs)
        assert kube.hashes(notebook, runs, "killed") == local.hashes
        gone(runs)
    finally:
        kube.uninstall(RELEASE, runs)
