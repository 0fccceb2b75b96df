"""The study: what is known of arms whose scores are known, and one whole study of a few stamps."""

from __future__ import annotations

import dataclasses
import functools
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small_brick
import yaml
from distributed import Client
from rich.console import Console
from scipy.stats import t as student_t
from sklearn.ensemble import HistGradientBoostingClassifier
from small_run import Setting

from darkhaloscope import commands, prepare, store, study
from darkhaloscope.audit.intervals import resample_weights
from darkhaloscope.audit.leak_map import LEAK_COLUMNS, MOST, Stamps
from darkhaloscope.config import CoreMask, Experiment, parse_experiment
from darkhaloscope.errors import Incomplete, Reason, UserError
from darkhaloscope.inject import inject_brick, load_brick
from darkhaloscope.study import graph
from darkhaloscope.study.coadds import fingerprint
from darkhaloscope.study.numbers import Result, line_of
from darkhaloscope.study.page import LABEL_GAP, LABEL_ROOM, _label_heights, markdown
from darkhaloscope.study.parts import Reading, brick_part
from darkhaloscope.study.readers import READERS, _leak, _matched, across, joined
from darkhaloscope.study.zones import EDGE, INSIDE, OUTSIDE, WHOLE, ZONES, zones_of
from darkhaloscope.survey import Cutouts, Survey

pytestmark = pytest.mark.usefixtures("no_pictures")

N, REGIONS = 600, 30


