"""The loader: every image once, balanced, the same for any workers, resumed exactly, no other split's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from small_pairs import SIGMA, small_pairs, write_pairs

from darkhaloscope.detect.loader import Batch, Loader
from darkhaloscope.detect.making import Maker
from darkhaloscope.detect.order import Order, shuffle_quality
from darkhaloscope.errors import UserError
from darkhaloscope.views import Reading, network_input
from darkhaloscope.views.second_look import SEPARABILITY_COLUMNS

KINDS = ("core_matched",)
N = np.arange(640)
INJECTED = N % 4 != 3
TRAIN = np.isin(N // 10 % 6, [0, 1, 3, 4]) & (N % 10 != 0)
SMALL: dict[str, Any] = {"batch_size": 32, "window": 64}
STORED: dict[str, Any] = {"dither": False}  # tests/test_dither.py is about the other way


@pytest.fixture(scope="module")
def pairs() -> xr.Dataset:
    """What no train loader may look at is poison: not a number, or a thousand times too bright."""
    cube = small_pairs(640, kinds=KINDS)
    cube["ctrl"].values[N % 10 == 0] = np.nan
    cube["ctrl"].values[(~TRAIN) & (N % 10 != 0)] *= 1000.0
    return cube


@pytest.fixture(scope="module")
def run(pairs: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_pairs(tmp_path_factory.mktemp("pairs"), pairs, KINDS)


def loader(run: str, split: str = "train", seed: int = 4, workers: int = 0, **keys: Any) -> Loader:
    return Loader(run, Reading(**(SMALL | keys)), split=split, seed=seed, workers=workers)


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(x, y)
        for a, b in zip(one, other, strict=True)
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize(
    "keys",
    [
        {"batch": "paired"},
        {"batch": "shuffled", "stratify_psf": 3},
        {"option": "c", "second_look": "noised", "aux_psf": True},
        {"negatives": "controls", "normalize": "global"},
    ],
)
def test_an_epoch_is_the_same_for_any_workers_and_resumed_exactly(
    run: str, keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The gate on second looks has tests of its own.
    nothing = pd.DataFrame(columns=SEPARABILITY_COLUMNS)
    monkeypatch.setattr(Loader, "_measure_separability", lambda self: nothing)
    threads = loader(run, workers=3, **keys)
    begun = threads.epoch(1)
    whole = [next(begun) for _ in range(2)]
    state = json.loads(json.dumps(threads.state()))
    whole += list(begun)
    plain = loader(run, **keys)
    plain.resume(state)
    assert same(whole[2:], list(plain.epoch(1)))
    assert same(whole, list(plain.epoch(1)))  # the next time from its start
    assert not same(whole, list(plain.epoch(2)))


def test_a_position_of_another_loader_is_refused(run: str) -> None:
    state = loader(run).state()
    for other in (loader(run, seed=5), loader(run, "val"), loader(run, batch="paired")):
        with pytest.raises(UserError, match=r"is of another (seed|split|reading)"):
            other.resume(state)
    assert not same(list(loader(run, seed=5).epoch(0)), list(loader(run).epoch(0)))


@pytest.mark.parametrize("batch", ["paired", "shuffled"])
def test_every_image_comes_once_and_a_stamp_meets_its_ctrl_only_in_pairs(
    run: str, batch: str
) -> None:
    seen = []
    for b in loader(run, batch=batch).epoch(0):
        positive, negative = (b.row[b.label == k] for k in (1, 0))
        assert len(positive) == len(negative)
        met = np.isin(positive.numpy(), negative.numpy())
        assert met.all() if batch == "paired" else not met.any()
        assert torch.equal(b.image, b.label.to(torch.uint8))
        seen += [(int(r), int(i)) for r, i in zip(b.row, b.image, strict=True)]
    rows = np.flatnonzero(INJECTED & TRAIN).tolist()
    assert sorted(seen) == [(r, i) for r in rows for i in (0, 1)]


@pytest.mark.parametrize(("negatives", "kind"), [("controls", 3), ("matched", 7)])
def test_other_negatives_are_as_many_and_drawn_anew_each_epoch(
    run: str, negatives: str, kind: int
) -> None:
    found = loader(run, negatives=negatives)
    epochs = [[b for b in found.epoch(k)] for k in (0, 1)]
    positives = []
    for batches in epochs:
        row, label, image = (
            torch.cat([getattr(b, name) for b in batches]).numpy()
            for name in ("row", "label", "image")
        )
        negative = row[label == 0]
        assert sorted(negative.tolist()) == np.flatnonzero((kind == N % 8) & TRAIN).tolist()
        assert (image[label == 0] == (kind == 7)).all()
        assert (label == 1).sum() == len(negative)
        positives.append(set(row[label == 1].tolist()))
    assert positives[0] != positives[1]


def test_pixels_are_the_stores_as_the_reading_says(run: str, pairs: xr.Dataset) -> None:
    """Unturned they are ctrl and ctrl + arc (+ extra); turned they are one of eight of these."""
    for negatives in ("ctrl", "matched"):
        for b in loader(run, normalize="raw", negatives=negatives, augment=False, **STORED).epoch(
            0
        ):
            row, stamp = b.row.numpy(), (b.image.numpy() == 1)[:, None, None, None]
            light = pairs["arc"].values[row] + pairs["extra"].values[row]
            assert (b.images.numpy() == pairs["ctrl"].values[row] + light * stamp).all()
    plain = next(iter(loader(run, augment=False).epoch(0)))
    for batch in ("shuffled", "paired"):
        turned = next(iter(loader(run, batch=batch).epoch(0)))
        plain = next(iter(loader(run, batch=batch, augment=False).epoch(0)))
        kinds = []
        for one, other in zip(turned.images, plain.images, strict=True):
            ways = [torch.rot90(v, k, (1, 2)) for v in (other, other.flip(2)) for k in range(4)]
            kinds.append(next(k for k, way in enumerate(ways) if torch.equal(way, one)))
        assert len(set(kinds)) >= 5  # of eight, in 16 draws or 32
        assert (kinds[::2] == kinds[1::2]) == (batch == "paired")
    assert not torch.equal(turned.images, plain.images)
    val = [next(iter(loader(run, "val", augment=a).epoch(0))) for a in (True, False)]
    assert same(val[:1], val[1:])  # only training turns


def test_the_scale_is_that_of_the_train_split_whatever_is_read(run: str, pairs: xr.Dataset) -> None:
    train, val = (loader(run, split, seed, normalize="global", aux_psf=True, **STORED)
                  for split, seed in (("train", 4), ("val", 5)))  # fmt: skip
    assert train.scale is not None
    assert train.scale == val.scale  # val is a thousand times as bright, and nobody looked
    rows = INJECTED & TRAIN
    both = np.concatenate(
        [pairs["ctrl"].values[rows], (pairs["ctrl"] + pairs["arc"]).values[rows]]
    ).astype(float)
    np.testing.assert_allclose(train.scale.mean, both.mean((0, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(train.scale.std, both.std((0, 2, 3)), rtol=1e-5)
    assert train.aux_scale == val.aux_scale
    aux = torch.cat([b.aux for b in train.epoch(0)])
    np.testing.assert_allclose(aux.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(aux.std(0), 1, atol=2e-3)


def test_a_schedule_brings_faint_arcs_in_and_only_in_training(run: str, pairs: xr.Dataset) -> None:
    middle = float(np.median(pairs["arc_snr"].values[INJECTED]))
    keys = {"faint": {"schedule": [[0, middle], [2, 0.0]]}}
    counts = [loader(run, **keys).batches(k) for k in (0, 1, 2)]
    assert counts[0] == counts[1] < counts[2] == loader(run).batches(0)
    assert loader(run, "val", **keys).batches(0) == loader(run, "val").batches(0)


def test_batches_stratified_by_psf_have_as_many_of_each_class_in_each_bin(
    run: str, pairs: xr.Dataset
) -> None:
    width = pairs["psfsize"].values[:, 1]
    found = loader(run, negatives="controls", stratify_psf=2)
    assert found.metadata is not None
    assert found.metadata.outcome in ("pass", "not_enough")
    batches = list(found.epoch(0))
    row, label = (torch.cat([getattr(b, n) for b in batches]).numpy() for n in ("row", "label"))
    # The middle width of all rows of the split in use; in each half as many of either class.
    half = width[row] > np.median(width[TRAIN & (INJECTED | (N % 8 == 3))])
    for k in (False, True):
        assert (label[half == k] == 1).sum() == (label[half == k] == 0).sum()


def test_widths_that_tell_the_classes_apart_are_refused(pairs: xr.Dataset, tmp_path: Path) -> None:
    told = pairs.copy(deep=True)
    told["psfdepth"].values[~INJECTED] *= 2
    run = write_pairs(tmp_path, told, KINDS)
    assert loader(run, aux_psf=True).metadata.outcome == "alike"  # type: ignore[union-attr]
    with pytest.raises(UserError, match="PSF widths alone tell positives from negatives"):
        loader(run, aux_psf=True, negatives="controls")


def test_second_looks_have_noise_of_their_own_and_pass_the_gate(
    run: str, pairs: xr.Dataset
) -> None:
    c = loader(run, option="c", second_look="noised", noise=2.0, normalize="raw", augment=False)
    assert c.separability is not None
    assert ((c.separability["lo"] > 0.44) & (c.separability["hi"] < 0.56)).all()
    b = next(iter(c.epoch(0)))
    arc = pairs["arc"].values[b.row.numpy()] * b.label.numpy()[:, None, None, None]
    noise = b.images.numpy() - arc
    assert noise.std() == pytest.approx(2 * 2**0.5 * SIGMA, rel=0.02)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.15


def test_a_noise_law_that_differs_between_the_classes_is_seen_by_the_loader(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Maker.looks

    def louder(self: Maker, cut: Any, rng: Any) -> Any:
        positive = bool(cut.arc.any())
        return looks(self, cut._replace(sigma=cut.sigma * np.float32(1 + 0.1 * positive)), rng)

    monkeypatch.setattr(Maker, "looks", louder)
    with pytest.raises(UserError, match="option c is refused: where there is no arc"):
        loader(run, option="c", second_look="noised")


@pytest.fixture(scope="module")
def full(pairs: xr.Dataset) -> xr.Dataset:
    """Arcs that reach everywhere, but for every tenth row, and fewer still in one band."""
    cube = pairs.copy(deep=True)
    wide = INJECTED & (N % 20 != 1) & (N % 20 != 6)
    cube["arc"].values[wide] += 0.02 * SIGMA
    cube["arc"].values[INJECTED & (N % 20 == 6), 2] += 0.02 * SIGMA
    return cube


def test_the_gate_compares_the_rows_that_have_pixels_without_arc(
    full: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few they are of all rows, they come to as many comparisons in each band; and no others."""
    run = write_pairs(tmp_path, full, KINDS)
    keys: dict[str, Any] = {"option": "c", "second_look": "noised"}
    table = loader(run, **keys).separability
    assert table is not None
    assert len(table) == 33
    one, other = (INJECTED & TRAIN & (k == N % 20) for k in (1, 6))
    for band, rows in (("g", one | other), ("r", one | other), ("z", one)):
        mine = table[table["test"].str.endswith(f", {band}")]
        assert (mine["rows"] == rows.sum()).all()
        assert mine["comparisons"].between(4096, 4096 + rows.sum()).all()
    assert ((table["lo"] > 0.44) & (table["hi"] < 0.56)).all()
    looks = Maker.looks

    def louder(self: Maker, cut: Any, rng: Any) -> Any:
        positive = bool(cut.arc.any())
        return looks(self, cut._replace(sigma=cut.sigma * np.float32(1 + 0.1 * positive)), rng)

    monkeypatch.setattr(Maker, "looks", louder)
    told = "|".join(str(part.sum()) for part in (one, one | other))
    with pytest.raises(UserError, match=rf"refused: .*(variance|rough).*, ({told}) rows in \d+"):
        loader(run, **keys)


