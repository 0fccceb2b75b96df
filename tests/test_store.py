"""The data set opens with plain xarray, every object has one owner, and nothing is mixed silently."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import darkhaloscope
from darkhaloscope import storage, store
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.store import Layout, attributes, create_run, open_dataset, write_block
from darkhaloscope.variables import BY_NAME, VARIABLES, numpy_dtype

BANDS = ("g", "r", "z")
ROWS, BLOCK, SIZE = 150, 64, 16  # the last block is a part of one: 22 rows
IDENTITY = "a1" * 32


def layout(identity: str = IDENTITY, rows: int = ROWS) -> Layout:
    splits = {"train": 0.7, "val": 0.15, "test": 0.15}
    return Layout(rows, BLOCK, BANDS, SIZE, attributes(identity, 7, splits))


def block_of(number: int, lay: Layout | None = None, seed: int = 0) -> xr.Dataset:
    """A block of arbitrary values of every variable, no two rows alike."""
    lay = lay or layout()
    rows = lay.rows_of(number)
    count = rows.stop - rows.start
    rng = np.random.default_rng([seed, number])
    sizes = {"pair": count, "band": len(lay.bands), "y": lay.size, "x": lay.size}
    columns = {}
    for variable in VARIABLES:
        shape = tuple(sizes[dim] for dim in variable.dims)
        values: Any
        if variable.dtype == "str":
            values = np.array([f"{variable.name}-{rows.start + i}" for i in range(count)], object)
        elif variable.flags is not None:
            values = rng.choice(list(variable.flags), shape).astype(np.uint8)
        elif variable.dtype in ("u1", "bool"):
            values = rng.integers(0, 2, shape).astype(variable.dtype)
        elif variable.dtype == "i8":
            values = rng.integers(0, 2**58, shape)
        else:
            values = rng.normal(size=shape).astype(variable.dtype)
        columns[variable.name] = (variable.dims, values)
    cube = xr.Dataset(columns, coords={"band": np.array(lay.bands, dtype=object)})
    cube["arc_snr"].values[::3] = np.nan
    return cube


STATISTICS = {"b": np.arange(6.0).reshape(2, 3), "a": np.array(["x", "yy"]), "n": np.array(5)}


def put(run: str, number: int, cube: xr.Dataset | None = None, **changes: Any) -> dict[str, Any]:
    lay = changes.get("lay", layout())
    return write_block(
        run,
        lay,
        number,
        block_of(number, lay) if cube is None else cube,
        changes.get("statistics", STATISTICS),
        "spec",
        changes.get("notes", ["b is missing.", "a is broken.", "b is missing."]),
    )


DOCUMENT = {
    "seed": 7, "lens": {"theta_e": 1.2, "model": "SIE"}, "contents": {"targets": "abc"},
    "survey": {"bands": list(BANDS)}, "stamp": {"size": SIZE},
    "targets": {"splits": {"train": 0.7, "val": 0.15, "test": 0.15}},
}  # fmt: skip


def start(run: str, lay: Layout | None = None, document: dict[str, Any] | None = None) -> bool:
    return create_run(run, lay or layout(), "name: x\n", document or DOCUMENT, "0.1.0")


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests only read it."""
    run = tmp_path_factory.mktemp("whole") / "run"
    start(str(run))
    for number in (2, 0, 1):
        put(str(run), number)
    return run


# --- opened without our code ----------------------------------------------------------------------


def test_plain_xarray_reads_what_was_written(whole: Path) -> None:
    truth = xr.concat([block_of(n) for n in range(3)], dim="pair", data_vars="minimal")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = xr.open_zarr(whole / "stamps.zarr")
        loaded = found.load()
    assert set(found.data_vars) == {variable.name for variable in VARIABLES}
    for variable in VARIABLES:
        mine, theirs = truth[variable.name], loaded[variable.name]
        assert theirs.dims == variable.dims
        if variable.dtype == "str":
            assert theirs.values.tolist() == mine.values.tolist()
            continue
        assert theirs.dtype == numpy_dtype(variable), variable.name  # no masking to float
        np.testing.assert_array_equal(theirs.values, mine.values)
    assert loaded["band"].values.tolist() == ["g", "r", "z"]
    assert "band" in loaded.coords
    np.testing.assert_array_equal(
        loaded["arc"].sel(band="z").values, truth["arc"].values[:, 2]
    )  # selected by name


