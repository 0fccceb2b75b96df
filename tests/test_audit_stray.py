"""Pixels that are off by themselves, where no arc is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from audit_pairs import SIZE, SKY, clean, measure, rerendered, spec_of, with_arc

from darkhaloscope.audit.causes import Limits
from darkhaloscope.audit.closure import closure
from darkhaloscope.audit.named import closure_causes
from darkhaloscope.audit.stray import stray_pixels

pytestmark = pytest.mark.usefixtures("remembered")

N = 60
Change = Callable[[np.ndarray, np.random.Generator], None]


def arcs() -> np.ndarray:
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    ring = np.exp(-0.5 * ((np.hypot(axis[:, None], axis) - 8) / 2) ** 2)
    return np.linspace(1, 100, N)[:, None, None] * ring


def corner(gap: np.ndarray, rng: np.random.Generator) -> None:
    gap[:, :3, :3] = rng.normal(
        size=(N, 3, 3)
    )  # zeros in stamps: what is missing is the sky of ctrl


def strip(gap: np.ndarray, rng: np.random.Generator) -> None:
    gap[::3, 5:9] = rng.normal(size=(N // 3, 4, SIZE))


def hot(gap: np.ndarray, rng: np.random.Generator) -> None:
    gap[:, 30, 7] = 0.3


@pytest.mark.parametrize(("spoil", "pixels"), [(corner, 9), (strip, 4 * SIZE), (hot, 1)])
def test_pixels_that_are_off_by_themselves_are_found(spoil: Change, pixels: int) -> None:
    again, gap = arcs(), np.zeros((N, SIZE, SIZE))
    spoil(gap, np.random.default_rng(3))
    found = stray_pixels(again + gap, again, np.ones(gap.shape, bool))
    assert found is not None
    assert found.mask.sum() == pixels
    assert f"{pixels} of {SIZE**2} pixels" in found.says
    # The same where half of the pixels have no data, and under noise that is less than they are off by.
    noise = 0.01 * np.random.default_rng(4).normal(size=gap.shape)
    again_found = stray_pixels(again + gap + noise, again, np.ones(gap.shape, bool))
    assert again_found is not None
    assert np.array_equal(again_found.mask, found.mask)


def smooth(gap: np.ndarray, rng: np.random.Generator) -> None:
    axis = np.arange(SIZE)
    gap += 2.0 * np.exp(-0.5 * (((axis - 9)[:, None] ** 2 + (axis - 11) ** 2) / 9))


def noisy(gap: np.ndarray, rng: np.random.Generator) -> None:
    gap += rng.normal(size=gap.shape)


def core(gap: np.ndarray, rng: np.random.Generator) -> None:
    gap[:, SIZE // 2 - 5 : SIZE // 2 + 5, SIZE // 2 - 5 : SIZE // 2 + 5] += 0.5


def gradient(gap: np.ndarray, rng: np.random.Generator) -> None:
    gap += 0.05 * np.linspace(-1, 1, SIZE)


def moved(gap: np.ndarray, rng: np.random.Generator) -> None:
    gap += np.roll(arcs(), 1, axis=2) - arcs()


@pytest.mark.parametrize("spoil", [smooth, noisy, core, gradient, moved])
def test_what_is_smooth_or_noise_or_a_constant_does_not_stray(spoil: Change) -> None:
    again, gap = arcs(), np.zeros((N, SIZE, SIZE))
    spoil(gap, np.random.default_rng(3))
    assert stray_pixels(again + gap, again, np.ones(gap.shape, bool)) is None


def test_a_pattern_of_all_pixels_is_one() -> None:
    again = arcs()
    y, x = np.mgrid[:SIZE, :SIZE]
    board = np.where((x + y) % 2, 0.02, -0.02)
    found = stray_pixels(again + board, again, np.ones(again.shape, bool))
    assert found is not None
    assert found.step == pytest.approx(0.04, rel=0.2)
    assert "in one pattern in all stamps" in found.says


def test_a_dead_corner_is_a_bug_of_its_own_and_closure_goes_on_without_it() -> None:
    rng = np.random.default_rng(5)

    def dead(arc: np.ndarray) -> np.ndarray:
        arc[..., :3, :3] = SKY[None, :, None, None] * rng.normal(size=(*arc.shape[:2], 3, 3))
        return arc

    ds = with_arc(clean(60), dead)
    spec = spec_of(ds)
    stats = measure(ds, spec)
    found = closure(stats, rerendered(ds, stats, spec), spec)
    (cause,) = (c for c in closure_causes(found, Limits()) if c.kind == "bug")
    assert cause.name == "stray_pixels"
    assert f"9 of {SIZE**2} pixels (x 0 to 2, y 0 to 2)" in cause.says
    assert abs(found.estimate("flux").value) < 1e-3
