"""Controls, corners and sky levels: two classes that should be alike, and each way in which they are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from audit_pairs import SKY, Ds, audit_rows, clean, measure, of_two_exposures, spec_of, with_arc
from planted import planted

from darkhaloscope.audit import open_source, undrawn
from darkhaloscope.audit.classes import (
    class_tests,
    control_tests,
    ctrl_looks,
    far_tests,
    lost_tests,
    sky_ratios,
    unseen_sky_sigma,
    wrong_sky_sigma,
)
from darkhaloscope.audit.hypotheses import judged, without_p
from darkhaloscope.audit.intervals import Floats
from darkhaloscope.audit.leak_map import whole_stamps
from darkhaloscope.audit.looks import FLAWS, Looks, look_names, looks
from darkhaloscope.audit.measure import merge
from darkhaloscope.prepare import AuditSettings, spec_of_source
from darkhaloscope.variables import NEGATIVE_KINDS

UNIT = SKY[None, :, None, None]
PAIRS = 110


def controls(ds: Ds) -> list[str]:
    """What is said of the controls of a set measured in two halves."""
    spec = spec_of(ds)
    half = ds.sizes["pair"] // 2
    parts = [measure(ds.isel(pair=s), spec) for s in (slice(0, half), slice(half, None))]
    stats = merge(parts, spec)
    tests = control_tests(stats, ctrl_looks(stats, spec)[1], spec, 20)
    assert tests
    assert {t.name for t in tests} == {"controls_differ"}
    return [c.says for c in judged(tests)[1]]


@pytest.mark.parametrize(
    ("defect", "feature"),
    [("controls with noise of their own", "noise"), ("controls brighter", "noise")],
)
def test_controls_that_are_no_controls_are_named(defect: str, feature: str) -> None:
    (says,) = controls(planted(clean(), defect))
    assert f"controls are told from the ctrl of injections by their {feature}" in says


def test_a_sky_level_of_controls_alone_is_named() -> None:
    ds = clean().copy(deep=True)
    ds["ctrl"].values[ds["lens_model"].values == 0] += UNIT.astype("f4")
    (says,) = controls(ds)
    assert "corners" in says or "ring" in says


def cosmic_rays(images: Floats, rng: np.random.Generator) -> None:
    for image in images:
        y, x = rng.integers(4, 40, 2)
        image[:, y, x : x + 4] += 15.0 * SKY[:, None]


def off_centre(images: Floats, rng: np.random.Generator) -> None:
    for image in images:
        shift = rng.integers(0, 2, 2) * 4 - 2
        image[:] = np.roll(image, shift, axis=(1, 2))


def coarse(images: Floats, _: np.random.Generator) -> None:
    step = 0.2 * UNIT
    images[:] = step * np.round(images / step)


@pytest.mark.parametrize(
    ("flaw", "feature"), [(cosmic_rays, FLAWS[1]), (off_centre, FLAWS[0]), (coarse, FLAWS[3])]
)
def test_flaws_of_controls_alone_are_named(
    flaw: Callable[[Floats, np.random.Generator], None], feature: str
) -> None:
    ds = clean().copy(deep=True)
    control = ds["lens_model"].values == 0
    images = ds["ctrl"].values[control]
    flaw(images, np.random.default_rng(3))
    ds["ctrl"].values[control] = images
    (says,) = controls(ds)
    assert f"controls are told from the ctrl of injections by their {feature}" in says


def test_controls_that_lack_pixels_are_named() -> None:
    ds = clean().copy(deep=True)
    control = np.flatnonzero(ds["lens_model"].values == 0)
    ds["nodata"].values[control, :6, :6] = 7
    (says,) = controls(ds)
    assert f"by their {FLAWS[2]}" in says


def test_controls_in_coarse_steps_like_the_others_are_controls() -> None:
    """Many looks are equal there; what rounds those of one class alone would break all ties one way."""
    ds = clean().copy(deep=True)
    images = ds["ctrl"].values
    coarse(images, np.random.default_rng())
    ds["ctrl"].values[:] = images
    assert controls(ds) == []
    spec = spec_of(ds)
    stats = merge([measure(ds, spec)], spec)
    ctrl = ctrl_looks(stats, spec)[1].values
    assert np.array_equal(ctrl, ctrl.astype(np.float32), equal_nan=True)


def test_controls_of_the_same_law_are_controls() -> None:
    assert controls(clean()) == []
    assert controls(of_two_exposures(clean(), 1)) == []


def test_core_matched_negatives_are_judged_apart() -> None:
    ds = clean().copy(deep=True)
    control = ds["lens_model"].values == 0
    kind = np.where(control, NEGATIVE_KINDS.index("core_matched"), 0).astype("u1")
    ds["negative_kind"] = ("pair", kind)
    ds["ctrl"].values[control] *= np.float32(1.5)
    (says,) = controls(ds)
    assert says.startswith("controls (core-matched ones) are told from")


def test_looks_are_plain_numbers() -> None:
    rng = np.random.default_rng(1)
    image = np.full((2, 1, 48, 48), 3.0)
    image[1] += rng.normal(size=(1, 48, 48))
    image[0, 0, :2] = 5.0
    names = look_names(48)
    found = looks(image, np.ones(image.shape, dtype=bool))[:, 0]
    assert names[0] == "ring 0-6 px"
    assert found[0, 0] == 3.0
    assert np.isnan(found[0, names.index("noise")])
    assert found[1, names.index("noise")] == pytest.approx(1.0, abs=0.15)
    # Two of the four sides' eight rows, less their share of the outermost ring.
    assert 0.3 < found[0, names.index("edges")] < 0.6
    assert np.isnan(looks(image, np.zeros(image.shape, dtype=bool))).all()


def test_flaws_are_plain_numbers() -> None:
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:48, :48]
    # Of 48 pixels the centre is at 23.5; the light's is 1.5 px off, by 0.9 in x and 1.2 in y.
    galaxy = 100.0 * np.exp(-((x - 24.4) ** 2 + (y - 24.7) ** 2) / (2 * 1.2**2))
    image = np.stack([galaxy + rng.normal(size=(48, 48)), np.round(rng.normal(size=(48, 48)))])
    image[0, 8, 20:24] += 50.0
    good = np.ones(image.shape, dtype=bool)
    good[1, :12] = False
    found = looks(image[:, None], good[:, None])[:, 0, [look_names(48).index(f) for f in FLAWS]]
    off, spike, missing, values = found.T
    assert off[0] == pytest.approx(1.5, abs=0.1)
    assert np.isnan(off[1])
    assert spike[0] == pytest.approx(50.0, abs=8.0)
    assert 2.0 < spike[1] < 6.0
    assert missing.tolist() == [0.0, 0.25]
    assert values[0] == 1.0
    assert values[1] == pytest.approx(8 / (36 * 48), rel=0.3)


def far(ds: Ds, paired: bool) -> list[str]:
    spec = spec_of(ds, paired=paired, lacks=("theta_e",))
    stats = merge([measure(ds, spec)], spec)
    stamps = whole_stamps(stats, undrawn(audit_rows(stats, spec), spec), spec)
    tests = far_tests(stamps, spec, 20)
    assert {t.name for t in tests} >= {"noise_one_class"}
    return [c.name for c in judged(tests)[1]]


def test_regions_are_counted_where_a_feature_is_known() -> None:
    """Two classes of one law, each region with a level of its own; one band covers two regions of each."""
    regions, rows = 25, 40
    keys = np.repeat(np.arange(regions, dtype=np.uint64), rows)
    alarms = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        one, other = (
            np.repeat(rng.normal(size=(regions, 2)), rows, axis=0)
            + 0.3 * rng.normal(size=(regions * rows, 2))
            for _ in range(2)
        )
        one[keys > 1, 1] = other[keys > 1, 1] = np.nan
        seen, ctrl = Looks(one[:, :, None], keys), Looks(other[:, :, None], keys + 100)
        tests = class_tests("x", ("a", "b"), seen, ctrl, ("r", "z"), {"sky": 0}, 7, 20)
        assert [(t.where, t.n, np.isnan(t.p)) for t in tests] == [
            ("sky, band r", 25, False),
            ("sky, band z", 2, True),
        ]
        assert without_p(tests) == ["x: 1 tests without a p-value, the first: sky, band z"]
        alarms += judged(tests)[1]
        (few,) = class_tests("x", ("a", "b"), seen, ctrl, ("r", "z"), {"sky": 0}, 7, 2)[1:]
        assert few.p > 1e-3  # with one degree of freedom nothing is certain
    assert alarms == []


def unpaired(ds: Ds) -> Ds:
    """Row i of one class keeps row i of the other company."""
    out = ds.copy(deep=True)
    rows = np.flatnonzero(ds["lens_model"].values != 0)
    stamp = (ds["ctrl"].values + ds["arc"].values)[rows]
    out["ctrl"].values[rows] = ds["ctrl"].values[np.roll(rows, len(rows) // 2)]
    out["arc"].values[rows] = stamp - out["ctrl"].values[rows]
    return out


@pytest.mark.parametrize("kind", [lambda ds: ds, unpaired], ids=["paired", "unpaired"])
def test_what_no_arc_reaches_is_alike(kind: Callable[[Ds], Ds]) -> None:
    paired = kind is not unpaired
    assert far(kind(clean(PAIRS)), paired) == []
    pedestal = with_arc(clean(PAIRS), lambda arc: arc + 2.0 * UNIT)
    assert far(kind(pedestal), paired) == ["leak"]
    noisy = planted(clean(PAIRS), "noise in one class", 1.0)
    assert far(kind(noisy), paired) == ["noise_one_class"]


def test_the_faint_wings_of_bright_arcs_are_no_leak() -> None:
    """Arcs a thousand times as bright reach the corners, and fall off towards them."""
    assert far(with_arc(clean(PAIRS), lambda arc: 3000.0 * arc), True) == []


def test_a_sky_sigma_that_is_not_that_of_the_pixels_is_a_bug() -> None:
    ds = clean(PAIRS)
    spec = spec_of(ds)
    stats = merge([measure(ds, spec)], spec)
    place, ctrl = ctrl_looks(stats, spec)
    assert wrong_sky_sigma(sky_ratios(stats, place, ctrl, spec)) == []
    stats["row_sky_sigma"] = 10 * stats["row_sky_sigma"]
    ratios = sky_ratios(stats, place, ctrl, spec)
    (cause,) = wrong_sky_sigma(ratios)
    assert (cause.name, cause.kind) == ("sky_sigma_column", "bug")
    assert cause.size == pytest.approx(0.1, abs=0.03)
    assert unseen_sky_sigma(ratios) == []
    stats["row_sky_sigma"][:, 1] = np.nan
    ratios = sky_ratios(stats, place, ctrl, spec)
    assert unseen_sky_sigma(ratios) == [
        "sky_sigma against the noise of ctrl: 100 stamps needed (0 in r)"
    ]
    assert sky_ratios(stats, place, ctrl, spec_of(ds, lacks=("sky_sigma",))) == {}


@pytest.mark.parametrize("lost", ["nonlens", "lens", "both"])
def test_pixels_that_one_class_lacks_tell_it(lost: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    images = {name: rng.normal(size=(90, 2, 32, 32)).astype("f4") for name in ("lens", "nonlens")}
    for name, image in images.items():
        if lost in (name, "both"):
            image[:, 1, :5, :5] = np.nan
    np.savez(tmp_path / "x.npz", bands=["g", "r"], pixel_scale=0.2, **images)
    source = open_source(str(tmp_path / "x.npz"))
    spec = spec_of_source(source, AuditSettings())
    stats = merge([measure(source.block(rows), spec) for rows in source.blocks(40)], spec)
    tests = lost_tests(stats, spec, 20)
    assert [t.where for t in tests] == [
        "pixels without data, band g",
        "pixels without data, band r",
    ]
    causes = judged(tests)[1]
    if lost == "both":
        assert causes == []
        return
    (cause,) = causes
    more = "less" if lost == "nonlens" else "more"
    assert (cause.name, cause.kind) == ("leak", "shortcut")
    told = "lenses are told from non-lenses by their pixels without data in band r with an AUC of 1.000"
    assert f"{told} ({more}" in cause.says
