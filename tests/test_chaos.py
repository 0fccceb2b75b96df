"""Scheduler, terminal and object store give out in mid-run: the bytes are those of an undisturbed run."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import pytest
import s3fs
import seaweed
from distributed import Client
from fault_proxy import Fault, proxied
from small_run import Setting, digests

from darkhaloscope import driver, store, workflow
from darkhaloscope.cluster import connect
from darkhaloscope.config import ClusterSection
from darkhaloscope.errors import Incomplete
from darkhaloscope.workflow import KERNELS, Kernels, Work


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """Ten blocks: enough of them to be in the middle of a run."""
    return Setting(tmp_path_factory.mktemp("setting"), repeats=16)


@pytest.fixture(scope="module")
def undisturbed(
    setting: Setting, threads: Client, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert len(setting.make(threads, run)) == 10
    return digests(run)


# --- the terminal ---------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [pytest.param(1, marks=pytest.mark.long), 2])
def test_ctrl_c(
    setting: Setting,
    threads: Client,
    undisturbed: dict[str, str],
    tmp_path: Path,
    times: int,
) -> None:
    """Ctrl-C goes to every process of the terminal, workers too."""
    run, experiment = tmp_path / "run", tmp_path / "experiment.yaml"
    experiment.write_text(setting.experiment.to_yaml())
    going = subprocess.Popen(
        [sys.executable, "-m", "darkhaloscope", "run", experiment, "--out", run, "--workers", "1"],
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        for _ in range(12_000):
            if store.finished_blocks(str(run)) or going.poll() is not None:
                break
            time.sleep(0.01)
        os.killpg(going.pid, signal.SIGINT)
        if times == 2:
            time.sleep(0.05)
            os.killpg(going.pid, signal.SIGINT)
        said, _ = going.communicate(timeout=120)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(going.pid, signal.SIGKILL)
    assert going.returncode == 4, said
    whole = store.finished_blocks(str(run))
    assert 0 < len(whole) < 10
    if times == 1:
        assert f"stopped as asked, {len(whole)} of 10 blocks are whole" in said
        assert not list((run / "blocks").glob("*.claim")), "what was in flight is finished"
    assert "Traceback" not in said
    assert "again" in said
    setting.make(threads, run)
    assert digests(run) == undisturbed


# --- the scheduler --------------------------------------------------------------------------------


class Cluster:
    """A scheduler on a port of its own and two workers, as an operator would start them again."""

    def __init__(self, log: Path) -> None:
        self.port = seaweed.free_ports(1)[0]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._log = log.open("ab")
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for what in (
            [
                "scheduler",
                "--host",
                "127.0.0.1",
                "--port",
                str(self.port),
                "--no-dashboard",
                "--dashboard-address",
                "127.0.0.1:0",
            ],
            [
                "worker",
                self.address,
                "--nworkers",
                "2",
                "--nthreads",
                "1",
                "--no-dashboard",
                "--dashboard-address",
                "127.0.0.1:0",
            ],
        ):
            command = [sys.executable, "-m", "dask", *what]
            self._running.append(
                subprocess.Popen(
                    command, start_new_session=True, stdout=self._log, stderr=self._log
                )
            )

    def kill(self) -> None:
        """At once, without a word to anybody."""
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._running = []


@pytest.mark.long
def test_a_scheduler_that_dies_and_comes_back(
    setting: Setting, undisturbed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver.workers, "LOOK_EVERY_S", 0.2)
    cluster = Cluster(tmp_path / "log")
    deaths: list[int] = []
    heard: list[int] = []
    hear = driver.signs.Signs._hear

    def hear_too(signs: driver.signs.Signs, event: tuple[float, Any]) -> None:
        heard.append(len(deaths))
        hear(signs, event)

    monkeypatch.setattr(driver.signs.Signs, "_hear", hear_too)
    cluster.start()

    def end_it(block: int, was_there: bool) -> None:
        if not deaths:
            deaths.append(block)
            cluster.kill()
            cluster.start()

    try:
        with Client(cluster.address, timeout=60) as client:
            client.wait_for_workers(2, timeout=120)
        with connect(ClusterSection(address=cluster.address), str(tmp_path / "run")) as client:
            markers = setting.make(client, tmp_path / "run", on_block=end_it)
            ready = client.run(lambda dask_worker: driver.Warm.name in dask_worker.plugins)
    finally:
        cluster.kill()
    assert len(deaths) == 1
    assert heard[-1] == 1, "the second scheduler tells of bricks too"
    assert list(ready.values()) == [True, True]
    assert len(markers) == 10
    assert digests(tmp_path / "run") == undisturbed


@pytest.mark.long
def test_a_scheduler_that_dies_for_good_is_said(
    setting: Setting,
    threads: Client,
    undisturbed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver.workers, "LOOK_EVERY_S", 0.2)
    monkeypatch.setattr("darkhaloscope.cluster.RECONNECT_TIMEOUT", "3s")
    cluster = Cluster(tmp_path / "log")
    cluster.start()
    try:
        with Client(cluster.address, timeout=60) as client:
            client.wait_for_workers(2, timeout=120)
        with (
            pytest.raises(Incomplete, match="the scheduler was lost; call the same command again"),
            connect(ClusterSection(address=cluster.address), str(tmp_path / "run")) as client,
        ):
            setting.make(client, tmp_path / "run", on_block=lambda *_: cluster.kill())
    finally:
        cluster.kill()
    setting.make(threads, tmp_path / "run")
    assert digests(tmp_path / "run") == undisturbed


# --- the object store -----------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [3.0, pytest.param(60.0, marks=pytest.mark.long)])
def test_an_object_store_that_says_503_for_a_while(
    setting: Setting,
    threads: Client,
    undisturbed: dict[str, str],
    s3_server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
) -> None:
    """Coadds are read from it and the run is written to it, both through the same bad line.

    The short one asks impatiently, the long one as a run does.
    """
    bucket = f"dhs-test/{tmp_path.name}"
    fsspec.filesystem("s3").put(setting.experiment.survey.root, f"{bucket}/sky", recursive=True)
    remote = copy.copy(setting)
    remote.plan = setting.plan_elsewhere(f"s3://{bucket}/sky")
    if seconds < 10:
        monkeypatch.setattr(driver.window, "PAUSES_S", (0.5, 1.0, 2.0, 4.0, 8.0, 16.0))
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    refused = Fault("", status=503, code="SlowDown")
    with proxied(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()

        def break_down(block: int, was_there: bool) -> None:
            if not refused.met:
                proxy.faults.append(refused)
                threading.Timer(seconds, proxy.faults.clear).start()

        remote.make(threads, f"s3://{bucket}/run", on_block=break_down)
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    assert refused.met > 10
    fs = fsspec.filesystem("s3")
    found = {
        name.removeprefix(f"{bucket}/run/"): hashlib.sha256(fs.cat_file(name)).hexdigest()
        for part in ("stamps.zarr", "plan", "blocks")
        for name in fs.find(f"{bucket}/run/{part}")
    }
    s3fs.S3FileSystem.clear_instance_cache()
    assert found == undisturbed


# --- at random ------------------------------------------------------------------------------------


def slowly(run: str, experiment: str, work: list[Work], block: int, *, final: bool) -> list[Any]:
    """Inject, and take the time to be killed in."""
    time.sleep(0.5 * len(work))
    return workflow.inject_bricks(run, experiment, work, block, final=final)


KILLS = 50


@pytest.mark.long
def test_workers_that_are_killed_at_random(
    setting: Setting, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """Fifty workers of two places die, by SIGKILL or SIGTERM, whatever they are at, in as many runs as it
    takes; never faster than blocks are finished, for a brick that is alone must not die of us thrice."""
    rng, runs = random.Random(1), 0
    killed: list[str] = []
    with connect(ClusterSection(workers=2), str(tmp_path)) as client:
        while len(killed) < KILLS:
            runs += 1
            run, over, finished = tmp_path / f"run{runs}", threading.Event(), threading.Semaphore(0)

            def kill_some(over: threading.Event, finished: threading.Semaphore) -> None:
                while len(killed) < KILLS:
                    finished.acquire()
                    if over.wait(rng.uniform(0.0, 2.0)):
                        return
                    found = client.run(os.getpid, on_error="ignore")
                    how = rng.choice([signal.SIGKILL, signal.SIGTERM])
                    with contextlib.suppress(ProcessLookupError, IndexError):
                        os.kill(rng.choice(sorted(found.values())), how)
                        killed.append(how.name)

            killer = threading.Thread(target=kill_some, args=(over, finished))
            killer.start()
            try:
                setting.make(
                    client,
                    run,
                    kernels=Kernels(slowly, KERNELS.write),
                    on_block=lambda *_, finished=finished: finished.release(),
                )
            finally:
                over.set()
                finished.release()
                killer.join()
            assert digests(run) == undisturbed
            assert not store.bricks_set_apart(str(run))
    print(f"{len(killed)} kills in {runs} runs: {Counter(killed)}")
