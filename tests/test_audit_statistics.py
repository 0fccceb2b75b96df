"""AUCs, intervals, folds, and the dose regression, against scikit-learn and analytic truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from darkhaloscope.audit import AuditSpec
from darkhaloscope.audit.core_gate import components, group_folds, out_of_fold_scores
from darkhaloscope.audit.fit import fit_arcs, moffat_width_ratio
from darkhaloscope.audit.intervals import (
    BLOCK,
    RegionAuc,
    auc,
    below,
    binomial_interval,
    equivalence,
    region_wins,
    resample_weights,
    t_interval,
    weighted_mean,
    within_pair_auc,
)
from darkhaloscope.audit.tables import region_mean
from darkhaloscope.audit.zero_dose import dose_line, zero_dose
from darkhaloscope.lensing import Psf, Sersic, render


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def _sklearn(pos: np.ndarray, neg: np.ndarray, weight: np.ndarray | None = None) -> float:
    truth = np.repeat([1, 0], [len(pos), len(neg)])
    both = None if weight is None else np.concatenate([weight, weight])
    return float(roc_auc_score(truth, np.concatenate([pos, neg]), sample_weight=both))


def test_auc_against_sklearn_with_ties(rng: np.random.Generator) -> None:
    pos, neg = np.round(rng.normal(0.4, 1, 300), 1), np.round(rng.normal(0, 1, 280), 1)
    assert auc(pos, neg) == pytest.approx(_sklearn(pos, neg), abs=1e-12)


@pytest.mark.parametrize("regions", [12, 2 * BLOCK + 1])
def test_resampled_regions_are_sklearns_weighted_auc(
    rng: np.random.Generator, regions: int
) -> None:
    pos, neg = np.round(rng.normal(0.4, 1, 200), 1), np.round(rng.normal(0, 1, 200), 1)
    region = rng.integers(0, regions, 200)
    wins = region_wins(pos, neg, region, regions)
    size = np.bincount(region, minlength=regions)
    for weight in resample_weights(regions, seed=1)[:5]:
        got = weight @ wins @ weight / (weight @ size) ** 2
        assert got == pytest.approx(_sklearn(pos, neg, weight[region]), abs=1e-12)


def test_auc_of_shifted_gaussians(rng: np.random.Generator) -> None:
    """Phi(d / sqrt 2), the Mann-Whitney probability of two unit Gaussians d apart."""
    d, n = 0.7, 40_000
    pos, neg = rng.normal(d, 1, n), rng.normal(0, 1, n)
    assert auc(pos, neg) == pytest.approx(norm.cdf(d / np.sqrt(2)), abs=0.006)


def test_within_pair_is_not_the_pooled_auc(rng: np.random.Generator) -> None:
    ctrl = rng.normal(size=5000)
    assert within_pair_auc(ctrl + 0.01, ctrl) == 1.0
    assert auc(ctrl + 0.01, ctrl) == pytest.approx(0.5 + 0.01 / np.sqrt(4 * np.pi), abs=2e-3)
    assert within_pair_auc(ctrl, ctrl) == 0.5


def test_region_interval_covers_the_truth(rng: np.random.Generator) -> None:
    """Each region has its own dose; 95 % intervals over regions hold the population's AUC."""
    shifts = norm(0.6, 0.5)
    # pos - neg of different regions is N(0.6, 2 + 0.5^2 + 0): the pooled AUC of the population.
    truth = norm.cdf(0.6 / np.sqrt(2 + 0.25))
    inside, trials = 0, 250
    for _ in range(trials):
        region = np.repeat(np.arange(30), 10)
        dose = shifts.rvs(30, random_state=rng)[region]
        read = RegionAuc(rng.normal(dose, 1), rng.normal(0, 1, 300), region, seed=5)
        lo, hi = read.interval()
        inside += lo <= truth <= hi
    # 95 % of 250 within three standard errors.
    assert 0.905 <= inside / trials <= 0.985


def test_intervals_ask_for_regions(rng: np.random.Generator) -> None:
    pos, neg = rng.normal(1, 1, 100), rng.normal(0, 1, 100)
    assert np.isnan(RegionAuc(pos, neg, np.arange(100) % 4, 1).interval()).all()
    assert np.isfinite(RegionAuc(pos, neg, np.arange(100) % 5, 1).interval()).all()


