"""Fixes in the rows of a brick: against the same rows without them, and against their formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from test_inject import experiment, injected, make, planned

from darkhaloscope import audit, fix, prepare
from darkhaloscope.config import Experiment
from darkhaloscope.errors import Reason
from darkhaloscope.geometry import core_slice

BASE: dict[str, Any] = {
    "plan": {"repeats": 8},
    "stamp": {"size": 32},
    "lens": {"theta_e": {"uniform": [0.4, 1.6]}},
    "source": {"reff": {"uniform": [0.1, 0.6]}},
    "render": {"supersample": 4},
}


def arm(root: str, **choices: Any) -> Experiment:
    return experiment(root, **BASE, fix=choices)


@pytest.fixture(scope="module")
def plain(real_root: str) -> xr.Dataset:
    return injected(arm(real_root))


def same(a: xr.Dataset, b: xr.Dataset, *but: str) -> None:
    for name in set(a.data_vars) - {"fix", *but}:
        np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=str(name))


@pytest.mark.parametrize(
    "mask", [{"radius_px": 4}, {"shape": "box"}, {"taper_px": 1.0}, {"centre": "pixel_32"}], ids=str
)
def test_a_mask_takes_from_the_arc_and_says_how_much(
    real_root: str, plain: xr.Dataset, mask: dict[str, Any]
) -> None:
    made = injected(arm(real_root, core_mask=mask))
    touched = ("arc", "arc_snr", "total_injected_flux")
    same(plain, made, *touched)
    on = plain["lens_model"].values > 0
    y, x = np.mgrid[:32, :32]
    for i in np.flatnonzero(on):
        tx, ty = (float(made[f"target_{axis}"][i]) for axis in "xy")
        centre = (16, 16) if "centre" in mask else (tx, ty)
        r, edge = np.hypot(x - centre[0], y - centre[1]), mask.get("radius_px", 5)
        if "shape" in mask:
            weight = 1.0 - ((abs(x - 15.5) < 5) & (abs(y - 15.5) < 5))
        elif "taper_px" in mask:
            weight = 0.5 * (1 + np.tanh(r - edge))
        else:
            weight = (r >= edge).astype(float)
        truth = plain["arc"].values[i] * weight
        np.testing.assert_allclose(made["arc"].values[i], truth, rtol=1.1e-3, atol=0)
    for name in ("arc_snr", "total_injected_flux"):
        before = made[f"{name}_before_fix"].values
        np.testing.assert_array_equal(before, plain[name].values)
        assert (made[name].values[on] < before[on]).all()
    flux = made["arc"].values.sum(axis=(2, 3), dtype=float)
    np.testing.assert_allclose(made["total_injected_flux"].values[on], flux[on], rtol=1e-6)
    for when in ("", "_before_fix"):
        kept = made[f"total_injected_flux{when}"].values / made["arc_flux_total"].values
        np.testing.assert_allclose(made[f"visible_fraction{when}"].values, kept, rtol=1e-6)
    assert np.isnan(made["visible_fraction"].values[~on]).all()
    assert (made["visible_fraction_before_fix"].values[on] < 1.001).all()


def test_a_cap_moves_the_larger_sources_and_nothing_else(real_root: str, plain: xr.Dataset) -> None:
    made = injected(arm(real_root, src_reff_max=0.3))
    large = plain["src_reff"].values > 0.3
    assert 0 < large.sum() < (plain["lens_model"].values > 0).sum()
    assert (made["src_reff"].values[large] == np.float32(0.3)).all()
    same(plain.isel(pair=~large), made.isel(pair=~large))
    of_size = ("src_reff", "arc", "arc_snr", "total_injected_flux", "arc_flux_total")
    same(plain, made, *of_size, "magnification", "supersample")
    on = made["lens_model"].values > 0
    assert set(made["fix"].values[on]) == {"src_reff_max(0.3)"}
    assert set(made["fix"].values[~on]) == {"none"}


def test_cuts_mark_both_classes_by_what_was_drawn(real_root: str, plain: xr.Dataset) -> None:
    """A control is cut by the radius that it has where every row is an injection."""
    made = injected(arm(real_root, theta_e_min=0.6, min_theta_e_over_psf=0.7))
    same(plain, made, "reason")
    everything = arm(real_root).model_copy(update={"plan": arm(real_root).plan.model_copy(
        update={"control_fraction": 0.0})})  # fmt: skip
    drawn = planned(everything)["theta_e"].to_numpy(np.float32).astype(float)
    width = np.array([made["psf_fwhm_used"].values[made["lens_model"].values > 0, 1].mean()])
    spread = made["psf_fwhm_used"].values[:, 1]
    assert np.nanmax(abs(spread - width)) < 0.01  # three places, one seeing
    ratio = drawn / width
    assert (abs(ratio - 0.7) > 0.01).all()  # no row is so near that the mean would not do
    wanted = np.where(
        drawn < 0.6, 13, np.where(ratio < 0.7, 14, Reason.OK)
    )  # fmt: skip
    np.testing.assert_array_equal(made["reason"].values, wanted)
    assert made["cutout_ok"].values.all()
    for of_class in (plain["lens_model"].values > 0, plain["lens_model"].values == 0):
        assert {13, 14, 1} <= set(made["reason"].values[of_class])


def test_fixes_combine_with_every_kind_of_source(real_root: str) -> None:
    source = {
        "model": ["sersic", "point", "bulge_disc"],
        "n": {"cycle": [1, 4]},
        "reff": {"uniform": [0.1, 0.6]},
        "bulge_reff": 0.4,
    }
    choices = {"core_mask": {"radius_px": 7.08}, "src_reff_max": 0.2, "theta_e_min": 0.5}
    exp = experiment(real_root, **{**BASE, "source": source}, fix=choices)
    made = make(planned(exp), exp)
    on = made["lens_model"].values > 0
    assert set(made["src_model"].values[on]) == {1, 2, 3}
    assert (made["arc"].values[:, :, 11:21, 11:21] == 0).all()
    for name in ("src_reff", "src_bulge_reff"):
        assert np.nanmax(made[name].values) == np.float32(0.2)
    text = "core_mask(radius_px=7.08,taper_px=0);src_reff_max(0.2);theta_e_min(0.5)"
    assert set(made["fix"].values[on]) == {text}
    assert set(made["fix"].values[~on]) == {"theta_e_min(0.5)"}


MASKS: list[dict[str, Any]] = [
    {"radius_px": 4}, {"shape": "box"}, {"radius_arcsec": 1.5, "taper_px": 1}, {"centre": "pixel_32"},
]  # fmt: skip


@pytest.mark.parametrize("mask", MASKS, ids=str)
def test_an_arc_drawn_again_has_the_fixes_of_its_row(real_root: str, mask: dict[str, Any]) -> None:
    """Whole, and in its core only, from a row's columns and by the audit's own integrator."""
    changes = {"stamp": {"size": 48}, "plan": {"repeats": 1, "control_fraction": 0.0}}
    exp = experiment(real_root, **{**BASE, **changes}, fix={"core_mask": mask, "src_reff_max": 0.3})
    made = injected(exp)
    spec = prepare.spec_of(exp, (0, 3, 0, 0, 0, 0), n_regions=1)
    rows = audit.audit_rows(audit.merge([audit.measure(made, spec)], spec), spec)
    again = audit.rerender(rows, spec, fix.apply_fix)
    assert not any(again["message"])
    order = [int(np.flatnonzero(made["slot"].values == s)[0]) for s in rows["slot"]]
    arc = made["arc"].values[order]
    reach = 3e-3 * arc.max(axis=(2, 3), keepdims=True)
    core = core_slice(48)
    assert rows["closure"].all()
    assert (abs(again["whole"] - arc) < reach).all()
    in_core = audit.rerender({**rows, "closure": np.zeros(3, bool)}, spec, fix.apply_fix)["core"]
    assert (abs(in_core - arc[..., core, core]) < reach).all()
    if "shape" not in mask:
        assert in_core.any()
    # Another mask than the recorded one is another arc.
    other = audit.rerender({**rows, "fix": np.full(3, "none")}, spec, fix.apply_fix)["core"]
    assert (abs(other - arc[..., core, core]).max(axis=(2, 3)) > 10 * reach[..., 0, 0]).all()
