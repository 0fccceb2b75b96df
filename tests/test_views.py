"""What is done on read: the same for both classes, and cuts that say what they remove."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from darkhaloscope.config import CoreMask
from darkhaloscope.fix import core_weight
from darkhaloscope.variables import NO_PSF
from darkhaloscope.views import (
    QUALITY_SETS,
    REMOVED_COLUMNS,
    View,
    annulus_scale,
    arc_snr_at_least,
    mask_weight,
    normalize,
    quality_set,
    removed,
    view_pixels,
)

SIZE = 64


def _images(n: int = 3) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, 2, SIZE, SIZE))


def test_normalize_undoes_any_scale_and_level_of_each_image() -> None:
    images = _images()
    good = np.ones(images.shape, dtype=bool)
    scale = np.array([0.01, 1.0, 50.0])[:, None, None, None]
    level = np.array([3.0, -2.0, 0.0])[:, None, None, None]
    np.testing.assert_allclose(
        normalize(level + scale * images, good), normalize(images, good), atol=1e-9
    )
    # Gaussian noise comes out with a standard deviation of 1.
    assert normalize(images, good).std() == pytest.approx(1.0, abs=0.05)


def test_an_arc_within_the_annulus_moves_no_scale() -> None:
    """The scale is the outer annulus's, so a stamp and its ctrl are scaled alike."""
    ctrl = _images(1)
    good = np.ones(ctrl.shape, dtype=bool)
    arc = np.zeros_like(ctrl)
    arc[..., 25:40, 25:40] = 5.0
    gap = normalize(ctrl + arc, good) - normalize(ctrl, good)
    assert (gap[arc == 0] == 0).all()
    assert (gap[arc > 0] > 0).all()


def test_an_input_mask_makes_the_core_of_both_classes_equal() -> None:
    mask = CoreMask(radius_px=7)
    view = View(input_mask=mask)
    weight = mask_weight(mask, SIZE, np.array([31.6]), np.array([31.4]))
    # About the target, not about the stamp.
    np.testing.assert_array_equal(weight[0, 0], core_weight(mask, SIZE, 31.6, 31.4))
    y, x = np.mgrid[:SIZE, :SIZE]
    np.testing.assert_array_equal(weight[0, 0] == 0, np.hypot(x - 31.6, y - 31.4) < 7)
    ctrl, stamp = _images(1), _images(1) + 1.0
    good = np.ones(ctrl.shape, dtype=bool)
    seen = [view_pixels(v, good, weight, view) for v in (stamp, ctrl)]
    hidden = np.broadcast_to(weight == 0, ctrl.shape)
    assert (seen[0][hidden] == seen[1][hidden]).all()
    np.testing.assert_allclose((seen[0] - seen[1])[~hidden], 1.0)
    with pytest.raises(ValueError, match="no weight"):
        view_pixels(ctrl, good, None, view)


def test_the_scale_is_that_of_the_sky_whatever_stars_lie_in_it() -> None:
    """A median and its absolute deviation: one pixel in ten a thousand times as bright moves neither much."""
    images = _images(1)
    good = np.ones(images.shape, dtype=bool)
    starry = images.copy()
    starry[..., ::10] += 1000.0
    for before, after in zip(annulus_scale(images, good), annulus_scale(starry, good), strict=True):
        np.testing.assert_allclose(after, before, atol=0.3)


def test_an_image_is_masked_before_it_is_scaled() -> None:
    """Hidden pixels are an empty sky on the image's own scale, not 0 of the scaled image."""
    images = _images(1) + 3.0
    good = np.ones(images.shape, dtype=bool)
    mask = CoreMask(radius_px=7)
    weight = mask_weight(mask, SIZE, np.array([31.5]), np.array([31.5]))
    seen = view_pixels(images, good, weight, View(input_mask=mask, normalize=True))
    middle, spread = annulus_scale(images, good)
    hidden = np.broadcast_to(weight == 0, images.shape)
    np.testing.assert_allclose(
        seen[hidden], np.broadcast_to(-middle / spread, images.shape)[hidden]
    )


def _columns() -> xr.Dataset:
    """Injections: sound, bad pixels, no S/N, fallback, one band only; then a sound and a bad control."""
    nan = np.nan
    return xr.Dataset(
        {
            "lens_model": ("pair", np.array([2, 2, 2, 2, 2, 0, 0], np.uint8)),
            "region_split": ("pair", np.array([0, 0, 1, 1, 2, 0, 1], np.uint8)),
            "cutout_ok": ("pair", np.ones(7, bool)),
            "arc_snr": ("pair", np.array([10.0, 4.0, nan, 8.0, 9.0, nan, nan])),
            "bad_pixel_frac": ("pair", np.array([0, 0.3, 0, 0.2, nan, 0, 0.5])),
            "coverage": (("pair", "band"), [[1, 1]] * 4 + [[1, 0]] + [[1, 1]] * 2),
            "psf_fwhm_used": (("pair", "band"), [[1.2, 1.2]] * 4 + [[1.2, nan]] + [[nan, nan]] * 2),
            "psf_source": (
                ("pair", "band"),
                np.array([[0, 0]] * 3 + [[0, 2], [0, NO_PSF]] + [[0, 0]] * 2, np.uint8),
            ),
        }
    )


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("all", [0, 1, 2, 3, 4, 5, 6]),
        ("clean", [0, 3, 4, 5]),
        ("clean_all_bands", [0, 3, 5]),
        ("no_psf_fallback", [0, 1, 2, 4, 5, 6]),
    ],
)
def test_quality_sets(name: str, rows: list[int]) -> None:
    assert np.flatnonzero(quality_set(_columns(), name)).tolist() == rows


@pytest.mark.parametrize(
    ("row", "name", "value", "sets"),
    [
        (0, "cutout_ok", False, set()),
        (5, "cutout_ok", False, set()),
        # Of a control the width is known as of an injection: by where it would have come from.
        (5, "psf_source", [0, NO_PSF], {"all"}),
        # A band without coverage is no fault of clean, whatever width stands there.
        (0, "coverage", [1, 0], {"all", "clean", "no_psf_fallback"}),
        (5, "coverage", [1, 0], {"all", "clean", "no_psf_fallback"}),
    ],
)
def test_one_thing_that_is_wrong_with_a_sound_row(
    row: int, name: str, value: Any, sets: set[str]
) -> None:
    columns = _columns()
    columns[name].values[row] = value
    assert {n for n in QUALITY_SETS if quality_set(columns, n)[row]} == sets


def test_a_set_that_lacks_a_column_has_no_rows_in_the_table() -> None:
    assert set(removed(_columns().drop_vars("arc_snr"))["set"]) == {"all", "no_psf_fallback"}
    for name in ("region_split", "cutout_ok"):
        table = removed(_columns().drop_vars(name))
        assert table.empty
        assert list(table.columns) == REMOVED_COLUMNS


def test_a_cut_says_what_it_removes_by_class_and_split() -> None:
    table = removed(_columns()).set_index(["set", "class", "split"])
    assert table.loc[("clean", "injection", "all"), ["before", "after"]].tolist() == [5, 3]
    assert table.loc[("clean", "control", "val"), ["before", "after"]].tolist() == [1, 0]
    rows, table = arc_snr_at_least(_columns(), 8.0)
    assert np.flatnonzero(rows).tolist() == [0, 3, 4, 5, 6]  # no control has an arc to be faint
    of_injections = table[(table["class"] == "injection") & (table["split"] == "all")].iloc[0]
    assert (of_injections["before"], of_injections["after"]) == (5, 3)