def test_pair_interval_covers_the_mean(rng: np.random.Generator) -> None:
    inside = 0
    for _ in range(200):
        e = weighted_mean(rng.exponential(1.0, 100), np.ones(100), seed=2)
        inside += e.lo <= 1.0 <= e.hi
    assert 0.88 <= inside / 200 <= 0.99


def test_ratio_interval_covers(rng: np.random.Generator) -> None:
    inside = 0
    for _ in range(300):
        pixels = rng.integers(50, 150, (25, 1)).astype(float)
        total = pixels * (2.0 + rng.normal(0, 0.5, (25, 1)))
        _, lo, hi, n = region_mean(total, pixels, np.arange(25))
        inside += bool(lo[0] <= 2.0 <= hi[0]) and n == 25
    assert 0.91 <= inside / 300 <= 0.985


@pytest.mark.parametrize(
    ("lo", "hi", "wanted"),
    [(-0.5, 0.9, "pass"), (1.1, 2, "fail"), (-3, -1.5, "fail"), (0.5, 1.5, "not_enough"),
     (-2, 2, "not_enough"), (float("nan"), float("nan"), "not_enough")],
)  # fmt: skip
def test_equivalence(lo: float, hi: float, wanted: str) -> None:
    assert equivalence(lo, hi, 1.0) == wanted


def test_one_sided() -> None:
    assert [below(-5, 0.5, 1), below(1.5, 2, 1), below(0.5, 1.5, 1)] == [
        "pass",
        "fail",
        "not_enough",
    ]


def test_binomial_interval_of_clopper_and_pearson() -> None:
    lo, hi = binomial_interval(0, 100)
    assert lo == 0.0
    assert hi == pytest.approx(1 - 0.025 ** (1 / 100))
    assert binomial_interval(10, 10) == (pytest.approx(0.025 ** (1 / 10)), 1.0)


def test_folds_keep_hosts_and_regions_whole(rng: np.random.Generator) -> None:
    region = rng.integers(0, 40, 500).astype(np.uint64)
    host = (region * 3 + rng.integers(0, 3, 500).astype(np.uint64)).astype(np.int64)
    host[region == 7] = host[region == 8][0]  # one host seen from two bricks
    hashes = rng.integers(0, 2**63, 500).astype(np.uint64)
    fold = group_folds(host, region, hashes)
    for key in (host, region):
        for value in np.unique(key):
            assert len(np.unique(fold[key == value])) == 1
    assert fold[region == 7][0] == fold[region == 8][0]
    assert len(np.unique(components(host, region))) == 39
    assert np.bincount(fold).min() > 0.6 * 100
    order = rng.permutation(500)
    np.testing.assert_array_equal(
        group_folds(host[order], region[order], hashes[order]), fold[order]
    )


def test_out_of_fold_scores_see_no_signal_in_noise(rng: np.random.Generator) -> None:
    """In-sample, 60 features separate 100 noise pairs; held out, they must not."""
    stamp, ctrl = rng.normal(size=(2, 100, 60))
    pos, neg = out_of_fold_scores(stamp, ctrl, np.arange(100) % 5)
    assert auc(pos, neg) == pytest.approx(0.5, abs=0.13)
    stamp = stamp + 0.5
    assert auc(*out_of_fold_scores(stamp, ctrl, np.arange(100) % 5)) > 0.9


@pytest.mark.parametrize("error", [1e-4, 0.05])
def test_dose_line_is_not_moved_by_errors_proportional_to_dose(
    rng: np.random.Generator, error: float
) -> None:
    dose = 10 ** rng.uniform(-4, 1, 2000)
    noisy = dose * (1 + error * rng.normal(size=2000))
    clean_line = dose_line(dose, noisy, seed=1)
    assert abs(clean_line.intercept[0]) < 1e-4
    assert clean_line.intercept[1] < 0 < clean_line.intercept[2]
    planted = dose_line(dose, noisy * 1.03 + 2e-3, seed=1)
    assert planted.intercept[0] == pytest.approx(2e-3, rel=0.05)
    assert planted.slope[1] < 1.03 < planted.slope[2]


