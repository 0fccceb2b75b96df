"""What the store's codec and chunks cost, on real pixels: ``python benchmarks/store.py``.

Codecs: each row is a rounding and a lossless codec, applied to the same pairs through Zarr in
memory, one shard of inner chunks as the store writes them: bytes as a share of raw float32 where every
row is an injection, and where every other one is; MB of raw float32 written and read per CPU second; and
what the rounding did to the sky (mean, in sky sigma) and to the arcs' flux (99 % of the rows). Loader:
pairs per second in batches of 256, from arrays on this disk, for several inner chunks: pairs in random
places, whole inner chunks in random places, and in sequence. Rounding (:mod:`rounding`): the sky's mean by
band, arcs' flux by S/N, and an audit of the same plan exact and rounded. Speeds are this machine's;
shares and errors are not.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rounding
import zarr
from numpy.typing import NDArray
from pairs import TILES, real_pairs
from rich.console import Console
from rich.table import Table
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.storage import MemoryStore

from darkhaloscope.inject import round_ctrl, round_mantissa

Floats = NDArray[np.float32]
BATCH = 256
INNER = (8, 32, 128, 512)
"""Pairs of an inner chunk, in the table of the loader."""
LOADER = {True: (1024, 4), False: (4096, 16)}
"""Pairs of the arrays and batches that are read, for ``--quick`` and without."""


def blosc(level: int, shuffle: str = "bitshuffle", cname: str = "zstd") -> BloscCodec:
    """A Blosc codec for four-byte values."""
    return BloscCodec(cname=cname, clevel=level, shuffle=shuffle, typesize=4)


class Rounding(NamedTuple):
    """A way to round ``ctrl`` (with its sky sigma) and ``arc``."""

    name: str
    ctrl: Callable[[Floats, Floats], NDArray[Any]]
    arc: Callable[[Floats], NDArray[Any]]


def steps(ctrl: Floats, sigma: Floats) -> Floats:
    """The store's rounding of ``ctrl``, pair by pair."""
    return np.stack([round_ctrl(c, s.astype(float)) for c, s in zip(ctrl, sigma, strict=True)])


def mantissa(bits: int) -> Callable[..., Floats]:
    """The store's rounding of ``arc``, to some mantissa bits."""
    return lambda values, *_: round_mantissa(values.astype(float), bits)


def int16(values: Floats, *_: Floats) -> NDArray[Any]:
    """Scale and offset of all values of a shard into 16 bits, read back as float32."""
    low, high = float(values.min()), float(values.max())
    scale = (high - low) / (2**16 - 1) or 1.0
    return np.rint((values - low) / scale).astype(np.uint16)


def unpack16(coded: NDArray[Any], values: Floats) -> Floats:
    """What :func:`int16` gives back."""
    low, high = float(values.min()), float(values.max())
    return (coded * ((high - low) / (2**16 - 1)) + low).astype(np.float32)


EXACT = Rounding("exact", lambda ctrl, _: ctrl, lambda arc: arc)
STORE = Rounding("1/16 sigma, 10 bits (the store)", steps, mantissa(10))
ROUNDINGS = (
    EXACT,
    STORE,
    Rounding("1/16 sigma, 9 bits", steps, mantissa(9)),
    Rounding("1/16 sigma, 12 bits", steps, mantissa(12)),
    Rounding("10 bits, 10 bits", mantissa(10), mantissa(10)),
    Rounding("1/16 sigma both", steps, lambda arc: arc),  # arc: see rounded()
    Rounding("int16 scale-offset", int16, int16),
)
DEFAULT = "blosc zstd 5 bitshuffle"
CODECS: dict[str, Any] = {
    DEFAULT: blosc(5),
    "blosc zstd 1 bitshuffle": blosc(1),
    "blosc zstd 9 bitshuffle": blosc(9),
    "blosc zstd 5 shuffle": blosc(5, "shuffle"),
    "blosc lz4 5 bitshuffle": blosc(5, cname="lz4"),
    "blosc zstd 3 noshuffle": blosc(3, "noshuffle"),
    "zstd 1": ZstdCodec(level=1),
    "zstd 3": ZstdCodec(level=3),
    "zstd 5": ZstdCodec(level=5),
}


def rounded(rounding: Rounding, cube: dict[str, Floats]) -> dict[str, NDArray[Any]]:
    """Both stacks as a rounding stores them."""
    arc = rounding.arc(cube["arc"])
    if rounding.name == "1/16 sigma both":
        arc = steps(cube["arc"], cube["sigma"])
    return {"ctrl": rounding.ctrl(cube["ctrl"], cube["sigma"]), "arc": arc}


def stored(values: NDArray[Any], codec: Any, inner: int) -> tuple[int, float, float]:
    """Bytes of one shard, and CPU seconds to write and to read it in memory."""
    store = MemoryStore()
    array = zarr.create_array(
        store,
        shape=values.shape,
        chunks=(inner, *values.shape[1:]),
        shards=values.shape,
        dtype=values.dtype,
        compressors=codec,
    )
    start = time.process_time()
    array[:] = values
    written = time.process_time()
    back = np.asarray(array[:])
    read = time.process_time()
    np.testing.assert_array_equal(back, values)
    return array.nbytes_stored(), written - start, read - written


