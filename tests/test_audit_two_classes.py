"""Two classes of other lengths: what is looked at of the larger stands for the whole of it."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from test_audit_sources import audit_of

from darkhaloscope.audit import PairSource, open_source
from darkhaloscope.audit.sources.spread import cuts, spread
from darkhaloscope.prepare import AuditSettings, spec_of_source

pytestmark = pytest.mark.usefixtures("no_pictures")

SIZE, FEW, MANY = 24, 60, 500
LENGTHS = {"lens": (MANY, FEW), "nonlens": (FEW, MANY)}
"""By the class that is the larger one."""


def numbered(n: int) -> np.ndarray:
    """Images that hold their own number, so that each says which it is."""
    return np.broadcast_to(np.arange(n, dtype="f4")[:, None, None], (n, SIZE, SIZE)).copy()


def as_npz(folder: Path, lens: np.ndarray, non: np.ndarray) -> Path:
    np.savez(folder / "x.npz", lens=lens, nonlens=non, bands=["r"], theta_e=lens[:, 0, 0] + 0.5)
    return folder / "x.npz"


def as_hdf5(folder: Path, lens: np.ndarray, non: np.ndarray) -> Path:
    with h5py.File(folder / "x.h5", "w") as file:
        for name, cube in (("lens", lens), ("nonlens", non)):
            file.create_dataset(name, data=cube, chunks=(10, SIZE, SIZE))
        file["theta_e"] = lens[:, 0, 0] + 0.5
    return folder / "x.h5"


def as_fits(folder: Path, lens: np.ndarray, non: np.ndarray) -> Path:
    for name, cube in (("lens", lens), ("nonlens", non)):
        (folder / name).mkdir()
        for i, image in enumerate(cube):
            fits.PrimaryHDU(image).writeto(folder / name / f"{name}{i:04d}.fits")
    files = "".join(f"lens{i:04d},{i + 0.5}\n" for i in range(len(lens)))
    (folder / "rows.csv").write_text("file,theta_e\n" + files)
    return folder


def pieces(places: np.ndarray, rows: int, length: int) -> np.ndarray:
    """Which of as many equal pieces as there are rows each place lies in."""
    return np.searchsorted(np.arange(rows) * length // rows, places, side="right") - 1


def looked_at(source: PairSource, wanted: int) -> xr.Dataset:
    return xr.concat([source.block(rows) for rows in source.blocks(wanted)], "pair")


@pytest.mark.parametrize("larger", LENGTHS)
@pytest.mark.parametrize("make", [as_npz, as_hdf5, as_fits])
def test_pixels_and_columns_are_of_the_same_rows_whatever_the_blocks(
    make: object, larger: str, tmp_path: Path
) -> None:
    lens, non = LENGTHS[larger]
    source = open_source(str(make(tmp_path, numbered(lens), numbered(non))))  # type: ignore[operator]
    found = looked_at(source, 100)
    assert found.sizes["pair"] == FEW
    assert len(source.blocks(100)) > 2  # a hundred images of the larger class are twelve rows
    of_non = found["ctrl"].values[:, 0, 0, 0]
    of_lens = of_non + found["arc"].values[:, 0, 0, 0]
    np.testing.assert_array_equal(found["slot"], of_lens)
    np.testing.assert_array_equal(found["theta_e"], of_lens + 0.5)
    seen = of_lens if larger == "lens" else of_non
    np.testing.assert_array_equal(pieces(seen, FEW, MANY), np.arange(FEW))
    for wanted in (33, 10_000):
        xr.testing.assert_equal(looked_at(source, wanted), found)
    note = next(n for n in source.notes if n.startswith("pixels"))
    assert f"{FEW} of the {MANY} images of the larger class are looked at" in note
    columns = source.columns.isel(pair=source.places(0))
    np.testing.assert_array_equal(columns["slot"], found["slot"])
    # Audit rows are drawn from those that are looked at.
    assert sum(spec_of_source(source, AuditSettings()).stratum_counts) == FEW


@pytest.mark.parametrize(("rows", "length"), [(7, 7), (7, 8), (100, 250), (1000, 8000)])
def test_one_image_of_each_piece(rows: int, length: int) -> None:
    places = spread(np.arange(rows), rows, length)
    np.testing.assert_array_equal(pieces(places, rows, length), np.arange(rows))
    assert places[-1] < length
    np.testing.assert_array_equal(spread(np.arange(3, 6), rows, length), places[3:6])
    if length > 2 * rows:  # what comes round every eight images is seen in all its phases
        assert np.bincount(places % 8, minlength=8).min() > rows / 8 - 4 * np.sqrt(rows / 8)


def whole(places: np.ndarray, chunk: int, found: list[slice]) -> int:
    """How often the most-read chunk of a stack is read."""
    read = [np.unique(places[rows] // chunk) for rows in found]
    return int(np.bincount(np.concatenate(read)).max())


@pytest.mark.parametrize(
    ("rows", "length", "chunks", "often"),
    [
        (3000, 12_000, (64, 64), 1),
        (3000, 14_321, (1, 128), 1),
        (900, 7000, (16, 16), 1),
        (3000, 30_000, (1000, 100), 1),
        (4000, 6000, (997, 1009), 2),  # they never end together
    ],
)
@pytest.mark.parametrize("larger", [1, 0])
def test_a_stored_chunk_is_read_for_one_block(
    larger: int, rows: int, length: int, chunks: tuple[int, int], often: int
) -> None:
    number = np.arange(rows)
    places = (number, spread(number, rows, length))[:: 1 if larger else -1]
    sizes = chunks[:: 1 if larger else -1]
    found = cuts((places[0], places[1]), (sizes[0], sizes[1]), 1024, 8192)
    assert (found[0].start, found[-1].stop) == (0, rows)
    assert all(before.stop == after.start for before, after in pairwise(found))
    assert len(found) > 1
    assert whole(places[larger], sizes[larger], found) == 1
    assert whole(places[1 - larger], sizes[1 - larger], found) <= often
    assert min(r.stop - r.start for r in found[:-1]) >= 1024 * rows // length


def test_blocks_end_somewhere_though_chunks_do_not() -> None:
    number = np.arange(20_000)
    places = (number, spread(number, 20_000, 40_000))
    found = cuts(places, (10**6, 10**6), 1024, 8192)
    assert max(r.stop - r.start for r in found) <= 8192
    assert found[-1].stop == 20_000


def test_images_that_are_not_looked_at_need_no_memory(tmp_path: Path) -> None:
    """Forty rows of a stack of 24,000 images in chunks: never more than a few of them are held."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("lens", data=np.ones((40, 24, 24), "f4"), chunks=(40, 24, 24))
        file.create_dataset("nonlens", (24_000, 24, 24), "f4", chunks=(100, 24, 24))
    source = open_source(str(tmp_path / "x.h5"))
    assert source.blocks() == [slice(0, 40)]
    tracemalloc.start()
    source.block(slice(0, 40))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6  # the stack is 55 MB


@pytest.mark.parametrize("larger", LENGTHS)
def test_an_order_of_the_larger_class_is_no_shortcut(larger: str, tmp_path: Path) -> None:
    """Both classes are of one law; the larger is stored as drawn, or in order of its noise."""
    rng = np.random.default_rng(2)
    sky = {n: rng.uniform(0.7, 1.4, n) for n in (150, 600)}
    cubes = {
        n: (rng.normal(size=(n, 32, 32)) * s[:, None, None]).astype("f4") for n, s in sky.items()
    }
    words = []
    for order in (np.arange(600), np.argsort(sky[600])):
        many, few = cubes[600][order], cubes[150]
        lens, non = (many, few) if larger == "lens" else (few, many)
        np.savez(tmp_path / "x.npz", lens=lens, nonlens=non, band=["r"])
        words.append(audit_of(tmp_path / "x.npz")[0].verdict["verdict"])
    assert words == ["undecided", "undecided"]
