"""Training resumes to the bit, refuses what an audit condemned, and says what is wrong in a sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_pairs import IDENTITY, small_pairs, write_pairs

from darkhaloscope import commands, detect
from darkhaloscope.audit.intervals import auc
from darkhaloscope.detect.assess import network_beside
from darkhaloscope.detect.calibration import calibrate, reliability
from darkhaloscope.detect.config import DetectorConfig, PairedLoss, load_config, parse_config
from darkhaloscope.detect.loader import Batch
from darkhaloscope.detect.training import paired_loss, pairs_of
from darkhaloscope.errors import Incomplete, Reason, UserError
from darkhaloscope.variables import SPLITS
from darkhaloscope.views import CTRL, STAMP, dithered, used_widths


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_pairs(tmp_path_factory.mktemp("run"), small_pairs(320))


@pytest.fixture(scope="module")
def trained(run: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("trained") / "d")
    detect.train(config(run, training={"epochs": 1, "patience": 1}), folder)
    return folder


def config(run: str, **changes: Any) -> DetectorConfig:
    document: dict[str, Any] = {
        "run": run,
        "reading": {"batch_size": 32, "window": 64, "batch": "paired"},
        "training": {"epochs": 3, "patience": 3, "paired": {"weight": 0.5}},
        "gates": {"beside": False},
    }
    return parse_config(document | changes)


KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from darkhaloscope import detect
from darkhaloscope.detect.config import load_config
seen = 0
def on_batch(epoch, done, of):
    global seen
    seen += 1
    if seen == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
detect.train(load_config(sys.argv[1]), sys.argv[2], on_batch=on_batch)
"""


def test_a_killed_training_ends_with_the_same_bits(run: str, tmp_path: Path) -> None:
    whole = config(run)
    detect.train(whole, str(tmp_path / "whole"))
    # A checkpoint after every batch; killed within the second epoch, then within this process once more.
    often = whole.training.model_copy(update={"checkpoint_s": 1e-9})
    cut = whole.model_copy(update={"training": often})
    (tmp_path / "cut.yaml").write_text(cut.to_yaml())
    steps = -(-2 * sum(1 for _ in _rows(run, "train")) // 32)
    arguments = [str(tmp_path / "cut.yaml"), str(tmp_path / "cut"), str(steps + 3)]
    died = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True)
    assert died.returncode == -9, died.stderr.decode()
    starts = []

    def stop(epoch: int, done: int, of: int) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    def on_start(resumed: bool, trainer: Any) -> None:
        starts.append((resumed, trainer.progress.epoch, trainer.train.state()["batch"]))

    with pytest.raises(KeyboardInterrupt):
        detect.train(cut, str(tmp_path / "cut"), on_batch=stop, on_start=on_start)
    made = detect.train(cut, str(tmp_path / "cut"), on_start=on_start)
    assert starts[0] == (True, 1, 3)
    assert starts[1][1] == 2
    for name in ("model.pt", "detector.json"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    columns = ["epoch", "train_loss", "train_paired", "val_loss", "val_auroc", "images"]
    told = [pd.read_parquet(tmp_path / f / "metrics.parquet")[columns] for f in ("whole", "cut")]
    pd.testing.assert_frame_equal(*told, check_exact=True)
    assert told[0]["train_paired"].iloc[0] > 0
    assert made.digest == detect.load(str(tmp_path / "whole")).digest


def _rows(run: str, split: str) -> np.ndarray:
    return detect.Loader(run, config(run).reading, split=split, seed=1)._chosen.positive


def test_it_stops_early_and_keeps_the_best_epoch(run: str, tmp_path: Path) -> None:
    # A step far too long: val never gets better than after some early epoch.
    wild = config(run, training={"epochs": 12, "patience": 2, "learning_rate": 0.5})
    detect.train(wild, str(tmp_path / "d"))
    metrics = pd.read_parquet(tmp_path / "d" / "metrics.parquet")
    best = int(metrics["val_loss"].idxmin())
    assert len(metrics) == best + 1 + 2
    assert len(metrics) < 12


def test_a_training_never_reads_a_pixel_of_test(tmp_path: Path) -> None:
    """Not for early stopping, a scale or a calibration: what would be refused there is not seen."""
    cube = small_pairs(320)
    cube["ctrl"].values[cube["region_split"].values == SPLITS.index("test")] = np.nan
    run = write_pairs(tmp_path / "run", cube)
    seen = {"batch_size": 32, "normalize": "global", "aux_psf": True}
    made = config(run, reading=seen, training={"epochs": 1, "patience": 1})
    detect.train(made, str(tmp_path / "d"))
    with pytest.raises(UserError, match="not finite"):
        commands.score(str(tmp_path / "d"), splits=["test"])


def test_a_training_that_diverges_makes_no_detector(run: str, tmp_path: Path) -> None:
    wild = config(run, training={"epochs": 2, "patience": 2, "learning_rate": 1e9})
    with pytest.raises(UserError, match=r"diverged in epoch 0: .* lower training.learning_rate"):
        detect.train(wild, str(tmp_path / "d"))
    assert not (tmp_path / "d" / "model.pt").exists()
    with pytest.raises(UserError, match="holds no trained detector"):
        detect.load(str(tmp_path / "d"))


def test_a_run_that_is_not_finished_is_neither_trained_on_nor_scored(
    run: str, tmp_path: Path
) -> None:
    cube = small_pairs(320)
    cube["reason"].values[-64:] = Reason.NOT_WRITTEN
    half = write_pairs(tmp_path / "half", cube)
    short = config(half, training={"epochs": 1, "patience": 1})
    with pytest.raises(Incomplete, match=r"64 of 320 rows of .* call dhs run again"):
        detect.train(short, str(tmp_path / "d"))
    folder = str(tmp_path / "e")
    detect.train(short.model_copy(update={"run": run}), folder)
    with pytest.raises(Incomplete, match="not written yet"):
        commands.score(folder, half)


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("config.yaml", None, r"config.yaml is not there; .*put the right one back"),
        ("config.yaml", "[", r"config.yaml is no mapping in YAML; .*put the right one back"),
        ("config.yaml", "run: 3", r"config.yaml names no run"),
        ("run.json", '{"schema": 1, "kind": "detector"}', r"run.json is damaged"),
    ],
)
def test_a_folder_that_somebody_changed_is_said_in_a_sentence(
    trained: str, tmp_path: Path, file: str, text: str | None, says: str
) -> None:
    folder = tmp_path / "d"
    shutil.copytree(trained, folder)
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(UserError, match=says):
        commands.score(str(folder))
    with pytest.raises(UserError, match=says):
        commands.evaluate(str(folder))


