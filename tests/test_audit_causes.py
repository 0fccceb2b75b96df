"""What tells the members of a family apart, each against numbers that are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from audit_pairs import (
    REGIONS,
    SCALE,
    SIZE,
    SKY,
    Ds,
    clean,
    galaxies,
    measure,
    of_two_exposures,
    rerendered,
    sky_noise,
    spec_of,
    with_arc,
)
from planted import careless, planted

from darkhaloscope.audit.alignment import MOST, _strange, alignment, rival_noise, target_tests
from darkhaloscope.audit.alternatives import Alternative, alternatives, changed
from darkhaloscope.audit.causes import Limits, shown
from darkhaloscope.audit.closure import Closure
from darkhaloscope.audit.closure_summary import SUMMARY_COLUMNS
from darkhaloscope.audit.constants import find_constants
from darkhaloscope.audit.explain import MANY, Images, _Scores, closure_images, explain
from darkhaloscope.audit.families import (
    displacement_of,
    excess_of,
    flux_causes,
    magnification_slope,
    shift_causes,
)
from darkhaloscope.audit.leak_map import whole_stamps
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.noise import medians
from darkhaloscope.audit.rerender import audit_rows, redraw_plain
from darkhaloscope.audit.sampled import one_sample
from darkhaloscope.audit.shuffled import shuffled

PAIRS = 110


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(4)


def images_of(ds: Ds) -> Images:
    spec = spec_of(ds)
    stats = measure(ds, spec)
    return closure_images(stats, rerendered(ds, stats, spec), spec)


def pairs_of(n: int, **columns: object) -> pd.DataFrame:
    zero = dict.fromkeys(
        ("target_offset_x", "target_offset_y", "lens_offset_x", "lens_offset_y"), 0.0
    )
    return pd.DataFrame({"hash": np.arange(n), "band": "r", **zero, **columns})


@pytest.mark.parametrize("power", [-1.0, 0.0, 1.0])
def test_the_slope_on_magnification_is_the_power_that_was_applied(
    power: float, rng: np.random.Generator
) -> None:
    gain = np.exp(rng.normal(1.5, 0.6, 200))
    scatter = np.exp(rng.normal(0, 0.02, 200))
    found = magnification_slope(
        pairs_of(200, flux_ratio=gain**power * scatter, magnification=gain), pairs_of(0)
    )
    assert found is not None
    assert found.value == pytest.approx(power, abs=0.02)
    assert found.lo < power < found.hi
    assert power == 0.0 or found.rest < 0.1
    alike = pairs_of(200, flux_ratio=gain**power, magnification=gain**0.1)
    assert magnification_slope(alike, pairs_of(0)) is None


@pytest.mark.parametrize(
    ("factor", "says"),
    [
        (2.0, "flux doubled fits (2)"),
        (3.631, "uJy for nMgy fits"),
        (1.9, "flux, zero point and gain cannot be told apart"),
    ],
)
def test_a_constant_is_said_only_where_it_fits(factor: float, says: str) -> None:
    pairs = pairs_of(100, flux_ratio=factor, magnification=1.0)
    value = factor - 1.0
    summary = pd.DataFrame(
        [("flux", band, value, value - 1e-5, value + 1e-5, 100, 0.0) for band in ("all", "r")],
        columns=SUMMARY_COLUMNS,
    )
    empty = pd.DataFrame()
    (cause,) = flux_causes(Closure(pairs, summary, empty, empty, 100, {}, empty), Limits())
    assert cause.name == "flux_scale"
    assert says in cause.evidence
    assert "magnifications too alike" in cause.evidence
    assert cause.says.endswith("times the promised flux in band r")


def test_a_flux_that_drifts_is_not_told_as_one_factor() -> None:
    pairs = pairs_of(100, flux_ratio=np.linspace(1.0, 1.1, 100), magnification=1.0)
    summary = pd.DataFrame(
        [("flux", band, 0.05, 0.044, 0.056, 100, 0.0) for band in ("all", "r")],
        columns=SUMMARY_COLUMNS,
    )
    empty = pd.DataFrame()
    (cause,) = flux_causes(Closure(pairs, summary, empty, empty, 100, {}, empty), Limits())
    assert "1.050 times the promised flux in band r on average, from 1.016 to 1.084" in cause.says


def test_displacements_come_apart_into_vector_target_and_lens(rng: np.random.Generator) -> None:
    target, lens = rng.uniform(-0.5, 0.5, (2, 150)), rng.normal(0, 0.3, (2, 150))
    dx, dy = np.array([[0.2], [-0.1]]) - target + 0.5 * lens + rng.normal(0, 0.01, (2, 150))
    dx[:5] += 20.0  # arcs that were not fitted at all
    found = displacement_of(
        pairs_of(150, dx=dx, dy=dy, target_offset_x=target[0], target_offset_y=target[1],
                 lens_offset_x=lens[0], lens_offset_y=lens[1])
    )  # fmt: skip
    assert found.vector == (pytest.approx(0.2, abs=0.02), pytest.approx(-0.1, abs=0.02))
    assert found.target == pytest.approx(-1.0, abs=0.03)
    assert found.lens == pytest.approx(0.5, abs=0.03)
    assert found.rest < 0.03


@pytest.mark.parametrize(("scatter", "name"), [(0.01, "lens_offset"), (2.0, "shift")])
def test_a_recorded_offset_is_the_reason_only_of_what_it_explains(
    scatter: float, name: str, rng: np.random.Generator
) -> None:
    """Arcs that lie anywhere follow no offset, whatever coefficient a fit gives it."""
    lens = rng.normal(0, 0.3, (2, 150))
    dx, dy = -lens + rng.normal(0, scatter, (2, 150)) + (12.0 if name == "shift" else 0.0)
    pairs = pairs_of(150, dx=dx, dy=dy, lens_offset_x=lens[0], lens_offset_y=lens[1])
    far = float(np.hypot(dx, dy).mean())
    summary = pd.DataFrame(
        [("shift", band, far, 0.9 * far, 1.1 * far, 150, 0.0) for band in ("all", "r")],
        columns=SUMMARY_COLUMNS,
    )
    empty = pd.DataFrame()
    (cause,) = shift_causes(Closure(pairs, summary, empty, empty, 150, {}, empty), Limits())
    assert cause.name == name


@pytest.mark.parametrize("target", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(20))
def test_targets_in_one_place_leave_the_lens_its_offset(seed: int, target: float) -> None:
    """No coefficient of an offset that all rows share is known: it took the name from the lens's."""
    rng = np.random.default_rng(seed)
    lens = rng.normal(0, 0.3, (2, 150))
    dx, dy = -lens + rng.normal(0, 0.01, (2, 150))
    offsets = dict.fromkeys(("target_offset_x", "target_offset_y"), target)
    found = displacement_of(
        pairs_of(150, dx=dx, dy=dy, lens_offset_x=lens[0], lens_offset_y=lens[1], **offsets)
    )
    assert found.target == 0.0
    assert found.lens == pytest.approx(-1.0, abs=0.01)


