"""What a row costs on a cluster, by role: read from the pods of a release whose run makes blocks now.

    python benchmarks/cluster_cost.py RELEASE -n NAMESPACE

It needs ``kubectl``, and in the pods ``sh``, ``sed``, ``cat`` and Python. Processor time is that of each
pod's cgroup, rows are those that the driver's ``/metrics`` counts, both between the first look and the last;
a pod that comes meanwhile counts with its start, one that goes until it was last seen. Rows are counted as
their block is whole, so look for as long as many blocks take. The peaks of memory are of a pod's life, and
bounds from above: of its cgroup with the pages of files, of its processes with what they share once for each.
A look itself takes some 10 ms of each pod, and 100 of the driver's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from tabulate_lines import show

ROLES = ("worker", "scheduler", "driver")
EVERY_S = 15.0

CPU = {"cpu.stat usage_usec": 1e-6, "cpuacct/cpuacct.usage": 1e-9}
"""Seconds in a unit of what a cgroup says, of version 2 or 1, after the name of the file."""
MEMORY = ("memory.peak", "memory/memory.max_usage_in_bytes")
USED = f"""
cd /sys/fs/cgroup
for file in cpu.stat cpuacct/cpuacct.usage {" ".join(MEMORY)}; do sed "s|^|$file |" $file; done 2>/dev/null
cat /proc/[0-9]*/status 2>/dev/null || true
"""
TOLD = (
    "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8791/metrics').read().decode())"
)


@dataclass(frozen=True)
class Used:
    """What a pod has used since it began: seconds of processor time, and bytes at most."""

    cpu_s: float
    processes: int
    cgroup: int


@dataclass(frozen=True)
class Look:
    """What all pods of a release have used, by name, and the rows and blocks that are whole."""

    pods: Mapping[str, Used]
    rows: int
    blocks: int
    stage: str


def used(text: str) -> Used:
    """Out of what ``USED`` prints."""
    lines = [line.rsplit(maxsplit=1) for line in text.splitlines() if line.strip()]
    (cpu,) = (int(line[1]) * CPU[line[0]] for line in lines if line[0] in CPU)
    (peak,) = (int(line[1]) for line in lines if line[0] in MEMORY)
    words = [line.split() for line in text.splitlines()]
    processes = sum(int(w[1]) * 1024 for w in words if w and w[0] == "VmHWM:")
    return Used(cpu, processes, peak)


def roles(pods: Mapping[str, Any]) -> dict[str, str]:
    """Role by name of the pods that run, out of ``kubectl get pods -o json``."""
    found = {}
    for pod in pods["items"]:
        labels = pod["metadata"]["labels"]
        role = labels.get("dask.org/component") or labels.get("darkhaloscope.io/component")
        if role in ROLES and pod["status"].get("phase") == "Running":
            found[pod["metadata"]["name"]] = role
    return found


def told(page: str) -> tuple[int, int, str]:
    """Rows and blocks that are whole, and the stage, out of the driver's ``/metrics``."""
    samples = [line.rsplit(" ", 1) for line in page.splitlines() if line and line[0] != "#"]
    rows = sum(float(v) for name, v in samples if name.startswith("darkhaloscope_rows_total{"))
    blocks = sum(float(v) for name, v in samples if name == "darkhaloscope_blocks_whole")
    now = [
        name.split('"')[1]
        for name, v in samples
        if name.startswith("darkhaloscope_stage{") and float(v)
    ]
    return int(rows), int(blocks), now[0] if now else ""


def costs(looks: list[Look], role_of: Mapping[str, str]) -> dict[str, Any]:
    """Milliseconds a row and megabytes by role, between the first look and the last."""
    first, last = looks[0], looks[-1]
    rows = last.rows - first.rows
    latest = {name: one for look in looks for name, one in look.pods.items()}
    cpu: dict[str, float] = defaultdict(float)
    peaks: dict[str, list[Used]] = defaultdict(list)
    for name, one in latest.items():
        before = first.pods.get(name)
        cpu[role_of[name]] += one.cpu_s - (before.cpu_s if before else 0.0)
        peaks[role_of[name]].append(one)
    return {
        "rows": rows,
        "blocks": last.blocks - first.blocks,
        "roles": {
            role: {
                "pods": len(peaks[role]),
                "cpu_s": cpu[role],
                "ms_a_row": 1000 * cpu[role] / rows if rows else None,
                "processes_mb": max(one.processes for one in peaks[role]) / 1e6,
                "cgroup_mb": max(one.cgroup for one in peaks[role]) / 1e6,
            }
            for role in ROLES
            if role in peaks
        },
    }


def kubectl(*command: str) -> str:
    return subprocess.run(["kubectl", *command], capture_output=True, text=True, check=True).stdout


def look(namespace: str, release: str, role_of: dict[str, str]) -> Look | None:
    """Ask all pods; None where none of them is a driver that answers. Roles are added to ``role_of``."""
    selector = f"darkhaloscope.io/release={release}"
    found = roles(json.loads(kubectl("get", "pods", "-n", namespace, "-l", selector, "-o", "json")))
    pods, said = {}, None
    for name, role in found.items():
        inside = ("exec", "-n", namespace, name, "--")
        try:
            pods[name] = used(kubectl(*inside, "sh", "-c", USED))
            if role == "driver":
                said = told(kubectl(*inside, "python", "-c", TOLD))
        except subprocess.CalledProcessError:
            continue  # it went meanwhile, or is not ready
    role_of.update(found)
    return None if said is None else Look(pods, *said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("release")
    parser.add_argument("-n", "--namespace", default="default")
    parser.add_argument("--seconds", type=float, default=600.0, help="at most; less if blocks end")
    parser.add_argument("--quick", action="store_true", help="40 seconds")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    until = time.monotonic() + (40.0 if options.quick else options.seconds)
    role_of: dict[str, str] = {}
    looks: list[Look] = []
    while True:
        one = look(options.namespace, options.release, role_of)
        if one is None or one.stage != "blocks":
            break
        looks.append(one)
        if time.monotonic() + EVERY_S > until:
            break
        time.sleep(EVERY_S)
    if len(looks) < 2:
        raise SystemExit(f"no driver of {options.release} makes blocks for {EVERY_S:g} s from now")
    found = costs(looks, role_of)
    lines = [{"role": role, **line} for role, line in found["roles"].items()]
    show(Console(), f"{found['rows']} rows in {found['blocks']} blocks", lines)
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