def test_rows_too_few_for_an_interval_are_no_pass(full: xr.Dataset, tmp_path: Path) -> None:
    cube = full.copy(deep=True)
    cube["arc"].values[INJECTED & (N > 120)] += 0.02 * SIGMA
    left = int((INJECTED & TRAIN & np.isin(N % 20, [1, 6]) & (N <= 120)).sum())
    assert 0 < left < 10
    keys: dict[str, Any] = {"option": "c", "second_look": "noised"}
    with pytest.raises(UserError, match=f"refused: {left} rows with 32 pixels without arc, in"):
        loader(write_pairs(tmp_path / "few", cube, KINDS), **keys)
    cube["arc"].values[INJECTED] += 0.02 * SIGMA
    with pytest.raises(UserError, match="refused: 0 rows with 32 pixels without arc, in 0 compar"):
        loader(write_pairs(tmp_path / "none", cube, KINDS), **keys)


@pytest.mark.parametrize("dither", [True, False])
def test_a_copy_of_the_run_is_no_second_look(
    run: str, full: xr.Dataset, tmp_path: Path, dither: bool
) -> None:
    """Noise one step wide hides that pixels are equal; the gate looks at what is stored."""
    for name, place in (("a", run), ("b", write_pairs(tmp_path / "b", full, KINDS))):
        copied = str(tmp_path / f"copy-{name}")
        shutil.copytree(place, copied)
        with pytest.raises(UserError, match=r"100% of the pixels of .*copy-"):
            loader(place, option="c", second_look="reobserved", second_run=copied, dither=dither)


