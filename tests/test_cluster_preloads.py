"""What runs beside Dask in the pods: a scheduler's guard, a worker's preparation, and its farewell."""

from __future__ import annotations

import asyncio
import runpy
import sys
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import distributed
import pytest

from darkhaloscope import lensing, logs
from darkhaloscope.cluster import guard, preload


@pytest.mark.parametrize(
    ("idle_s", "limit", "idle"),
    [(600, None, False), (None, 60, False), (600, 60, True), (0, 600, False)],
)
def test_only_an_idle_scheduler_takes_its_cluster_away(
    idle_s: float | None, limit: float | None, idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Found:
        def __init__(self, kind: str, name: str) -> None:
            self.what = f"{kind} {name}"

        async def delete(self) -> None:
            asked.append(self.what)

    class Kind:
        def __init__(self, kind: str, version: str) -> None:
            self.kind = f"{version} {kind}"

        async def get(self, name: str, *, namespace: str) -> Found:
            return Found(self.kind, f"{namespace}/{name}")

    objects: Any = ModuleType("kr8s.asyncio.objects")
    objects.new_class = Kind
    monkeypatch.setitem(sys.modules, "kr8s.asyncio.objects", objects)
    monkeypatch.setenv("DHS_CLUSTER", "dhs-0123456789ab")
    monkeypatch.setenv("DHS_NAMESPACE", "lenses")
    since = None if idle_s is None else time.time() - idle_s
    scheduler: Any = SimpleNamespace(idle_since=since, idle_timeout=limit)
    asyncio.run(guard.dask_teardown(scheduler))
    deleted = ["kubernetes.dask.org/v1 DaskCluster lenses/dhs-0123456789ab"]
    assert asked == (deleted if idle else [])


@pytest.mark.parametrize("there", [True, False])
def test_a_pod_that_goes_has_its_worker_hand_on_what_it_holds(
    there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names are those that the operator gives a worker's pod. Without a scheduler nothing is wrong."""
    done: list[Any] = []

    class Client:
        def __init__(self, address: str, *, timeout: str, set_as_default: bool) -> None:
            if not there:
                raise OSError("nobody answers")
            done.append(address)

        def __enter__(self) -> Client:
            return self

        def __exit__(self, *_: object) -> None:
            done.append("closed")

        def retire_workers(self, **how: Any) -> None:
            done.append(how)

    monkeypatch.setattr(distributed, "Client", Client)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://scheduler:8786")
    monkeypatch.setenv("DASK_WORKER_NAME", "dhs-worker-1")
    runpy.run_module("darkhaloscope.cluster.retire", run_name="__main__")
    retired = {"names": ["dhs-worker-1"], "close_workers": True}
    assert done == (["tcp://scheduler:8786", retired, "closed"] if there else [])


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_worker_is_warm_and_writes_its_log_before_it_is_known(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Any] = []
    monkeypatch.setattr(lensing, "warm", lambda: done.append("warm"))
    monkeypatch.setattr(logs, "to_json", lambda **known: done.append(known))
    monkeypatch.setenv(logs.VARIABLE, form)
    monkeypatch.setenv("DASK_WORKER_NAME", "dhs-worker-1")
    worker: Any = SimpleNamespace(name="tcp://10.0.0.7:8788")
    preload.dask_setup(worker)
    assert done == ([{"worker": "dhs-worker-1"}] if form == "json" else []) + ["warm"]
