"""Where the graph runs: troubles on the way are one sentence and a run that resumes."""

from __future__ import annotations

import os

import pytest

from darkhaloscope.cluster import connect
from darkhaloscope.config import ClusterSection
from darkhaloscope.errors import Incomplete, UserError


def kill_the_worker() -> None:
    os._exit(1)


def test_a_task_that_kills_its_workers_is_said() -> None:
    section = ClusterSection(workers=1)
    with (
        pytest.raises(Incomplete, match=r"write-000003 lost worker after worker.*resumes"),
        connect(section) as client,
    ):
        client.submit(kill_the_worker, key="write-000003").result()


def test_work_runs_in_processes_of_one_thread() -> None:
    with connect(ClusterSection(workers=2)) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        assert [worker["nthreads"] for worker in workers] == [1, 1]
        assert client.submit(os.getpid).result() != os.getpid()
        assert "127.0.0.1" in client.dashboard_link


def test_a_scheduler_without_workers_is_said() -> None:
    with connect(ClusterSection(workers=1)) as client:
        client.retire_workers(list(client.scheduler_info()["workers"]), close_workers=True)
        lonely = connect(ClusterSection(address=client.scheduler.address))
        with pytest.raises(UserError, match="has no workers"):
            lonely.__enter__()
