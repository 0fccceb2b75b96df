"""Pairs per second of the loader, against other ways to keep the same pairs: ``python benchmarks/loader.py``.

Pairs on real pixels (:mod:`pairs`) are kept three times: in a sharded Zarr as a run leaves it, as one
uncompressed NPZ a pair in one folder, and as Parquet with a blob of raw float32 an array (zstd, row groups
of as many rows as the store's inner chunks). The loader reads all three with the same code but for the
reading itself, so the batches are the same, which is checked bit for bit. Cold: the files' pages are dropped
from the page cache first (``posix_fadvise``); what stays is told. Then: what scale and turns cost; threads
against processes of torch's ``DataLoader``; a training step and the loader beside it; peak memory of an
epoch, and of one of three times as many rows, seen from outside; the order against a full shuffle.
Processor time (threads and children included) but where wall time is said.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import mmap
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pairs import real_pairs
from rich.console import Console
from store import table
from torch.utils.data import DataLoader, Dataset

from darkhaloscope import storage, store
from darkhaloscope.detect.ahead import Ahead
from darkhaloscope.detect.chunks import Pixels
from darkhaloscope.detect.loader import Batch, Loader
from darkhaloscope.detect.networks import make_network
from darkhaloscope.detect.order import epoch_order, shuffle_quality
from darkhaloscope.store import Layout, attributes
from darkhaloscope.views import Chosen, Reading

UNIQUE, ROWS = {True: 16, False: 512}, {True: 768, False: 8192}
"""Pairs that differ, and rows of the data set, for ``--quick`` and without."""
ARRAYS = ("ctrl", "arc", "nodata")
WINDOWS = (256, 1024, 4096)
MANY = 200_000
"""Rows of the order whose shuffle is measured."""
RAW = Reading(quality="all", normalize="raw", augment=False, window=256)


def write_all(folder: Path, rows: int, unique: int) -> dict[str, Path]:
    """The same pairs in three formats; a quarter of the regions is val, for the measurement of memory."""
    cube = real_pairs(unique, precision="rounded")
    cube = cube.isel(pair=np.resize(np.arange(unique), rows))
    n = np.arange(rows)
    cube["slot"].values[:] = n
    cube["region_split"].values[:] = np.where(n < rows // 4, 1, 0)
    cube["reason"].values[:] = 1
    block = min(2048, 2 ** (rows - 1).bit_length())
    bands, size = tuple(cube["band"].values.tolist()), cube.sizes["x"]
    splits = {"train": 0.75, "val": 0.25, "test": 0.0}
    layout = Layout(rows, block, bands, size, attributes("00" * 32, 3, splits))
    run, npz, parquet = folder / "run", folder / "npz", folder / "parquet"
    objects = dict(store.metadata_objects(layout))
    for k in range(layout.blocks):
        part = cube.isel(pair=layout.rows_of(k))
        found = store.encode_block(layout, k, part)
        objects |= {key: data for key, data in found.items() if data is not None}
    storage.write_all(str(run / store.STAMPS), objects)
    npz.mkdir()
    parquet.mkdir()
    arrays = {name: cube[name].values for name in ARRAYS}
    for i in range(rows):
        np.savez(npz / f"{i:07d}.npz", **{name: values[i] for name, values in arrays.items()})
    for k in range(layout.blocks):
        part = layout.rows_of(k)
        blobs = {name: [v.tobytes() for v in values[part]] for name, values in arrays.items()}
        pq.write_table(
            pa.table(blobs), parquet / f"{k:06d}.parquet", compression="zstd",
            row_group_size=store.INNER_CHUNK, use_dictionary=False, write_statistics=False,
        )  # fmt: skip
    os.sync()
    return {"zarr": run / store.STAMPS, "npz": npz, "parquet": parquet}


class NpzReader:
    """Rows of a chunk from one file each."""

    def __init__(self, loader: Loader, folder: Path) -> None:
        self.inner, self.folder = loader._reader, folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def read(self, chunk: int, *, stamps: bool) -> Pixels:
        """As the loader's own reader."""
        rows = []
        for i in range(
            chunk * self.inner.chunk, min((chunk + 1) * self.inner.chunk, self.inner.rows)
        ):
            with np.load(self.folder / f"{i:07d}.npz") as held:
                rows.append([held[name] for name in ARRAYS])
        return Pixels(*(np.stack(values) for values in zip(*rows, strict=True)))