def test_a_configuration_that_was_edited_after_the_training_is_refused(
    trained: str, tmp_path: Path
) -> None:
    folder = tmp_path / "d"
    shutil.copytree(trained, folder)
    place = folder / "config.yaml"
    text = place.read_text()
    # What it must show may change, and stands in the verdict; what it learned may not.
    place.write_text(text.replace("occluded: 200", "occluded: 60"))
    assert detect.folder.require(str(folder))[1].gates.occluded == 60
    place.write_text(text.replace("quality: clean", "quality: all"))
    with pytest.raises(
        UserError, match=r"reading.quality \(clean -> all\) changed since .* trained"
    ):
        commands.evaluate(str(folder))
    # A record of before there was a key says nothing of it.
    place.write_text(text)
    record = json.loads((folder / "run.json").read_text())
    del record["learned"]["reading"]["dither"]
    (folder / "run.json").write_text(json.dumps(record))
    detect.folder.require(str(folder))


def test_a_network_beside_is_asked_of_the_core_that_it_was_trained_on(
    run: str, tmp_path: Path
) -> None:
    short = config(run, training={"epochs": 1, "patience": 1})
    assert network_beside(str(tmp_path), "core_only", short) is None
    detect.train(short, str(tmp_path / "core_only"), part="core_only")
    assert network_beside(str(tmp_path), "core_only", short) is not None
    other = config(run, gates={"beside": False, "core_radius_px": 7})
    with pytest.raises(UserError, match=r"core_only\(5 px\), and gates.core_radius_px is 7"):
        network_beside(str(tmp_path), "core_only", other)


def test_data_that_its_audit_condemned_need_despite_and_it_stays_recorded(
    run: str, tmp_path: Path
) -> None:
    said = {"verdict": "shortcut", "sentence": "A shortcut, pedestal: there is one."}
    verdict = Path(run) / "verdict.json"
    short = config(run, training={"epochs": 1, "patience": 1})
    folder = str(tmp_path / "d")
    try:
        verdict.write_text(json.dumps(said))
        with pytest.raises(UserError, match="says shortcut: A shortcut, pedestal"):
            detect.train(short, folder)
        assert not Path(folder).exists()
        detect.train(short, folder, despite=True)
        verdict.write_text("{")
        with pytest.raises(UserError, match="is damaged; make it again with dhs audit"):
            detect.train(short, folder)
    finally:
        verdict.unlink()
    made = detect.train(short, folder)  # the verdict is gone; what was done is not
    assert detect.folder.read(folder)["despite"] == said  # type: ignore[index]
    assert made.despite == detect.load(folder).despite == "shortcut"


