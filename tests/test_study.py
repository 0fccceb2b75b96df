"""The study: what is known of arms whose scores are known, and one whole study of a few stamps."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from distributed import Client
from sklearn.ensemble import HistGradientBoostingClassifier
from small_run import Setting

from darkhaloscope import prepare, store, study
from darkhaloscope.audit.leak_map import LEAK_COLUMNS
from darkhaloscope.config import CoreMask, Experiment
from darkhaloscope.errors import UserError
from darkhaloscope.inject import load_brick
from darkhaloscope.study.compare import Result, line_of
from darkhaloscope.study.parts import Reading, brick_part
from darkhaloscope.study.readers import READERS, across
from darkhaloscope.study.zones import EDGE, INSIDE, OUTSIDE, WHOLE, ZONES, zones_of
from darkhaloscope.survey import Cutouts

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
        "region": (np.arange(N) % REGIONS).astype(np.uint64),
        "theta_e_over_psf": np.full(N, 0.5),
        "flux": np.ones((N, 3)),
        "flux_unfixed": np.ones((N, 3)),
        "core_pos": noise[0] + core,
        "core_neg": noise[1],
        "physics_pos": noise[0] + 1.0,
        "physics_neg": noise[1],
    }
    for reader in READERS:
        for zone in ZONES:
            out[f"a_{reader}_{zone}_pos"] = out[f"a_{reader}_{zone}_neg"] = np.zeros(N)
            out[f"b_{reader}_{zone}_pos"] = noise[0] + found
            out[f"b_{reader}_{zone}_neg"] = noise[1]
    return out


def _result(*args: float, leak: float = 0.0) -> Result:
    line = dict.fromkeys(LEAK_COLUMNS, 0.0) | {"reader": "ring", "part": "3-6 px", "excess": leak}
    line |= {"excess_se": 0.01, "excess_lo": leak - 0.02, "excess_hi": leak + 0.02}
    line |= {"regions": REGIONS, "pairs": N}
    return Result(_scores(*args), pd.DataFrame([line]))


STUDY = study.Study(arms={"none": {}})


def test_an_arm_against_itself_differs_by_exactly_nothing() -> None:
    found = study.compare({"none": _result(1.0, 1.5), "same": _result(1.0, 1.5)}, STUDY, 1)
    same = found.table[found.table["arm"] == "same"].dropna(subset=["difference"])
    assert len(same) > 15
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
    assert only.sentence.startswith("No arm passes")


def test_equal_cores_are_no_evidence_and_an_empty_arm_says_so() -> None:
    """A mask over all of the core passes no rule by being blind there, as in the audit's gate."""
    arms = {"none": _result(1.0, 1.5), "hidden": _result(0.0, 1.5), "empty": _result(0.0, 1.5)}
    hidden, empty = arms["hidden"].scores, arms["empty"].scores
    hidden["core_pos"] = hidden["core_neg"] = np.zeros(N)
    hidden["tied"], empty["use"] = np.ones(N, bool), np.zeros(N, bool)
    found = study.compare(arms, STUDY, 1)
    judged = {j.arm: j for j in found.judged}
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
    unfixed = ctrl + np.array([1.0, 0.0])
    fixed = ctrl + np.array([1.0, 8.0])
    fold, use = np.arange(N) % 5, np.ones(N, bool)

    def auc(scores: tuple[np.ndarray, np.ndarray]) -> float:
        return float((scores[0][:, None] > scores[1][None, :]).mean())

    assert auc(across(reader, fixed, unfixed, fixed, unfixed, fold, use, use)) > 0.99
    honest = auc(across(reader, unfixed, ctrl, unfixed, ctrl, fold, use, use))
    misled = auc(across(reader, fixed, ctrl, unfixed, ctrl, fold, use, use))
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
    results = study.run_study(threads, out, settings, arms, lambda *step: steps.append(step))
    assert {what for what, _, _ in steps} == {"make arms", "read arms"}
    assert len(loaded) == len(set(loaded)) == 4  # each brick once, for all arms
    found = study.compare(results, settings, 1)
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
    for kind in ("fixed", "negative", "unfixed", "ctrl"):
        assert not data[f"linear_{kind}"][:, inside].any()
    # Two fits of the same pixels: the last bit of a BLAS sum follows where an array lies in memory.
    physics = (results[n].scores["physics_pos"] for n in ("input", "none"))
    np.testing.assert_allclose(*physics, rtol=1e-12)
    # What is read on unfixed arcs is the arm's own classes' doing.
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
    page, _ = study.study_page("small", settings, found, "seed: 1\n")
    assert found.sentence.split(",")[0] in page
    assert study.markdown(found).count("\n| ") == len(arms) + 1
    # Called again, it makes nothing, and says the same.
    again: list[Any] = []
    twice = study.run_study(threads, out, settings, arms, lambda *step: again.append(step))
    assert not again
    np.testing.assert_array_equal(
        twice["mask"].scores["core_pos"], results["mask"].scores["core_pos"]
    )


def test_a_plan_with_controls_is_read_by_its_injections(small: Path) -> None:
    """Also where all rows of a galaxy are controls."""
    file = str(small / "study.yaml")
    _, arms = study.load_study(file, {"plan.control_fraction": 0.6, "plan.repeats": 1})
    plan = prepare.plan_of(arms[0].experiment)
    spec = prepare.spec_of(arms[0].experiment, prepare.planned_strata(plan), n_regions=4)
    targets = plan.targets_of(plan.bricks[0])
    asked = [arms[0], *(arm for arm in arms if arm.name == "matched")]
    parts = brick_part(targets, arms[0], asked, Reading(spec, 1.0))
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
    assert "view.blur" in said(view)
    del document["study"]
    assert "no section study" in said({})