class ParquetReader(NpzReader):
    """Rows of a chunk from one row group."""

    def read(self, chunk: int, *, stamps: bool) -> Pixels:
        """As the loader's own reader."""
        each = min(2048, 2 ** (self.inner.rows - 1).bit_length()) // self.inner.chunk
        file = pq.ParquetFile(self.folder / f"{chunk // each:06d}.parquet")
        group = file.read_row_group(chunk % each)
        size, bands = self.inner.size, len(self.inner.bands)
        found = []
        for name, kind in zip(ARRAYS, (np.float32, np.float32, np.uint8), strict=True):
            values = [np.frombuffer(v.as_buffer(), kind) for v in group[name]]
            shape = (-1, size, size) if kind is np.uint8 else (-1, bands, size, size)
            found.append(np.stack(values).reshape(shape))
        return Pixels(*found)


def loader_of(places: dict[str, Path], kind: str, reading: Reading = RAW, **options: Any) -> Loader:
    """A loader of the train split that reads its pixels from one of the formats."""
    keys = {"split": "train", "seed": 1} | options
    made = Loader(str(places["zarr"]), reading, **keys)
    if kind != "zarr":
        made._reader = {"npz": NpzReader, "parquet": ParquetReader}[kind](made, places[kind])  # type: ignore[assignment]
    return made


def files_of(place: Path) -> list[Path]:
    """All files below a folder."""
    return [path for path in place.rglob("*") if path.is_file()]


def drop_pages(files: list[Path]) -> float:
    """Take files out of the page cache; gives the share of their pages that is there all the same."""
    libc = ctypes.CDLL(None, use_errno=True)
    page, there, pages = mmap.PAGESIZE, 0, 0
    for path in files:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if not size:
                continue
            count = -(-size // page)
            marks = (ctypes.c_ubyte * count)()
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as held:
                address = ctypes.addressof(ctypes.c_char.from_buffer(held))
                libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), marks)
                there += sum(mark & 1 for mark in marks)
                pages += count
    return there / max(pages, 1)


