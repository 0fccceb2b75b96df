"""Leak map, alignment, metadata, groups: silent on clean pairs, and each finds what it is for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from audit_pairs import SIZE, SKY, clean, names, run_audit, spec_of, with_arc
from scipy.ndimage import gaussian_filter
from scipy.ndimage import shift as moved
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from darkhaloscope.audit import AuditResult, GateLimits
from darkhaloscope.audit.alignment import displacement
from darkhaloscope.audit.hypotheses import Hypothesis, holm, judged
from darkhaloscope.audit.leak_map import BLOCK, Stamps, linear_scores
from darkhaloscope.audit.selection import class_auc
from darkhaloscope.audit.shape import group_table, group_tests, quadrant_table

pytestmark = pytest.mark.usefixtures("remembered")

UNIT = SKY[None, :, None, None]


@pytest.fixture(scope="module")
def untouched() -> AuditResult:
    return run_audit(clean())


def test_clean_pairs_raise_no_alarm(untouched: AuditResult) -> None:
    tests = untouched.tables["tests"]
    assert set(tests["test"]) == {
        "noise_one_class", "leak", "nonlinear_excess", "stamp_displaced", "split_differs",
        "selection_shortcut", "parameters_dependent", "other_target", "controls_differ",
    }  # fmt: skip
    assert (tests["p_holm"] > 0.05).all()
    assert untouched.verdict["verdict"] == "physics"


def test_shapes_are_those_of_the_rerendered_arcs(untouched: AuditResult) -> None:
    core = untouched.tables["core"]
    assert set(core["family"]) == {"all", "theta_e", "theta_e_coarse"}
    np.testing.assert_allclose(core["value"], core["rerendered"], rtol=1e-3)
    wide = core[(core["quantity"] == "core_fraction") & (core["family"] == "theta_e_coarse")]
    assert list(wide["stratum"]) == ["< 1", "1-2", ">= 2"]
    assert wide["value"].is_monotonic_decreasing
    quadrants = untouched.tables["quadrants"]
    assert quadrants["value"].sum() == pytest.approx(1.0, abs=1e-6)
    shifts = untouched.tables["shift_sensitivity"].set_index(["dy", "dx"])["mean"]
    assert shifts.idxmin() == (0, 0)  # a galaxy moved away leaves light behind


def test_a_faint_patch_in_a_corner_is_found_where_it_is() -> None:
    patch = np.zeros((1, 3, SIZE, SIZE))
    patch[:, 1, 42:, 42:] = 0.5 * SKY[1]
    result = run_audit(with_arc(clean(), lambda arc: arc + patch))
    assert names(result) == ["stray_pixels"]
    assert "36 of 2304 pixels (x 42 to 47, y 42 to 47)" in result.verdict["sentence"]
    leak = result.tables["leak_map"]
    blocks = leak[leak["reader"] == BLOCK]
    worst = blocks.loc[blocks["excess"].idxmax()]
    assert (worst.x, worst.y) == (44.5, 44.5)
    assert (blocks["excess"].abs() > 0.02).sum() == 1


@pytest.mark.long
def test_a_glow_far_out_is_a_leak() -> None:
    """Too faint and too smooth for a pixel to be off by itself."""
    axis = np.arange(SIZE)
    glow = 0.09 * np.exp(-0.5 * ((axis - 41) / 3) ** 2)
    result = run_audit(
        with_arc(clean(), lambda arc: arc + SKY[None, :, None, None] * glow[:, None])
    )
    assert "leak" in names(result)


def test_a_ctrl_of_another_place_is_called_displaced() -> None:
    ds = clean()

    def change(arc: np.ndarray) -> np.ndarray:
        ctrl = ds["ctrl"].values[: len(arc)].astype(float)
        return arc + moved(ctrl, (0, 0, 0, 0.4), order=3, mode="nearest") - ctrl

    result = run_audit(with_arc(ds, change))
    assert "stamp_displaced" in names(result)
    # Noise of half a pixel is undersampled, so that gradients fall short of it.
    assert result.tables["alignment"]["dx"].median() == pytest.approx(0.4, abs=0.08)


def test_controls_of_another_seeing_are_a_shortcut() -> None:
    ds = clean().copy(deep=True)
    ds["psfsize"].values[ds["lens_model"].values == 0] *= 1.3
    result = run_audit(ds)
    assert result.verdict["verdict"] == "shortcut"
    assert names(result) == ["selection_shortcut"]
    assert "psfsize" in result.verdict["sentence"]


def test_one_split_that_differs_is_named() -> None:
    ds = clean()
    val = (ds["region_split"].values == 1)[: int((ds["lens_model"] > 0).sum())]
    result = run_audit(
        with_arc(ds, lambda arc: arc * np.where(val, 1.03, 1.0)[:, None, None, None])
    )
    assert "split_differs" in names(result)
    says = next(c for c in result.verdict["causes"] if c["name"] == "split_differs")["evidence"]
    assert "1.030 where split is val" in says


@pytest.mark.parametrize("by", ["split", "psf_source"])
@pytest.mark.parametrize(("dx", "found"), [(0.0, []), (0.2, ["dx r"])])
def test_a_group_that_is_only_noisier_does_not_differ(dx: float, found: list[str], by: str) -> None:
    """Noise makes every shift longer, in no direction."""
    rng = np.random.default_rng(5)
    n = 600
    val = np.arange(n) % 2 == 1
    off = rng.normal(size=(n, 2)) * np.where(val, 0.3, 0.05)[:, None]
    off[val, 0] += dx
    pairs = pd.DataFrame(
        {"hash": np.arange(n, dtype=np.uint64), "band": "r", "flux_ratio": 1.0, "width_ratio": 1.0,
         "dx": off[:, 0], "dy": off[:, 1], "shift": np.hypot(*off.T)}
    )  # fmt: skip
    stats = {
        "row_hash": np.arange(n, dtype=np.uint64),
        "row_region_split": val.astype(np.uint8) * (by == "split"),
        "row_psf_source": np.repeat(val[:, None], 3, axis=1).astype(np.uint8) * (by != "split"),
    }
    spec = spec_of(clean())
    _, causes = judged(group_tests(group_table(pairs, stats, spec), GateLimits()))
    assert [c.evidence.split("; ")[1].split(":")[0] for c in causes] == found
    assert {c.name for c in causes} <= {f"{by}_differs"}


def test_quadrants_are_those_of_the_sky() -> None:
    """North is up and East to the left."""
    spec = spec_of(clean())
    image = np.zeros((1, 3, SIZE, SIZE))
    image[:, :, 30, 10] = 1.0
    no = np.zeros(1, np.int64)
    stamps = Stamps(np.zeros_like(image), image, None, image == image, no, no, no, no)
    stats = {"row_target_x": np.full(1, 23.5), "row_target_y": np.full(1, 23.5)}
    table = quadrant_table(stamps, stats, spec).set_index("quadrant")
    assert table["value"].to_dict() == {"NE": 1.0, "NW": 0.0, "SE": 0.0, "SW": 0.0}


def test_less_light_than_the_source_has_is_no_lens() -> None:
    ds = clean().copy(deep=True)
    ds["magnification"].values[3] = 0.4
    ds["arc_flux_total"].values[3] = 0.4 * ds["src_flux"].values[3]
    assert "magnification_below_one" in names(run_audit(ds))


def test_holm_is_holm() -> None:
    # Worked by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, then never below the one before.
    np.testing.assert_allclose(
        holm([0.01, 0.04, 0.03, 0.005, np.nan]), [0.03, 0.06, 0.06, 0.02, np.nan]
    )


def test_the_family_of_tests_alarms_once_in_a_thousand() -> None:
    rng = np.random.default_rng(1)

    def alarms(p: np.ndarray) -> bool:
        tests = [Hypothesis("t", str(k), 1, (0, 2), 0, 9, v, "bug", "") for k, v in enumerate(p)]
        return bool(judged(tests)[1])

    found = sum(alarms(p) for p in rng.uniform(size=(2000, 100)))
    assert found <= 8  # 2 expected; more than 8 has a chance of 1e-4
    assert alarms(np.array([1e-6, *rng.uniform(size=99)]))


def test_displacements_are_those_that_were_made() -> None:
    rng = np.random.default_rng(2)
    sky = gaussian_filter(rng.normal(size=(64, 64)), 2.0)
    good = np.ones((64, 64), dtype=bool)
    good[24:40, 24:40] = False  # an arc
    for dx, dy in ((0.3, -0.2), (1.0, 0.0), (-2.4, 1.7)):
        stamp = moved(sky, (dy, dx), order=5)
        stamp[~good] += 10.0
        assert displacement(stamp, sky, good)[:2] == pytest.approx((dx, dy), abs=0.02)
    assert displacement(sky, sky, good) == (0.0, 0.0, 1.0)
    assert np.isnan(displacement(sky, sky, good & False)[0])


def test_areas_and_readers_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    label = rng.uniform(size=400) < 0.3
    score = np.round(rng.normal(size=400) + label, 1)
    value, replicates, n = class_auc(score, label, rng.integers(0, 25, 400), 7)
    assert value == pytest.approx(roc_auc_score(label, score))
    assert n == 25
    assert np.nanstd(replicates) == pytest.approx(0.027, rel=0.3)  # Hanley & McNeil (1982)
    stamp, ctrl = rng.normal(0.4, 1, (300, 3)), rng.normal(0, 1, (300, 3))
    fold = np.arange(300) % 5
    pos, neg = linear_scores(stamp, ctrl, fold)
    train = fold != 0
    model = LogisticRegression(C=1e6).fit(
        np.concatenate([stamp[train], ctrl[train]]), np.repeat([1, 0], int(train.sum()))
    )
    ours, theirs = (
        np.concatenate([pos[~train], neg[~train]]),
        np.concatenate([model.decision_function(v[~train]) for v in (stamp, ctrl)]),
    )
    assert np.corrcoef(ours, theirs)[0, 1] > 0.999


def test_the_order_of_rows_changes_nothing(untouched: AuditResult) -> None:
    order = np.random.default_rng(4).permutation(clean().sizes["pair"])
    again = run_audit(clean().isel(pair=order))
    for name in ("leak_map", "alignment", "core"):
        one, two = (r.tables[name].select_dtypes("number") for r in (untouched, again))
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)
