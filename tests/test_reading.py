"""What a network is shown: rows, turns, scales, and second looks that give no class away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from small_pairs import SIGMA, SIZE, small_pairs

from darkhaloscope.config import CoreMask
from darkhaloscope.errors import UserError
from darkhaloscope.views import (
    Looks,
    Reading,
    Scale,
    channels,
    check_separability,
    choose,
    dihedral,
    dihedral_point,
    mask_weight,
    network_input,
    noise_sigma,
    noised,
    separability,
    statistics,
    strata,
    used_widths,
)

ROWS = 640
N = np.arange(ROWS)
INJECTED, GUARD = N % 4 != 3, N % 10 == 0
TRAIN = np.isin(N // 10 % 6, [0, 1, 3, 4]) & ~GUARD


@pytest.fixture(scope="module")
def pairs() -> Any:
    return small_pairs(ROWS, kinds=("core_matched",))


# --- rows -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("negatives", "rows", "image"),
    [("ctrl", INJECTED, 0), ("controls", N % 8 == 3, 0), ("matched", N % 8 == 7, 1)],
)
def test_rows_of_a_split_are_those_of_its_regions_and_no_guards(
    pairs: Any, negatives: Any, rows: Any, image: int
) -> None:
    chosen = choose(pairs, Reading(negatives=negatives), "train")
    assert chosen.positive.tolist() == np.flatnonzero(INJECTED & TRAIN).tolist()
    assert chosen.negative.tolist() == np.flatnonzero(rows & TRAIN).tolist()
    assert chosen.negative_image == image
    others = [choose(pairs, Reading(), split).positive for split in ("val", "test")]
    assert not np.intersect1d(others[0], others[1]).size
    assert not GUARD[np.concatenate(others)].any()


def test_bad_pixels_are_left_out_or_a_pool_with_its_weight(pairs: Any) -> None:
    columns = pairs.copy(deep=True)
    bad = N % 7 == 0
    columns["bad_pixel_frac"].values[bad] = 0.3
    columns["arc_snr"].values[14] = np.nan  # not clean for another reason: in neither
    out = choose(columns, Reading(), "train")
    assert not bad[out.positive].any()
    assert (out.positive_weight == 1).all()
    pool = choose(columns, Reading(bad_pixels={"rows": "pool", "weight": 0.25}), "train")
    assert (pool.positive_weight == np.where(bad[pool.positive], 0.25, 1.0)).all()
    assert pool.positive.tolist() == [n for n in np.flatnonzero(INJECTED & TRAIN) if n != 14]
    # A set without a limit on bad pixels: left out all the same, as said.
    assert not bad[choose(columns, Reading(quality="all"), "train").positive].any()


def test_faint_arcs_are_kept_dropped_weighted(pairs: Any) -> None:
    columns = pairs.copy(deep=True)
    faint = INJECTED & (N % 5 == 1)
    columns["arc_snr"].values[faint] = 0.0
    kept, dropped, weighted = (
        choose(columns, Reading(faint={"rows": rows}), "train")
        for rows in ("keep", "drop", "weight")
    )
    assert faint[kept.positive].any()
    assert not faint[dropped.positive].any()
    assert not faint[dropped.negative].any()  # a pair goes as one
    assert np.allclose(weighted.positive_weight, np.where(faint[weighted.positive], 0.1, 1.0))
    assert np.array_equal(weighted.positive_weight, weighted.negative_weight)


@pytest.mark.parametrize(
    ("reading", "split", "change", "says"),
    [
        ({}, "guard", {}, "no split 'guard' to read"),
        ({"quality": "clean"}, "val", {"arc_snr": np.nan}, "no injections of split val are left: "),
        ({}, "train", {"lens_model": 0}, "has no injections"),
        ({"negatives": "controls"}, "train", {"lens_model": 2}, "plan.control_fraction"),
        ({"negatives": "matched"}, "train", {"negative_kind": 1}, "fix.core_matched_negatives"),
        ({"faint": {"rows": "drop", "at_most": 1e9}}, "test", {}, "faint drop"),
    ],
)
def test_what_leaves_nothing_of_a_class_is_said(
    pairs: Any, reading: dict[str, Any], split: str, change: dict[str, Any], says: str
) -> None:
    columns = pairs.copy(deep=True)
    for name, value in change.items():
        columns[name].values[:] = value
    with pytest.raises(UserError, match=says):
        choose(columns, Reading(**reading), split)
    with pytest.raises(UserError, match="no column region_split"):
        choose(columns.drop_vars("region_split"), Reading(), "train")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"option": "a"}, "the very same pixels"),
        ({"option": "c"}, "stamp - ctrl is exactly 0"),
        ({"second_look": "noised"}, "option b has none"),
        ({"option": "c", "second_look": "reobserved"}, "go together"),
        ({"batch": "paired", "negatives": "controls"}, "needs negatives: ctrl"),
        ({"batch_size": 33}, "even number"),
        ({"quality": "good"}, "the sets are all, clean"),
        ({"faint": {"schedule": [[3, 10.0], [1, 5.0]]}}, "grow"),
    ],
)
def test_readings_that_make_no_sense_are_refused(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Reading(**keys)


# --- pixels -----------------------------------------------------------------------------------------


def spot(x: float, y: float) -> np.ndarray:
    at = np.arange(SIZE)
    return np.exp(-0.5 * (((at - x) / 2.0) ** 2 + ((at[:, None] - y) / 1.2) ** 2))


def test_a_turn_keeps_the_pixel_convention() -> None:
    """A sub-pixel target, and the mask about it, go where the image goes: exactly, for all eight."""
    x, y = 8.3, 6.9
    mask = CoreMask(radius_px=3.5, taper_px=1.0)
    image, weight = spot(x, y), mask_weight(mask, SIZE, np.array([x]), np.array([y]))[0, 0]
    turned = [dihedral(image, k) for k in range(8)]
    assert len({t.tobytes() for t in turned}) == 8
    for k, found in enumerate(turned):
        there = dihedral_point(x, y, SIZE, k)
        wide, narrow = (2.0, 1.2) if k % 2 == 0 else (1.2, 2.0)
        at = np.arange(SIZE)
        drawn = np.exp(
            -0.5 * (((at - there[0]) / wide) ** 2 + ((at[:, None] - there[1]) / narrow) ** 2)
        )
        np.testing.assert_allclose(found, drawn, rtol=1e-12)
        again = mask_weight(mask, SIZE, *(np.array([v]) for v in there))[0, 0]
        np.testing.assert_allclose(dihedral(weight, k), again, atol=1e-12)
        # About pixel N / 2 it would be half a pixel off, or a whole one: the test sees that.
        wrong = [v + 1.0 * (v != w) for v, w in zip(there, (x, y), strict=True)]
        if k:
            off = mask_weight(mask, SIZE, *(np.array([v]) for v in wrong))[0, 0]
            assert np.abs(dihedral(weight, k) - off).max() > 0.1


@pytest.mark.parametrize("normalize", ["raw", "annulus", "global"])
def test_pixels_without_data_end_at_zero_and_scales_are_as_said(normalize: Any) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(3.0, 2.0, (4, 3, 64, 64)).astype(np.float32)
    empty = np.zeros(images.shape, bool)
    empty[:, 1, :, :20] = True
    images[empty] = np.nan
    scale = Scale((3.0, 3.0, 3.0), (2.0, 2.0, 2.0))
    seen = network_input(images, empty, Reading(normalize=normalize), scale=scale)
    assert seen.dtype == np.float32
    assert (seen[empty] == 0).all()
    middle, spread = (3.0, 2.0) if normalize == "raw" else (0.0, 1.0)
    assert seen[~empty].mean() == pytest.approx(middle, abs=0.1)
    assert seen[~empty].std() == pytest.approx(spread, rel=0.05)


def test_widths_are_those_of_the_column_and_known_of_controls(pairs: Any) -> None:
    widths = used_widths(pairs["psfdepth"].values, pairs["sky_sigma"].values)
    np.testing.assert_allclose(widths[INJECTED], pairs["psf_fwhm_used"].values[INJECTED], rtol=1e-6)
    np.testing.assert_allclose(widths[~INJECTED], pairs["psfsize"].values[~INJECTED], rtol=1e-6)
    assert np.isnan(used_widths(np.array([[0.0, np.nan]]), np.ones((1, 2)))).all()
    bins = strata(widths[:, 1], N, 4)
    assert np.bincount(bins).tolist() == [160] * 4


# --- second looks -----------------------------------------------------------------------------------

BANDS = ("g", "r", "z")


def gate(law: Any, images: int = 3000) -> Any:
    """The gate on looks drawn by ``law(stamp, ctrl, sigma, rng, positive)``."""
    few = 60
    some = small_pairs(4 * few).isel(pair=np.flatnonzero(INJECTED[: 4 * few])[:few])
    rng = np.random.default_rng(1)
    row = np.arange(images) % few
    ctrl, arc = (some[name].values[row] for name in ("ctrl", "arc"))
    arc[:, :, :, 6:] = 0.0  # on one side, so that there are pixels without it
    sigma = noise_sigma(np.full((images, 3), SIGMA), None, np.zeros(ctrl.shape, bool))
    found = (
        statistics(law(image, ctrl, sigma, rng, positive), arc, sigma, BANDS)
        for image, positive in ((ctrl + arc, True), (ctrl, False))
    )
    return separability(*found, row)


def test_looks_of_one_noise_law_pass_the_gate() -> None:
    table = gate(lambda image, ctrl, sigma, rng, positive: noised(image, ctrl, sigma, rng))
    check_separability(table, "a")
    assert (table["auc"] - 0.5).abs().max() < 0.04
    assert (table["rows"] == 60).all()
    two = noised(
        *(np.zeros((2, 3, 64, 64), np.float32) + v for v in (0, 0, 1)), np.random.default_rng(0)
    )
    assert channels("a", two).shape == (2, 6, 64, 64)
    assert channels("c", two).std() == pytest.approx(2**0.5, rel=0.02)


@pytest.mark.parametrize(
    ("law", "test"),
    [
        # The very same pixels: what one outer annulus tells.
        (lambda i, c, s, rng, p: Looks(i, c), "variance of the difference"),
        # Noise in one look only, in one class.
        (lambda i, c, s, rng, p: noised(i, c, s * (1.0 if p else 0.0), rng), "difference|rough"),
        # 10 % more noise in the positives.
        (
            lambda i, c, s, rng, p: noised(i, c, s * np.float32(1.1 if p else 1), rng),
            "variance|rough",
        ),
        # The right variance, of another shape.
        (
            lambda i, c, s, rng, p: Looks(
                i
                + s * (rng.uniform(-(3**0.5), 3**0.5, i.shape) if p else rng.normal(size=i.shape)),
                c + s * rng.normal(size=i.shape),
            ),
            "kurtosis|largest",
        ),
        # The same noise moved by a pixel.
        (
            lambda i, c, s, rng, p: (
                Looks(i + n, c + np.roll(n, 1, -1))
                if (n := s * rng.normal(size=i.shape)) is not None and p
                else Looks(i + n, c + s * rng.normal(size=i.shape))
            ),
            "correlation",
        ),
        # A pedestal of 0.2 sigma under the arc.
        (lambda i, c, s, rng, p: noised(i + np.float32(0.2 * p) * s, c, s, rng), "mean"),
    ],
)
def test_looks_that_give_the_class_away_are_refused(law: Any, test: str) -> None:
    table = gate(law, 600)
    told = table[(table["lo"] > 0.6) | (table["hi"] < 0.4)]
    assert any(part in name for name in told["test"] for part in test.split("|"))
    with pytest.raises(UserError, match="option c is refused"):
        check_separability(table, "c")


def test_too_few_looks_are_no_pass() -> None:
    table = gate(lambda image, ctrl, sigma, rng, positive: noised(image, ctrl, sigma, rng), 120)
    with pytest.raises(UserError, match="too few to show"):
        check_separability(table, "c")
