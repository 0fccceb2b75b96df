"""What reading bricks costs: bytes, requests, seconds and CPU, from a real S3 server.

The same bricks are read whole, by byte ranges, as ``auto`` decides, and by astropy's own
``fits.open(url, use_fsspec=True)`` with ``.section``. Requests and bytes are counted by a proxy in front
of the server, which also makes the latency and caps the bandwidth. Each way on each line is a process
of its own, so that CPU and memory are the reader's alone; the proxy's own CPU, which is in the seconds, is
said beside it. The bricks go to the server past the proxy. Memory is a brick's largest resident set over
that of the process before its first brick, also with 2,000 targets on each brick.

    python benchmarks/read.py --quick
    dhs sky sky --bricks 3 --size 3600 --lrgs 0.84
    python benchmarks/read.py --root sky --json read.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import s3fs
import seaweed
from astropy.io import fits
from astropy.wcs import WCS
from fault_proxy import proxied
from rich.console import Console
from rich.table import Table

from darkhaloscope import lensing
from darkhaloscope.config import parse_experiment
from darkhaloscope.prepare import plan_of
from darkhaloscope.survey import Reading, Survey, read_cutouts
from darkhaloscope.survey.bricks import brick_centre
from darkhaloscope.survey.files import keys_of
from darkhaloscope.survey.reading import Mode
from darkhaloscope.workflow import Work, inject_bricks

BRICKS = 180_152
"""Of a survey with ten million rows."""

TARGETS, MANY, SIZE = 59, 2000, 64
MODES: tuple[Mode, ...] = ("whole", "ranges", "auto")
WAYS = (*MODES, "astropy")
LINES = (("loopback", 0.0, 0.0), ("30 ms", 0.03, 0.0), ("30 ms, 40 MB/s", 0.03, 4e7))
"""Name, latency of an answer in s, bytes per s of all connections together (0: no limit)."""

BUCKET = "dhs-read"
Places = dict[str, tuple[list[float], list[float]]]
"""ra and dec (deg) of the targets, by brick."""


def noise_brick(root: Path, brick: str, side: int) -> None:
    """Files of the compression of a release; what is in them does not matter here."""
    rng = np.random.default_rng(1)
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [float(v) for v in brick_centre(brick)]
    wcs.wcs.crpix = [(side + 1) / 2] * 2
    wcs.wcs.cd = np.diag([-0.262 / 3600, 0.262 / 3600])
    shape = (side, side)
    made: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "image": (
            rng.normal(0, 0.003, shape).astype(np.float32),
            {"compression_type": "RICE_1", "quantize_method": 2, "quantize_level": -1e-4},
        ),
        "invvar": (
            rng.normal(1e5, 3e3, shape).astype(np.float32),
            {"compression_type": "RICE_1", "quantize_method": -1, "quantize_level": 16},
        ),
        "psfsize": (
            np.full(shape, 1.3, np.float32),
            {"compression_type": "GZIP_1", "quantize_level": 0},
        ),
        "maskbits": (np.zeros(shape, np.int16), {"compression_type": "HCOMPRESS_1"}),
    }
    survey = Survey(str(root))
    for kind, band in keys_of(survey):
        pixels, how = made[kind]
        place = Path(survey.url(kind, brick, band))
        place.parent.mkdir(parents=True, exist_ok=True)
        hdu = fits.CompImageHDU(pixels, wcs.to_header(), tile_shape=(100, 100), **how)
        fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(place)


def places_of(root: Path, targets: int) -> Places:
    """Targets at random on every brick of a release on the disk, where all bands have pixels."""
    places: Places = {}
    for number, folder in enumerate(sorted((root / "south" / "coadd").glob("*/*"))):
        survey = Survey(str(root))
        header = fits.getheader(survey.url("image", folder.name, "r"), 1)
        span = (SIZE, header["NAXIS1"] - SIZE)
        x, y = np.random.default_rng(number).uniform(*span, (2, 2 * targets))
        ra, dec = WCS(header).all_pix2world(x, y, 0)
        found = read_cutouts(survey, folder.name, ra, dec, SIZE)
        good = np.flatnonzero(found.ok & (found.coverage > 0).all(axis=1))[:targets]
        if len(good) < targets:
            raise SystemExit(f"brick {folder.name} has too few places with pixels in all bands")
        places[folder.name] = (ra[good].tolist(), dec[good].tolist())
    return places


def by_astropy(survey: Survey, brick: str, ra: np.ndarray, dec: np.ndarray) -> str:
    """Stamps of all files by astropy's reader of remote files; a digest of image and invvar."""
    digest = hashlib.sha256()
    how = {"default_block_size": 1_000_000, "default_cache_type": "bytes"}  # astropy's manual
    for kind, band in keys_of(survey):
        with fits.open(survey.url(kind, brick, band), use_fsspec=True, fsspec_kwargs=how) as hdus:
            x, y = WCS(hdus[1].header).all_world2pix(ra, dec, 0)
            x0, y0 = (np.floor(v - (SIZE - 1) / 2 + 0.5).astype(int) for v in (x, y))
            for i, j in zip(x0, y0, strict=True):
                stamp = hdus[1].section[j : j + SIZE, i : i + SIZE]
                if kind in ("image", "invvar"):
                    digest.update(np.ascontiguousarray(stamp, np.float32).tobytes())
    return digest.hexdigest()