def test_our_own_door_opens_the_run_and_the_group(whole: Path) -> None:
    for place in (whole, whole / "stamps.zarr"):
        found = open_dataset(str(place))
        assert found.sizes == {"pair": ROWS, "band": 3, "y": SIZE, "x": SIZE}
        assert found["slot"].values.tolist()[:2] == block_of(0)["slot"].values.tolist()[:2]


@pytest.mark.parametrize("content", ["{", "[]", '{"zarr_format": 3, "node_type": "array"}'])
def test_damaged_metadata_of_the_group_are_said(whole: Path, tmp_path: Path, content: str) -> None:
    run = tmp_path / "run"
    start(str(run))
    (run / "stamps.zarr" / "zarr.json").write_text(content)
    with pytest.raises(UserError, match=r"damaged .*dhs repair|holds no Zarr data set"):
        darkhaloscope.open(run)


def test_the_front_door_takes_a_path_and_says_what_it_cannot_open(
    whole: Path, tmp_path: Path
) -> None:
    assert darkhaloscope.open(whole, split=["train", "val"]).sizes["band"] == 3
    wrong: Any = 5
    with pytest.raises(UserError, match="there is no split 5; the splits are train"):
        darkhaloscope.open(whole, split=wrong)
    xr.Dataset({"a": ("x", [1.0])}).to_zarr(
        tmp_path / "other.zarr", zarr_format=3, consolidated=False
    )
    with pytest.raises(UserError, match=r"other\.zarr is no data set of ours: it lacks"):
        darkhaloscope.open(tmp_path / "other.zarr")


@pytest.mark.parametrize("what", ["nothing", "empty", "file"])
def test_what_is_no_data_set_is_said(tmp_path: Path, what: str) -> None:
    place = tmp_path / "x"
    if what == "empty":
        place.mkdir()
    elif what == "file":
        place.write_bytes(b"not a group")
    with pytest.raises(UserError, match=r"x (holds|is) no Zarr data set|cannot look at"):
        open_dataset(str(place))


def test_attributes_flags_fill_and_chunks(whole: Path) -> None:
    group = zarr.open_group(whole / "stamps.zarr", mode="r")
    assert dict(group.attrs) == {
        "identity": IDENTITY,
        "seed": 7,
        "pixel_scale_arcsec": 0.262,
        "flux_unit": "nanomaggy (AB zero point 22.5)",
        "region_split_fractions": {"train": 0.7, "val": 0.15, "test": 0.15},
        "schema": 1,
    }
    for variable in VARIABLES:
        array = group[variable.name]
        assert isinstance(array, zarr.Array)
        # Pixels: shard = block, 32 pairs an inner chunk. Provenance: chunk = block, no shards.
        if "y" in variable.dims:
            assert array.shards is not None
            assert (array.shards[0], array.chunks[0]) == (BLOCK, 32)
        else:
            assert array.shards is None
            assert array.chunks[0] == BLOCK
        attrs: dict[str, Any] = dict(array.attrs)
        assert attrs.get("units", "") == variable.unit
        assert attrs["long_name"] == variable.meaning
        if variable.flags is None:
            assert "flag_values" not in attrs
        else:
            assert array.dtype == np.uint8
            names = attrs["flag_meanings"].split(" ")
            assert dict(zip(attrs["flag_values"], names, strict=True)) == variable.flags
        fill = array.fill_value
        if variable.dtype in ("f4", "f8") and variable.name not in ("ctrl", "arc"):
            assert np.isnan(fill)  # what was not written is missing, not 0
        elif variable.dtype == "i8":
            assert fill == -1
    assert str(group["reason"].attrs["flag_meanings"]).split(" ")[:2] == ["not_written", "ok"]