def _scores(core: float, found: float, lost: float = 0.0, seed: int = 1) -> dict[str, Any]:
    """Scores of an arm: Gaussian, with stamps so much above ctrl in the core, and in (b)."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, N))
    out: dict[str, Any] = {
        "use": np.arange(N) >= lost * N,
        "negative_row": np.arange(N),
        "tied": np.zeros(N, bool),
        "host": np.arange(N) // 2,
        "region": (np.arange(N) % REGIONS).astype(np.uint64),
        "reason": np.full(N, Reason.OK, np.uint8),
        "brightness_gap": np.array([0.8, 0.8]),
        "theta_e_over_psf": np.full(N, 0.5),
        "flux": np.ones((N, 3)),
        "flux_plain": np.ones((N, 3)),
        "core_pos": noise[0] + core,
        "core_neg": noise[1],
        "physics_pos": noise[0] + 1.0,
        "physics_neg": noise[1],
    }
    for reader in READERS:
        for zone in ZONES:
            for letter in ("a", "c"):
                name = f"{letter}_{reader}_{zone}"
                out[f"{name}_pos"] = out[f"{name}_neg"] = np.zeros(N)
            out[f"b_{reader}_{zone}_pos"] = noise[0] + found
            out[f"b_{reader}_{zone}_neg"] = noise[1]
    return out


def _result(*args: float, leak: float = 0.0) -> Result:
    line = dict.fromkeys(LEAK_COLUMNS, 0.0) | {"reader": "ring", "part": "3-6 px", "excess": leak}
    line |= {"excess_se": 0.01, "excess_lo": leak - 0.02, "excess_hi": leak + 0.02}
    line |= {"auc": 0.5 + leak, "auc_rerendered": 0.5}
    line |= {"regions": REGIONS, "pairs": N}
    return Result(_scores(*args), pd.DataFrame([line]))


STUDY = study.Study(arms={"none": {}})


def test_an_arm_against_itself_differs_by_exactly_nothing() -> None:
    found = study.compare({"none": _result(1.0, 1.5), "same": _result(1.0, 1.5)}, STUDY, 1)
    same = found.table[found.table["arm"] == "same"].dropna(subset=["difference"])
    assert len(same) > 25
    assert (same[["difference", "difference_lo", "difference_hi"]] == 0.0).all(axis=None)
    none = line_of(found.table, "none", "excess_core_auc")
    assert none is not None
    assert (none["value"], none["lo"], none["hi"]) == (0.0, 0.0, 0.0)


def test_auc_and_paired_difference_are_those_of_the_scores() -> None:
    """AUC of two Gaussians d apart is Phi(d / sqrt 2); common noise cancels in the difference."""
    found = study.compare({"none": _result(1.0, 1.5), "fix": _result(0.2, 1.45)}, STUDY, 1)
    core = line_of(found.table, "fix", "core_auc")
    b = line_of(found.table, "fix", "b", reader="profile", zone=WHOLE)
    assert core is not None
    assert b is not None
    assert core["lo"] < 0.5562 < core["hi"]
    assert b["difference_hi"] - b["difference_lo"] < 0.5 * (b["hi"] - b["lo"])
    assert b["difference_lo"] < 0.8474 - 0.8556 < b["difference_hi"]


def test_the_recommendation_follows_from_the_rules() -> None:
    arms = {
        "none": _result(1.0, 1.5),
        "blind": _result(0.0, 0.3),  # neutral, but finds no real arc
        "good": _result(0.2, 1.5),
        "as_good": _result(0.1, 1.5),
        "leaks": _result(0.1, 1.6, leak=0.2),
        "loses": _result(0.1, 1.5, 0.8),
    }
    found = study.compare(arms, STUDY, 1)
    rules = {j.arm: j.rules for j in found.judged}
    assert rules["none"]["core_auc"] == "fail"
    assert rules["blind"]["physics_loss"] == "fail"
    assert rules["leaks"]["leak"] == "fail"
    assert rules["loses"]["small_lost"] == "fail"
    assert {j.arm for j in found.judged if j.outcome == "pass"} == {"good", "as_good"}
    assert found.recommended == "good"  # of equals the first
    assert found.sentence.startswith("good is recommended")
    assert "none" not in found.pareto
    only = study.compare({"none": arms["none"], "blind": arms["blind"]}, STUDY, 1)
    assert only.recommended is None
    assert only.sentence.startswith("No arm passes every rule, so no fix is recommended")


def test_of_arms_that_pass_the_one_that_finds_most_is_recommended() -> None:
    """Not the first of the file, and not the last."""
    arms = {
        "none": _result(1.0, 1.5),
        "first": _result(0.2, 1.45),
        "best": _result(0.2, 1.55),
        "last": _result(0.2, 1.46),
    }
    found = study.compare(arms, STUDY, 1)
    assert [j.arm for j in found.judged if j.outcome == "pass"] == ["first", "best", "last"]
    assert found.recommended == "best"
    neutral = study.compare({"none": _result(0.1, 1.5), "worse": arms["first"]}, STUDY, 1)
    assert neutral.recommended == "none"
    assert neutral.sentence.startswith("No fix is needed: arcs as they are (arm none) pass")


def test_a_point_on_the_right_side_of_a_limit_passes_no_rule() -> None:
    none, near = _result(1.0, 1.5), _result(0.5, 1.5)
    loose = Result(_scores(0.2, 1.5, seed=2), none.leak)  # noise of its own: its difference is wide
    found = study.compare({"none": none, "near": near, "loose": loose}, STUDY, 1)
    rules = {j.arm: j.rules for j in found.judged}
    core = line_of(found.table, "near", "core_auc")
    lost = line_of(found.table, "loose", "b", reader="profile", zone=WHOLE)
    assert core is not None
    assert lost is not None
    assert core["value"] < STUDY.rules.core_auc < core["hi"]
    assert rules["near"]["core_auc"] == "not_enough"
    assert lost["difference_lo"] < -STUDY.rules.physics_loss < lost["difference"]
    assert rules["loose"]["physics_loss"] == "not_enough"


@pytest.mark.parametrize(
    ("leak", "half", "regions", "outcome"),
    [
        (0.0, 0.02, REGIONS, "pass"),
        (0.15, 0.12, REGIONS, "not_enough"),  # above the limit, and not surely
        (0.0, 0.05, REGIONS, "not_enough"),  # no excess was seen, and none is excluded
        (0.0, 0.01, 10, "not_enough"),
        (0.3, 0.05, REGIONS, "fail"),
    ],
)
def test_no_leak_is_a_thing_to_be_shown(
    leak: float, half: float, regions: int, outcome: str
) -> None:
    result = _result(0.2, 1.5, leak=leak)
    result.leak["excess_lo"], result.leak["excess_hi"] = leak - half, leak + half
    result.leak["excess_se"], result.leak["regions"] = half / 2, regions
    found = study.compare({"none": _result(1.0, 1.5), "arm": result}, STUDY, 1)
    assert found.judged[1].rules["leak"] == outcome
    assert (found.recommended == "arm") == (outcome == "pass")


def test_a_stratum_has_the_regions_of_its_own_rows() -> None:
    """All rows of a stratum in one region: no interval, however many regions the study has."""
    arms = {"none": _result(1.0, 1.5), "fix": _result(0.2, 1.5)}
    for result in arms.values():
        scores = result.scores
        scores["theta_e_over_psf"] = np.where(scores["region"] == 3, 1.2, 0.5)
    table = study.compare(arms, STUDY, 1).table
    for quantity in ("core_auc", "excess_core_auc", "b"):
        where = {"reader": "profile", "zone": WHOLE} if quantity == "b" else {}
        line = line_of(table, "fix", quantity, stratum=">= 1", **where)
        assert line is not None
        assert (line["pairs"], line["hosts"], line["regions"]) == (20, 20, 1)
        ends = line[["lo", "hi", "difference_lo", "difference_hi"]].to_numpy(float)
        assert np.isnan(ends).all()
    every = line_of(table, "fix", "core_auc")
    assert every is not None
    assert (every["pairs"], every["hosts"], every["regions"]) == (N, N // 2, REGIONS)


def test_few_regions_of_small_lenses_lose_none() -> None:
    arms = {"none": _result(1.0, 1.5), "loses": _result(0.2, 1.5, 0.9)}
    for result in arms.values():
        small = result.scores["region"] < 4
        result.scores["theta_e_over_psf"] = np.where(small, 0.5, 1.2)
    found = study.compare(arms, STUDY, 1)
    line = line_of(found.table, "loses", "small_lost")
    assert line is not None
    assert line["regions"] == 4
    assert np.isnan(line["hi"])
    assert found.judged[1].rules["small_lost"] == "not_enough"


def test_what_is_lost_is_lost_of_small_lenses_alone() -> None:
    """All of the small lenses, which are one in ten."""
    arms = {"none": _result(1.0, 1.5), "loses": _result(0.2, 1.5, 0.1)}
    for result in arms.values():
        result.scores["theta_e_over_psf"] = np.where(np.arange(N) < 0.1 * N, 0.5, 1.2)
    found = study.compare(arms, STUDY, 1)
    line = line_of(found.table, "loses", "small_lost")
    assert line is not None
    assert (line["value"], line["difference"], line["pairs"]) == (1.0, 1.0, N // 10)
    assert found.judged[1].rules["small_lost"] == "fail"


def test_the_front_asks_both() -> None:
    """Of two arms as neutral as each other, the one that finds fewer arcs is beaten."""
    arms = {"none": _result(1.0, 1.5), "blind": _result(0.2, 0.5), "sees": _result(0.2, 1.2)}
    assert study.compare(arms, STUDY, 1).pareto == ["none", "sees"]


def test_controls_are_resampled_with_their_own_region() -> None:
    """Against a sum over all pairs, of negatives that lie in other regions than the stamps."""
    arms = {"none": _result(1.0, 1.5), "other": _result(0.4, 1.5)}
    scores = arms["other"].scores
    negative = np.random.default_rng(3).integers(0, N, N)
    scores["negative_row"] = negative
    scores["core_neg"] += 0.7 * (negative % REGIONS > 20)  # regions differ
    line = line_of(study.compare(arms, STUDY, 1).table, "other", "core_auc")
    assert line is not None
    wins = scores["core_pos"][:, None] > scores["core_neg"][None, :]
    region, weights = np.arange(N) % REGIONS, resample_weights(REGIONS, 1)
    drawn = []
    for w in weights:
        pos, neg = w[region], w[region[negative]]
        drawn.append(float(pos @ wins @ neg / (pos.sum() * neg.sum())))
    reach = float(student_t.ppf(0.975, REGIONS - 1))
    reach *= np.std(drawn, ddof=1) * np.sqrt(REGIONS / (REGIONS - 1))
    assert line["hi"] - line["value"] == pytest.approx(reach, rel=1e-9)


def test_what_is_equal_by_construction_is_no_measurement() -> None:
    """(a) and (c) of these arms have equal scores; (b) has not."""
    found = study.compare({"none": _result(1.0, 1.5)}, STUDY, 1)
    for letter in ("a", "c"):
        line = line_of(found.table, "none", letter, reader="linear", zone=WHOLE)
        assert line is not None
        assert line["note"].startswith("not a test")
    told = line_of(found.table, "none", "b", reader="linear", zone=WHOLE)
    assert told is not None
    assert told["note"] == ""
    assert "| 0.500 * |" in markdown(found, "pairs: 600")


def test_equal_cores_are_no_evidence_and_an_empty_arm_says_so() -> None:
    """A mask over all of the core passes no rule by being blind there, as in the audit's gate."""
    arms = {"none": _result(1.0, 1.5), "hidden": _result(0.0, 1.5), "empty": _result(0.0, 1.5)}
    hidden, empty = arms["hidden"].scores, arms["empty"].scores
    hidden["core_pos"] = hidden["core_neg"] = np.zeros(N)
    hidden["tied"], empty["use"] = np.ones(N, bool), np.zeros(N, bool)
    partly = arms["partly"] = _result(0.0, 1.5)
    partly.scores["tied"] = np.arange(N) < 0.6 * N
    found = study.compare(arms, STUDY, 1)
    judged = {j.arm: j for j in found.judged}
    assert judged["partly"].note == "not a test: 60% of the cores tie exactly"
    assert judged["partly"].rules["core_auc"] == "not_enough"
    assert "want of pairs" not in found.sentence.replace(
        "Open, for want of pairs or regions: empty", ""
    )
    assert "Open, since equal cores are not a test: hidden, partly." in found.sentence
    assert judged["hidden"].rules["core_auc"] == "not_enough"
    assert judged["hidden"].note.startswith("not a test")
    assert "hidden" not in found.pareto
    assert judged["empty"].note == "no row of this arm can be read"
    assert found.recommended is None


