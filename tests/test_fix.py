"""Fixes do to an arc what their recorded text says, about the true target."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkhaloscope.config import CoreMask, FixSection
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.fix import apply_fix, core_weight, excluded_by, fix_text, read_fix

X0, Y0 = 31.75, 31.125


def test_a_hard_mask_zeroes_the_disc_and_nothing_else() -> None:
    arc = np.random.default_rng(1).random((3, 64, 64))
    masked = apply_fix(arc, "core_mask(radius_px=5,taper_px=0)", X0, Y0)
    for y in range(64):
        for x in range(64):
            inside = math.hypot(x - X0, y - Y0) < 5
            np.testing.assert_array_equal(masked[:, y, x], 0 if inside else arc[:, y, x])


def test_a_taper_is_a_tanh_about_the_target() -> None:
    weight = core_weight(CoreMask(radius_px=6, taper_px=1.5), 64, X0, Y0)
    for x, y in [(31, 31), (37, 31), (31, 25), (20, 40), (38, 33)]:
        r = math.hypot(x - X0, y - Y0)
        assert weight[y, x] == pytest.approx((1 + math.tanh((r - 6) / 1.5)) / 2, rel=1e-12)
    # Half way at the radius: between the pixels on both sides of it.
    ring = np.abs(np.hypot(np.arange(64) - X0, (np.arange(64) - Y0)[:, None]) - 6) < 0.05
    assert ring.any()
    assert np.abs(weight[ring] - 0.5).max() < 0.05 / 1.5


@pytest.mark.parametrize("taper", [0.0, 2.0])
def test_the_mask_follows_the_target(taper: float) -> None:
    """A target one pixel to the right has the same mask one pixel to the right."""
    mask = CoreMask(radius_px=5, taper_px=taper)
    here, moved = (core_weight(mask, 64, x, Y0) for x in (30.25, 31.25))
    np.testing.assert_allclose(moved[:, 1:], here[:, :-1], rtol=0, atol=1e-12)
    up = core_weight(mask, 64, 30.25, Y0 + 1)
    np.testing.assert_allclose(up[1:], here[:-1], rtol=0, atol=1e-12)


def test_no_fix_leaves_the_arc() -> None:
    arc = np.random.default_rng(2).random((2, 16, 16))
    assert fix_text(FixSection()) == "none"
    np.testing.assert_array_equal(apply_fix(arc, "none", 7.5, 7.5), arc)


@given(st.floats(0.1, 64), st.floats(0, 32))
@settings(max_examples=100, deadline=None)
def test_the_text_says_all_that_is_needed(radius: float, taper: float) -> None:
    mask = CoreMask(radius_px=round(radius, 3), taper_px=round(taper, 3))
    arc = np.ones((1, 32, 32))
    from_text = apply_fix(arc, fix_text(FixSection(core_mask=mask)), 15.3, 16.1)
    np.testing.assert_array_equal(from_text[0], core_weight(mask, 32, 15.3, 16.1))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "core_mask",
        "core_mask(radius_px=5)",
        "gradient_mask(radius_px=5,taper_px=0)",
        "core_mask(radius_px=5,taper_px=0) ",
        "core_mask(radius_px=e+-,taper_px=0)",
        "core_mask(radius_px=0,taper_px=0)",
        "core_mask(radius_px=5,taper_px=-1)",
        "core_mask(radius_px=5.0,taper_px=0)",
        "core_mask(radius_px=5,taper_px=0,centre=target)",
        "core_mask(shape=box);core_mask(shape=box)",
        "theta_e_min(0.5);core_mask(shape=box)",
        "theta_e_min(0.5);",
        "none;theta_e_min(0.5)",
    ],
)
def test_a_fix_of_another_version_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="unknown to this version"):
        apply_fix(np.ones((1, 8, 8)), text, 3.5, 3.5)


GATE = slice(27, 37)
"""The pixels of the core gate on a stamp of 64: the central ten on either axis."""


def survivors(mask: CoreMask, x: float = 31.5, y: float = 31.5) -> int:
    return int(core_weight(mask, 64, x, y)[GATE, GATE].sum())


def test_what_each_mask_leaves_in_the_gate() -> None:
    """Counted by hand: of 100 pixels 20 lie at r >= 5 about the centre; about pixel (32, 32) 31, and one at
    r >= 7, the corner at 5 sqrt 2."""
    assert survivors(CoreMask()) == survivors(CoreMask(radius_px=5)) == 20
    seeds = {r: survivors(CoreMask(radius_px=r, centre="pixel_32")) for r in (5, 7)}
    assert seeds == {5: 31, 7: 1}
    box = core_weight(CoreMask(shape="box"), 64, 31.9, 31.1)
    assert box[GATE, GATE].sum() == 0
    assert box.sum() == 64 * 64 - 100


@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
@settings(max_examples=50, deadline=None)
def test_a_circle_of_7_08_px_covers_the_gate_of_any_target(dx: float, dy: float) -> None:
    assert survivors(CoreMask(radius_px=7.08), 31.5 + dx, 31.5 + dy) == 0
    assert survivors(CoreMask(radius_px=7.0), 32.0, 32.0) == 1


def test_arcseconds_are_pixels_of_0_262() -> None:
    in_arcsec, in_pixels = CoreMask(radius_arcsec=1.31), CoreMask(radius_px=5)
    same = [core_weight(mask, 64, X0, Y0) for mask in (in_arcsec, in_pixels)]
    np.testing.assert_array_equal(*same)


MASKS = [
    CoreMask(),
    CoreMask(shape="box"),
    CoreMask(radius_arcsec=1.2345678901, taper_px=0.7),
    CoreMask(radius_px=7, centre="pixel_32"),
]


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_a_square_of_the_stamp_gets_its_part_of_the_mask(mask: CoreMask) -> None:
    arc = np.random.default_rng(3).random((2, 64, 64))
    text = fix_text(FixSection(core_mask=mask))
    whole = apply_fix(arc, text, X0, Y0)
    part = apply_fix(arc[:, 16:48, 16:48], text, X0, Y0, 64, 16)
    np.testing.assert_array_equal(part, whole[:, 16:48, 16:48])
    assert (whole != arc).any()


@pytest.mark.parametrize("mask", [None, *MASKS], ids=str)
@pytest.mark.parametrize("cuts", [{}, {"theta_e_min": 0.6, "min_theta_e_over_psf": 1 / 3}])
def test_texts_are_read_back(mask: CoreMask | None, cuts: dict[str, float]) -> None:
    fix = FixSection(core_mask=mask, src_reff_max=0.3, **cuts)
    again = read_fix(fix_text(fix))
    assert fix_text(again) == fix_text(fix)
    assert again.model_copy(update={"core_mask": mask}) == fix
    if mask is not None:
        assert again.core_mask is not None
        weights = [core_weight(m, 64, X0, Y0) for m in (mask, again.core_mask)]
        np.testing.assert_array_equal(*weights)


@pytest.mark.parametrize("width", [0.0, math.nan])
def test_without_a_psf_width_no_ratio_marks_a_row(width: float) -> None:
    assert excluded_by(FixSection(min_theta_e_over_psf=0.6), 0.1, width) is None


def test_true_is_no_number() -> None:
    for key in ("theta_e_min", "src_reff_max", "min_theta_e_over_psf"):
        with pytest.raises(ValueError, match="not true or false"):
            FixSection.model_validate({key: True})


def test_cuts_mark_what_is_below() -> None:
    fix = FixSection(theta_e_min=0.7, min_theta_e_over_psf=0.6)
    below, narrow = Reason.EXCLUDED_BY_THETA_E_MIN, Reason.EXCLUDED_BY_MIN_THETA_E_OVER_PSF
    # 0.7 in float32 is below 0.7 in float64, and stays all the same.
    cases = [(0.69, 1.0, below), (0.69, 9.0, below), (0.7, 1.0, None), (0.9, 1.6, narrow)]
    assert [excluded_by(fix, theta, psf) for theta, psf, _ in cases] == [w for *_, w in cases]
    assert excluded_by(FixSection(), 0.01, 9.0) is None
    assert not below.failed
    assert not narrow.failed
    assert Reason.RENDER_FAILED.failed
    assert not Reason.OK.failed