def spent() -> float:
    """Processor time of this process, its threads, and children that ended, s."""
    own, children = (
        resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def timed(batches: Iterator[Batch]) -> dict[str, float]:
    """Pairs (two images each) per second of an iterator, by processor and by wall clock."""
    wall, cpu, images = time.perf_counter(), spent(), 0
    for batch in batches:
        images += len(batch.row)
    wall, cpu = time.perf_counter() - wall, spent() - cpu
    return {"pairs_cpu_s": images / 2 / cpu, "pairs_wall_s": images / 2 / wall}


def formats(places: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Bytes and speed of each format, cold and warm, and whether the batches are the same."""
    found, right = {}, None
    for kind in ("zarr", "npz", "parquet"):
        files = files_of(places[kind])
        made = loader_of(places, kind)
        batches = list(islice(made.epoch(0), 2))
        right = right or batches
        same = all(torch.equal(a.images, b.images) for a, b in zip(batches, right, strict=True))
        left = drop_pages(files)
        cold, warm = timed(made.epoch(0)), timed(made.epoch(0))
        found[kind] = {
            "bytes_per_pair": sum(path.stat().st_size for path in files) / made._reader.rows,
            "files": len(files),
            "same_batches": same,
            "cached_when_cold": left,
            "cold_pairs_wall_s": cold["pairs_wall_s"],
            "warm_pairs_wall_s": warm["pairs_wall_s"],
            "warm_pairs_cpu_s": warm["pairs_cpu_s"],
        }
    return found


def prepared(places: dict[str, Path], quick: bool) -> dict[str, float | None]:
    """Pairs per CPU second as a network gets them: scale and turns; a second look, and its gate's CPU s."""
    ways = {"raw": RAW, "annulus, turned": Reading(quality="all", window=256)}
    for reading in ways.values():
        next(iter(loader_of(places, "zarr", reading).epoch(0)))  # what is compiled is compiled now
    found: dict[str, float | None] = {
        name: timed(loader_of(places, "zarr", reading).epoch(0))["pairs_cpu_s"]
        for name, reading in ways.items()
    }
    found |= {"option c, noised": None, "its gate, s": None}
    if not quick:
        reading = Reading(quality="all", window=256, option="c", second_look="noised")
        start = spent()
        made = loader_of(places, "zarr", reading)
        found["its gate, s"] = spent() - start
        found["option c, noised"] = timed(made.epoch(0))["pairs_cpu_s"]
    return found


class Windows(Dataset[list[Batch]]):
    """A window's batches as one item: what a process of torch's ``DataLoader`` makes."""

    def __init__(self, place: str, reading: Reading) -> None:
        self.place, self.reading = place, reading
        self.loader: Loader | None = None

    def __len__(self) -> int:
        made = self.loader or Loader(self.place, self.reading, split="train", seed=1)
        return int(made._order(0).window[-1]) + 1

    def __getitem__(self, window: int) -> list[Batch]:
        if self.loader is None:
            self.loader = Loader(self.place, self.reading, split="train", seed=1)
        made = self.loader
        order = made._order(0)
        part = order.window == window
        some = order._replace(
            row=order.row[part], image=order.image[part], label=order.label[part],
            weight=order.weight[part], window=order.window[part] * 0,
        )  # fmt: skip
        with Ahead(made._reader, made._maker, some, 0, 0) as ahead:
            return [ahead.batch(k).result() for k in range(-(-len(some.row) // 256))]


def workers(places: dict[str, Path], quick: bool) -> dict[str, dict[str, float] | None]:
    """The same epoch by threads, and by processes of torch's ``DataLoader``."""
    reading = Reading(quality="all", window=256)
    found: dict[str, dict[str, float] | None] = {}
    for count in (0, 1, 2):
        found[f"threads_{count}"] = timed(
            loader_of(places, "zarr", reading, workers=count).epoch(0)
        )
    for count in (1, 2):
        if quick:
            found[f"processes_{count}"] = None  # they take seconds to start
            continue
        windows = Windows(str(places["zarr"]), reading)
        torch_loader = DataLoader(
            windows, batch_size=None, num_workers=count, multiprocessing_context="spawn"
        )
        found[f"processes_{count}"] = timed(batch for some in torch_loader for batch in some)
    return found


def steps(places: dict[str, Path], quick: bool) -> dict[str, dict[str, float]]:
    """CPU seconds a pair of a training step on this CPU, and of the loader beside it."""
    made = loader_of(places, "zarr", Reading(quality="all", window=256, batch_size=64))
    batches = list(islice(made.epoch(0), 3))
    speed = timed(made.epoch(0))
    found = {}
    for name in ("small",) if quick else ("small", "resnet18"):
        network = make_network(name, made.channels, 0, seed=0)
        optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
        seconds = []
        for batch in batches:
            start = spent()
            optimiser.zero_grad()
            logits = network(batch.images)
            torch.nn.functional.binary_cross_entropy_with_logits(logits, batch.label).backward()
            optimiser.step()
            seconds.append((spent() - start) / (len(batch.row) / 2))
        step = min(seconds)
        load = 1.0 / speed["pairs_cpu_s"]
        found[name] = {"step_ms": 1e3 * step, "load_ms": 1e3 * load, "step_over_load": step / load}
    return found


def peak_of(place: Path, split: str) -> float:
    """Peak memory in MiB of a process that reads an epoch of a split, seen from outside."""
    code = (
        "import sys; from darkhaloscope.detect.loader import Loader; "
        "from darkhaloscope.views import Reading; "
        "made = Loader(sys.argv[1], Reading(quality='all', window=256, batch_size=64), split=sys.argv[2], "
        "seed=1, workers=2); print(sum(len(b.row) for b in made.epoch(0)), flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(place), split]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout is not None
        if not child.stdout.readline():
            raise RuntimeError(f"the process that reads {split} did not end its epoch")
        # Not ru_maxrss: that of a child begins with its parent's.
        status = Path(f"/proc/{child.pid}/status").read_text()
        child.communicate("\n")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def memory(places: dict[str, Path], rows: int) -> dict[str, float]:
    """Peak of an epoch of a quarter of the rows, and of the other three quarters."""
    few, many = (peak_of(places["zarr"], split) for split in ("val", "train"))
    return {"rows": rows // 4, "peak_mib": few, "rows_3": 3 * rows // 4, "peak_3_mib": many}


def shuffles() -> list[dict[str, float]]:
    """The order of many rows against a full shuffle, by window."""
    rows = np.arange(MANY)
    ones = np.ones(MANY, np.float32)
    chosen = Chosen(rows, rows, 0, ones, ones, ones)
    found = []
    for window in WINDOWS:
        reading = Reading(window=window)
        order = epoch_order(chosen, reading, 1, 0, chunk=store.INNER_CHUNK, train=True)
        quality = shuffle_quality(order, reading.batch_size, store.INNER_CHUNK)
        found.append({"window": window} | quality._asdict())
    return found


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs: under 50 s")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    rows, console = ROWS[options.quick], Console(width=200)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        places = write_all(Path(folder), rows, UNIQUE[options.quick])
        measured: list[tuple[str, Callable[[], Any]]] = [
            ("formats", lambda: formats(places)),
            ("prepared", lambda: prepared(places, options.quick)),
            ("workers", lambda: workers(places, options.quick)),
            ("steps", lambda: steps(places, options.quick)),
            ("memory", lambda: memory(places, rows)),
            ("shuffle", shuffles),
        ]
        figures: dict[str, Any] = {"rows": rows, "load": os.getloadavg()[0]}
        for name, measure in measured:
            figures[name] = measure()
    torch.set_num_threads(threads)
    kept = figures["formats"]
    figures["ratio"] = {
        f"{when}_{kind}": kept["zarr"][key] / kept[kind][key]
        for kind in ("npz", "parquet")
        for when, key in (("warm_cpu", "warm_pairs_cpu_s"), ("cold_wall", "cold_pairs_wall_s"))
    }
    show(figures, console)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def show(figures: dict[str, Any], console: Console) -> None:
    """Tables of the figures."""
    named = [{"format": name, **row} for name, row in figures["formats"].items()]
    for row in named:
        row["same_batches"] = "yes" if row["same_batches"] else "NO"
    console.print(table(f"{figures['rows']} rows; load {figures['load']:.1f}", named))
    console.print(
        "Zarr over the others: " + ", ".join(f"{k} {v:.2f}" for k, v in figures["ratio"].items())
    )
    ready = {name: value for name, value in figures["prepared"].items() if value}
    console.print(table("pairs per CPU second", [ready]))
    ways = [{"way": name, **row} for name, row in figures["workers"].items() if row]
    console.print(table("one epoch, annulus and turns", ways))
    step = [{"network": name, **row} for name, row in figures["steps"].items()]
    console.print(table("CPU ms a pair: a training step, and the loader beside it", step))
    console.print(
        table("peak memory from outside, two threads, windows of 256", [figures["memory"]])
    )
    console.print(
        table(f"order of {MANY} rows: rank correlations, full shuffle beside", figures["shuffle"])
    )


if __name__ == "__main__":
    main()
