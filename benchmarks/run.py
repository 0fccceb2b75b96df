"""Rows per CPU second of a run's workers, from local disk and from a real S3 server, and what they stand on.

The seed experiment's mix: half of the rows controls, 59 rows a brick, stamps of 64 pixels in three bands,
bricks of 3600 pixels. A run is what ``dhs run`` does on a cluster of one worker, reading and writing in one
place; its figure is the rows it wrote over the processor seconds of the worker's process (not of the driver,
not of the S3 server). In the same worker, afterwards, the kernels that no run can do without are measured
alone on the same bricks: get (the same byte ranges again), decode (the tiles that the stamps touch), render,
encode (rounding, Zarr objects, checksums), put and audit. ``whole_over_sum`` is what all else costs.

Bricks are those below ``--root`` (``dhs sky``, ``--size 3600 --lrgs 0.84``), or one of noise; each stands
for several: copies whose headers speak of other bricks, at those bricks' places. Beside the speed: the
stored pixels against astropy's reading of the same files and against the independent integrator; wall time
with one worker and with two, and which part of the cubes' bytes went from worker to worker (of two and of
four); and the objects of a block put at once and one after the other, on a line of 30 ms.

    python benchmarks/run.py --quick
    dhs sky sky --bricks 3 --size 3600 --lrgs 0.84
    python benchmarks/run.py --root sky --json run.json
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import seaweed
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from distributed import Client, Worker
from fault_proxy import proxied
from read import noise_brick, places_of
from rich.console import Console
from rich.table import Table
from s3fs import S3FileSystem

from darkhaloscope import __version__, audit, driver, lensing, prepare, storage, store, workflow
from darkhaloscope.cluster import connect
from darkhaloscope.config import ClusterSection, Experiment, parse_experiment
from darkhaloscope.inject import inject_brick, load_brick, round_ctrl, round_mantissa
from darkhaloscope.survey import Survey
from darkhaloscope.survey.bricks import brick_bounds, brick_centre, brick_id_of, brick_name
from darkhaloscope.survey.tiles import TiledImage

SEED_RATE = 16.4
"""Rows a second of one virtual CPU of the seed experiment."""

TARGETS = {"local": 12 * SEED_RATE, "s3": 8 * SEED_RATE}
OVERHEAD = 1.35
"""Limit of the whole run over the sum of its kernels."""

PER_BRICK, SIZE, SIDE = 59, 64, 3600
BLOCK = {True: 512, False: 2048}
"""Pairs of the one block of a run, with ``--quick`` and without; the store's choice for a survey is 2,048."""
ACCURACY_ROWS = {True: 8, False: 64}
RAW = 2 * 3 * SIZE**2 * 4
"""Bytes of a pair as raw float32: ``ctrl`` and ``arc``."""

KERNELS = ("get", "decode", "render", "encode", "put", "audit")
BUCKET = "dhs-run"
LATENCY_S = 0.03
"""Of a store that is far away."""

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def names(count: int) -> list[str]:
    """Names of bricks of the tiling, no two of them neighbours; 720 are the most."""
    found: list[str] = brick_name(100 + 0.5 * np.arange(count), np.full(count, -30.0)).tolist()
    return found