def codec_row(
    rounding: Rounding, codec: str, cube: dict[str, Floats], coded: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    """Size, speed and errors of one rounding with one codec."""
    raw = cube["ctrl"].nbytes + cube["arc"].nbytes
    parts = {name: stored(values, CODECS[codec], TILES**2) for name, values in coded.items()}
    back = {
        name: unpack16(values, cube[name]) if values.dtype == np.uint16 else values
        for name, values in coded.items()
    }
    shift = (back["ctrl"].astype(float) - cube["ctrl"]) / cube["sigma"][:, :, None, None]
    flux = cube["arc"].sum((2, 3), dtype=float)
    moved = np.abs(back["arc"].sum((2, 3), dtype=float) / flux - 1)
    return {
        "rounding": rounding.name,
        "codec": codec,
        "share": (parts["ctrl"][0] + parts["arc"][0]) / raw,
        "share_half": (parts["ctrl"][0] + parts["arc"][0] / 2) / raw,
        "share_ctrl": parts["ctrl"][0] / cube["ctrl"].nbytes,
        "share_arc": parts["arc"][0] / cube["arc"].nbytes,
        "write_mb_s": raw / 1e6 / sum(part[1] for part in parts.values()),
        "read_mb_s": raw / 1e6 / sum(part[2] for part in parts.values()),
        "ctrl_bias_sigma": float(np.abs(shift.mean((0, 2, 3))).max()),
        "arc_flux_99": float(np.quantile(moved, 0.99)),
        "arc_flux_99_faint": float(np.quantile(moved[cube["snr"] < 5], 0.99)),
    }


def loader_rows(cube: dict[str, Floats], pairs: int, batches: int) -> list[dict[str, Any]]:
    """Pairs per second for several inner chunks, random and sequential."""
    coded = rounded(STORE, cube)
    rng = np.random.default_rng(1)
    rows = []
    for inner in INNER:
        with tempfile.TemporaryDirectory() as folder:
            arrays = []
            for name, values in coded.items():
                array = zarr.create_array(
                    f"{folder}/{name}",
                    shape=(pairs, *values.shape[1:]),
                    chunks=(inner, *values.shape[1:]),
                    shards=(min(2048, pairs), *values.shape[1:]),
                    dtype=values.dtype,
                    compressors=CODECS[DEFAULT],
                )
                array[:] = np.resize(values, array.shape)
                arrays.append(array)
            row: dict[str, Any] = {"inner": inner}
            places = {
                "random": [
                    np.sort(rng.choice(pairs, BATCH, replace=False)) for _ in range(batches)
                ],
                "chunks": [_whole_chunks(rng, pairs, inner) for _ in range(batches)],
                "sequential": [
                    np.arange(BATCH) + (i * BATCH) % (pairs - BATCH + 1) for i in range(batches)
                ],
            }
            for name, chosen in places.items():
                start = time.perf_counter()
                for index in chosen:
                    for array in arrays:
                        _read(array, index, min(inner, BATCH))
                row[f"{name}_pairs_s"] = BATCH * batches / (time.perf_counter() - start)
        rows.append(row)
    return rows


def _whole_chunks(rng: np.random.Generator, pairs: int, inner: int) -> NDArray[np.int64]:
    """A batch of whole inner chunks in random places: what a chunk-shuffled loader asks for."""
    chosen = np.sort(rng.choice(pairs // inner, max(BATCH // inner, 1), replace=False))
    return (chosen[:, None] * inner + np.arange(min(inner, BATCH))).ravel()


def _read(array: zarr.Array[Any], index: NDArray[np.int64], inner: int) -> NDArray[Any]:
    """Rows by number: slices where they come in whole inner chunks, else all at once."""
    starts = index[::inner]
    whole = np.concatenate([np.arange(start, start + inner) for start in starts])[: len(index)]
    if np.array_equal(whole, index):
        return np.concatenate([array[int(s) : int(s) + inner] for s in starts])[: len(index)]
    return np.asarray(array.oindex[index])


def table(title: str, rows: list[dict[str, Any]]) -> Table:
    """Rows as a table, the keys as its head."""
    made = Table(title=title, box=None, pad_edge=False, title_justify="left")
    for name in rows[0]:
        made.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        made.add_row(*(v if isinstance(v, str) else f"{v:.3g}" for v in row.values()))
    return made


def main() -> None:
    """Measure, print, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer pairs: under 50 s")
    parser.add_argument("--json", type=Path, help="write the figures there as well")
    options = parser.parse_args()
    found = real_pairs(128 if options.quick else 512)
    cube = {name: found[name].values for name in ("ctrl", "arc")}
    cube |= {"sigma": found["sky_sigma"].values, "snr": found["arc_snr"].values}
    codes = {rounding.name: rounded(rounding, cube) for rounding in ROUNDINGS}
    codecs = [codec_row(r, DEFAULT, cube, codes[r.name]) for r in ROUNDINGS]
    codecs += [codec_row(STORE, c, cube, codes[STORE.name]) for c in CODECS if c != DEFAULT]
    loader = loader_rows(cube, *LOADER[options.quick])
    both = rounding.both(len(cube["ctrl"]))
    sky, flux = rounding.sky_rows(*both), rounding.flux_rows(*both)
    audit = rounding.compare(*rounding.audits(*both))
    console = Console(width=200)
    console.print(table(f"{len(cube['ctrl'])} pairs, every one an injection", codecs))
    console.print(table(f"batches of {BATCH} pairs", loader))
    console.print(table("the store's rounding: the sky, in sky sigma", sky))
    console.print(table("the store's rounding: arcs, by S/N", flux))
    console.print(
        f"audit exact against rounded: {audit['statistics']} statistics, {len(audit['apart'])} with "
        f"intervals apart, by at most {audit['most_of_limit']:.2%} of the gate's limit; gates with another "
        f"outcome: {', '.join(audit['outcomes']) or 'none'}"
    )
    if options.json:
        figures = {"pairs": len(cube["ctrl"]), "codecs": codecs, "loader": loader}
        figures |= {"sky": sky, "flux": flux, "audit": audit}
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