def test_a_second_run_is_another_look_at_the_same_rows(
    run: str, pairs: xr.Dataset, tmp_path: Path
) -> None:
    other = pairs.copy(deep=True)
    other["ctrl"].values[:] += np.random.default_rng(1).normal(0, SIGMA, other["ctrl"].shape)
    second = write_pairs(tmp_path / "second", other, KINDS)
    keys = {
        "option": "c",
        "second_look": "reobserved",
        "normalize": "raw",
        "augment": False,
    } | STORED
    found = loader(run, second_run=second, **keys)
    a = loader(run, second_run=second, **(keys | {"option": "a"}))
    assert a.channels == 6
    assert next(iter(a.epoch(0))).images.shape[1:] == (6, 16, 16)
    assert found.separability is not None
    b = next(iter(found.epoch(0)))
    row = b.row.numpy()
    image = (
        pairs["ctrl"].values[row] + pairs["arc"].values[row] * b.image.numpy()[:, None, None, None]
    )
    assert (b.images.numpy() == image - other["ctrl"].values[row]).all()
    with pytest.raises(UserError, match="the very same pixels"):
        loader(run, second_run=run, **keys)
    other["slot"].values[3] += 1
    with pytest.raises(UserError, match="does not hold the rows"):
        loader(run, second_run=write_pairs(tmp_path / "third", other, KINDS), **keys)