def test_a_new_data_set_reads_as_not_written(tmp_path: Path) -> None:
    start(str(tmp_path / "run"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = xr.open_zarr(tmp_path / "run" / "stamps.zarr").load()
    assert empty.sizes["pair"] == ROWS
    assert (empty["reason"] == 0).all()
    assert not empty["cutout_ok"].any()
    assert np.isnan(empty["arc_snr"]).all()
    assert (empty["psf_source"] == 255).all()
    assert (empty["ctrl"] == 0).all()
    assert set(empty["brick"].values) == {""}


def test_the_front_door_gives_text_and_stamps(whole: Path) -> None:
    plain = open_dataset(str(whole)).load()
    opened = darkhaloscope.open(str(whole))
    flags = BY_NAME["lens_model"].flags
    assert flags is not None
    assert opened["lens_model"].values.tolist() == [flags[i] for i in plain["lens_model"].values]
    assert set(opened["psf_source"].values.ravel()) == {"map", "manifest", "fallback", "none"}
    assert set(opened["reason"].values) <= {reason.text for reason in Reason}
    np.testing.assert_array_equal(opened["theta_e"].values, plain["theta_e"].values)
    assert opened["stamp"].chunks is not None  # nothing is read before it is asked for
    np.testing.assert_array_equal(
        opened["stamp"].values, plain["ctrl"].values + plain["arc"].values
    )


def test_rows_are_read_back_as_a_block_holds_them(whole: Path) -> None:
    part = store.read_rows(str(whole), slice(60, 70))
    truth = xr.concat([block_of(n) for n in range(2)], dim="pair", data_vars="minimal")
    for variable in VARIABLES:
        mine = truth[variable.name].values[60:70]
        assert part[variable.name].dtype == numpy_dtype(variable)
        assert part[variable.name].values.tolist() == mine.tolist() or variable.dtype[0] == "f"
        if variable.dtype[0] == "f":
            np.testing.assert_array_equal(part[variable.name].values, mine)


# --- objects of a block ---------------------------------------------------------------------------


def test_a_block_owns_its_objects_and_no_others(tmp_path: Path) -> None:
    run = tmp_path / "run"
    start(str(run))
    before = set(tree(run))
    marker = put(str(run), 1)
    new = set(tree(run)) - before
    keys = {name.removeprefix("stamps.zarr/") for name in new if name.startswith("stamps.zarr/")}
    assert keys == set(marker["objects"])
    expected = {v.name + "/c/1" + "/0" * (len(v.dims) - 1) for v in VARIABLES}
    assert keys == expected
    assert new - {f"stamps.zarr/{key}" for key in keys} == {
        "blocks/000001.json",
        "blocks/000001.npz",
    }


def test_the_marker_holds_checksums_and_counts_and_neither_time_nor_place(whole: Path) -> None:
    text = (whole / "blocks" / "000001.json").read_text()
    marker = json.loads(text)
    assert set(marker) == {
        "schema", "block", "identity", "objects", "plan", "statistics", "statistics_bytes", "statistics_spec",
        "counts", "notes",
    }  # fmt: skip
    assert (marker["block"], marker["identity"]) == (1, IDENTITY)
    for key, described in marker["objects"].items():
        data = (whole / "stamps.zarr" / key).read_bytes()
        checksum = hashlib.sha256(data).hexdigest()
        assert described == {"sha256": checksum, "bytes": len(data)}
    npz = (whole / "blocks" / "000001.npz").read_bytes()
    assert hashlib.sha256(npz).hexdigest() == marker["statistics"]
    assert len(npz) == marker["statistics_bytes"]
    assert marker["notes"] == ["a is broken.", "b is missing."]
    cube = block_of(1)
    for name, chosen in (
        ("control", cube["lens_model"] == 0),
        ("injection", cube["lens_model"] > 0),
    ):
        truth = {
            reason.text: n
            for reason in Reason
            if (n := int(((cube["reason"] == reason) & chosen).sum()))
        }
        assert marker["counts"][name] == truth
    assert str(whole) not in text


def test_the_same_block_twice_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        start(str(tmp_path / name))
    for number in (0, 1, 2):
        put(str(tmp_path / "a"), number)
    for number in (2, 1, 0, 1):  # another order, and one of them twice
        put(str(tmp_path / "b"), number)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_what_is_all_fill_is_no_object(tmp_path: Path) -> None:
    run = tmp_path / "run"
    start(str(run))
    cube = block_of(0)
    cube["arc"].values[:] = 0
    cube["nodata"].values[:] = 0
    cube["arc_snr"].values[:] = np.nan
    cube["partner"].values[:] = -1
    marker = put(str(run), 0, cube)
    absent = {key.split("/")[0] for key, checksum in marker["objects"].items() if checksum is None}
    assert absent == {"arc", "nodata", "arc_snr", "partner"}
    assert not (run / "stamps.zarr" / "arc" / "c").exists()
    found = open_dataset(str(run)).isel(pair=slice(0, BLOCK)).load()
    assert (found["arc"] == 0).all()
    assert np.isnan(found["arc_snr"]).all()


def test_the_marker_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that dies at any write leaves no marker; the block is then made again, whole."""
    run = tmp_path / "run"
    start(str(run))

    def die(url: str, data: bytes) -> None:
        raise KeyboardInterrupt(url)

    for name in ("write", "create"):
        with monkeypatch.context() as patched:
            patched.setattr(storage, name, die)
            with pytest.raises(KeyboardInterrupt):
                put(str(run), 0)
        assert store.finished_blocks(str(run)) == []
        assert store.read_marker(str(run), 0, IDENTITY) is None
    put(str(run), 0)
    assert store.finished_blocks(str(run)) == [0]


def test_a_finished_block_is_not_written_over(tmp_path: Path) -> None:
    run = tmp_path / "run"
    start(str(run))
    put(str(run), 0)
    before = tree(run)
    with pytest.raises(UserError, match=r"block 0 of .* is already written with other contents"):
        put(str(run), 0, block_of(0, seed=1))
    with pytest.raises(UserError, match="already written"):
        put(str(run), 0, statistics={"a": np.zeros(3)})
    with pytest.raises(UserError, match="another experiment"):
        put(str(run), 0, lay=layout("b2" * 32))
    assert tree(run) == before


def test_of_two_writers_that_race_the_second_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both looked before either wrote. While one writes, another one with other contents waits; with
    the same contents it goes along; after the marker it is refused."""
    run = tmp_path / "run"
    start(str(run))
    other = block_of(0, seed=1)
    write_all = storage.write_all
    seen: list[dict[str, bytes]] = []

    def in_between(folder: str, objects: dict[str, bytes]) -> None:
        monkeypatch.setattr(storage, "write_all", write_all)
        with pytest.raises(store.ClaimedError, match="by another worker"):
            put(str(run), 0, other)
        write_all(folder, objects)
        seen.append(tree(run / "stamps.zarr"))
        put(str(run), 0)

    monkeypatch.setattr(storage, "write_all", in_between)
    put(str(run), 0)
    assert tree(run / "stamps.zarr") == seen[0]
    looked = store.read_marker

    def late(*arguments: Any) -> Any:
        monkeypatch.setattr("darkhaloscope.store.write.read_marker", looked)

    monkeypatch.setattr("darkhaloscope.store.write.read_marker", late)
    with pytest.raises(UserError, match="already written"):
        put(str(run), 0, other)
    assert tree(run / "stamps.zarr") == seen[0]
    assert not list((run / "blocks").glob("*.claim"))


def test_a_dead_writers_claim_is_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    start(str(run))
    with monkeypatch.context() as patched:
        patched.setattr(storage, "write_all", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            put(str(run), 0, block_of(0, seed=1))
    with pytest.raises(store.ClaimedError):
        put(str(run), 0)
    store.release_claim(str(run), 0)
    put(str(run), 0)
    assert store.finished_blocks(str(run)) == [0]


def test_a_writer_that_wakes_when_its_block_has_another_touches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine stood still between its claim and its first object, and it was taken for dead."""
    run = tmp_path / "run"
    start(str(run))
    create, asleep = storage.create, [True]

    def sleeping(url: str, data: bytes) -> None:
        create(url, data)
        if url.endswith(".claim") and asleep.pop():
            meanwhile(url)

    def taken_over(url: str) -> None:
        asleep.append(False)
        storage.remove(url)
        create(url, b"of another writer")

    def made_by_another(url: str) -> None:
        asleep.append(False)
        store.release_claim(str(run), 0)
        put(str(run), 0, block_of(0, seed=1))

    def made_by_a_twin(url: str) -> None:
        asleep.append(False)
        made.append(put(str(run), 0))

    made: list[dict[str, Any]] = []
    meanwhile: Any = taken_over
    monkeypatch.setattr(storage, "create", sleeping)
    with pytest.raises(store.ClaimedError, match="was taken over by another writer"):
        put(str(run), 0)
    assert not [
        name for name in tree(run / "stamps.zarr") if "/c/" in f"/{name}" and "band" not in name
    ]
    store.release_claim(str(run), 0)
    asleep[:], meanwhile = [True], made_by_another
    with pytest.raises(UserError, match="already written with other contents"):
        put(str(run), 0)
    assert open_dataset(str(run))["ctrl"][0, 0, 0, 0] == block_of(0, seed=1)["ctrl"][0, 0, 0, 0]
    store.drop_block(str(run), layout(), 0)
    asleep[:], meanwhile = [True], made_by_a_twin
    assert put(str(run), 0) == made[0]


def test_a_claim_that_outlived_its_block_is_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    start(str(run))
    with monkeypatch.context() as patched:
        patched.setattr(storage, "remove", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            put(str(run), 0)
    claims = [run / "blocks" / "000000.claim", run / "blocks" / "000001.claim"]
    claims[1].write_bytes(b"of a writer that may live")
    assert store.finished_blocks(str(run)) == [0]
    store.release_finished(str(run), {0})
    assert [claim.exists() for claim in claims] == [False, True]


PLANNED = pd.DataFrame({"brick": ["0591m305"], "slot": [5], "theta_e": [1.25]})


@pytest.mark.parametrize("change", [{"note": "mine"}, {"theta_e": [1.75]}])
def test_an_edited_plan_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    """By its checksum: another number leaves the size as it is."""
    run = tmp_path / "run"
    start(str(run))
    marker = write_block(str(run), layout(), 0, block_of(0), STATISTICS, "spec", [], PLANNED)
    part = run / "plan" / "000000.parquet"
    pd.testing.assert_frame_equal(pd.read_parquet(part), PLANNED)
    store.check_objects(str(run), layout(), [marker])
    size = part.stat().st_size
    PLANNED.assign(**change).to_parquet(part, index=False)
    assert (part.stat().st_size == size) == ("theta_e" in change)
    with pytest.raises(UserError, match=r"plan/000000\.parquet was edited.*change the experiment"):
        store.check_objects(str(run), layout(), [marker])


def test_each_part_of_a_long_plan_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some are digested at once: also those before the last ones."""
    monkeypatch.setattr(importlib.import_module("darkhaloscope.store.markers"), "_AT_ONCE", 2)
    run = tmp_path / "run"
    start(str(run))
    markers = [
        write_block(str(run), layout(), number, block_of(number), STATISTICS, "spec", [], PLANNED)
        for number in range(3)
    ]
    store.check_objects(str(run), layout(), markers)
    PLANNED.assign(theta_e=[1.75]).to_parquet(run / "plan" / "000000.parquet", index=False)
    with pytest.raises(UserError, match=r"plan/000000\.parquet was edited"):
        store.check_objects(str(run), layout(), markers)


def test_a_plan_is_looked_at_in_the_memory_of_one_part(tmp_path: Path) -> None:
    """A survey's is gigabytes. Who reads rows alone reads nothing of it."""
    run, size, parts = tmp_path / "run", 2**20, 12
    lay = layout(rows=parts * BLOCK)
    start(str(run), lay)
    markers = [put(str(run), number, lay=lay) for number in range(parts)]
    (run / "plan").mkdir()
    for marker in markers:
        part = bytes([marker["block"]]) * size
        (run / "plan" / f"{marker['block']:06d}.parquet").write_bytes(part)
        marker["plan"] = {"sha256": hashlib.sha256(part).hexdigest(), "bytes": size}
    del part
    peaks = {}
    for plan in (True, False):
        tracemalloc.start()
        store.check_objects(str(run), lay, markers, plan=plan)
        peaks[plan] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert size < peaks[True] < 3 * size
    assert peaks[False] < size


@pytest.mark.parametrize("edited", [True, False])
def test_a_plan_with_other_rows_is_not_written_over(tmp_path: Path, edited: bool) -> None:
    """Other bytes of the same rows, as another version of Parquet writes them, are the same plan."""
    run = tmp_path / "run"
    start(str(run))
    part = run / "plan" / "000000.parquet"
    part.parent.mkdir()
    rows = PLANNED.assign(theta_e=[1.75]) if edited else PLANNED
    rows.to_parquet(part, index=False, compression="gzip")
    before = tree(run)
    arguments: Any = (str(run), layout(), 0, block_of(0), STATISTICS, "spec", [], PLANNED)
    if not edited:
        assert write_block(*arguments)["plan"] is not None
        return
    with pytest.raises(
        UserError, match=r"000000\.parquet is not what the experiment plans: it was"
    ):
        write_block(*arguments)
    assert tree(run) == before


@pytest.mark.parametrize("name", ["notes.txt", "00007.parquet"])
def test_a_strangers_file_in_plan_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / name).write_text("mine")
    with pytest.raises(UserError, match=rf"holds no run \(it has plan/{name}\)"):
        start(str(tmp_path))
    store.drop_plan(str(tmp_path), 0)
    assert tree(tmp_path) == {f"plan/{name}": b"mine"}


# --- what a resume compares -----------------------------------------------------------------------


def lose(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "where", "says"),
    [
        (lose, "stamps.zarr/arc/c/1/0/0/0", r"arc/c/1/0/0/0 is missing"),
        (cut, "stamps.zarr/theta_e/c/1", r"theta_e/c/1 has \d+ bytes"),
        (lose, "blocks/000001.npz", r"blocks/000001\.npz is missing"),
        (cut, "blocks/000001.npz", r"blocks/000001\.npz has \d+ bytes"),
    ],
)
def test_what_is_lost_or_cut_is_found_before_anything_is_made(
    tmp_path: Path, damage: Any, where: str, says: str
) -> None:
    run = tmp_path / "run"
    start(str(run))
    markers = [put(str(run), number) for number in range(3)]
    store.check_objects(str(run), layout(), markers)
    damage(run / where)
    with pytest.raises(UserError, match=rf"block 1 of .*: {says}; dhs repair \S+ drops the block"):
        store.check_objects(str(run), layout(), markers)


def test_an_object_where_the_marker_says_fill_is_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    start(str(run))
    cube = block_of(0)
    cube["arc"].values[:] = 0
    marker = put(str(run), 0, cube)
    store.check_objects(str(run), layout(), [marker])
    (run / "stamps.zarr" / "arc" / "c" / "0" / "0" / "0").mkdir(parents=True)
    (run / "stamps.zarr" / "arc" / "c" / "0" / "0" / "0" / "0").write_bytes(b"light")
    with pytest.raises(UserError, match=r"arc/c/0/0/0/0 has 5 bytes"):
        store.check_objects(str(run), layout(), [marker])


def test_statistics_of_an_older_marker_are_only_looked_for(tmp_path: Path) -> None:
    """It has their checksum, but not their size."""
    run = tmp_path / "run"
    start(str(run))
    marker = put(str(run), 0)
    del marker["statistics_bytes"]
    store.check_objects(str(run), layout(), [marker])
    (run / "blocks" / "000000.npz").unlink()
    with pytest.raises(UserError, match=r"000000\.npz is missing"):
        store.check_objects(str(run), layout(), [marker])


def test_a_resume_never_lists_all_objects_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A survey's are some 275,000, and 220 MB on the driver; the few of a small run are one listing."""
    run = tmp_path / "run"
    start(str(run))
    marker = put(str(run), 0)
    listed: list[str] = []
    sizes = storage.sizes
    monkeypatch.setattr(storage, "sizes", lambda url: listed.append(url) or sizes(url))
    store.check_objects(str(run), layout(), [marker])
    assert listed == [f"{run}/stamps.zarr", f"{run}/blocks"]
    monkeypatch.setattr(
        importlib.import_module("darkhaloscope.store.markers"), "_LISTED_AT_ONCE", 0
    )
    listed.clear()
    store.check_objects(str(run), layout(), [marker])
    arrays = {f"{run}/stamps.zarr/{variable.name}/c" for variable in VARIABLES}
    assert set(listed) == {*arrays, f"{run}/blocks"}


def test_what_was_read_stays_in_memory_only_if_wanted(whole: Path) -> None:
    for cache in (True, False):
        found = open_dataset(str(whole), cache=cache)
        assert len(found["theta_e"].values) == ROWS
        assert found["theta_e"].variable._in_memory == cache


# --- statistics -----------------------------------------------------------------------------------


def test_statistics_come_back_and_need_no_pickle(whole: Path) -> None:
    marker = store.read_marker(str(whole), 0, IDENTITY)
    assert marker is not None
    found = store.read_statistics(str(whole), marker)
    assert set(found) == set(STATISTICS)
    for name, value in STATISTICS.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype
    # As numpy itself reads it, without pickle.
    with np.load(whole / "blocks" / "000000.npz", allow_pickle=False) as archive:
        assert set(archive.files) == set(STATISTICS)


def test_statistics_bytes_hold_no_time_and_no_order() -> None:
    data = store.encode_statistics(STATISTICS)
    assert data == store.encode_statistics(dict(reversed(STATISTICS.items())))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert {item.date_time for item in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("bad", [np.array([{}]), np.array(["a"], object)])
def test_statistics_of_objects_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(TypeError, match="bad holds objects"):
        store.encode_statistics({"bad": bad})


@pytest.mark.parametrize("damage", ["cut", "gone", "changed"])
def test_damaged_statistics_are_refused(tmp_path: Path, damage: str) -> None:
    run = tmp_path / "run"
    start(str(run))
    marker = put(str(run), 0)
    path = run / "blocks" / "000000.npz"
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    else:
        path.write_bytes(store.encode_statistics({"a": np.zeros(2)}))
    with pytest.raises(UserError, match=r"000000\.npz is missing or not what its marker says"):
        store.read_statistics(str(run), marker)


# --- markers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b"{}", b'{"schema": 1}', b'{"schema": 2, "block": 3}',
        b'{"schema": 2, "block": 3, "identity": 5, "objects": []}',
    ],
)  # fmt: skip
def test_a_damaged_marker_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "000003.json").write_bytes(content)
    with pytest.raises(UserError, match=r"000003\.json is damaged; dhs repair"):
        store.read_marker(str(tmp_path), 3, IDENTITY)


