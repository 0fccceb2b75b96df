"""Core-matched negatives: their light against GalSim, their rows against the partners'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import galsim
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from small_run import Setting
from test_inject import BRICK, experiment, load_brick, make, planned

import darkhaloscope
from darkhaloscope import fix, inject, prepare, store, workflow
from darkhaloscope.config import Experiment, parse_experiment
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.lensing import Psf
from darkhaloscope.lensing.psf import psf_profile
from darkhaloscope.mapping import decode_stamp, load_mapping
from darkhaloscope.plan import Plan, uniforms
from darkhaloscope.plan.rows import COLUMNS, injected

X0, Y0 = 15.8, 15.3
CORE = slice(11, 21)
FINE = galsim.GSParams(folding_threshold=1e-4, maxk_threshold=1e-5, kvalue_accuracy=1e-7)


@pytest.mark.parametrize("pixel", ["effective", "integrate"])
@pytest.mark.parametrize("beta", [None, 2.5, 3.5, 20.0])
def test_the_profile_is_galsims_convolution(beta: float | None, pixel: Any) -> None:
    psf = Psf("gaussian" if beta is None else "moffat", nea_fwhm=1.3, beta=beta or 3.5, pixel=pixel)
    ours = fix.round_profile(psf, 0.4, 32, X0, Y0)
    theirs = (
        galsim.Gaussian(sigma=psf.sigma, gsparams=FINE)
        if beta is None
        else galsim.Moffat(beta, fwhm=psf.fwhm, gsparams=FINE)
    )
    both = galsim.Convolve(theirs, galsim.Gaussian(sigma=0.4), gsparams=FINE)
    image = both.drawImage(
        nx=32, ny=32, scale=0.262, offset=(X0 - 15.5, Y0 - 15.5), dtype=float,
        method="no_pixel" if pixel == "effective" else "auto",
    )  # fmt: skip
    np.testing.assert_allclose(ours, image.array, rtol=0, atol=1e-5 * ours.max())


@pytest.mark.parametrize("beta", [2.0, 3.5, 20.0])
def test_a_moffat_is_its_mixture_of_gaussians(beta: float) -> None:
    psf = Psf("moffat", nea_fwhm=1.1, beta=beta)
    y, x = np.mgrid[:64, :64]
    truth = psf_profile(0.262 * np.hypot(x - X0, y - Y0), psf) * 0.262**2
    np.testing.assert_allclose(fix.round_profile(psf, 0.0, 64, X0, Y0), truth, rtol=1e-5)


def test_round_light_is_matched_by_itself() -> None:
    """The size and the flux of what is a round Gaussian come back, whatever part of it is hidden."""
    psf = Psf("moffat", nea_fwhm=1.3)
    sigma = 0.262 * 1.2
    arc = np.stack([7.0 * fix.round_profile(psf, sigma, 32, X0, Y0)] * 3)
    nodata = np.zeros(arc.shape, bool)
    nodata[0, 14:17, :18] = True
    arc[nodata] = 0.0
    made = fix.matched_light(arc.astype(np.float32), nodata, [psf, psf, None], X0, Y0)
    np.testing.assert_allclose(made.flux_total[:2], 7.0, rtol=1e-6)
    np.testing.assert_allclose(made.sigma[:2], sigma, rtol=1e-12)
    np.testing.assert_allclose(made.light[:2], arc[:2], rtol=1e-6, atol=0)
    assert np.isnan(made.flux_total[2])
    assert not made.light[2].any()


def test_an_arc_without_light_in_the_core_adds_none() -> None:
    arc = np.ones((1, 32, 32), np.float32)
    arc[:, CORE, CORE] = 0
    made = fix.matched_light(arc, np.zeros(arc.shape, bool), [Psf("gaussian", fwhm=1.2)], X0, Y0)
    assert not made.light.any()
    assert made.flux_total[0] == 0
    assert np.isnan(made.sigma[0])


SMALL: dict[str, Any] = {
    "plan": {"repeats": 4},
    "stamp": {"size": 32},
    "render": {"supersample": 4},
    "lens": {"theta_e": {"uniform": [0.4, 1.6]}},
}


def arm(root: str, **changes: Any) -> Experiment:
    return experiment(root, **(SMALL | changes))


@pytest.fixture(scope="module")
def plain(real_root: str) -> xr.Dataset:
    exp = arm(real_root)
    return make(planned(exp), exp)


@pytest.fixture(scope="module")
def matched(real_root: str) -> tuple[Experiment, xr.Dataset]:
    exp = arm(real_root, fix={"core_matched_negatives": True})
    return exp, make(planned(exp), exp)


def test_each_injection_has_one_and_no_other_row_moves(
    plain: xr.Dataset, matched: tuple[Experiment, xr.Dataset]
) -> None:
    made = matched[1]
    n, lensed = plain.sizes["pair"], plain["lens_model"].values > 0
    for name in plain.data_vars:
        np.testing.assert_array_equal(made[name].values[:n], plain[name].values, str(name))
    added = made.isel(pair=slice(n, None))
    np.testing.assert_array_equal(added["partner"], plain["slot"].values[lensed])
    np.testing.assert_array_equal(added["slot"] & 0xFFFFFFFF, added["partner"] & 0xFFFFFFFF)
    assert len(np.unique(made["slot"])) == made.sizes["pair"]
    assert (np.diff(made["slot"].values) > 0).all()
    assert not made["extra"].values[:n].any()
    kinds = made["negative_kind"].values
    np.testing.assert_array_equal(kinds, [*np.where(lensed, 0, 1), *[2] * lensed.sum()])
    assert (added["lens_model"] == 0).all()
    assert (added["theta_e"] == 0).all()
    assert not added["arc"].values.any()
    for name in ("lens_q", "src_reff", "arc_snr", "magnification", "src_flux", "psf_fwhm_used"):
        assert np.isnan(added[name].values).all()
    twin = made.isel(pair=np.flatnonzero(lensed))
    for name in ("ctrl", "nodata", "target_x", "ra", "sky_sigma", "host_id", "region_id"):
        np.testing.assert_array_equal(added[name], twin[name])
    assert set(added["fix"].values) == {"core_matched_negatives"}


def test_brightness_in_the_core_tells_nothing(matched: tuple[Experiment, xr.Dataset]) -> None:
    made = matched[1]
    core = made.isel(y=CORE, x=CORE)
    light = (core["arc"] + core["extra"]).sum(("y", "x")).values
    for i in np.flatnonzero(made["negative_kind"] == 2):
        j = int(np.flatnonzero(made["slot"] == made["partner"][i])[0])
        np.testing.assert_allclose(light[i], light[j], rtol=2e-4)
        extra = made["extra"].values[i]
        # As recorded: a Gaussian and the PSF of the partner's row.
        width = float(made["psf_fwhm_used"][j, 1])
        psf = Psf("moffat", nea_fwhm=width)
        truth = float(made["extra_flux_total"][i, 1]) * fix.round_profile(
            psf, float(made["extra_sigma"][i, 1]), 32,
            float(made["target_x"][i]), float(made["target_y"][i]),
        )  # fmt: skip
        np.testing.assert_allclose(extra[1], truth, rtol=1.1e-3)


def test_a_partner_in_another_block_is_drawn_again(
    matched: tuple[Experiment, xr.Dataset],
) -> None:
    """Rows made in two parts are those made in one, wherever the cut."""
    exp, whole = matched
    rows = planned(exp)
    for cut in (len(rows) - 2, 12):
        parts = [
            inject.inject_brick(part, load_brick(part, exp), exp, rows)
            for part in (rows.iloc[:cut], rows.iloc[cut:])
        ]
        made = xr.concat(parts, "pair", data_vars="minimal", coords="minimal", compat="override")
        for name in whole.data_vars:
            np.testing.assert_array_equal(made[name].values, whole[name].values, str(name))


def test_a_negative_fails_with_its_partner(
    matched: tuple[Experiment, xr.Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    exp, whole = matched
    drawn = inject.draw_arc
    lost = int(whole["partner"].values[-1])

    def fails(row: Any, *args: Any) -> Any:
        if row["slot"] == lost:
            raise UserError("no arc")
        return drawn(row, *args)

    monkeypatch.setattr(inject, "draw_arc", fails)
    made = make(planned(exp), exp)
    failed = made["reason"].values == Reason.RENDER_FAILED
    np.testing.assert_array_equal(made["slot"].values[failed], [lost, whole["slot"].values[-1]])
    assert not made["ctrl"].values[failed].any()
    assert not made["extra"].values[failed].any()


def test_cuts_mark_a_negative_as_its_partner(real_root: str) -> None:
    exp = arm(real_root, fix={"core_matched_negatives": True, "theta_e_min": 0.9})
    made = make(planned(exp), exp)
    reason = dict(zip(made["slot"].values.tolist(), made["reason"].values.tolist(), strict=True))
    negatives = made["negative_kind"].values == 2
    of_partner = [reason[slot] for slot in made["partner"].values[negatives].tolist()]
    assert of_partner == made["reason"].values[negatives].tolist()
    assert set(of_partner) == {1, int(Reason.EXCLUDED_BY_THETA_E_MIN)}
    texts = {"theta_e_min(0.9);core_matched_negatives"}
    assert set(made["fix"].values[negatives]) == texts
    fix.apply_fix(np.zeros((1, 32, 32)), *texts, 15.5, 15.5)  # is read back


def test_injections_are_counted_as_they_are_drawn() -> None:
    exp = arm("/none", plan={"repeats": 3, "control_fraction": 0.3})
    k = np.array([0, 3, 5, 4095, 4096, 9001])
    tables = [uniforms(exp.seed, BRICK, j, k)[:, COLUMNS.index("plan.control")] for j in range(3)]
    np.testing.assert_array_equal(injected(exp, BRICK, k), np.stack(tables) >= 0.3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Plan]:
    """A run of two blocks and more, made without a cluster."""
    folder = tmp_path_factory.mktemp("negatives")
    document = Setting(folder, repeats=2).experiment.model_dump(mode="json")
    document["fix"]["core_matched_negatives"] = True
    exp = parse_experiment(document)
    plan = prepare.plan_of(exp)
    layout = prepare.layout_of(plan)
    spec = prepare.spec_of(exp, prepare.planned_strata(plan), n_regions=4)
    place = str(folder / "run")
    store.create_run(place, layout, exp.to_yaml(), exp.identity_document(plan.contents), "0")
    for block in range(plan.blocks):
        work = workflow.work_of(plan, plan.pieces(block), frozenset())
        made = workflow.inject_bricks(place, exp.model_dump_json(), work, block, final=False)
        workflow.write_piece(place, layout, block, [made], spec)
    return place, plan


def test_the_plan_counts_them(run: tuple[str, Plan]) -> None:
    plan = run[1]
    per_brick = [len(rows) for _, rows in plan.iter_bricks()]
    np.testing.assert_array_equal(np.diff(plan.first_row), per_brick)
    assert plan.blocks >= 2
    assert plan.drawn_rows == 80 < plan.rows < 160
    slots = np.concatenate([plan.block_rows(b)["slot"] for b in range(plan.blocks)])
    whole = np.concatenate([rows["slot"] for _, rows in plan.iter_bricks()])
    np.testing.assert_array_equal(slots, whole)
    kinds = np.concatenate([rows["negative_kind"] for _, rows in plan.iter_bricks()])
    assert (kinds == 2).sum() == plan.rows - plan.drawn_rows == (kinds == 0).sum()


def test_a_run_is_verified_opened_and_exported(run: tuple[str, Plan], tmp_path: Path) -> None:
    place, plan = run
    assert not store.verify_run(place).findings
    ds = darkhaloscope.open(place).compute()
    assert ds.sizes["pair"] == plan.rows
    assert ds["cutout_ok"].all()
    image = ds["ctrl"] + ds["arc"] + ds["extra"]
    np.testing.assert_array_equal(ds["stamp"], image)
    negatives = (ds["negative_kind"] == "core_matched").values
    assert (ds["stamp"] != ds["ctrl"]).any(("band", "y", "x")).values[negatives].all()
    everything = [slice(0, plan.rows)]
    store.export_tables(place, str(tmp_path), everything, load_mapping("seed"), stamps=True)
    blobs = pd.read_parquet(tmp_path / "stamps").set_index("task_id")
    i = int(np.flatnonzero(negatives)[0])
    key = f"{ds['brick'].values[i]}-{ds['slot'].values[i]}"
    got = decode_stamp(blobs.loc[key, "stamp_npz"], ["g", "r", "z"], "image_{band}")
    np.testing.assert_array_equal(got, image.values[i])
