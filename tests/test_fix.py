"""Fixes do to an arc what their recorded text says, about the true target."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from darkhaloscope.config import CoreMask, FixSection
from darkhaloscope.errors import UserError
from darkhaloscope.fix import apply_fix, core_weight, fix_text

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
    ],
)
def test_a_fix_of_another_version_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="unknown to this version"):
        apply_fix(np.ones((1, 8, 8)), text, 3.5, 3.5)