def test_a_marker_of_another_block_experiment_or_version_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    start(str(run))
    put(str(run), 0)
    path = run / "blocks" / "000000.json"
    with pytest.raises(UserError, match="belongs to another experiment"):
        store.read_marker(str(run), 0, "b2" * 32)
    path.with_name("000001.json").write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"000001\.json is damaged"):
        store.read_marker(str(run), 1, IDENTITY)
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 99}))
    with pytest.raises(UserError, match="a newer version"):
        store.read_marker(str(run), 0, IDENTITY)


def test_finished_blocks_are_those_with_markers(whole: Path, tmp_path: Path) -> None:
    assert store.finished_blocks(str(whole)) == [0, 1, 2]
    assert store.finished_blocks(str(tmp_path / "nothing")) == []
    (tmp_path / "blocks").mkdir()
    for name in ("000007.json", "000007.npz", "000008.npz", "000009.json.x1.partial", "notes.json"):
        (tmp_path / "blocks" / name).write_bytes(b"")
    assert store.finished_blocks(str(tmp_path)) == [7]


def test_of_many_markers_all_are_read(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("darkhaloscope.store.markers"), "_AT_ONCE", 2)
    read = store.read_markers(str(whole), [0, 7, 1, 2], IDENTITY)
    assert [marker["block"] for marker in read] == [0, 1, 2]