def test_a_few_wrong_images_are_no_constant_of_all(rng: np.random.Generator) -> None:
    """Light in the core of 15 % of the images is taken from none of the others; in all it is a constant."""
    rest = rng.normal(0, 1e-4, (100, SIZE, SIZE))
    weight, outer = np.ones_like(rest), np.zeros(rest.shape, dtype=bool)
    outer[:, 0] = True
    some, every = rest.copy(), rest.copy()
    some[:15, SIZE // 2 - 3 : SIZE // 2 + 3, SIZE // 2] += 50.0
    every[:, SIZE // 2 - 4 : SIZE // 2 + 4, SIZE // 2 - 4 : SIZE // 2 + 4] += 0.02
    assert abs(find_constants(some, weight, outer).core) < 1e-4
    assert find_constants(every, weight, outer).core == pytest.approx(0.02, abs=1e-4)


def test_a_convention_of_some_rows_is_named_with_their_share() -> None:
    """Right rows stay right: neither a factor of the wrong ones nor their convention is put on them."""
    ds = clean(PAIRS)
    injected = np.flatnonzero(ds["lens_model"].values != 0)
    turned = injected[::4]
    ds = ds.copy(deep=True)
    ds["arc"].values[turned] = np.rot90(ds["arc"].values[turned], axes=(2, 3))
    spec = spec_of(ds)
    stats = measure(ds, spec)
    images = closure_images(stats, rerendered(ds, stats, spec), spec)
    because = explain(images, spec, redraw_plain, mild=False)
    assert because is not None
    assert (because.cause, because.whole, because.some) == ("pixels_flipped", True, True)
    assert because.share[0] == pytest.approx(len(turned) / len(injected), abs=0.02)
    assert because.rows is not None
    moved = (because.rows["lens_pa"] != images.rows["lens_pa"]).sum()
    assert moved == pytest.approx(because.share[0] * len(images.arc), abs=0.5)


def test_where_noise_explains_all_no_renderer_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than nothing is left of bright arcs, by their noise: no part of it is a bad renderer's."""
    rows, wrong, side = 2 * MANY, 4, 12
    rng = np.random.default_rng(5)
    again = 100.0 * rng.uniform(0.5, 1, (rows + wrong, 1, side, side))
    arc = again.copy()
    arc[rows:] = again[rows:, :, ::-1]
    ones = np.ones((rows + wrong, 1))
    said = {
        "hash": np.arange(rows + wrong, dtype=np.uint64),
        "lens_q": np.where(np.arange(rows + wrong) < rows, 0.5, 1.0),
    }
    images = Images(
        said, arc, again, np.ones(arc.shape, bool), 0.1 * ones, 0.0 * ones, ones[:, :, None, None]
    )
    left = images.unexplained(again)
    assert left[:rows].mean() < 0 < left[rows:].min()
    careless = {"one sample a pixel": lambda of: 0.999 * of.again}
    monkeypatch.setattr("darkhaloscope.audit.explain._careless", lambda _: careless)
    monkeypatch.setattr("darkhaloscope.audit.explain._after_fit", lambda *_: 1.0)
    monkeypatch.setattr("darkhaloscope.audit.explain.alternatives", lambda _: [])
    assert explain(images, spec_of(clean(10)), redraw_plain, mild=False) is None


def test_a_wider_psf_and_a_larger_source_have_their_own_terms(rng: np.random.Generator) -> None:
    width, reff, q = (
        rng.uniform(1.0, 1.6, 300),
        rng.uniform(0.1, 0.5, 300),
        rng.uniform(0.3, 1, 300),
    )
    square = width**2 * 1.25 + 0.4 * reff**2 * (1 - q)
    pairs = pairs_of(
        300, width_ratio=np.sqrt(square) / width, psf_width=width, src_reff=reff, src_q=q
    )
    words = excess_of(pairs).split()
    terms = {name: float(words[words.index(name) - 1]) for name in ("psfsize^2", "R_e^2")}
    assert terms == {
        "psfsize^2": pytest.approx(0.25, rel=0.01),
        "R_e^2": pytest.approx(0.4, rel=0.05),
    }


@pytest.mark.parametrize(("side", "blurred"), [(1, True), (8, False)])
def test_careless_arcs_are_those_of_another_renderer(side: int, blurred: bool) -> None:
    """Against rays of :mod:`darkhaloscope.lensing` and a kernel sampled on pixels."""
    ds = clean(PAIRS)
    spec = spec_of(ds)
    rows = audit_rows(measure(ds, spec), spec)
    few = {name: values[:6] for name, values in rows.items()}
    every = list(zip(ds["brick"].values, ds["slot"].values.tolist(), strict=True))
    place = [every.index(row) for row in zip(few["brick"], few["slot"].tolist(), strict=True)]
    theirs = careless(ds.isel(pair=place), side, blurred)
    ours = one_sample(few, spec, side, blurred)
    np.testing.assert_allclose(ours, theirs, atol=2e-3 * theirs.max())


def test_conventions_undo_themselves_or_each_other() -> None:
    ds = clean(PAIRS)
    rows = {name: ds[name].values[:20].astype(float) for name in
            ("lens_pa", "src_pa", "gamma1", "gamma2", "src_dx", "src_dy", "lens_dx", "lens_dy",
             "theta_e")}  # fmt: skip
    known = {a.says: a for a in alternatives(spec_of(ds))}
    assert len(known) == len(alternatives(spec_of(ds)))
    for says in (
        "the whole sky mirrored east for west",
        "the whole sky turned by 180 degrees",
        "the whole sky with its axes swapped",
        "the lens angle counted from the other axis",
    ):
        twice = changed(rows, [known[says]] * 2)
        for name, values in rows.items():
            np.testing.assert_allclose(twice[name] % 180, values % 180, atol=1e-9)
    pair = ("theta_e in arcsec taken for pixels", "theta_e in pixels taken for arcsec")
    both = changed(rows, [known[says] for says in pair])
    np.testing.assert_allclose(both["theta_e"], rows["theta_e"])
    once = changed(rows, [known[pair[0]]])
    np.testing.assert_allclose(once["theta_e"], SCALE * rows["theta_e"])


@pytest.mark.parametrize("rows", [3, 9, 36])
def test_what_is_not_drawn_in_all_rows_could_not_have_been_the_best(
    rows: int, rng: np.random.Generator
) -> None:
    spec, known = spec_of(clean(PAIRS)), 20
    arc, gap = rng.random((rows, 1, 8, 8)), rng.normal(size=(rows, 1, 8, 8))
    # Each is more wrong in some rows than in others; one is as good as the best.
    size = rng.uniform(0.0, 1.0, (known, rows)) * np.geomspace(0.02, 1.0, known)[:, None]
    size[known // 2] = size[0]
    drawn = 0

    def redraw(given: Arrays, *_: object) -> Arrays:
        nonlocal drawn
        drawn += len(given["hash"])
        of = given["hash"].astype(int)
        off = size[given["which"], of] * (given["which"] >= 0)
        return {"whole": arc[of] + off[:, None, None, None] * gap[of], "whole_hash": given["hash"]}

    def said(which: int) -> Alternative:
        def change(given: Arrays) -> Arrays:
            return {"which": np.full(len(given["hash"]), which)}

        return Alternative("part", "cause", f"{which}", (), change)

    of_all = np.ones((rows, 1))
    images = Images(
        {"hash": np.arange(rows, dtype=np.uint64), "which": np.full(rows, -1)},
        arc, arc, np.ones(arc.shape, bool), 0.0 * of_all, 0.0 * of_all, of_all[:, :, None, None],
    )  # fmt: skip
    asked = [said(which) for which in rng.permutation(known)]
    left = [images.unexplained(redraw(changed(images.rows, [a]))["whole"]).mean() for a in asked]
    drawn = 0
    score = _Scores(images, spec, redraw)
    best, least = score.best([[a] for a in asked])
    assert best == [asked[int(np.argmin(left))]]
    assert least == pytest.approx(min(left))
    limit = 2.0 * least
    assert [score.below([a], limit) for a in asked] == [v < limit for v in left]
    assert rows == 3 or drawn < known * rows


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (-1e-9, ".4f", "0.0000"), (-1e-9, "+.3%", "0.000%"), (0.0, "+.3%", "0.000%"),
        (-0.01, "+.3%", "-1.000%"), (0.5, "+.1f", "+0.5"), (float("nan"), "+.3%", "+nan%"),
    ],
)  # fmt: skip
def test_zeros_have_no_sign(value: float, form: str, text: str) -> None:
    assert shown(value, form) == text


def test_what_a_set_lacks_is_not_asked_for() -> None:
    ds = clean(PAIRS)
    parts = {a.part for a in alternatives(spec_of(ds, lacks=("gamma1", "lens_dx", "src_q")))}
    assert not {"shear", "source q"} & parts
    assert {"lens angle", "lens q", "theta_e", "PSF width"} <= parts


def test_rows_whose_true_parameters_are_not_at_hand_are_told_by_their_fluxes() -> None:
    images = images_of(planted(clean(PAIRS), "rows shuffled"))
    every = shuffled(images)
    assert every is not None
    assert "110 of 110 arcs that are not their own are those of other rows" in every.says
    # Every row holds the arc of the one before it: of even rows alone none is at hand.
    row = images.rows["slot"] * REGIONS + np.char.lstrip(images.rows["brick"], "b").astype(int)
    few = shuffled(images[np.flatnonzero(row % 2 == 0)])
    assert few is not None
    assert few.share == 1.0
    assert "distributed as promised" in few.says
    assert shuffled(images_of(clean(PAIRS))) is None
    doubled = images_of(with_arc(clean(PAIRS), lambda arc: np.roll(2 * arc, 3, axis=-1)))
    assert shuffled(doubled) is None


def test_a_ctrl_of_another_target_is_seen_and_its_own_is_not() -> None:
    chances = []
    for ds in (clean(PAIRS), planted(clean(PAIRS), "ctrl of another target", 0.6)):
        spec = spec_of(ds)
        stats = measure(ds, spec)
        stamps = whole_stamps(stats, rerendered(ds, stats, spec), spec)
        table, _ = alignment(stamps, stats, spec)
        (test,) = target_tests(table, stamps.region, 20)
        chances.append((test.value, test.p))
    assert chances[0][0] == 0.0
    assert chances[0][1] > 0.9
    # A galaxy that is another's may still be nearer than those of twenty others.
    assert 0.25 < chances[1][0] < 0.6
    assert chances[1][1] < 1e-3


def test_medians_are_those_of_numpy(rng: np.random.Generator) -> None:
    values = rng.normal(size=(40, 31))
    values[rng.uniform(size=values.shape) < 0.4] = np.nan
    np.testing.assert_array_equal(medians(values), np.nanmedian(values, axis=1))
    assert np.isnan(medians(np.full((1, 3), np.nan))).all()
    assert medians(np.zeros((2, 0))).shape == (2,)


EXPOSURES = 60


def strange(light: np.ndarray, each: float, common: float) -> np.ndarray:
    """What is said of each stamp of galaxies (row, y, x) in one band, under noise in sky sigma."""
    rng = np.random.default_rng(3)
    shape = (len(light), 3, *light.shape[1:])
    noises = [sky_noise(rng, shape)[:, 1] / SKY[1] for _ in range(3)]
    ctrl, seen = (light + common * noises[0] + each * own for own in noises[1:])
    good, no_arc = np.ones(light.shape[1:], bool), np.zeros(light.shape[1:])
    noise = rival_noise(ctrl, np.ones(ctrl.shape, bool))
    return np.array([_strange(seen[k], ctrl, no_arc, good, k, noise[k]) for k in range(len(light))])


def test_where_there_is_nothing_but_noise_no_ctrl_is_another_s() -> None:
    host = np.arange(EXPOSURES)
    target = np.random.default_rng(1).uniform(23, 24, (EXPOSURES, 2))
    scattered = galaxies(target, host)[:, 1] / SKY[1]
    skies = {
        "blank": 0 * scattered,
        "one galaxy": np.repeat(scattered[:1], EXPOSURES, axis=0),
        "gradients": 0 * scattered + np.linspace(-1, 1, 48) * (host % 5 - 2)[:, None, None],
    }
    for each, common in ((1.0, 0.0), (0.7, 1.0), (0.0, 1.0), (5.0, 0.0)):
        for name, light in skies.items():
            assert np.isnan(strange(light, each, common)).all(), (name, each, common)
        told = strange(scattered, each, common)
        assert (told[np.isfinite(told)] == 0.0).all()
        assert np.isfinite(told).mean() > 0.5


def test_two_exposures_of_one_sky_show_one_target() -> None:
    """And a third that is of another shows another, under the same noise."""
    ds = of_two_exposures(clean(PAIRS), 1)
    for spoilt, low, high in (
        (ds, 0.0, 0.0),
        (planted(ds, "ctrl of another target", 0.6), 0.25, 0.6),
    ):
        spec = spec_of(spoilt)
        stats = measure(spoilt, spec)
        stamps = whole_stamps(stats, rerendered(clean(PAIRS), stats, spec), spec)
        table, _ = alignment(stamps, stats, spec)
        assert len(table) == min(PAIRS, MOST)
        assert low <= table["strange"].mean() <= high


def test_a_few_rows_of_others_do_not_spoil_the_rest(rng: np.random.Generator) -> None:
    """Faint arcs in rows that promise bright ones: the factor of all is that of the others."""
    rows, side = 60, 12
    again = np.geomspace(1, 1000, rows)[:, None, None, None] * rng.uniform(
        0.5, 1, (rows, 1, side, side)
    )
    arc = again.copy()
    arc[-6:] = again[:6]
    ones = np.ones((rows, 1))
    images = Images(
        {"hash": np.arange(rows, dtype=np.uint64)}, arc, again, np.ones(arc.shape, bool), 0.0 * ones,
        0.0 * ones, ones[:, :, None, None],
    )  # fmt: skip
    assert (images.unexplained(again) > 0.1).sum() == 6
    found = shuffled(images)
    assert found is not None
    assert found.share == pytest.approx(0.1)