def test_few_regions_decide_nothing() -> None:
    few = {name: _result(1.0, 1.5) for name in ("none", "same")}
    for result in few.values():
        result.scores["region"] = result.scores["region"] % 6
    found = study.compare(few, STUDY, 1)
    assert {j.outcome for j in found.judged} == {"not_enough"}
    assert found.recommended is None


def test_zones_share_the_pixels_about_a_masks_edge() -> None:
    zones = zones_of(CoreMask(radius_px=7), 64)
    radius = np.hypot(*(np.mgrid[:64, :64] - 31.5))
    planes = zones.planes
    assert sum(int(planes[z].sum()) for z in (INSIDE, EDGE, OUTSIDE)) == int(planes[WHOLE].sum())
    hidden, shown = np.argwhere(radius < 7), np.argwhere(radius >= 7)
    for zone, others in ((INSIDE, shown), (OUTSIDE, hidden)):
        gaps = np.argwhere(planes[zone])[:, None] - others[None, :]
        assert np.hypot(*np.moveaxis(gaps, -1, 0)).min() > 2.0
    images = np.random.default_rng(1).normal(size=(2, 3, 64, 64))
    for reader, features in (("linear", zones.linear(images)), ("profile", zones.profile(images))):
        parts = [zones.columns(z, reader, 3) for z in (INSIDE, EDGE, OUTSIDE)]
        assert sorted(np.concatenate(parts)) == list(range(features.shape[1]))
        assert len(zones.columns(WHOLE, reader, 3)) == features.shape[1]
    linear = zones.linear(images)[:, zones.columns(INSIDE, "linear", 3)]
    np.testing.assert_allclose(
        linear, images[..., planes[INSIDE]].reshape(2, -1).astype(np.float32)
    )


