"""What an audit costs: ``python benchmarks/audit.py``.

- Fused into a run: processor seconds of the accumulators as a share of what a worker does for the same
  rows: load, inject, measure, round, encode, checksum and write. Limit 15 %.
- Alone, over a finished data set: a set of ours is made of one real block whose pixels stand for all
  (hard links), every row with a hash of its own. Each size is measured in a process of its own, which
  reads and merges block by block: bytes read over bytes stored, processor milliseconds a pair, and
  the largest memory, for a set and for one four times as large.
- What is drawn again: processor seconds a core and a whole stamp, and of an audit's 20,000 and 500.
- What the driver does alone, once they are: fit, resample and judge, at a tenth of these rows and at all.

The share rests on a brick of noise of 3600 pixels, 59 rows on it, half of them controls.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from pairs import real_pairs
from read import noise_brick, places_of
from rich.console import Console

from darkhaloscope import audit, store
from darkhaloscope.config import AuditSection, Experiment, parse_experiment
from darkhaloscope.prepare import (
    AuditSettings,
    StoredPairs,
    layout_of,
    limits_of,
    plan_of,
    planned_strata,
    spec_of,
    spec_of_source,
)
from darkhaloscope.workflow import Work, inject_piece, rerender_piece

SHARE = 0.15
PER_BRICK, SIDE = 59, 3600
BRICK = "0591m305"
REPEATS = {True: 3, False: 12}
"""How often the brick is made; the first time is not counted."""

CORE_ROWS, WHOLE_ROWS = 20_000, 500
BLOCK = {True: 256, False: 2048}
PAIRS = {True: 1024, False: 24_576}
"""Pairs of the smaller of the two sets; the larger has four times as many."""

KEPT = {True: {"cap": 200, "whole_cap": 100, "closure": 20}, False: {}}
"""Rows that an audit keeps; a quick one keeps so few that both sets hold more."""

DRAWN = {True: (24, 4), False: (400, 40)}
"""Rows drawn again in their core, and whole."""

REGIONS = 400
JUDGED = {True: (200,), False: (CORE_ROWS // 10, CORE_ROWS)}
"""Rows drawn again of the sets that a driver judges."""


def share(folder: Path, repeats: int) -> dict[str, Any]:
    """Accumulators against all that a worker does for a brick, in processor seconds of this process."""
    noise_brick(folder / "noise", BRICK, SIDE)
    places = np.stack(places_of(folder / "noise", PER_BRICK)[BRICK], axis=1)
    exp = experiment(str(folder / "noise"), places.tolist())
    made, layout = plan_of(exp), layout_of(plan_of(exp))
    spec = spec_of(exp, planned_strata(made), n_regions=made.n_regions)
    work = Work(BRICK, made.targets_of(BRICK), slice(None), False)
    spent = {"inject": 0.0, "audit": 0.0, "write": 0.0}
    for again in range(repeats):
        run = str(folder / f"run-{again}")
        store.create_run(run, layout, exp.to_yaml(), {"benchmark": True}, "0")
        times = [time.process_time()]
        rows, cube = inject_piece("", exp, work)
        times.append(time.process_time())
        statistics = audit.measure(cube, spec)
        times.append(time.process_time())
        store.write_block(run, layout._replace(rows=len(rows)), 0, cube, statistics, "", [], rows)
        times.append(time.process_time())
        if again:
            for name, seconds in zip(spent, np.diff(times), strict=True):
                spent[name] += float(seconds)
    count = len(rows) * (repeats - 1)
    return {"cpu_s": spent, "rows": count, "share": spent["audit"] / sum(spent.values())}


def experiment(root: str, places: list[list[float]]) -> Experiment:
    """The seed experiment's priors, half of the rows controls."""
    return parse_experiment(
        {
            "name": "bench",
            "survey": {"root": root},
            "targets": {"positions": places},
            "plan": {"control_fraction": 0.5},
            "lens": {"theta_e": {"uniform": [0.3, 1.0]}},
            "source": {
                "mag": {"uniform": [20, 25]},
                "reff": {"uniform": [0.1, 0.5]},
                "q": {"uniform": [0.25, 1]},
                "pa": {"uniform": [0, 180]},
                "dx": {"uniform": [-0.4, 0.4]},
                "dy": {"uniform": [-0.4, 0.4]},
            },
        }
    )