# --- the run's folder -----------------------------------------------------------------------------


def test_a_run_is_made_and_resumed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert start(str(run)) is False
    put(str(run), 1)
    before = tree(run)
    assert start(str(run)) is True
    assert tree(run) == before
    assert store.finished_blocks(str(run)) == [1]
    summary = store.read_run(str(run))
    assert summary is not None
    assert (summary["rows"], summary["block"], summary["blocks"]) == (ROWS, BLOCK, 3)
    assert store.read_experiment(str(run)) == {"name": "x"}


@pytest.mark.parametrize("writes", range(3))
def test_a_run_killed_while_its_folder_is_made_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    run, fresh = tmp_path / "run", tmp_path / "fresh"
    left = writes
    real = storage.write_all

    def write_some(folder: str, objects: dict[str, bytes]) -> None:
        nonlocal left
        if left == 0:
            # Half of the objects, and then the power is cut.
            names = list(objects)[: len(objects) // 2]
            real(folder, {name: objects[name] for name in names})
            raise KeyboardInterrupt
        left -= 1
        real(folder, objects)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "write_all", write_some)
        with pytest.raises(KeyboardInterrupt):
            start(str(run))
    start(str(run))
    start(str(fresh))
    assert tree(run) == tree(fresh)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema": 2, "identity": "a1"}', None])
