"""What a row costs on a cluster is read right out of what its pods say."""

from __future__ import annotations

import cluster_cost as cost
import pytest

from darkhaloscope import metrics


def pod_says(cpu_s: float, *processes_kb: int, version: int = 2) -> cost.Used:
    status = [
        f"Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t {kb} kB\nThreads:\t1" for kb in processes_kb
    ]
    if version == 2:
        used = round(cpu_s * 1e6)
        stat = f"cpu.stat usage_usec {used}\ncpu.stat user_usec 1\nmemory.peak 900000000"
    else:
        used = round(cpu_s * 1e9)
        stat = f"cpuacct/cpuacct.usage {used}\nmemory/memory.max_usage_in_bytes 900000000"
    return cost.used("\n".join([stat, *status, "Name:\tkthread"]))


@pytest.mark.parametrize("version", [1, 2])
def test_a_pod_is_its_cgroup_and_the_sum_of_its_processes(version: int) -> None:
    found = pod_says(2.5, 1000, 500, version=version)
    assert found == cost.Used(pytest.approx(2.5), 1_536_000, 900_000_000)


def test_only_pods_that_run_have_a_role() -> None:
    def pod(name: str, phase: str, **labels: str) -> dict[str, object]:
        named = {
            f"{key}.{'org' if key == 'dask' else 'io'}/component": v for key, v in labels.items()
        }
        return {"metadata": {"name": name, "labels": named}, "status": {"phase": phase}}

    pods = [
        pod("d", "Running", darkhaloscope="driver"),
        pod("e", "Failed", darkhaloscope="driver"),
        pod("s", "Running", dask="scheduler"),
        pod("w", "Running", dask="worker"),
        pod("t", "Running", darkhaloscope="test"),
    ]
    assert cost.roles({"items": pods}) == {"d": "driver", "s": "scheduler", "w": "worker"}


def test_rows_are_those_of_the_drivers_metrics() -> None:
    exposition = pytest.importorskip("prometheus_client.exposition")
    collector = metrics.Collector()
    collector.stage = "blocks"
    assert cost.told(exposition.generate_latest(collector).decode()) == (0, 0, "blocks")
    collector.hear(
        {
            "started": 1.0, "written": 2.0, "blocks_whole": 3, "workers": 2, "again": 0, "bytes": 9,
            "rows_by_reason": {"ok": 150, "missing_file": 42}, "rows_fresh": 1, "bytes_fresh": 5,
            "running": [],
        }
    )  # fmt: skip
    assert cost.told(exposition.generate_latest(collector).decode()) == (192, 3, "blocks")


def test_what_is_used_between_two_looks_is_pooled_by_role() -> None:
    """A worker that went counts until it was last seen, one that came with its start."""
    looks = [
        cost.Look({"d": pod_says(5, 10), "w1": pod_says(100, 20)}, 1000, 10, "blocks"),
        cost.Look({"d": pod_says(6, 10), "w1": pod_says(104, 30)}, 1400, 14, "blocks"),
        cost.Look({"d": pod_says(7, 10), "w2": pod_says(3, 25)}, 2000, 20, "blocks"),
    ]
    found = cost.costs(looks, {"d": "driver", "w1": "worker", "w2": "worker"})
    assert (found["rows"], found["blocks"]) == (1000, 10)
    assert set(found["roles"]) == {"driver", "worker"}
    worker = found["roles"]["worker"]
    assert worker == {
        "pods": 2, "cpu_s": 7.0, "ms_a_row": 7.0, "processes_mb": 0.03072, "cgroup_mb": 900.0,
    }  # fmt: skip
    assert found["roles"]["driver"]["ms_a_row"] == 2.0
    assert (
        cost.costs(looks[:1], {"d": "driver", "w1": "worker"})["roles"]["driver"]["ms_a_row"]
        is None
    )