def lay_out(root: Path, into: Path, count: int) -> pd.DataFrame:
    """``count`` bricks in ``into``, of the pixels of those below ``root``; gives their targets.

    Targets are at other random places on each, where all bands have pixels.
    """
    given = sorted((root / "south" / "coadd").glob("*/*"))
    wanted = -(-count // len(given)) * PER_BRICK
    places = places_of(root, wanted)
    rows = []
    for i, brick in enumerate(names(count)):
        model = given[i % len(given)]
        folder = into / "south" / "coadd" / brick[:3] / brick
        folder.mkdir(parents=True)
        for file in model.glob("*.fz"):
            stand_for(file, folder / file.name.replace(model.name, brick), brick)
        first = i // len(given) * PER_BRICK
        ra, dec = (column[first : first + PER_BRICK] for column in places[model.name])
        there, here = (
            WCS(fits.getheader(Survey(str(place)).url("image", name, "r"), 1))
            for place, name in ((root, model.name), (into, brick))
        )
        ra, dec = here.all_pix2world(*there.all_world2pix(ra, dec, 0), 0)
        rows += [(a, d, brick, 19.0) for a, d in zip(ra, dec, strict=True)]
    return pd.DataFrame(rows, columns=["ra", "dec", "brick", "mag_r"])


def stand_for(file: Path, copy: Path, brick: str) -> None:
    """Copy a file of a coadd to stand for another brick, which its headers then speak of.

    Only values of cards differ, and CHECKSUM where there is one: no compressed byte does.
    """
    shutil.copyfile(file, copy)
    stems = ("CRVAL1", "CRVAL2", "RAMIN", "RAMAX", "DECMIN", "DECMAX")
    place = map(float, (*brick_centre(brick), *brick_bounds(brick)))
    said = dict.fromkeys(("BRICK", "BRICKNAM", "BRICKNAME"), brick)
    said |= {"BRICKID": int(brick_id_of(brick)), **dict(zip(stems, place, strict=True))}
    with fits.open(copy, mode="update", disable_image_compression=True) as hdus:
        for hdu in hdus:
            hdu.header.update({card: v for card, v in said.items() if card in hdu.header})


def experiment(root: str, targets: Path, block: int) -> Experiment:
    """The seeds' priors, half of the rows controls."""
    return parse_experiment(
        {
            "name": "bench",
            "seed": 1,
            "survey": {"root": root},
            "targets": {"path": str(targets)},
            "plan": {"control_fraction": 0.5},
            "lens": {
                "theta_e": {"uniform": [0.3, 1.0]},
                "shear": {"uniform": [0, 0.1]},
                "shear_pa": {"uniform": [0, 180]},
            },
            "source": {
                "dmag": {"uniform": [0.5, 3]},
                "reff": {"uniform": [0.1, 0.5]},
                "q": {"uniform": [0.25, 1]},
                "pa": {"uniform": [0, 180]},
                "dx": {"uniform": [-0.4, 0.4]},
                "dy": {"uniform": [-0.4, 0.4]},
            },
            "store": {"block": block},
        }
    )


def made_of(exp: Experiment) -> tuple[Any, Any, Any]:
    """Plan, layout and audit settings, as ``dhs run`` makes them."""
    made = prepare.plan_of(exp)
    strata = prepare.planned_strata(made)
    return made, prepare.layout_of(made), prepare.spec_of(exp, strata, n_regions=made.n_regions)


def create(folder: str, exp: Experiment, made: Any, layout: Any) -> None:
    """The run's folder, before its first block."""
    document = exp.identity_document(made.contents)
    store.create_run(folder, layout, exp.to_yaml(), document, __version__)


# --- the whole run ------------------------------------------------------------------------------


def used() -> tuple[float, float]:
    """Processor seconds and peak memory (MiB) of this process so far."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime, own.ru_maxrss / 1024


def sent_bytes(dask_worker: Worker) -> int:
    """What a worker has given to others so far; a block's marker to the driver among it."""
    return int(dask_worker.transfer_outgoing_bytes_total)


def run_blocks(client: Client, folder: str, exp: Experiment) -> dict[str, Any]:
    """Make all blocks on a client's workers: rows, seconds, the workers' CPU and memory."""
    made, layout, spec = made_of(exp)
    create(folder, exp, made, layout)
    before, start = client.run(used), time.perf_counter()
    markers = driver.run_blocks(client, folder, made, layout, spec, lambda *_: None)
    seconds = time.perf_counter() - start
    after = client.run(used)
    sent = sum(client.run(sent_bytes).values())
    cpu = sum(after[worker][0] - before[worker][0] for worker in after)
    counts = [of_class for marker in markers for of_class in marker["counts"].values()]
    failed = layout.rows - sum(reasons.get("ok", 0) for reasons in counts)
    return {
        "rows": layout.rows,
        "bricks": len(made.bricks),
        "visits": sum(len(made.pieces(block)) for block in range(layout.blocks)),
        "failed": failed,
        "wall_s": seconds,
        "cpu_s": cpu,
        "rows_per_cpu_s": layout.rows / cpu,
        "worker_mib": max(memory for _, memory in after.values()),
        "sent_of_raw": sent / (layout.rows * RAW),
    }


def warm_up(folder: str, exp: Experiment) -> None:
    """On a worker: what is only done once (imports, connections, compiled code)."""
    made, layout, spec = made_of(exp)
    (work,) = workflow.work_of(made, made.pieces(0)[:1], frozenset())
    rows, cube = workflow.inject_piece("", exp, work)
    small = layout._replace(rows=len(rows))
    create(folder, exp, made, small)
    store.write_block(folder, small, 0, cube, audit.measure(cube, spec), "", [], rows)


# --- its kernels, each alone --------------------------------------------------------------------


@contextlib.contextmanager
def recorded(owner: Any, *attributes: str) -> Iterator[list[Call]]:
    """Calls of some functions of a module or class, noted on the way."""
    calls: list[Call] = []
    before = {name: getattr(owner, name) for name in attributes}

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            calls.append((function, args, options))
            return function(*args, **options)

        return call

    for name, function in before.items():
        setattr(owner, name, noting(function))
    try:
        yield calls
    finally:
        for name, function in before.items():
            setattr(owner, name, function)


def cpu_of(calls: Sequence[Call]) -> float:
    """Processor seconds of calls, made again one after the other."""
    start = time.process_time()
    for function, args, options in calls:
        function(*args, **options)
    return time.process_time() - start


def kernels(folder: str, exp: Experiment) -> dict[str, float]:
    """On a worker: processor seconds of each kernel alone, over all bricks and blocks of a run."""
    made, layout, spec = made_of(exp)
    create(folder, exp, made, layout)
    spent = dict.fromkeys(KERNELS, 0.0)
    for block in range(layout.blocks):
        parts = []
        for work in workflow.work_of(made, made.pieces(block), frozenset()):
            rows = made.brick_rows(work.brick, work.rows)
            with (
                recorded(storage, "stat_all", "read_all", "read_ranges") as gets,
                recorded(TiledImage, "windows") as decodes,
            ):
                cutouts = load_brick(rows, exp)
            with recorded(lensing, "render") as renders:
                parts.append((rows, inject_brick(rows, cutouts, exp)))
            spent["get"] += cpu_of(gets)
            spent["decode"] += cpu_of(decodes)
            spent["render"] += cpu_of(renders)
        rows = pd.concat([planned for planned, _ in parts], ignore_index=True)
        cubes = [cube for _, cube in parts]
        cube = xr.concat(
            cubes, dim="pair", data_vars="minimal", coords="minimal", compat="override"
        )
        with recorded(storage, "write_all", "write", "create", "remove") as puts:
            start = time.process_time()
            statistics = audit.measure(cube, spec)
            spent["audit"] += time.process_time() - start
            store.write_block(folder, layout, block, cube, statistics, "", [], rows)
            store.drop_block(folder, layout, block)
        spent["put"] += cpu_of([call for call in puts if call[0].__name__ != "remove"])
        start = time.process_time()
        for ctrl, arc, sigma in zip(
            *(cube[name].values for name in ("ctrl", "arc", "sky_sigma")), strict=True
        ):
            round_ctrl(ctrl, sigma.astype(float))
            if arc.any():
                round_mantissa(arc.astype(float))
        objects = store.encode_block(layout, block, cube)
        for data in objects.values():
            hashlib.sha256(data or b"").hexdigest()
        store.encode_statistics(statistics)
        spent["encode"] += time.process_time() - start
    return spent


# --- is it right --------------------------------------------------------------------------------


def accuracy(folder: str, exp: Experiment, rows: int) -> dict[str, float]:
    """Stored pixels of the first rows against astropy's reading, and arcs against the integrator.

    ``ctrl_steps``: largest distance of a pixel from astropy's in rounding steps, of which rounding takes
    0.5; ``arc_pixel``: largest error of an arc's pixel, in peaks; ``arc_flux``: of its flux in a band.
    """
    _, _, spec = made_of(exp)
    found = store.read_rows(folder, slice(0, rows))
    off = max(_steps_off(exp, found, band) for band in exp.survey.bands)
    few = (1,) * spec.n_strata  # so that every row is an audit row
    every = replace(spec, stratum_counts=few, cap=rows, whole_cap=rows, closure=rows)
    statistics = audit.measure(found, every)
    again = audit.rerender(audit.audit_rows(statistics, every), every)
    mine = statistics["whole_arc"][np.argsort(statistics["whole_hash"])].astype(float)
    theirs = again["whole"][np.argsort(again["whole_hash"])]
    pixel = np.abs(mine - theirs).max((2, 3)) / theirs.max((2, 3))
    flux = np.abs(mine.sum((2, 3)) / theirs.sum((2, 3)) - 1)
    return {"ctrl_steps": off, "arc_pixel": float(pixel.max()), "arc_flux": float(flux.max())}


def _steps_off(exp: Experiment, found: xr.Dataset, band: str) -> float:
    """Largest distance of the ``ctrl`` of some rows from what astropy reads, in rounding steps."""
    survey, worst = Survey(exp.survey.root), 0.0
    bricks = found["brick"].values.astype(str)
    for brick in np.unique(bricks):
        rows = found.isel(pair=bricks == brick).sel(band=band)
        with fits.open(survey.url("image", brick, band)) as hdus:
            x, y = WCS(hdus[1].header).all_world2pix(rows["ra"].values, rows["dec"].values, 0)
            x0, y0 = (np.floor(v - (SIZE - 1) / 2 + 0.5).astype(int) for v in (x, y))
            for i, (left, low) in enumerate(zip(x0, y0, strict=True)):
                right = hdus[1].section[low : low + SIZE, left : left + SIZE].astype(float)
                step = 2.0 ** np.floor(np.log2(float(rows["sky_sigma"].values[i]) / 16))
                worst = max(worst, float(np.abs(rows["ctrl"].values[i] - right).max() / step))
    return worst


def bytes_per_pair(folder: str) -> float:
    """Bytes of all arrays of a run, a pair."""
    held = storage.sizes(storage.join(folder, store.STAMPS))
    return sum(held.values()) / store.read_run(folder)["rows"]


# --- together -----------------------------------------------------------------------------------


def measure(root: str, into: str, targets: Path, block: int) -> tuple[dict[str, Any], Experiment]:
    """A run on one worker, then its kernels in the same process."""
    exp = experiment(root, targets, block)
    with connect(ClusterSection(workers=1), into) as client:
        client.submit(warm_up, f"{into}/warm", exp).result()
        found = run_blocks(client, f"{into}/run", exp)
        spent = client.submit(kernels, f"{into}/alone", exp).result()
    found["kernels_cpu_s"] = spent
    found["whole_over_sum"] = found["cpu_s"] / sum(spent.values())
    found["bytes_per_pair"] = bytes_per_pair(f"{into}/run")
    found["of_raw"] = found["bytes_per_pair"] / RAW
    return found, exp


def more_workers(root: str, into: str, targets: Path, block: int) -> dict[str, Any]:
    """Wall time of a run of small blocks, and what workers sent to each other as a share of the cubes'
    bytes, by the number of workers."""
    exp = experiment(root, targets, block)
    found = {}
    for workers in (1, 2, 4):
        place = f"{into}/{workers}"
        with connect(ClusterSection(workers=workers), place) as client:
            client.run(warm_up, f"{place}/warm", exp)
            found[workers] = run_blocks(client, f"{place}/run", exp)
    seconds = {workers: row["wall_s"] for workers, row in found.items()}
    return {
        "block": block,
        "wall_s": seconds,
        "sent_of_raw": {workers: row["sent_of_raw"] for workers, row in found.items()},
        "speed_up": seconds[1] / seconds[2],
        "load": os.getloadavg()[0],
    }


def put_far_away(run: str, endpoint: str) -> dict[str, Any]:
    """Seconds of the clock to put the objects of a run's first block through a line of ``LATENCY_S``: at
    once, as the store does, and one after the other."""
    layout = store.layout_of_run(run)
    cube = store.read_rows(run, layout.rows_of(0))
    objects = {
        name: data for name, data in store.encode_block(layout, 0, cube).items() if data is not None
    }
    place = f"s3://{BUCKET}/far"
    seconds = {}
    with proxied(endpoint, LATENCY_S) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.url
        S3FileSystem.clear_instance_cache()
        storage.write(f"{place}/first", b"connected")
        start = time.perf_counter()
        storage.write_all(f"{place}/together", objects)
        seconds["together_s"] = time.perf_counter() - start
        start = time.perf_counter()
        for name, data in objects.items():
            storage.write(f"{place}/in-turn/{name}", data)
        seconds["in_turn_s"] = time.perf_counter() - start
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    S3FileSystem.clear_instance_cache()
    size = sum(map(len, objects.values()))
    return {"latency_s": LATENCY_S, "objects": len(objects), "bytes": size, **seconds}


def run(root: Path, folder: Path, *, quick: bool, several: bool) -> dict[str, Any]:
    """All figures; ``folder`` takes some gigabytes."""
    block = BLOCK[quick]
    bricks = folder / "bricks"
    table = lay_out(root, bricks, -(-block // PER_BRICK))[:block]
    targets = folder / "targets.csv"
    table.to_csv(targets, index=False)
    figures: dict[str, Any] = {"version": __version__, "block": block, "per_brick": PER_BRICK}
    figures["local"], exp = measure(str(bricks), str(folder / "local"), targets, block)
    figures["accuracy"] = accuracy(str(folder / "local" / "run"), exp, ACCURACY_ROWS[quick])
    if several:
        figures["workers"] = more_workers(str(bricks), str(folder / "cores"), targets, block // 8)
    with tempfile.TemporaryDirectory(dir=folder) as server, seaweed.serve(Path(server)) as endpoint:
        os.environ.update(seaweed.CREDENTIALS, AWS_ENDPOINT_URL=endpoint)
        s3 = fsspec.filesystem("s3")
        s3.mkdir(BUCKET)
        for file in sorted(bricks.rglob("*.fz")):
            s3.put_file(str(file), f"{BUCKET}/{file.relative_to(bricks)}")
            file.unlink()  # gigabytes: the server's disk is this one
        place = f"s3://{BUCKET}"
        figures["s3"], _ = measure(place, f"{place}/runs", targets, block)
        figures["put"] = put_far_away(str(folder / "local" / "run"), endpoint)
    for name, least in TARGETS.items():
        figures[name]["target"] = least
        figures[name]["of_seed"] = figures[name]["rows_per_cpu_s"] / SEED_RATE
    return figures


def show(figures: dict[str, Any], console: Console) -> None:
    """The figures as tables."""
    table = Table(title=f"one worker, blocks of {figures['block']} pairs", title_justify="left")
    heads = ("", "rows", "failed", "rows / CPU s", "limit", "of the seeds'", "ms a row")
    for name in (*heads, "kernels", "whole / sum", "MiB", "bytes a pair", "of raw"):
        table.add_column(name, justify="right")
    for name in TARGETS:
        row = figures[name]
        table.add_row(
            name, str(row["rows"]), str(row["failed"]), f"{row['rows_per_cpu_s']:.0f}",
            f"{row['target']:.0f}", f"{row['of_seed']:.1f}", f"{1e3 * row['cpu_s'] / row['rows']:.2f}",
            f"{1e3 * sum(row['kernels_cpu_s'].values()) / row['rows']:.2f}",
            f"{row['whole_over_sum']:.2f}", f"{row['worker_mib']:.0f}",
            f"{row['bytes_per_pair']:,.0f}", f"{row['of_raw']:.1%}",
        )  # fmt: skip
    console.print(table)
    parts = Table(title="CPU ms a brick of each kernel alone", title_justify="left")
    for name in ("", *KERNELS):
        parts.add_column(name, justify="right")
    for name in TARGETS:
        row = figures[name]
        each = (f"{1e3 * row['kernels_cpu_s'][k] / row['bricks']:.0f}" for k in KERNELS)
        parts.add_row(name, *each)
    console.print(parts)
    right = figures["accuracy"]
    console.print(
        f"ctrl within {right['ctrl_steps']:.3f} rounding steps of astropy's pixels; arcs within "
        f"{right['arc_pixel']:.1e} of their peaks and {right['arc_flux']:.1e} of their flux of the "
        "independent integrator's",
        highlight=False,
    )
    if "workers" in figures:
        sent = {n: f"{share:.2%}" for n, share in figures["workers"]["sent_of_raw"].items()}
        console.print(
            "from 1 to 2 workers: {speed_up:.2f} (load {load:.1f}); ".format(**figures["workers"])
            + f"sent to other workers, of the cubes' bytes, by their number: {sent}"
        )
    console.print(
        "{objects} objects of a block on a line of {latency_s:g} s: {together_s:.2f} s at once, "
        "{in_turn_s:.2f} s one after the other".format(**figures["put"])
    )


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small blocks, under 50 s")
    parser.add_argument("--one-worker", action="store_true", help="no runs on several workers")
    parser.add_argument("--root", type=Path, help="a release's folder; default a brick of noise")
    parser.add_argument("--folder", type=Path, help="where to work, gigabytes; default temporary")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        root = options.root or Path(folder) / "noise"
        if options.root is None:
            noise_brick(root, "0591m305", SIDE)
        several = not (options.quick or options.one_worker)
        figures = run(root, Path(folder), quick=options.quick, several=several)
    show(figures, Console(width=150))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