@pytest.mark.parametrize("reader", list(READERS))
def test_a_planted_shortcut_is_seen_by_a_and_costs_b(reader: str) -> None:
    """Feature 0 is a weak arc, feature 1 a mark that only the fixed class carries."""
    rng = np.random.default_rng(2)
    ctrl = rng.normal(size=(N, 2))
    plain = ctrl + np.array([1.0, 0.0])
    fixed = ctrl + np.array([1.0, 8.0])
    fold, use = np.arange(N) % 5, np.ones(N, bool)

    def auc(scores: tuple[np.ndarray, np.ndarray]) -> float:
        return float((scores[0][:, None] > scores[1][None, :]).mean())

    assert auc(across(reader, fixed, plain, fixed, plain, fold, use, use)) > 0.99
    honest = auc(across(reader, plain, ctrl, plain, ctrl, fold, use, use))
    misled = auc(across(reader, fixed, ctrl, plain, ctrl, fold, use, use))
    assert honest > 0.68
    assert misled < honest - 0.05
    # What is learned by heart is not read back: no model sees its own training rows.
    noise = rng.normal(size=(2, N, 2))
    assert abs(auc(across(reader, *noise, *noise, fold, use, use)) - 0.5) < 0.1
    # Equal classes are not a test, and no coin's luck.
    told = across(reader, ctrl, ctrl, ctrl, ctrl, fold, use, use)
    assert not np.any(told)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's file on the tiny sky of the runs' tests."""
    folder = tmp_path_factory.mktemp("study")
    experiment = Setting(folder, repeats=2).experiment.model_dump(mode="json")
    experiment["plan"]["control_fraction"] = 0.0
    experiment["study"] = {
        "pairs": 60,
        "arms": {
            "none": {},
            "same": {},
            "mask": {"fix.core_mask.radius_px": 3},
            "floor": {"fix.theta_e_min": 0.75},
            "input": {"view.input_mask.radius_px": 3},
            "capped": {"fix.src_reff_max": 0.15},
            "matched": {"fix.core_matched_negatives": True},
        },
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(experiment))
    return folder


def make_and_read(client: Client, folder: str, ready: study.Ready, on_step: Any) -> study.Read:
    study.make_study(client, folder, ready, on_step)
    return study.read_study(folder, ready)


def test_a_whole_study(small: Path, threads: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    few_trees = functools.partial(HistGradientBoostingClassifier, max_iter=3, random_state=0)
    monkeypatch.setitem(READERS, "profile", few_trees)
    loaded: list[str] = []

    def counted(rows: pd.DataFrame, experiment: Experiment) -> Cutouts:
        loaded.append(str(rows["brick"].iloc[0]))
        return load_brick(rows, experiment)

    monkeypatch.setattr(study.parts, "load_brick", counted)
    settings, arms = study.load_study(str(small / "study.yaml"))
    out, steps = str(small / "out"), []
    ready = study.prepare_study(settings, arms)
    read = make_and_read(threads, out, ready, lambda *step: steps.append(step))
    results = read.results
    assert {what for what, _, _ in steps} == {"make arms", "read arms"}
    assert len(loaded) == len(set(loaded)) == 4  # each brick once, for all arms
    found = study.compare(results, settings, arms[0].experiment.seed)
    use = {name: result.scores["use"] for name, result in results.items()}
    np.testing.assert_array_equal(
        use["floor"], use["none"] & (results["none"].scores["theta_e"] >= np.float32(0.75))
    )
    same = found.table[found.table["arm"] == "same"]
    assert (same["difference"].dropna() == 0.0).all()
    kept = line_of(found.table, "mask", "flux_kept")
    full = line_of(found.table, "none", "flux_kept")
    assert kept is not None
    assert full is not None
    assert full["value"] == 1.0
    assert 0.0 < kept["value"] < 1.0
    told = line_of(found.table, "input", "a", reader="linear", zone=WHOLE)
    assert told is not None
    assert told["value"] == 0.5  # what is done to both classes on read cannot tell them apart
    # Nor does it leave either class its core, while physics keeps it.
    (part,) = Path(out, "parts").glob("input-*/000000.npz")
    data = store.decode_statistics(part.read_bytes())
    inside = zones_of(CoreMask(radius_px=3), 16).columns(INSIDE, "linear", 3)
    assert len(inside) > 0
    for kind in ("fixed", "negative", "plain", "ctrl"):
        assert not data[f"linear_{kind}"][:, inside].any()
    # Two fits of the same pixels: the last bit of a BLAS sum follows where an array lies in memory.
    physics = (results[n].scores["physics_pos"] for n in ("input", "none"))
    np.testing.assert_allclose(*physics, rtol=1e-12)
    # An arm's physics is its own lenses and sources, with nothing done to pixels.
    cores = {}
    for name in ("none", "mask", "floor", "capped"):
        (part,) = Path(out, "parts").glob(f"{name}-*/000000.npz")
        cores[name] = store.decode_statistics(part.read_bytes())["core_physics"]
    np.testing.assert_array_equal(cores["mask"], cores["none"])
    np.testing.assert_array_equal(cores["floor"], cores["none"])
    assert (cores["capped"] != cores["none"]).any()
    # What is read on plain arcs is the arm's own classes' doing.
    for name in ("capped", "matched"):
        taught, plain = (results[n].scores["b_linear_whole_pos"] for n in (name, "none"))
        assert (taught != plain).any()
    # What a mask hides on read is lost to a reader as if it had been taken from the arc.
    hidden = line_of(found.table, "input", "flux_kept")
    assert hidden is not None
    assert hidden["value"] == pytest.approx(kept["value"], rel=1e-3)
    # Arcs of every arm are drawn again, whatever their rows' fix says.
    np.testing.assert_array_equal(use["capped"], use["none"])
    small_arcs, all_arcs = (results[name].scores for name in ("capped", "none"))
    assert (small_arcs["flux"] != all_arcs["flux"]).any()
    # The negatives of `matched` hold their partners' light in the core, band by band.
    (part,) = Path(out, "parts").glob("matched-*/000000.npz")
    data = store.decode_statistics(part.read_bytes())
    light = (data[f"core_{kind}"] - data["core_ctrl"] for kind in ("fixed", "negative"))
    fixed, negative = (v.reshape(len(v), 3, -1).sum(axis=-1)[data["use"]] for v in light)
    assert (fixed > 0).all()
    np.testing.assert_allclose(negative, fixed, rtol=2e-3)
    # They can be told from plain ctrl; those of the other arms are plain ctrl.
    for name in ("matched", "mask"):
        line = line_of(found.table, name, "c", reader="linear", zone=WHOLE)
        assert line is not None
        assert (line["note"] == "") == (name == "matched")
        gaps = (line_of(found.table, name, "brightness_gap", zone=z) for z in ("ctrl", "negatives"))
        before, own = (abs(gap["value"]) for gap in gaps if gap is not None)
        assert (own < 0.01 < 0.1 < before) == (name == "matched")
    # Every planned pair has an outcome.
    assert len(read.rows) == 80
    assert read.rows["outcome"].value_counts().to_dict() == {"read": 60, "spare": 20}
    assert read.sentence(60) == "pairs: 60 of the 60 asked for are read, of 80 planned; 20 spare"
    of_floor = read.outcomes.set_index(["arm", "outcome"])["pairs"]
    assert of_floor["floor", "in_use"] == use["floor"].sum()
    assert of_floor["floor", "excluded_by_theta_e_min"] == 60 - use["floor"].sum()
    # A file that something cut short is named, and made again once it is away.
    (result,) = Path(out, "results").glob("same-*.npz")
    (part,) = Path(out, "parts").glob("same-*/000000.npz")
    for place in (result, part):
        place.write_bytes(place.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"{result} is cut short or damaged; remove it"):
        make_and_read(threads, out, ready, lambda *_: None)
    with pytest.raises(UserError, match=rf"{part} is cut short or damaged; remove it"):
        graph.judge_arm(out, ready.keys["same"], 1, arms[1], 60, ready.reading)
    part.unlink()
    (leak,) = Path(out, "results").glob("same-*.parquet")
    leak.unlink()
    assert not study.is_made(out, ready)
    again = make_and_read(threads, out, ready, lambda *_: None)
    pd.testing.assert_frame_equal(again.results["same"].leak, results["same"].leak)
    (rows,) = Path(out, "rows").glob("*/000000.parquet")
    rows.write_bytes(rows.read_bytes()[:-100])
    with pytest.raises(UserError, match=rf"{rows} is cut short or damaged; remove it"):
        make_and_read(threads, out, ready, lambda *_: None)
    rows.unlink()
    assert not study.is_made(out, ready)
    again = make_and_read(threads, out, ready, lambda *_: None)
    pd.testing.assert_frame_equal(again.rows, read.rows)
    # Called again, it makes nothing, starts no cluster, and says the same.
    monkeypatch.setattr(graph, "make_piece", None)
    monkeypatch.setattr(graph, "judge_arm", None)
    monkeypatch.setattr(commands.studies, "connect", None)
    assert study.is_made(out, ready)
    said = io.StringIO()
    console = Console(file=said, width=200)
    outcome = commands.run_study(str(small / "study.yaml"), out=out, console=console)
    pd.testing.assert_frame_equal(outcome.conclusion.table, found.table)
    assert read.sentence(60) in said.getvalue()
    written = {path.name for path in Path(out).iterdir() if path.is_file()}
    assert written == {
        "table.csv", "table.parquet", "pairs.parquet", "outcomes.csv", "notes.txt", "summary.md",
        "picture.png", "study.yaml", "study.html",
    }  # fmt: skip
    page = Path(outcome.page).read_text()
    assert found.sentence.split(",")[0] in page
    assert read.sentence(60) in page
    summary = Path(out, "summary.md").read_text()
    assert summary.count("\n| ") == 2 * (len(arms) + 1)  # all numbers, and by stratum


def test_other_coadds_are_another_study(small: Path, tmp_path: Path) -> None:
    """The same targets and place, and another file in it: nothing of what was made before is taken."""
    root = tmp_path / "sky"
    shutil.copytree(small / "sky", root)
    settings, arms = study.load_study(str(small / "study.yaml"), {"survey.root": str(root)})
    ready = study.prepare_study(settings, arms)
    assert ready.keys == study.prepare_study(settings, arms).keys
    image = sorted(root.rglob("*-image-r.fits.fz"))[-1]
    image.write_bytes(image.read_bytes() + bytes(2880))
    made = study.prepare_study(settings, arms)
    assert not set(made.keys.values()) & set(ready.keys.values())


def test_coadds_with_checksums_are_the_same_where_they_are_copied(tmp_path: Path) -> None:
    brick = small_brick.BRICK
    for name in ("here", "there"):
        small_brick.write_brick(tmp_path / name)
        sums = Path(Survey(str(tmp_path / name)).checksums_url(brick))
        sums.parent.mkdir(parents=True)
        sums.write_text("aa  legacysurvey-x.fits.fz\n")
    document = {"targets": {"path": "t.csv"}, "lens": {"theta_e": 1.0}}

    def of(name: str) -> str:
        experiment = parse_experiment({**document, "survey": {"root": str(tmp_path / name)}})
        return fingerprint(experiment, [brick])

    assert of("here") == of("there")
    sums.write_text("bb  legacysurvey-x.fits.fz\n")
    assert of("here") != of("there")
    sums.unlink()
    known = of("there")
    small_brick.path_of(tmp_path / "there", "maskbits").unlink()
    assert of("there") != known


def test_a_study_looks_at_its_targets_before_it_starts_a_cluster(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands.studies, "connect", None)
    for change, says in (
        ({"targets.path": str(small / "gone.csv")}, "gone.csv"),
        ({"study.pairs": 5000}, "the study has 80 pairs"),
        ({"survey.root": str(small / "nowhere")}, "no .*coadds|has coadds"),
    ):
        with pytest.raises(UserError, match=says):
            commands.run_study(
                str(small / "study.yaml"), out=str(small / "never"), overrides=change
            )


def test_a_sky_is_made_once_and_another_one_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def select(roots: Any, table: str, **how: Any) -> None:
        calls.append("targets")
        if len(calls) == 2:
            raise KeyboardInterrupt  # before the table is there
        Path(table).write_text("")

    monkeypatch.setattr(commands.studies, "sky", lambda root, **how: calls.append("sky"))
    monkeypatch.setattr(commands.studies, "targets", select)
    folder = str(tmp_path)

    def make(**sky: Any) -> dict[str, str]:
        console = Console(file=io.StringIO())
        return commands.studies.make_sky(study.Sky(**sky), folder, None, console)

    def refused() -> None:
        with pytest.raises(
            UserError, match=r"holds another sky \(bricks 6, seed 5\).*another --out"
        ):
            make(bricks=5, seed=4)

    with pytest.raises(KeyboardInterrupt):
        make(bricks=6)
    refused()
    for _ in range(2):
        places = make(bricks=6)
    assert places == {"survey.root": f"{folder}/sky", "targets.path": f"{folder}/targets.parquet"}
    refused()
    assert calls == ["sky", "targets"] * 2


def test_what_an_outage_leaves_is_made_again(
    small: Path, tmp_path: Path, threads: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, arms = study.load_study(str(small / "study.yaml"))
    ready = study.prepare_study(settings, arms[:1])
    targets = [ready.plan.targets_of(brick) for brick in ready.pieces[0]]
    make = functools.partial(
        graph.make_piece, str(tmp_path), 0, targets, arms[0], arms[:1], ready.keys, ready.reading
    )

    def failing(reason: Reason) -> Any:
        def load(rows: pd.DataFrame, experiment: Experiment) -> Cutouts:
            found = load_brick(rows, experiment)
            codes = np.full_like(found.reason, reason)
            return dataclasses.replace(found, reason=codes, notes=["it is away."])

        return load

    with monkeypatch.context() as patched:
        patched.setattr(study.parts, "load_brick", failing(Reason.UNREADABLE))
        assert make() == "it is away."
        assert not list(tmp_path.rglob("*"))
        with pytest.raises(Incomplete, match=r"out of reach for 1 of 1 groups .* it is away; call"):
            graph._make_parts(threads, str(tmp_path), ready, arms[:1], lambda *_: None)
        # What a release lacks is no outage: its rows stay, with their reason, and the file is named.
        patched.setattr(study.parts, "load_brick", failing(Reason.MISSING_FILE))
        assert make() == ""
    (place,) = tmp_path.rglob("000000.parquet")
    rows = pd.read_parquet(place)
    assert set(rows["outcome"]) == {"missing_file"}
    assert rows.attrs["notes"][0] == "it is away."


def test_a_mark_beside_the_arc_is_a_leak_and_physics_is_none(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mark in a corner of an arm's stamps, from pixels to its leak map; and its negatives' own light."""
    _, all_arms = study.load_study(str(small / "study.yaml"), {"source.mag": 23.5})
    arms = {arm.name: arm for arm in all_arms if arm.name in ("none", "matched")}

    def marked(rows: Any, cutouts: Any, experiment: Experiment, **how: Any) -> Any:
        cube = inject_brick(rows, cutouts, experiment, **how)
        if experiment.fix.core_matched_negatives:
            lensed = (cube["lens_model"].values > 0)[:, None, None, None]
            mark = 4.0 * cube["sky_sigma"].values[:, :, None, None]
            cube["arc"].values[..., :2, :2] += np.where(lensed, mark, 0.0)
        return cube

    monkeypatch.setattr(study.parts, "inject_brick", marked)
    plan = prepare.plan_of(arms["none"].experiment)
    spec = prepare.spec_of(arms["none"].experiment, prepare.planned_strata(plan), n_regions=4)
    bricks = [
        brick_part(plan.targets_of(b), arms["none"], list(arms.values()), Reading(spec, 1.0)).arms
        for b in plan.bricks
    ]
    data = {name: joined([brick[name] for brick in bricks], 80) for name in arms}
    none, matched = (
        _leak(data[name], arms[name], data[name]["use"], spec).set_index("part") for name in arms
    )
    assert none["excess"].abs().max() < 0.01
    assert none["auc_rerendered"]["0-3 px"] > 0.9
    assert matched["excess"].idxmax() == "x 0.5, y 0.5"
    assert matched["excess"].max() > 0.25
    # Its negatives are as bright as its stamps, and its physics brighter than both.
    assert matched["auc"]["0-3 px"] < 0.6
    assert matched["auc_rerendered"]["0-3 px"] > 0.75
    arcs = [part["whole_physics"] - part["whole_negative"] for part in data.values()]
    assert arcs[0].max() > 1
    np.testing.assert_allclose(arcs[1], arcs[0], atol=1e-3)