def test_fit_recovers_scale_shift_and_width() -> None:
    """Arcs drawn twice by the renderer, the second time with other flux, place and PSF width."""
    for model, wide in (("moffat", 1.25), ("moffat", 0.7), ("gaussian", 1.15)):
        source = Sersic((1.0,), reff=0.5, n=1.0, q=0.7, pa=30.0, dx=0.6, dy=-0.3)

        def drawn(
            width: float, flux: float, x: float, source: Sersic = source, model: str = model
        ) -> np.ndarray:
            psf = Psf("moffat", nea_fwhm=width, beta=3.5) if model == "moffat" else Psf(
                "gaussian", nea_fwhm=width)  # fmt: skip
            return flux * render(None, source, [psf], size=48, x=x, y=23.5).arc

        fit = fit_arcs(
            drawn(1.3 * wide, 1.07, 23.9),
            drawn(1.3, 1.0, 23.5),
            np.array([2 if model == "moffat" else 1]),
            np.array([3.5]),
            np.array([1.3 / 0.262]),
        )
        assert fit.flux[0] == pytest.approx(1.07, abs=2e-3)
        assert fit.dx[0] == pytest.approx(0.4, abs=2e-3)
        assert fit.dy[0] == pytest.approx(0.0, abs=2e-3)
        assert fit.width[0] == pytest.approx(wide, rel=3e-3)


def test_width_ratio_of_conventions() -> None:
    """PSFSIZE / FWHM of the survey's Moffats."""
    ratios = moffat_width_ratio(np.array([2.5, 3.0, 3.5, 4.765]))
    np.testing.assert_allclose(ratios, [1.39, 1.29, 1.23, 1.15], atol=6e-3)


def test_noise_of_each_image_is_granted_to_the_dose_regression(rng: np.random.Generator) -> None:
    """Doses of a tenth of the noise: the faintest pairs are no better evidence than the others."""
    inside = []
    for seed in range(40):
        dose = np.exp(rng.normal(-3, 2, 200))
        line = dose_line(dose, dose + rng.normal(0, 0.1, 200), seed)
        inside.append(line.slope[1] <= 1.0 <= line.slope[2])
        inside.append(line.intercept[1] <= 0.0 <= line.intercept[2])
        assert line.effective > 100
    assert np.mean(inside) > 0.85


def test_scores_that_are_missing_have_no_auc() -> None:
    scores, none = np.arange(6.0), np.full(6, np.nan)
    assert np.isnan(auc(none, none))
    assert np.isnan(within_pair_auc(none, scores))
    read = RegionAuc(scores, none, np.arange(6), 1)
    assert np.isnan(read.value)
    assert np.isnan(read.interval()).all()


def test_few_pairs_have_the_spread_of_one_less() -> None:
    """A bootstrap of n has the variance of n; Student's t asks for that of n - 1."""
    lo, hi = t_interval(2.0, np.array([1.0, 2.0, 3.0]), 5)
    assert hi - 2.0 == pytest.approx(2.776445 * np.sqrt(5 / 4), rel=1e-6)
    assert lo + hi == pytest.approx(4.0)


def test_pixels_without_data_are_no_dose() -> None:
    """A hole is in neither core: garbage that is stored there changes nothing."""
    n = 40
    core = np.linspace(0.1, 2.0, n).astype("f4")[:, None, None, None] * np.ones(
        (1, 1, 10, 10), "f4"
    )
    stored = core.copy()
    stored[:, 0, :5] = 7.0
    nodata = np.zeros((n, 10, 10), np.uint8)
    nodata[:, :5] = 1
    stats = {
        "row_hash": np.arange(n, dtype=np.uint64), "row_core_arc": stored, "row_core_nodata": nodata,
        "row_sky_sigma": np.ones((n, 1)), "row_coverage": np.ones((n, 1)),
    }  # fmt: skip
    spec = AuditSpec(1, ("r",), "r", 48, 0.262, 9, (n,) * 6)
    _, points = zero_dose(stats, {"hash": stats["row_hash"], "core": core}, spec)
    np.testing.assert_allclose(points["difference"], points["dose"])
    assert len(points) == n
