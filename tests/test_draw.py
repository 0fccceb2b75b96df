"""Draws have the distributions that they are named after, inside their bounds, by one uniform each."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from darkhaloscope.draw import Draw, Kind, Mix, parse_draw, parse_mix

UNIFORMS = (np.arange(200_000) + 0.5) / 200_000
"""A regular comb: quantiles come out without scatter."""

CASES = [
    (Draw("uniform", (0.5, 2.5)), scipy.stats.uniform(0.5, 2.0)),
    (Draw("log_uniform", (0.1, 5.0)), scipy.stats.loguniform(0.1, 5.0)),
    (Draw("normal", (1.0, 0.5, 0.2, 2.5)), scipy.stats.truncnorm(-1.6, 3.0, 1.0, 0.5)),
    # Bounds on one side of the mean: scipy's numbers are exact in both tails.
    (Draw("normal", (0.0, 1.0, 3.0, 4.0)), scipy.stats.truncnorm(3.0, 4.0)),
    (Draw("normal", (0.0, 1.0, 7.0, 8.0)), scipy.stats.truncnorm(7.0, 8.0)),
    (Draw("normal", (0.0, 1.0, -8.0, -7.0)), scipy.stats.truncnorm(-8.0, -7.0)),
]


@pytest.mark.parametrize(("draw", "truth"), CASES, ids=[str(c[0]) for c in CASES])
def test_quantiles_and_moments_are_scipys(draw: Draw, truth: scipy.stats.rv_frozen) -> None:
    places = np.array([0.0, 0.01, 0.1, 0.5, 0.9, 0.99])
    np.testing.assert_allclose(draw.at(places), truth.ppf(places), rtol=1e-9)
    sample = draw.at(UNIFORMS)
    assert sample.mean() == pytest.approx(truth.mean(), rel=1e-5)
    assert sample.std() == pytest.approx(truth.std(), rel=1e-3)


NUMBER = st.floats(-100, 100, allow_nan=False)


@st.composite
def draws(make: st.DrawFn) -> Draw:
    kind: Kind = make(st.sampled_from(["uniform", "log_uniform", "normal"]))
    low, high = sorted((make(NUMBER), make(NUMBER)))
    if kind == "log_uniform":
        low, high = math.exp(low / 20), math.exp(high / 20)
    assume(low < high)
    if kind != "normal":
        return Draw(kind, (low, high))
    mean, width = make(NUMBER), make(st.floats(1e-3, 100))
    assume(max(low - mean, mean - high) <= 8 * width)  # further out is refused: see below
    return Draw("normal", (mean, width, low, high))


@given(draws(), st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20))
@settings(max_examples=300, deadline=None)
def test_draws_stay_inside_their_bounds_and_rise(draw: Draw, numbers: list[float]) -> None:
    uniform = np.sort([*numbers, 0.0, np.nextafter(1.0, 0.0)])
    values = draw.at(uniform)
    low, high = draw.values[-2:]
    assert np.all((low <= values) & (values <= high))
    # A draw is a quantile function: it never falls (but for its own rounding).
    assert np.all(np.diff(values) >= -1e-12 * max(abs(low), abs(high)))


@given(st.lists(NUMBER, min_size=1, max_size=5), st.integers(0, 20))
@settings(max_examples=50, deadline=None)
def test_lists_give_their_own_values(values: list[float], k: int) -> None:
    numbers = tuple(values)
    uniform = np.zeros(7)
    turn = k + np.arange(7)
    cycled = Draw("cycle", numbers).at(uniform, turn=turn)
    assert cycled.tolist() == [values[t % len(values)] for t in turn]
    grid = Draw("grid", numbers)
    assert grid.cells == len(values)
    for cell, value in enumerate(values):
        assert grid.at(uniform, cell=cell).tolist() == [value] * 7
    constant = Draw.constant(values[0])
    assert constant.at(uniform).tolist() == [values[0]] * 7
    assert (constant.cells, Draw("cycle", numbers).cells) == (1, 1)


@pytest.mark.parametrize(
    ("given_as", "draw"),
    [
        (0.8, Draw.constant(0.8)),
        ("0.8 arcsec", Draw.constant(0.8)),
        ([1, 2], Draw("grid", (1.0, 2.0))),
        ({"grid": [1, 2]}, Draw("grid", (1.0, 2.0))),
        ({"cycle": [1, 2]}, Draw("cycle", (1.0, 2.0))),
        ({"uniform": [1, 2]}, Draw("uniform", (1.0, 2.0))),
        ({"log_uniform": [1, "2000 mas"]}, Draw("log_uniform", (1.0, 2.0))),
        ({"normal": [0, 1, -1, 1]}, Draw("normal", (0.0, 1.0, -1.0, 1.0))),
    ],
)
def test_forms_in_a_file(given_as: object, draw: Draw) -> None:
    assert parse_draw(given_as, -10, 10, "arcsec") == draw
    assert parse_draw(draw.to_json(), -10, 10, "arcsec") == draw


def test_the_mean_of_a_normal_may_lie_outside_the_range_but_its_bounds_may_not() -> None:
    assert parse_draw({"normal": [-1, 1, 0.5, 2]}, 0, 10, "").values == (-1.0, 1.0, 0.5, 2.0)
    with pytest.raises(ValueError, match=r"-0\.5 is outside"):
        parse_draw({"normal": [1, 1, -0.5, 2]}, 0, 10, "")
    with pytest.raises(ValueError, match="next to nothing"):
        parse_draw({"normal": [0, 0.1, 5, 6]}, 0, 10, "")


@given(
    st.lists(st.floats(0.01, 100), min_size=1, max_size=5),
    st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20),
)
def test_a_mixture_follows_its_weights(weights: list[float], numbers: list[float]) -> None:
    """A name is drawn on its own part of [0, 1), in the order given."""
    names = "abcde"[: len(weights)]
    mix = parse_mix(dict(zip(names, weights, strict=True)), tuple("abcde"))
    for number, index in zip(numbers, mix.at(numbers), strict=True):
        below, total = sum(weights[:index]), sum(weights)
        assert below / total - 1e-9 <= number <= (below + weights[index]) / total + 1e-9


@pytest.mark.parametrize(
    ("given_as", "mix"),
    [
        ("a", Mix(("a",), (1.0,))),
        (["b", "a"], Mix(("b", "a"), (0.5, 0.5))),
        ({"a": 3, "b": 1}, Mix(("a", "b"), (0.75, 0.25))),
    ],
)
def test_forms_of_a_mixture(given_as: object, mix: Mix) -> None:
    assert parse_mix(given_as, ("a", "b")) == mix
    assert parse_mix(mix.to_json(), ("a", "b")) == mix