def test_a_folder_of_another_training_or_data_set_is_refused(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = config(run, training={"epochs": 1, "patience": 1})
    folder = str(tmp_path / "d")
    detect.train(short, folder)
    other = config(run, training={"epochs": 2, "patience": 1})
    with pytest.raises(UserError, match=r"another training: training\.epochs \(1 -> 2\)"):
        detect.train(other, folder)
    monkeypatch.setattr("small_pairs.IDENTITY", "22" * 32)
    elsewhere = write_pairs(tmp_path / "run", small_pairs(320))
    moved = short.model_copy(update={"run": elsewhere})
    with pytest.raises(UserError, match=r"checkpoint in .* is of another data set"):
        detect.train(moved, folder)
    with pytest.raises(UserError, match="another data set"):
        detect.assess(folder, run=elsewhere)
    last = Path(folder) / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(UserError, match=r"cannot be read .*; delete it"):
        detect.train(short, folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and holds no detector"):
        detect.train(short, str(tmp_path / "full"))


def test_the_file_has_the_tiers_defaults_and_says_what_is_wrong(run: str, tmp_path: Path) -> None:
    full = parse_config({"run": run, "tier": "full"})
    assert (full.network.name, full.reading.batch_size) == ("resnet18", 256)
    assert (full.training.epochs, full.training.learning_rate) == (50, 1e-3)
    assert parse_config({"run": run}).network.name == "small"
    for wrong, match in (
        ({}, "names no run"),
        ({"run": run, "tier": "huge"}, "tier"),
        (
            {"run": run, "training": {"epoch": 3}},
            "training.epoch is not a key of a detector; did you mean epochs?",
        ),
        (
            {"run": run, "trainings": {}},
            "trainings is not a key of a detector; did you mean training?",
        ),
        (
            {"run": run, "reading": {"zzz": 1}},
            "reading.zzz is not .*; known keys: option, second_look",
        ),
        ({"run": run, "training": {"paired": {"weight": 1}}}, "needs reading.batch: paired"),
        ({"run": run, "gates": {"required": ["auc"]}}, "there is no gate 'auc'"),
    ):
        with pytest.raises(UserError, match=match):
            parse_config(wrong)
    with pytest.raises(UserError, match=r"is a folder and holds no run .no run.json.; give"):
        load_config(run)  # it has pixels, and nothing says what they are of
    file = tmp_path / "d.yaml"
    file.write_text("run: here\nnetwork: {weights: w.pth}\n")
    made = load_config(str(file), {"training.epochs": 7})
    assert made.run == str(tmp_path / "here")
    assert (made.network.weights, made.training.epochs) == (str(tmp_path / "w.pth"), 7)
    assert parse_config(json.loads(json.dumps(made.model_dump(mode="json")))) == made
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA device"):
            detect.train(config(run, device="cuda"), str(tmp_path / "cuda"))


def test_scores_have_a_line_an_image_and_say_what_they_are_of(run: str, tmp_path: Path) -> None:
    folder = str(tmp_path / "d")
    seen = {"batch_size": 32, "aux_psf": True, "normalize": "global"}
    detect.train(config(run, reading=seen, training={"epochs": 1, "patience": 1}), folder)
    commands.score(folder)
    from darkhaloscope.completeness.recovered import read_scores

    table, facts = read_scores(str(Path(folder) / "scores.parquet"))
    cube = small_pairs(320)
    injected = cube["lens_model"].values > 0
    assert len(table) == 320 + injected.sum()
    assert set(table["image"]) == {"ctrl", "stamp"}
    assert facts["data_identity"] == IDENTITY
    assert facts["detector"] == detect.load(folder).digest
    uses = detect.folder.read(folder)["test_uses"]  # type: ignore[index]
    assert [u["command"] for u in uses] == ["score"]
    assert facts["folder"] == folder
    # The same images one by one, through the detector itself, dithered as the loader does.
    detector = detect.load(folder)
    rows = [3, 17, 40, 101]
    stamps = (cube["ctrl"] + cube["arc"]).isel(pair=rows).values.astype(np.float32)
    ctrl = cube["ctrl"].isel(pair=rows).values.astype(np.float32)
    nodata = np.zeros(stamps.shape, dtype=bool)
    whole = detect.folder.read_table(str(Path(folder) / "scores.parquet"))
    for name, images in (("stamp", stamps), ("ctrl", ctrl)):
        mine = whole[(whole["image"] == name) & whole["row"].isin(rows)]
        widths = used_widths(cube["psfdepth"].values, cube["sky_sigma"].values)[rows]
        kind = np.full(len(rows), STAMP if name == "stamp" else CTRL)
        images = dithered(images, cube["sky_sigma"].values[rows], np.array(rows), kind)
        expected = detector.score(images, nodata, psf=widths)[np.isin(rows, mine["row"])]
        np.testing.assert_allclose(mine["score"], expected, rtol=1e-4, atol=1e-4)


def test_a_run_without_the_classes_of_the_training_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ("core_matched",)
    run = write_pairs(tmp_path / "run", small_pairs(320, kinds=kinds), kinds)
    seen = {"batch_size": 32, "negatives": "matched", "aux_psf": True, "normalize": "global"}
    folder = str(tmp_path / "d")
    detect.train(config(run, reading=seen, training={"epochs": 1, "patience": 1}), folder)
    # Galaxies that nothing was injected into, none of them in train: what is asked is their scores.
    monkeypatch.setattr("small_pairs.IDENTITY", "33" * 32)
    plain = small_pairs(320).isel(pair=slice(64)).copy(deep=True)
    plain["lens_model"].values[:] = 0
    plain["region_split"].values[:] = SPLITS.index("val")
    other = write_pairs(tmp_path / "other", plain)
    table = commands.score(folder, other)
    assert (table["image"] == "ctrl").all()
    assert table["row"].tolist() == list(range(64))
    assert np.isfinite(table["score"]).all()
    # One galaxy has one score, wherever it lies.
    mine = commands.score(folder).query("image == 'ctrl'").set_index("row")["score"]
    np.testing.assert_allclose(table["score"], mine.loc[:63], rtol=1e-4, atol=1e-4)


# --- small pieces ---------------------------------------------------------------------------------------


def test_pairs_are_found_and_pushed_apart_to_the_margin() -> None:
    row = torch.tensor([5, 5, 9, 2, 9, 7])
    image = torch.tensor([1, 0, 0, 1, 1, 0], dtype=torch.uint8)
    stamp, ctrl = pairs_of(row, image)
    assert sorted(zip(stamp.tolist(), ctrl.tolist(), strict=True)) == [(0, 1), (4, 2)]
    empty = torch.zeros(6, 0)
    batch = Batch(torch.zeros(6, 1, 2, 2), (image == 1).float(), row, image, torch.ones(6), empty)
    embedding = torch.tensor([[1.0, 0], [2, 0], [0, 3], [1, 1], [4, 0], [1, 0]])
    # Pair 5: the same direction, distance 0. Pair 9: at right angles, distance sqrt 2.
    for margin, expected in ((0.5, 0.5**2 / 2), (2.0, (2.0**2 + (2 - 2**0.5) ** 2) / 2)):
        found = paired_loss(embedding, batch, PairedLoss(weight=1, margin=margin))
        assert float(found) == pytest.approx(expected, rel=1e-4)
    same = torch.ones(6, 2, requires_grad=True)
    paired_loss(same, batch, PairedLoss(weight=1)).backward()
    assert same.grad is not None
    assert torch.isfinite(same.grad).all()


def test_calibration_undoes_a_known_stretch_and_reliability_sees_it() -> None:
    rng = np.random.default_rng(3)
    label = np.repeat([True, False], 20_000)
    odds = rng.normal(np.where(label, 1.0, -1.0), np.sqrt(2.0))  # log odds of N(+-1, 2): themselves
    logit = 3.0 * odds + 2.0
    slope, shift = calibrate(logit, label)
    assert slope == pytest.approx(1 / 3, rel=0.03)
    assert shift == pytest.approx(-2 / 3, abs=0.03)
    region = np.arange(40_000) % 50
    good = reliability(slope * logit + shift, label, region, seed=1)
    bad = reliability(logit, label, region, seed=1)
    assert good.error < 0.02 < 0.1 < bad.lo < bad.error < bad.hi
    assert good.curve["images"].sum() == 40_000
    assert calibrate(logit[:10], label[:10]) == (1.0, 0.0)
    # A split with a tenth of the positives says the same odds: each class counts alike.
    few = slice(18_000, None)
    fewer_slope, fewer_shift = calibrate(logit[few], label[few])
    assert fewer_slope == pytest.approx(1 / 3, rel=0.1)
    assert fewer_shift == pytest.approx(-2 / 3, abs=0.1)
    assert auc(logit[label], logit[~label]) == pytest.approx(0.8413, abs=0.01)
