"""Noise in stamps: it is called noise, and closure works beside it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from audit_pairs import SIZE, SKY, Ds, clean, gate, names, run_audit, spec_of, with_arc
from planted import planted
from scipy.ndimage import gaussian_filter

from darkhaloscope.audit import GateLimits, measure, merge
from darkhaloscope.audit.gates import integrity_gate
from darkhaloscope.audit.hypotheses import judged
from darkhaloscope.audit.leak_map import Stamps
from darkhaloscope.audit.noise import Noise, noise_of
from darkhaloscope.audit.one_class import noise_tests
from darkhaloscope.audit.verdict import judge
from darkhaloscope.audit.wrong_rows import wrong_rows

pytestmark = pytest.mark.usefixtures("remembered")

UNIT = SKY[None, :, None, None]
LONG = pytest.mark.long


def _noisy(ds: Ds, size: float, factor: float = 1.0, smooth: float = 0.0) -> Ds:
    rng = np.random.default_rng(5)

    def change(arc: np.ndarray) -> np.ndarray:
        noise = gaussian_filter(rng.normal(size=arc.shape), (0, 0, smooth, smooth))
        return factor * arc + size * UNIT * noise / noise.std()

    return with_arc(ds, change)


@pytest.mark.parametrize(
    ("size", "smooth"), [(0.7, 0.0), pytest.param(0.3, 0.0, marks=LONG), (1.0, 0.6)]
)
def test_noise_in_one_class_is_called_that_and_nothing_else(size: float, smooth: float) -> None:
    result = run_audit(_noisy(clean(), size, smooth=smooth))
    assert names(result) in (["noise_one_class", "nonlinear_excess"], ["noise_one_class"])
    assert result.verdict["sentence"].startswith("A shortcut, noise_one_class: far from the arcs")
    for name in ("closure_flux", "closure_centroid", "residual_pedestal", "closure_scatter"):
        assert gate(result, name)["outcome"] != "fail"


def test_a_doubled_flux_is_found_under_noise() -> None:
    result = run_audit(_noisy(clean(), 0.7, factor=2.0))
    assert names(result)[0] == "flux_scale"
    cause = result.verdict["causes"][0]
    assert cause["interval"][0] < 2.0 < cause["interval"][1]
    assert cause["size"] == pytest.approx(2.0, rel=0.05)
    assert "noise_one_class" in names(result)
    assert not {"shift", "blur", "core_pedestal", "pedestal"} & set(names(result))


def test_noise_that_both_classes_have_of_their_own_is_no_shortcut() -> None:
    """Two exposures of one sky: stamp - ctrl is noisy, and neither class can be told by it."""
    ds = clean().copy(deep=True)
    rng = np.random.default_rng(6)
    ours, theirs = (0.5 * UNIT * rng.normal(size=ds["arc"].shape) for _ in range(2))
    ds["ctrl"].values[:] = ds["ctrl"].values + ours.astype("f4")
    result = run_audit(with_arc(ds, lambda arc: arc + (theirs - ours)[: len(arc)]))
    assert "noise_one_class" not in names(result)
    assert not {"flux_scale", "shift", "blur", "core_pedestal", "pedestal"} & set(names(result))
    sizes = result.tables["tests"].query("test == 'noise_one_class'")
    assert (sizes["p_holm"] > 0.05).all()
    worst = [str(why) for why in result.examples["why"] if why]
    told = [
        re.fullmatch(r"(.*) % of its light is not as .*, (.*) % by noise alone", w) for w in worst
    ]
    shares = [[float(v.replace(",", "")) for v in w.groups()] for w in told if w is not None]
    assert len(shares) == len(worst) == 6
    assert all(abs(one / noise - 1.0) < 0.2 for one, noise in shares)
    assert "less noise" in result.verdict["sentence"]
    assert "fainter" not in result.verdict["sentence"]
    elsewhere = gate(result, "arc_localisation")
    assert abs(elsewhere["value"] - elsewhere["by_noise"]) < 0.1


# --- noise of the arcs' own photons ---------------------------------------------------------------


def _photons(ds: Ds, variance: float, factor: float = 1.0) -> Ds:
    """Arcs with Gaussian noise of ``variance`` sky sigma times their light, and none elsewhere."""
    rng = np.random.default_rng(7)

    def change(arc: np.ndarray) -> np.ndarray:
        light = factor * arc / UNIT
        return UNIT * (light + np.sqrt(variance * light) * rng.normal(size=arc.shape))

    return with_arc(ds, change)


def _promised(ds: Ds) -> Ds:
    """The same pairs with the fluxes that their arcs have without noise."""
    return ds.assign(total_injected_flux=clean()["total_injected_flux"].copy())


@pytest.mark.parametrize("variance", [0.02, pytest.param(0.2, marks=pytest.mark.long)])
def test_the_noise_of_an_arc_s_own_photons_is_no_bug(variance: float) -> None:
    result = run_audit(_promised(_photons(clean(), variance)))
    assert result.verdict["verdict"] == "undecided", result.verdict["sentence"]
    assert result.exit_code == 3
    assert gate(result, "row_integrity")["outcome"] == "pass"
    assert any("own photons" in line for line in result.verdict["not_tested"])


def test_a_flux_column_that_no_photons_explain_is_wrong() -> None:
    ds = _promised(_photons(clean(), 0.02))
    spec = spec_of(ds)
    stats = merge([measure(ds, spec)], spec)
    assert [w.name for w in wrong_rows(stats, spec)] == ["flux_column"]
    assert wrong_rows(stats, spec, photons=0.02) == []
    ds["total_injected_flux"].values[:3] *= 1.5
    stats = merge([measure(ds, spec)], spec)
    (found,) = wrong_rows(stats, spec, photons=0.02)
    assert (found.name, found.count, found.rows) == ("flux_column", 3, 300)
    assert found.text.startswith("3 of 300 rows kept whole: injections have a total_injected_flux")
    failed = integrity_gate([found])
    assert (failed.value, failed.outcome) == (0.01, "fail")
    says = judge([failed], [], GateLimits(required=("row_integrity",)), 300, [], "")["sentence"]
    assert "row_integrity is 0.01 (limit 0, by flux_column)" in says


@pytest.mark.parametrize("seed", [11, 13, 25])
def test_plain_noise_is_not_taken_for_photons(seed: int) -> None:
    """These draws have, by chance, a little more variance in the faint and in the bright part of the arcs."""
    ds = clean()
    arcs = ds["arc"].values[ds["lens_model"].values != 0] / UNIT
    good = np.ones(arcs[:, 0].shape, dtype=bool)
    rng = np.random.default_rng(seed)
    for arc in arcs.transpose(1, 0, 2, 3):
        assert noise_of(0.3 * rng.normal(size=arc.shape), arc, good).photons == 0.0


@pytest.mark.long
def test_a_doubled_flux_is_found_among_photons() -> None:
    result = run_audit(_photons(clean(), 0.02, factor=2.0))
    assert names(result)[0] == "flux_scale"
    assert result.verdict["causes"][0]["size"] == pytest.approx(2.0, rel=0.02)


def test_photons_are_told_from_errors_of_the_arc() -> None:
    rng = np.random.default_rng(8)
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    ring = np.exp(-0.5 * ((np.hypot(axis[:, None], axis) - 8) / 2) ** 2)
    arc = np.geomspace(5, 500, 60)[:, None, None] * ring
    good = np.ones(arc.shape, dtype=bool)
    seen = np.sqrt(0.05 * arc) * rng.normal(size=arc.shape)
    assert noise_of(seen, arc, good).photons == pytest.approx(0.05, rel=0.1)
    for wrong in (
        0.1 * arc,
        np.roll(arc, 1, axis=2) - arc,
        0.05 * arc * rng.normal(size=arc.shape),
    ):
        assert noise_of(wrong, arc, good).photons == 0.0
    # Beside noise of the sky that is not theirs.
    sky = 0.7 * rng.normal(size=arc.shape)
    assert noise_of(seen + sky, arc, good).photons == pytest.approx(0.05, rel=0.3)
    assert noise_of(sky, arc, good).photons < 0.01


# --- what is found beside noise -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("defect", "cause"),
    [
        ("target rounded", "target_rounded"),
        pytest.param("lens angle turned", "angle_convention", marks=LONG),
        pytest.param("shift by half a px", "shift", marks=LONG),
        pytest.param("psfsize as Moffat FWHM", "psf_as_moffat_fwhm", marks=LONG),
    ],
)  # fmt: skip
def test_defects_are_found_in_noise_and_called_by_their_names(defect: str, cause: str) -> None:
    bright = with_arc(clean(), lambda arc: 4.0 * arc)
    bright = bright.assign(src_flux=4.0 * bright["src_flux"])
    result = run_audit(_noisy(planted(bright, defect), 0.5))
    assert cause in names(result), result.verdict["sentence"]


def test_level_and_correlation_are_those_that_were_made() -> None:
    made = Noise(np.full(200, 0.4), 0.5).draw(np.zeros((200, SIZE, SIZE)), 1, 1)
    neighbours = np.corrcoef(made[..., 1:].ravel(), made[..., :-1].ravel())[0, 1]
    assert made.std() == pytest.approx(0.4, rel=0.02)
    assert neighbours == pytest.approx(0.5, abs=0.1)  # a sampled kernel falls short
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    arc = 30.0 * np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / 50.0) * np.ones((200, 1, 1))
    # An arc that is wrong by a tenth is not taken for noise.
    found = noise_of(made + 0.1 * arc, arc, np.ones(arc.shape, dtype=bool))
    assert np.median(found.level) == pytest.approx(0.4, rel=0.03)
    assert found.correlation == pytest.approx(neighbours, abs=0.05)
    assert found.there
    assert not noise_of(0.1 * arc, arc, np.ones(arc.shape, dtype=bool)).there


@pytest.mark.parametrize(("added", "size"), [(0.0, 0.0), (0.5, 0.5)])
def test_the_slope_of_a_bright_arc_is_no_noise(added: float, size: float) -> None:
    rng = np.random.default_rng(8)
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    radius = np.hypot(axis[:, None], axis[None, :])
    arc = 3000.0 * np.exp(-0.5 * ((radius - 8) / 3) ** 2) + 100 / (1 + (radius / 8) ** 2)
    shape = (60, 1, SIZE, SIZE)
    ctrl = rng.normal(size=shape)
    stamps = Stamps(
        ctrl, ctrl + arc + added * rng.normal(size=shape), ctrl + arc, np.ones(shape, bool),
        np.arange(60, dtype=np.uint64) % 30, np.arange(60), np.arange(60, dtype=np.uint64), np.arange(60),
    )  # fmt: skip
    (test,) = noise_tests(stamps, 20)
    assert test.value == pytest.approx(size, abs=0.05)
    assert (test.p < 1e-6) == (added > 0)


def test_an_arc_that_is_not_as_promised_is_no_noise() -> None:
    axis = np.arange(SIZE) - (SIZE - 1) / 2
    arc = 300.0 * np.exp(-0.5 * np.hypot(axis[:, None], axis[None, :]) / 3)
    ctrl = np.random.default_rng(8).normal(size=(60, 1, SIZE, SIZE))
    key = np.arange(60, dtype=np.uint64)
    stamps = Stamps(ctrl, ctrl, ctrl + arc, np.ones(ctrl.shape, bool), key % 30, np.arange(60), key,
                    np.arange(60))  # fmt: skip
    (test,) = noise_tests(stamps, 20)
    assert test.value == 0.0


def test_noise_in_some_of_the_images_is_noise() -> None:
    level = np.zeros(100)
    level[:30] = 0.7
    assert Noise(level, 0.0).there
    level[4:] = 0.0
    assert not Noise(level, 0.0).there


@pytest.mark.parametrize("noisier", ["stamps", "ctrl"])
def test_noise_of_either_class_alone_is_seen(noisier: str) -> None:
    rng = np.random.default_rng(4)
    n, shape = 40, (40, 1, 48, 48)
    ctrl = rng.normal(size=shape)
    more = rng.normal(0.0, 0.5, shape)
    seen, ctrl = (ctrl + more, ctrl) if noisier == "stamps" else (ctrl, ctrl + more)
    rows = np.arange(n)
    stamps = Stamps(ctrl, seen, ctrl, np.ones(shape, bool), rows, rows, rows, rows)
    (cause,) = judged(noise_tests(stamps, 20))[1]
    assert cause.says.startswith(f"far from the arcs the {noisier} hold noise of 0.5")
    other = {"stamps": "ctrl", "ctrl": "stamps"}[noisier]
    assert f"do not: added to the {noisier}, or smoothed away in the {other}" in cause.says
