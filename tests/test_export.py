"""A data set as the seed's tables: what other readers open, and the same rows when read back."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow.dataset as pads
import pytest
import test_store
import xarray as xr
from rich.console import Console

import darkhaloscope
from darkhaloscope import commands, store
from darkhaloscope.errors import Incomplete, UserError
from darkhaloscope.mapping import import_rows, load_mapping
from darkhaloscope.variables import BY_NAME, SPLITS

pytestmark = pytest.mark.usefixtures("no_pictures")

QUIET = Console(quiet=True)
BANDS = list(test_store.BANDS)
PHYSICAL = {
    "lens_q": (0.2, 1), "src_q": (0.2, 1), "lens_pa": (-90, 180), "src_pa": (0, 180),
    "src_reff": (0.05, 0.5),
}  # fmt: skip


def block_of(number: int) -> xr.Dataset:
    """A block whose shapes are ones that galaxies have, and whose controls have no arc."""
    cube = test_store.block_of(number)
    rng = np.random.default_rng([9, number])
    rows = cube.sizes["pair"]
    for name, (low, high) in PHYSICAL.items():
        cube[name].values[:] = rng.uniform(low, high, rows)
    cube["reason"].values[:] = np.where(cube["cutout_ok"], 1, 5)
    control = cube["lens_model"].values == 0
    cube["theta_e"].values[control] = 0
    for name, variable in cube.data_vars.items():
        if str(name).startswith(
            ("lens_", "src_", "gamma", "psf_fwhm", "psf_beta", "psf_model")
        ) or (name in ("arc_snr", "magnification", "total_injected_flux", "arc_flux_total")):
            variable.values[control] = 0 if BY_NAME[str(name)].flags else np.nan
    return cube


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "run"
    test_store.start(str(folder))
    for number in range(3):
        test_store.put(str(folder), number, block_of(number))
    return folder


@pytest.fixture(scope="module")
def tables(run: Path) -> Path:
    to = run.parent / "tables"
    commands.export(str(run), str(to), stamps=True, console=QUIET)
    return to


def read(folder: Path) -> pd.DataFrame:
    """A hive-partitioned folder as any reader takes it."""
    return pads.dataset(str(folder), partitioning="hive").to_table().to_pandas()


def test_every_row_is_there_under_the_seeds_layout(run: Path, tables: Path) -> None:
    metrics = read(tables / "metrics")
    assert {p.name for p in (tables / "metrics").iterdir()} == {
        f"region_split={name}" for name in SPLITS
    }
    truth = store.open_dataset(str(run)).load()
    assert sorted(metrics["slot"]) == sorted(truth["slot"].values)
    assert metrics["task_id"].is_unique
    assert not {"stamp_npz", "ctrl_stamp_npz"} & set(metrics)
    blobs = read(tables / "stamps")
    assert set(blobs["task_id"]) == set(metrics["task_id"][metrics["cutout_ok"]])


def test_stamps_open_in_a_seed_style_reader(run: Path, tables: Path) -> None:
    table = read(tables / "stamps").merge(read(tables / "metrics"), on="task_id")
    truth = store.open_dataset(str(run)).load()
    place = {int(slot): i for i, slot in enumerate(truth["slot"].values)}
    assert len(table) == int(truth["cutout_ok"].sum())
    for _, row in table.iterrows():
        i = place[row["slot"]]
        for column, pixels in (
            ("stamp_npz", truth["ctrl"].values[i] + truth["arc"].values[i]),
            ("ctrl_stamp_npz", truth["ctrl"].values[i]),
        ):
            with np.load(io.BytesIO(row[column]), allow_pickle=False) as archive:
                for b, band in enumerate(BANDS):
                    np.testing.assert_array_equal(archive[f"image_{band}"], pixels[b])


def test_read_back_it_is_the_same_rows(run: Path, tables: Path) -> None:
    back = import_rows(read(tables / "metrics"), load_mapping("seed"), BANDS)
    truth = store.open_dataset(str(run)).load()
    order = np.argsort(back["slot"].values), np.argsort(truth["slot"].values)
    for name, mine in truth.data_vars.items():
        variable = BY_NAME[str(name)]
        if variable.sharded:
            continue
        found, wanted = back[name].values[order[0]], mine.values[order[1]]
        if variable.dtype == "f4":
            np.testing.assert_allclose(found, wanted, rtol=3e-7, atol=1e-7, err_msg=str(name))
        else:
            assert found.tolist() == wanted.tolist() or variable.dtype == "f8", name


def test_without_stamps_no_pixels_are_read(run: Path, tables: Path, tmp_path: Path) -> None:
    """The pixels' shards are gone, and the metadata table does not miss them."""
    bare = tmp_path / "run"
    shutil.copytree(run, bare)
    for name in ("ctrl", "arc", "nodata"):
        for path in (bare / "stamps.zarr" / name / "c").rglob("*"):
            if path.is_file():
                path.write_bytes(b"broken")
    written = commands.export(str(bare), str(tmp_path / "tables"), console=QUIET)
    assert {name.split("/")[0] for name in written} == {"metrics"}
    whole = read(tables / "metrics")
    pd.testing.assert_frame_equal(read(tmp_path / "tables" / "metrics"), whole)


