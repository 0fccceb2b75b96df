"""Where the graph runs: troubles on the way are one sentence and a run that resumes."""

from __future__ import annotations

import os
import sys
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import dask
import pytest
from distributed import Client, LocalCluster
from distributed.comm.core import CommClosedError, FatalCommClosedError
from numba.core.registry import CPUDispatcher as Dispatcher

from darkhaloscope import cluster, driver, lensing
from darkhaloscope.cluster import connect, local_workers, what_is_here
from darkhaloscope.config import ClusterSection
from darkhaloscope.errors import Incomplete, UserError

RUN = "runs/none"


def kill_the_worker() -> None:
    """Not in the instant: a worker that dies while its nanny still waits for it is not started again."""
    time.sleep(0.5)
    os._exit(1)


def test_a_task_that_kills_its_workers_is_said() -> None:
    section = ClusterSection(workers=1)
    with (
        pytest.raises(Incomplete, match=r"write-000003 lost worker after worker.*resumes"),
        connect(section, RUN) as client,
    ):
        client.submit(kill_the_worker, key="write-000003").result()


def test_a_worker_that_dies_as_it_starts_is_said(tmp_path: Path) -> None:
    deadly = tmp_path / "deadly.py"
    deadly.write_text("import os\n\nos._exit(1)\n")
    with (
        dask.config.set({"distributed.worker.preload": [str(deadly)]}),
        pytest.raises(Incomplete, match=r"the local cluster did not start.*same command again"),
        connect(ClusterSection(workers=1), RUN),
    ):
        pass