def by_us(survey: Survey, brick: str, ra: np.ndarray, dec: np.ndarray, reading: Reading) -> str:
    """The same by :func:`read_cutouts`."""
    out = read_cutouts(survey, brick, ra, dec, SIZE, reading=reading)
    if not out.ok.all():
        raise SystemExit(f"not all rows of {brick} could be read: {out.notes}")
    digest = hashlib.sha256()
    for pixels in (out.image, out.invvar):
        for b in range(len(survey.bands)):  # file by file: a copy of all would be in the memory
            digest.update(np.ascontiguousarray(pixels[:, b]).data)
    return digest.hexdigest()


def child(way: str, places: Places) -> dict[str, Any]:
    """All bricks one after the other in this process; what each took."""
    survey = Survey(f"s3://{BUCKET}")
    readings: dict[str, Reading] = {mode: Reading(mode) for mode in MODES}
    fsspec.filesystem("s3").ls(BUCKET)  # the connection and the imports are not the read's
    before, found = resident("VmRSS"), {}
    for brick, (ra, dec) in places.items():
        Path("/proc/self/clear_refs").write_text("5")  # the largest resident set is forgotten
        start, cpu = time.perf_counter(), time.process_time()
        where = (survey, brick, np.array(ra), np.array(dec))
        digest = by_us(*where, readings[way]) if way in readings else by_astropy(*where)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        found[brick] = {"seconds": seconds, "cpu": cpu, "pixels": digest}
        found[brick]["memory"] = resident("VmHWM") - before
    return found