def test_scores_read_every_image_once_in_order(run: str, pairs: xr.Dataset) -> None:
    found = list(loader(run, "val", workers=2, **STORED).in_order())
    row, image, label = (
        torch.cat([getattr(b, name) for b in found]).numpy() for name in ("row", "image", "label")
    )
    val = np.flatnonzero(INJECTED & (N // 10 % 6 == 2) & (N % 10 != 0))
    assert row.tolist() == np.repeat(val, 2).tolist()
    assert image.tolist() == label.tolist() == [0, 1] * len(val)
    stamps = (pairs["ctrl"] + pairs["arc"]).values[val]
    shown = network_input(stamps, np.zeros(stamps.shape, bool), Reading())
    assert (torch.cat([b.images for b in found]).numpy()[1::2] == shown).all()
    some = np.array([13, 33, 601])  # of any split, chosen or not
    found = list(loader(run, "val").in_order(some))
    assert found[0].row.tolist() == [13, 13, 33, 33, 601, 601]
    assert not found[0].label.any()


def test_the_shuffle_is_measured_against_a_full_one(run: str) -> None:
    quality = loader(run).shuffle_quality()
    assert quality.positives == (INJECTED & TRAIN).sum()
    assert abs(quality.place) < 5 * quality.full_shuffle
    n = 4000
    ones = np.ones(n, np.uint8)
    ordered = Order(np.arange(n), ones, ones, ones.astype(np.float32), ones.astype(np.int32))
    kept = shuffle_quality(ordered, 64, 32)
    assert kept.place == pytest.approx(1)
    assert kept.neighbours == pytest.approx(1)
    assert kept.chunks_per_batch == 1
    assert kept.chunks_per_batch_full > 20


@pytest.mark.parametrize(
    ("damage", "says"),
    [("nan", "pixels that are not finite"), ("ctrl", "has no ctrl"), ("chunk", "cannot be read")],
)
def test_damaged_pixels_are_said_in_a_sentence(
    run: str, pairs: xr.Dataset, tmp_path: Path, damage: str, says: str
) -> None:
    if damage == "nan":
        other = pairs.copy(deep=True)
        other["ctrl"].values[np.flatnonzero(TRAIN & INJECTED)[7], 1, 3, 3] = np.nan
        place = write_pairs(tmp_path, other, KINDS)
    else:
        place = str(tmp_path / "run")
        shutil.copytree(run, place)
        if damage == "ctrl":
            shutil.rmtree(f"{place}/stamps.zarr/ctrl")
            shutil.rmtree(f"{place}/stamps.zarr/zarr.json", ignore_errors=True)
            meta = json.loads(Path(f"{run}/stamps.zarr/zarr.json").read_text())
            del meta["consolidated_metadata"]["metadata"]["ctrl"]
            Path(f"{place}/stamps.zarr/zarr.json").write_text(json.dumps(meta))
        else:
            shard = Path(f"{place}/stamps.zarr/ctrl/c/0/0/0/0")
            data = bytearray(shard.read_bytes())
            data[: len(data) // 2] = b"\xff" * (len(data) // 2)
            shard.write_bytes(bytes(data))
    with pytest.raises(UserError, match=says):
        list(loader(place, workers=2).epoch(0))


def test_an_object_store_gives_the_same_batches(run: str, s3_server: str) -> None:
    place = "s3://dhs-test/loader"
    fsspec.filesystem("s3").put(f"{run}/", f"{place}/", recursive=True)
    assert same(list(loader(run).epoch(0)), list(loader(place, workers=2).epoch(0)))