def test_the_pairs_of_the_lowest_hashes_are_read_and_not_the_first_bricks(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all that an arm has, and of the whole stamps of its leak map."""
    _, arms = study.load_study(str(small / "study.yaml"))
    n = MOST + 200
    hashes = np.random.default_rng(4).permutation(n).astype(np.uint64)
    data: dict[str, Any] = {"hash": hashes, "sound": np.ones(n, bool), "use": hashes % 5 != 1}
    data |= {"host": np.arange(n), "region": np.arange(n).astype(np.uint64), "whole_hash": hashes}
    for name in ("fixed", "negative", "physics", "good"):
        data[f"whole_{name}"] = hashes[:, None, None, None]
    halves = [{k: v[part] for k, v in data.items()} for part in (slice(n // 2), slice(n // 2, n))]
    pairs = n - 50
    of_both = joined(halves, pairs)
    assert of_both["hash"].tolist() == list(range(pairs))
    assert set(of_both["whole_hash"].tolist()) == set(range(pairs))
    seen: list[Stamps] = []
    monkeypatch.setattr(study.readers, "leak_map", lambda stamps, spec: seen.append(stamps))
    spec: Any = None
    _leak(of_both, arms[0], of_both["use"], spec)
    lowest = [h for h in range(pairs) if h % 5 != 1][:MOST]
    assert seen[0].hashes.tolist() == lowest
    assert seen[0].seen.ravel().tolist() == lowest
    assert of_both["host"][seen[0].row].tolist() == seen[0].host.tolist()


def test_a_study_ends_as_soon_as_its_bricks_leave_too_few_pairs(
    small: Path, tmp_path: Path, threads: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 80 pairs in four bricks, 60 are asked for; after two bricks 40 can be there at most."""

    def lost(rows: pd.DataFrame, experiment: Experiment) -> Cutouts:
        found = load_brick(rows, experiment)
        return dataclasses.replace(found, reason=np.full_like(found.reason, Reason.MISSING_FILE))

    monkeypatch.setattr(graph, "PIECE_ROWS", 20)
    monkeypatch.setattr(study.parts, "load_brick", lost)
    settings, arms = study.load_study(str(small / "study.yaml"))
    ready = study.prepare_study(settings, arms[:1])
    assert len(ready.pieces) == 4
    with pytest.raises(UserError, match=r"has at most 40 pairs with every band, and .* for 60"):
        make_and_read(threads, str(tmp_path), ready, lambda *_: None)


def test_matched_controls_are_other_galaxies_of_the_fold_as_bright_and_taken_once() -> None:
    rng = np.random.default_rng(3)
    n, bands = 400, 2
    core = rng.lognormal(0, 1, (n, bands, 1)) * np.ones(100)
    data = {
        "host": np.arange(n) // 2,
        "core_negative": core.reshape(n, -1),
        "core_fixed": (core * rng.uniform(1.0, 1.5, (n, 1, 1))).reshape(n, -1),
    }
    fold, use = np.arange(n) // 2 % 2, np.arange(n) < 390
    row = _matched(data, fold, use, bands)
    found = np.flatnonzero(row >= 0)
    assert len(found) > 100
    assert use[found].all()
    assert use[row[found]].all()
    assert (data["host"][row[found]] != data["host"][found]).all()
    assert (fold[row[found]] == fold[found]).all()
    assert len(np.unique(row[found])) == len(found)
    light = [data[k].reshape(n, bands, -1).sum(-1) for k in ("core_fixed", "core_negative")]
    for stamp, negative in zip(light[0].T, light[1].T, strict=True):
        soft = np.median(np.concatenate([stamp[use], negative[use]]))
        stamp, negative = np.arcsinh(stamp / soft), np.arcsinh(negative / soft)
        gap = (stamp[found] - negative[row[found]]) / stamp[use].std()
        assert np.abs(gap).max() < 0.2001  # the caliper, in every band
        before = (stamp - negative)[use].mean() / stamp[use].std()
        assert abs(gap.mean()) < 0.5 * before


def test_a_plan_with_controls_is_read_by_its_injections(small: Path) -> None:
    """Also where all rows of a galaxy are controls."""
    file = str(small / "study.yaml")
    _, arms = study.load_study(file, {"plan.control_fraction": 0.6, "plan.repeats": 1})
    plan = prepare.plan_of(arms[0].experiment)
    spec = prepare.spec_of(arms[0].experiment, prepare.planned_strata(plan), n_regions=4)
    targets = plan.targets_of(plan.bricks[0])
    asked = [arms[0], *(arm for arm in arms if arm.name == "matched")]
    parts = brick_part(targets, arms[0], asked, Reading(spec, 1.0)).arms
    rows = plan.brick_rows(str(plan.bricks[0]))
    lensed = int((rows["lens_model"] > 0).sum())
    assert 0 < lensed < len(rows)
    for part in parts.values():
        assert part["use"].sum() == len(part["hash"]) == lensed


def test_mistakes_in_a_study_are_one_sentence(small: Path) -> None:
    file = small / "study.yaml"
    document = yaml.safe_load(file.read_text())

    def said(change: dict[str, Any]) -> str:
        wrong = small / "wrong.yaml"
        wrong.write_text(yaml.safe_dump(document | change))
        with pytest.raises(UserError) as caught:
            study.load_study(str(wrong))
        return str(caught.value)

    assert "needs an arm none" in said({"study": {"arms": {"mask": {}}}})
    seeds = {"study": {"arms": {"none": {}, "other": {"seed": 5}}}}
    assert "changes seed, which all arms share" in said(seeds)
    assert "pairs" in said({"study": {"pairs": 3, "arms": {"none": {}}}})
    view = {"study": {"arms": {"none": {}, "odd": {"view.blur": 1}}}}
    assert "view.blur is not a key; known keys: input_mask, normalize, match_controls" in said(view)
    inside = {"study": {"arms": {"none": {}, "odd": {"view.input_mask.blur": 1}}}}
    assert "view.input_mask.blur is not a key; known keys: shape, radius_px" in said(inside)
    rule = {"study": {"rules": {"core": 0.6}, "arms": {"none": {}}}}
    assert "study.rules.core is not a key; known keys: core_auc, leak" in said(rule)
    yes = {"study": {"rules": {"leak": True}, "arms": {"none": {}}}}
    assert "study.rules.leak is wrong" in said(yes)
    lens = {"study": {"arms": {"none": {}, "large": {"lens.theta_e": {"uniform": [2, 2.5]}}}}}
    assert "study.arms.large changes lens, which all arms share" in said(lens)
    grid = {"study": {"arms": {"none": {}, "one": {"source.n": 1}}}}
    source = {**document["source"], "n": [1, 4]}
    assert "has 1 rows for each target and repeat, where none has 2" in said(
        grid | {"source": source}
    )
    everywhere = {"fix": {"core_mask": {"radius_px": 5}}}
    assert "has a fix for all arms, none among them" in said(everywhere)
    images = {"source.model": "image", "source.catalogue": "cosmos.fits"}
    source = {**document["source"], "q": 0.5}
    arms = {"study": {"arms": {"none": {}, "cosmos": images}}, "source": source}
    assert "an arm takes a key out with null" in said(arms)
    for key in ("seed.x", "source.mag.x", "source.blur", "view.normalize", "away.x"):
        out = {"study": {"arms": {"none": {}, "odd": {key: None}}}}
        assert f"an arm takes {key} out with null, which is no key of the file" in said(out)
    for key, value in (("gates.required", []), ("name", "x"), ("cluster.workers", None)):
        idle = {"study": {"arms": {"none": {}, "odd": {key: value}}}}
        assert f"study.arms.odd changes {key}, which does nothing to an arm" in said(idle)
    del document["study"]
    assert "no section study" in said({})


def test_an_arm_takes_keys_out_and_names_files_beside_its_own(small: Path) -> None:
    document = yaml.safe_load((small / "study.yaml").read_text())
    document["source"] |= {"q": 0.5, "reff": 0.3}
    images = {"source.model": "image", "source.catalogue": "cosmos.fits"}
    out = {"source.q": None, "source.reff": None}
    document["study"]["arms"] = {"none": {}, "cosmos": images | out}
    (small / "cosmos.yaml").write_text(yaml.safe_dump(document))
    _, (none, cosmos) = study.load_study(str(small / "cosmos.yaml"))
    assert cosmos.experiment.source.catalogue == str(small / "cosmos.fits")
    assert none.experiment.source.q != cosmos.experiment.source.q


def test_names_beside_points_do_not_touch() -> None:
    x, y = [-0.15, -0.149, -0.16, LABEL_ROOM], [0.95, 0.95, 0.948, 0.95]
    heights = _label_heights(x, y)
    gaps = np.diff(np.sort(heights[:3]))
    assert gaps.min() == pytest.approx(LABEL_GAP)
    assert heights[3] == 0.95  # far from them it stays where it is