def tasks(places: Places) -> dict[str, Any]:
    """What a brick takes, read and injected, in tasks of one and in one task of all."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "targets.csv"
        rows = [
            f"{b},{x!r},{y!r}" for b, where in places.items() for x, y in zip(*where, strict=True)
        ]
        table.write_text("\n".join(["brick,ra,dec", *rows]))
        count = 2 * len(places)
        injecting(
            count, dict(list(places.items())[:1]), table
        )  # what is compiled and connected once
        made = {"alone": injecting(1, places, table), "together": injecting(count, places, table)}
    if made["alone"].pop("pixels") != made["together"].pop("pixels"):
        raise SystemExit("bricks differ with the size of tasks")
    made["alone"]["bricks_per_task"], made["together"]["bricks_per_task"] = 1, count
    return made


def injecting(bricks_per_task: int, places: Places, table: Path) -> dict[str, Any]:
    """Read and inject bricks, each twice, in tasks of some; a task reads one while it makes another."""
    experiment = parse_experiment(
        {
            "survey": {"root": f"s3://{BUCKET}"},
            "targets": {"path": str(table)},
            "plan": {"repeats": 2},  # a brick's 59 targets are 118 rows, as in a run of ten million
            "lens": {"theta_e": {"uniform": [0.5, 2.0]}, "q": {"uniform": [0.6, 1.0]}},
            "source": {"mag": 22.0},
        }
    )
    made, text = plan_of(experiment), experiment.model_dump_json()
    work = [Work(b, made.targets_of(b), slice(None), False) for b in places] * 2
    lensing.warm()
    fsspec.filesystem("s3").ls(BUCKET)
    start, cpu = time.perf_counter(), time.process_time()
    digest = hashlib.sha256()
    for first in range(0, len(work), bricks_per_task):
        task = work[first : first + bricks_per_task]
        for _, cube in inject_bricks("", text, task, 0, final=False):
            digest.update(cube["arc"].values.tobytes() + cube["ctrl"].values.tobytes())
    return {
        "bricks": len(work),
        "seconds": (time.perf_counter() - start) / len(work),
        "cpu": (time.process_time() - cpu) / len(work),
        "pixels": digest.hexdigest(),
    }


def resident(name: str) -> int:
    """Bytes of this process in memory: ``VmRSS`` now, ``VmHWM`` at most (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def measure(
    endpoint: str, way: str, places: Path, latency: float, bandwidth: float
) -> dict[str, dict[str, Any]]:
    """What each brick took, read in one way through a proxy."""
    with proxied(endpoint, latency, bandwidth) as proxy:
        cpu = time.process_time()
        done = subprocess.run(
            [sys.executable, __file__, "--child", way, "--places", str(places)],
            env={**os.environ, "AWS_ENDPOINT_URL": proxy.url},
            capture_output=True,
            text=True,
            check=False,
        )
        cpu = time.process_time() - cpu  # this process does nothing but the proxy's work
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        found: dict[str, dict[str, Any]] = json.loads(done.stdout)
        if way == "tasks":
            return found
        for brick, row in found.items():
            mine = {k: n for k, n in proxy.traffic.by_path.items() if f"/{brick}/" in k}
            row["requests"], row["requests_per_file"] = sum(mine.values()), max(mine.values())
            row["proxy_cpu"] = cpu / len(found)
            row["bytes"] = sum(proxy.traffic.bytes_by_path.get(path, 0) for path in mine)
    return found


def run(
    root: Path, targets: int, many: int, lines: tuple[tuple[str, float, float], ...]
) -> dict[str, Any]:
    """All bricks below ``root`` in all ways on all lines: medians over bricks by line and way."""
    crowd = places_of(root, many)
    places = {b: (ra[:targets], dec[:targets]) for b, (ra, dec) in crowd.items()}
    figures: dict[str, Any] = {"targets": targets, "bricks": list(places), "lines": {}}
    with tempfile.TemporaryDirectory() as folder, seaweed.serve(Path(folder)) as endpoint:
        os.environ.update(seaweed.CREDENTIALS, AWS_ENDPOINT_URL=endpoint)
        s3 = s3fs.S3FileSystem(endpoint_url=endpoint)
        s3.mkdir(BUCKET)
        for file in root.rglob("*.fz"):
            s3.put_file(str(file), f"{BUCKET}/{file.relative_to(root)}")
        listed = Path(folder) / "places.json"
        listed.write_text(json.dumps(places))
        for name, latency, bandwidth in lines:
            found = {way: measure(endpoint, way, listed, latency, bandwidth) for way in WAYS}
            figures["lines"][name] = {way: summary(found, way) for way in WAYS}
        listed.write_text(json.dumps(crowd))
        found = {mode: measure(endpoint, mode, listed, 0.0, 0.0) for mode in ("whole", "ranges")}
        most = {mode: max(row["memory"] for row in rows.values()) for mode, rows in found.items()}
        figures["many"] = {"targets": many, "memory": most}
        name, latency, bandwidth = lines[-1]
        listed.write_text(json.dumps(places))
        figures["tasks"] = {"line": name} | measure(endpoint, "tasks", listed, latency, bandwidth)
    return figures


def summary(found: dict[str, dict[str, dict[str, Any]]], way: str) -> dict[str, Any]:
    """Medians over bricks of one way; ``of_whole``: of the bytes of whole files, brick by brick."""
    rows, whole, astropy = found[way], found["whole"], found["astropy"]
    names = ("bytes", "requests", "requests_per_file", "seconds", "cpu", "proxy_cpu")
    made: dict[str, Any] = {n: statistics.median(row[n] for row in rows.values()) for n in names}
    made["memory"] = max(row["memory"] for row in rows.values())
    made["of_whole"] = statistics.median(rows[b]["bytes"] / whole[b]["bytes"] for b in rows)
    made["same_pixels"] = all(rows[b]["pixels"] == astropy[b]["pixels"] for b in rows)
    return made


def show(figures: dict[str, Any], console: Console) -> None:
    """The figures as a table, and what a whole survey would cost."""
    table = Table(
        title=f"a brick, {figures['targets']} targets, ten files; "
        f"median of {len(figures['bricks'])} bricks"
    )
    names = (
        "line", "read", "MB", "of whole", "requests", "most a file", "s", "CPU s", "proxy's CPU s",
        "memory MB", "pixels",
    )  # fmt: skip
    for name in names:
        table.add_column(name, justify="right")
    for line, found in figures["lines"].items():
        for way, row in found.items():
            table.add_row(
                line, way, f"{row['bytes'] / 1e6:.1f}", f"{row['of_whole']:.0%}",
                f"{row['requests']:.0f}", f"{row['requests_per_file']:.0f}",
                f"{row['seconds']:.2f}", f"{row['cpu']:.2f}", f"{row['proxy_cpu']:.2f}",
                f"{row['memory'] / 1e6:.0f}",
                "same" if row["same_pixels"] else "DIFFERENT",
            )  # fmt: skip
    console.print(table)
    first, many = next(iter(figures["lines"].values())), figures["many"]
    whole, ranges = first["whole"], first["ranges"]
    more = (ranges["cpu"] - whole["cpu"]) / (ranges["requests"] - whole["requests"])
    console.print(f"a request more takes {1e3 * more:.2f} ms of the reader's CPU", highlight=False)
    for mode, memory in many["memory"].items():
        console.print(
            f"a brick in flight, {mode}: {first[mode]['memory'] / 1e6:.0f} MB at "
            f"{figures['targets']} targets, {memory / 1e6:.0f} MB at {many['targets']}",
            highlight=False,
        )
    tasks = figures["tasks"]
    for size in ("alone", "together"):
        row = tasks[size]
        console.print(
            f"{tasks['line']}, read and injected, {row['bricks_per_task']} bricks a task: "
            f"{row['seconds']:.2f} s and {row['cpu']:.2f} s of CPU a brick",
            highlight=False,
        )
    for way, row in first.items():
        console.print(
            f"{BRICKS:,} such bricks, {way}: {row['bytes'] * BRICKS / 1e12:.2f} TB, "
            f"{row['requests'] * BRICKS / 1e6:.1f} million requests, "
            f"{row['cpu'] * BRICKS / 3600:,.0f} CPU hours",
            highlight=False,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a brick of 1200 pixels, two lines")
    parser.add_argument("--root", type=Path, help="a release's folder; default one of noise")
    parser.add_argument("--targets", type=int, help=f"on a brick; default {TARGETS}, quick 7")
    parser.add_argument("--many", type=int, help=f"for the memory; default {MANY}, quick 222")
    parser.add_argument("--side", type=int, help="pixels of a brick of noise; default 3600")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--child", choices=(*WAYS, "tasks"), help=argparse.SUPPRESS)
    parser.add_argument("--places", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        places = json.loads(args.places.read_text())
        print(json.dumps(tasks(places) if args.child == "tasks" else child(args.child, places)))
        return
    # As many targets on an area as on a full brick.
    targets = args.targets or (7 if args.quick else TARGETS)
    many = args.many or (MANY // 9 if args.quick else MANY)
    lines = (LINES[0], LINES[2]) if args.quick else LINES
    with tempfile.TemporaryDirectory() as folder:
        root = args.root or Path(folder)
        if args.root is None:
            noise_brick(root, "0591m305", args.side or (1200 if args.quick else 3600))
        figures = run(root, targets, many, lines)
    show(figures, Console(width=120))
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