def stored_set(folder: Path, blocks: int, cube: xr.Dataset) -> None:
    """A finished data set of ``blocks`` blocks with the pixels of ``cube``, all other rows their own."""
    block = int(cube.sizes["pair"])
    total = blocks * block
    attributes = store.attributes("benchmark", 1, {"train": 1.0})
    layout = store.Layout(total, block, ("g", "r", "z"), int(cube.sizes["x"]), attributes)
    store.create_run(str(folder), layout, "name: bench\n", {"benchmark": True}, "0")
    root = folder / store.STAMPS
    for name, data in store.encode_block(layout, 0, cube).items():
        if data is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
    group = zarr.open_group(str(root), mode="r+", use_consolidated=False)
    for name, array in group.arrays():
        if array.shards is not None:
            first = root / name / "c" / "0"
            for k in range(1, blocks):
                for file in [f for f in first.rglob("*") if f.is_file()] if first.is_dir() else []:
                    copy = root / name / "c" / str(k) / file.relative_to(first)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    os.link(file, copy)
        elif array.shape[0] == total:
            array[:] = np.concatenate([cube[name].values] * blocks)
    group["slot"][:] = np.arange(total)


def alone(place: str, quick: bool, answer: Any) -> None:
    """Audit a set's pixels block by block; says what that took (in a process of its own)."""
    settings = AuditSettings(audit=AuditSection(**KEPT[quick]))
    source = StoredPairs(place)
    spec = replace(spec_of_source(source, settings), **KEPT[quick])
    pairs = int(source.columns.sizes["pair"])
    audit.measure(source.block(slice(0, 32)), spec)  # what is only done once
    before, cpu = read_so_far(), time.process_time()
    stats = None
    for rows in source.blocks():
        part = audit.measure(source.block(rows), spec)
        stats = part if stats is None else audit.merge([stats, part], spec)
    assert stats is not None
    answer.put(
        {
            "pairs": pairs,
            "cpu_ms_a_pair": 1e3 * (time.process_time() - cpu) / pairs,
            "read_over_stored": (read_so_far() - before) / stored_bytes(place),
            "stored_bytes": stored_bytes(place),
            "kept_rows": len(stats["row_hash"]),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )


def read_so_far() -> int:
    """Bytes that this process has read from files."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("rchar")))


def stored_bytes(place: str) -> int:
    """Bytes of all chunks of a data set."""
    return sum(f.stat().st_size for f in Path(place, store.STAMPS).rglob("c/**/*") if f.is_file())


def in_a_process(place: str, quick: bool) -> dict[str, Any]:
    """:func:`alone` in a fresh process, whose memory is its own."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=alone, args=(place, quick, answer))
    process.start()
    found: dict[str, Any] = answer.get()
    process.join()
    return found


def drawn_again(place: str, cores: int, wholes: int) -> dict[str, float]:
    """Processor seconds of rows drawn again in their core, and whole."""
    source = StoredPairs(place)
    spec = spec_of_source(source, AuditSettings())
    every = (1,) * spec.n_strata  # as if there were no more rows, so that all are audit rows
    few = replace(spec, stratum_counts=every, cap=cores + wholes, whole_cap=wholes, closure=wholes)
    rows = audit.audit_rows(audit.measure(source.block(slice(0, cores + wholes)), few), few)
    seconds = {}
    for name, use in (("whole", rows["closure"]), ("core", ~rows["closure"])):
        chosen = {k: v[use] for k, v in rows.items()}
        audit.rerender({k: v[:1] for k, v in chosen.items()}, few)
        start = time.process_time()
        audit.rerender(chosen, few)
        seconds[name] = (time.process_time() - start) / int(use.sum())
    return {
        "core_cpu_s": seconds["core"],
        "whole_cpu_s": seconds["whole"],
        "audit_cpu_s": seconds["core"] * (CORE_ROWS - WHOLE_ROWS) + seconds["whole"] * WHOLE_ROWS,
    }


def judged(place: str, caps: tuple[int, ...]) -> list[dict[str, float]]:
    """Processor seconds in which a driver judges a set whose rows were drawn again, 500 of them whole.

    The set's regions become so many that intervals resample them, as in a survey, each with its own hosts.
    """
    group = zarr.open_group(str(Path(place) / store.STAMPS), mode="r+", use_consolidated=False)
    rows = np.arange(group["slot"].shape[0])
    group["host_id"][:] = rows
    group["region_id"][:] = np.array([f"r{k}" for k in rows % REGIONS], dtype=object)
    source, settings = StoredPairs(place), AuditSettings()
    quality = audit.quality(source.columns, "r")
    found = []
    for cap in caps:
        whole = min(cap, settings.audit.whole_cap)
        spec = replace(
            spec_of_source(source, settings),
            cap=cap,
            whole_cap=whole,
            closure=min(WHOLE_ROWS, whole),
        )
        stats = audit.merge([audit.measure(source.block(r), spec) for r in source.blocks()], spec)
        again = rerender_piece(audit.audit_rows(stats, spec), spec, None)
        begun = time.process_time()
        audit.conclude(
            stats, again, quality, limits_of(settings), spec, audit.selection(source.columns, spec)
        )
        found.append({"rows": len(stats["row_hash"]), "cpu_s": time.process_time() - begun})
    return found


def run(folder: Path, *, quick: bool) -> dict[str, Any]:
    """All figures; ``folder`` takes some hundred megabytes."""
    cube, sets = real_pairs(BLOCK[quick], precision="rounded"), []
    for factor in (1, 4):
        place = folder / f"set-{factor}"
        place.mkdir()
        stored_set(place, factor * PAIRS[quick] // BLOCK[quick], cube)
        sets.append(in_a_process(str(place), quick))
    return {
        "fused": share(folder, REPEATS[quick]),
        "alone": sets,
        "memory_ratio": sets[1]["peak_mib"] / sets[0]["peak_mib"],
        "drawn_again": drawn_again(str(folder / "set-1"), *DRAWN[quick]),
        "judged": judged(str(folder / "set-1"), JUDGED[quick]),
    }


def show(figures: dict[str, Any], console: Console) -> None:
    """The figures in sentences."""
    fused, again = figures["fused"], figures["drawn_again"]
    each = ", ".join(f"{k} {1e3 * v / fused['rows']:.2f}" for k, v in fused["cpu_s"].items())
    console.print(
        f"fused: accumulators take {fused['share']:.1%} of a worker's CPU (limit {SHARE:.0%}); ms a row: "
        f"{each}",
        highlight=False,
    )
    for one in figures["alone"]:
        console.print(
            f"alone, {one['pairs']:,} pairs: {one['read_over_stored']:.3f} bytes read a byte stored "
            f"({one['stored_bytes'] / 1e6:,.0f} MB), {one['cpu_ms_a_pair']:.2f} CPU ms a pair, "
            f"{one['kept_rows']:,} rows kept, at most {one['peak_mib']:,.0f} MiB",
            highlight=False,
        )
    console.print(
        f"four times the pairs take {figures['memory_ratio']:.2f} times the memory", highlight=False
    )
    console.print(
        f"drawn again: {1e3 * again['core_cpu_s']:.1f} CPU ms a core, {1e3 * again['whole_cpu_s']:.0f} a "
        f"whole stamp, {again['audit_cpu_s']:,.0f} CPU s an audit",
        highlight=False,
    )
    for one in figures["judged"]:
        console.print(
            f"judged: {one['rows']:,.0f} rows in {one['cpu_s']:,.0f} CPU s of the driver",
            highlight=False,
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sets, under 50 s")
    parser.add_argument("--folder", type=Path, help="where to work; default temporary")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        figures = run(Path(folder), quick=given.quick)
    show(figures, Console(width=120))
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