def test_a_lost_or_cut_document_of_a_run_is_written_anew(
    tmp_path: Path, damage: bytes | None
) -> None:
    """It follows from the experiment; the data set, which has its identity, says whose folder it is."""
    run = tmp_path / "run"
    start(str(run))
    put(str(run), 1)
    before = tree(run)
    if damage is None:
        (run / "run.json").unlink()
    else:
        (run / "run.json").write_bytes(damage)
    with pytest.raises(UserError, match=r"run\.json is damaged|not empty and holds no run"):
        start(str(run), layout("b2" * 32))
    assert start(str(run)) is True
    assert tree(run) == before


@pytest.mark.parametrize("damage", [b"", b"a: [b", b"\xff\xfe", b"- 1"])
def test_a_damaged_experiment_is_said(tmp_path: Path, damage: bytes) -> None:
    start(str(tmp_path / "run"))
    (tmp_path / "run" / "experiment.yaml").write_bytes(damage)
    with pytest.raises(UserError, match=r"experiment\.yaml is damaged; the same dhs run"):
        store.read_experiment(str(tmp_path / "run"))


def test_another_experiments_folder_is_refused_and_the_changed_key_named(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    start(run)
    before = tree(tmp_path)
    other = {**DOCUMENT, "lens": {"theta_e": {"uniform": [1, 2]}, "model": "SIE"}}
    with pytest.raises(UserError) as caught:
        start(run, layout("b2" * 32), other)
    text = str(caught.value)
    assert "belongs to another experiment" in text
    assert "lens.theta_e (1.2 -> {'uniform': [1, 2]})" in text
    assert "lens.model" not in text
    assert "seed" not in text
    assert tree(tmp_path) == before


def test_a_key_that_came_or_went_is_named(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    start(run)
    with pytest.raises(UserError, match=r"contents\.joint \(None -> f00\)"):
        start(run, layout("b2" * 32), {**DOCUMENT, "contents": {"targets": "abc", "joint": "f00"}})


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("holiday.jpg", b"\xff\xd8", "is not empty and holds no run"),
        ("run.json", b"{", "damaged"),
        ("run.json", b"\xff\xfe", "damaged"),
        ("run.json", b"[]", "damaged"),
        ("run.json", b'{"made": "by something else"}', "not a run's"),
        ("run.json", b'{"schema": 2, "identity": "a1", "document": {}, "block": 64}', "damaged"),
    ],
)
def test_a_foreign_folder_is_refused_and_left_alone(
    tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        start(str(tmp_path))
    assert tree(tmp_path) == {name: content}


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert start(str(tmp_path)) is False
    assert store.read_run(str(tmp_path)) is not None


def test_a_folder_without_a_run_is_said(tmp_path: Path) -> None:
    assert store.read_run(str(tmp_path)) is None
    with pytest.raises(UserError, match="holds no run"):
        store.read_experiment(str(tmp_path))


# --- S3 -------------------------------------------------------------------------------------------


def test_s3_holds_the_same_bytes_as_a_disk(whole: Path, s3_server: str, tmp_path: Path) -> None:
    import fsspec

    remote = f"s3://dhs-test/store-{tmp_path.name}"
    assert start(remote) is False
    for number in range(3):
        put(remote, number)
    put(remote, 1)  # again: the conditional put is refused, and the same bytes are success
    fs = fsspec.filesystem("s3")
    root = remote.removeprefix("s3://")
    found = {key.removeprefix(f"{root}/"): fs.cat_file(key) for key in fs.find(root)}
    assert found == tree(whole)
    with pytest.raises(UserError, match="already written"):
        put(remote, 1, block_of(1, seed=1))
    assert start(remote) is True
    assert store.finished_blocks(remote) == [0, 1, 2]
    np.testing.assert_array_equal(
        open_dataset(remote)["slot"].values, open_dataset(str(whole))["slot"].values
    )


def test_a_run_of_another_version_of_the_arrays_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable more would make a data set whose old blocks lack it: a silent mix."""
    run = tmp_path / "run"
    start(str(run))
    more = (*VARIABLES, VARIABLES[-1]._replace(name="lens_slope"))
    dataset = importlib.import_module("darkhaloscope.store.dataset")
    monkeypatch.setattr(dataset, "variables_of", lambda kinds: more)
    dataset._metadata.cache_clear()
    before = tree(run)
    try:
        with pytest.raises(UserError, match="this version of darkhaloscope makes"):
            start(str(run))
    finally:
        dataset._metadata.cache_clear()
    assert tree(run) == before


def test_a_run_of_another_schema_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    start(str(run))
    summary = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**summary, "schema": 99}))
    with pytest.raises(UserError, match="a newer version of darkhaloscope"):
        start(str(run))
    with pytest.raises(UserError, match="a newer version of darkhaloscope"):
        darkhaloscope.open(str(run))