def test_to_an_object_store(run: Path, tables: Path, s3_server: str, tmp_path: Path) -> None:
    to = f"s3://dhs-test/export-{tmp_path.name}"
    commands.export(str(run), to, stamps=True, console=QUIET)
    fs = fsspec.filesystem("s3")
    root = to.removeprefix("s3://")
    found = {key.removeprefix(f"{root}/"): fs.cat_file(key) for key in fs.find(root)}
    assert found == {
        str(p.relative_to(tables)): p.read_bytes() for p in tables.rglob("*") if p.is_file()
    }


def test_mistakes_are_one_sentence(run: Path, tables: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"tables is not empty .* choose another --to"):
        commands.export(str(run), str(tables), console=QUIET)
    with pytest.raises(UserError, match="there is no mapping"):
        commands.export(str(run), str(tmp_path / "x"), mapping="sed", console=QUIET)
    (tmp_path / "map.yaml").write_text("name: mine\n")
    with pytest.raises(UserError, match="mapping mine has no tables"):
        commands.export(
            str(run), str(tmp_path / "x"), mapping=str(tmp_path / "map.yaml"), console=QUIET
        )
    test_store.start(str(tmp_path / "empty"))
    with pytest.raises(Incomplete, match="not written yet"):
        commands.export(str(tmp_path / "empty"), str(tmp_path / "x"), console=QUIET)
    assert not (tmp_path / "x").exists()


# --- opened ---------------------------------------------------------------------------------------


def test_a_split_and_the_rows_that_have_pixels_are_chosen_by_one_call(run: Path) -> None:
    truth = store.open_dataset(str(run)).load()
    for split, codes in (("val", [1]), (["train", "test"], [0, 2])):
        keep = np.isin(truth["region_split"].values, codes) & truth["cutout_ok"].values
        found = darkhaloscope.open(str(run), split=split, drop_failed=True)
        np.testing.assert_array_equal(found["slot"].values, truth["slot"].values[keep])
        names = {split} if isinstance(split, str) else set(split)
        assert set(found["region_split"].values) == names
        assert found["stamp"].chunks is not None
        stamps = (truth["ctrl"] + truth["arc"]).values[keep]
        np.testing.assert_array_equal(found["stamp"].values, stamps)
    with pytest.raises(UserError, match="there is no split 'dev'; the splits are train, val, test"):
        darkhaloscope.open(str(run), split="dev")


def test_opening_ten_million_rows_lays_out_few_pieces(tmp_path: Path) -> None:
    """Metadata alone: what is counted is pieces, one task each when all is asked for."""
    rows = 10_627_158
    layout = store.Layout(rows, 2048, ("g", "r", "z"), 64, store.attributes("a" * 64, 1, {}))
    for key, data in store.metadata_objects(layout).items():
        path = tmp_path / "stamps.zarr" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    opened = darkhaloscope.open(str(tmp_path))
    assert opened.sizes["pair"] == rows
    assert opened["stamp"].data.npartitions <= 16_384
    assert 32 <= opened["stamp"].chunks[0][0] <= 2048
    assert opened["theta_e"].data.npartitions == -(-rows // 2048)


def test_importing_the_package_stays_light() -> None:
    code = (
        "import sys, darkhaloscope; print({'zarr', 'dask', 'numba', 'pandas'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