def test_a_process_that_had_not_begun_is_no_failure_of_the_run(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As Dask's cluster closes while it starts a worker anew."""
    close = LocalCluster.close

    def closing(there: LocalCluster, *args: Any, **options: Any) -> None:
        close(there, *args, **options)
        raise AssertionError("can only join a started process")

    with connect(ClusterSection(workers=1), RUN) as client:
        monkeypatch.setattr(LocalCluster, "close", closing)
        assert client.submit(abs, -1).result() == 1
    assert "can only join a started process" in caplog.text


def test_work_runs_in_processes_of_one_thread() -> None:
    with connect(ClusterSection(workers=2), RUN) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        assert [worker["nthreads"] for worker in workers] == [1, 1]
        assert client.submit(os.getpid).result() != os.getpid()
        assert "127.0.0.1" in client.dashboard_link
        # Three deaths, and no pixels across the network.
        assert driver.workers.Workers(client, lambda: None).deaths_allowed() == 3
        assert not client.run_on_scheduler(_steals)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux alone")
def test_workers_are_forked_from_one_thread_and_have_the_environment_of_their_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The process that they are forked from is kept, and has the environment of the first run."""
    with connect(ClusterSection(workers=1), RUN) as client:
        parent = client.submit(os.getppid).result()
        assert parent != os.getpid()
        threads = [path.read_text().strip() for path in Path(f"/proc/{parent}/task").glob("*/comm")]
        assert len(threads) - threads.count("jemalloc_bg_thd") == 1  # which minds forks itself
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://of.the.second.run")
    monkeypatch.delenv("PATH")
    with connect(ClusterSection(workers=1), RUN) as client:
        assert client.submit(os.getppid, pure=False).result() == parent
        assert client.submit(_environment).result() == dict(os.environ)


def test_a_scheduler_that_closes_a_new_connection_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as there:
        closed = iter([CommClosedError("Stream is closed"), CommClosedError("Stream is closed")])

        def client(address: str, timeout: str) -> Client:
            for error in closed:
                raise error
            return Client(address, timeout=timeout)

        monkeypatch.setattr(cluster, "Client", client)
        with cluster._reach(there.scheduler_address, "5s") as reached:
            assert reached.scheduler_info()["workers"] == {}
    assert list(closed) == []


def test_what_speaks_another_language_is_no_scheduler(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the dashboard's port, which is printed at each start."""
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", "1s")
    web = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    address = f"tcp://127.0.0.1:{web.server_port}"
    with (
        web,
        pytest.raises(UserError, match=f"cannot reach a Dask scheduler at {address}"),
        connect(ClusterSection(address=address), RUN),
    ):
        pass


def test_a_worker_that_goes_before_it_was_made_ready_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def lost(*_: Any, **__: Any) -> None:
        raise CommClosedError("Stream is closed")

    monkeypatch.setattr(Client, "register_plugin", lost)
    with (
        pytest.raises(
            Incomplete, match=r"the local cluster did not start: Stream is closed.*fewer workers"
        ),
        connect(ClusterSection(workers=1), RUN),
    ):
        pass


@pytest.mark.parametrize(
    ("error", "tries"),
    [(CommClosedError("Stream is closed"), 2), (FatalCommClosedError("wrong certificate"), 1)],
)
@pytest.mark.parametrize(("seen", "said"), [(True, Incomplete), (False, UserError)])
def test_a_scheduler_that_was_seen_is_lost_and_no_mistake(
    seen: bool, said: type[UserError], error: OSError, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def client(address: str, timeout: str) -> Client:
        asked.append(address)
        raise error

    monkeypatch.setattr(cluster, "_knock", lambda _: None)
    monkeypatch.setattr(cluster, "Client", client)
    monkeypatch.setattr(cluster, "CONNECT_TIMEOUT", "0.2s")
    with (
        pytest.raises(UserError, match=str(error)) as raised,
        cluster._remote("tcp://s", seen=seen),
    ):
        pass
    assert type(raised.value) is said
    assert len(asked) == tries


def test_a_scheduler_without_the_workers_that_were_seen_has_lost_them() -> None:
    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as there:
        address = there.scheduler_address
        with (
            pytest.raises(Incomplete, match="lost its workers"),
            cluster._remote(address, seen=True),
        ):
            pass


def _environment() -> dict[str, str]:
    return dict(os.environ)


def test_workers_keep_what_they_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not given back page by page, only to be asked for again; also where another local cluster of this
    process left Dask's own setting in the environment."""
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    with connect(ClusterSection(workers=1), RUN) as client:
        assert client.submit(os.environ.get, "MALLOC_TRIM_THRESHOLD_").result() == str(2**25)
        assert client.submit(os.environ.get, "MALLOC_MMAP_THRESHOLD_").result() == str(2**23)
    assert os.environ["MALLOC_TRIM_THRESHOLD_"] == "65536"
    assert "MALLOC_MMAP_THRESHOLD_" not in os.environ


def _steals(dask_scheduler: Any) -> bool:
    return "stealing" in dask_scheduler.periodic_callbacks


@pytest.mark.parametrize(
    ("cores", "gib", "workers"), [(64, 256, 64), (64, 9, 4), (16, 33, 16), (8, 1, 1), (2, 2.9, 1)]
)
def test_local_workers_are_as_many_as_there_are_cores_and_memory_for(
    cores: int, gib: float, workers: int
) -> None:
    """A GiB is the driver's."""
    assert local_workers("2GiB", cores, int(gib * 2**30)) == workers


def test_a_scheduler_without_workers_is_said() -> None:
    with connect(ClusterSection(workers=1), RUN) as client:
        client.retire_workers(list(client.scheduler_info()["workers"]), close_workers=True)
        lonely = connect(ClusterSection(address=client.scheduler.address), RUN)
        with pytest.raises(UserError, match="has no workers"):
            lonely.__enter__()


def test_no_task_compiles_the_renderer() -> None:
    """Workers are warm before they get work: the first task finds everything compiled."""
    with connect(ClusterSection(workers=1), RUN) as client:
        before, after = client.submit(compilations).result()
    assert before > 0
    assert after == before


def compilations() -> tuple[int, int]:
    """Signatures that the renderer's kernels are compiled for, before and after a first arc."""
    kernels = [
        value
        for name, module in list(sys.modules.items())
        if name.startswith("darkhaloscope.lensing")
        for value in vars(module).values()
        if isinstance(value, Dispatcher)
    ]
    before = sum(len(kernel.signatures) for kernel in kernels)
    lens = lensing.Lens("SIE", theta_e=1.2, q=0.8, pa=30.0, gamma1=0.02)
    source = lensing.Sersic(flux=(1.0, 2.0, 3.0), reff=0.3, dx=0.1, dy=0.2)
    psfs = [lensing.Psf("moffat", nea_fwhm=width) for width in (1.5, 1.3, 1.2)]
    lensing.render(lens, source, psfs, size=64, x=31.5, y=31.5)
    return before, sum(len(kernel.signatures) for kernel in kernels)


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (
            {"code": "0" * 12},
            r"the worker tcp://\S+ has code 000000000000 \(here .*install the same",
        ),
        ({"NUMBA_CPU_NAME": "'znver9'"}, r"NUMBA_CPU_NAME 'znver9' \(here .*the same variables"),
        (ModuleNotFoundError("No module named 'darkhaloscope'"), "cannot load darkhaloscope"),
    ],
)
def test_workers_of_other_code_are_said(there: object, said: str) -> None:
    class Lookalike:
        def run(self, function: Any, on_error: str) -> dict[str, object]:
            found = {**what_is_here(), **there} if isinstance(there, dict) else there
            return {"tcp://10.0.0.1:4000": found}

    with pytest.raises(UserError, match=said):
        cluster._check_workers(cast(Client, Lookalike()))
