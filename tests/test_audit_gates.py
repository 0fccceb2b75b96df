"""Gates and their outcomes, from columns and tables alone: no arc is drawn here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from audit_pairs import clean, spec_of
from scipy.stats import binom

from darkhaloscope.audit import GATES, REQUIRED, GateLimits, audit_rows, measure, merge, undrawn
from darkhaloscope.audit.closure import Closure
from darkhaloscope.audit.closure_summary import SUMMARY_COLUMNS
from darkhaloscope.audit.core_gate import CoreGate, core_gate
from darkhaloscope.audit.gates import (
    closure_gates,
    core_gates,
    excess_gate,
    localisation_gate,
    scatter_gate,
    split_gate,
)
from darkhaloscope.audit.intervals import FAMILY_RISK, binomial_interval
from darkhaloscope.audit.quality import quality
from darkhaloscope.audit.verdict import Gate, exit_code, judge
from darkhaloscope.prepare.existing import limits_of, settings_of
from darkhaloscope.variables import SPLITS

GUARD = SPLITS.index("guard")


def passed(*left_out: str) -> list[Gate]:
    """All gates but some, passed."""
    names = [g for g in GATES if g not in left_out]
    return [Gate(name, 0.0, (0.0, 0.0), 0.1, "pass") for name in names]


def word(gates: list[Gate], limits: GateLimits) -> str:
    found = judge(gates, [], limits, 300, [], "all agrees")
    return str(found["verdict"])


def test_a_required_gate_that_is_not_there_is_no_pass() -> None:
    assert word(passed(), GateLimits()) == "physics"
    assert word([], GateLimits()) == "undecided"
    for name in GATES:
        assert word(passed(name), GateLimits(required=(name,))) == "undecided"
    found = judge(passed("split_integrity"), [], GateLimits(named=True), 300, [], "all agrees")
    assert exit_code(found) == 3
    says = "split_integrity needs region_split, which the set does not say"
    assert says in found["sentence"]
    line = next(g for g in found["gates"] if g["name"] == "split_integrity")
    assert (line["value"], line["outcome"]) == (None, "not_enough")


def test_a_set_is_not_asked_for_columns_that_nobody_requires_by_name() -> None:
    gone = passed("split_integrity", "column_coverage")
    assert word(gone, GateLimits()) == "physics"
    assert word(gone, GateLimits(required=("closure_flux",))) == "physics"


@pytest.mark.parametrize("name", REQUIRED)
def test_physics_needs_its_evidence_whatever_is_required(name: str) -> None:
    """Fewer required gates ask less of a set, not of a word: one that passes is no evidence of the others."""
    few = [replace(g, outcome="not_enough") if g.name == name else g for g in passed()]
    for required in (REQUIRED, ("closure_flux",), ("core_auc",), ()):
        found = judge(few, [], GateLimits(required=required), 300, [], "all agrees")
        assert (found["verdict"], exit_code(found, required)) == ("undecided", 3)
        assert name in found["sentence"]


def test_a_gate_that_nobody_requires_fails_without_a_word() -> None:
    off = [replace(g, outcome="fail") if g.name == "excess_auc" else g for g in passed()]
    found = judge(off, [], GateLimits(required=("core_auc",)), 300, [], "all agrees")
    assert (found["sentence"], exit_code(found, ("core_auc",))) == ("Physics: all agrees.", 0)
    found = judge(off, [], GateLimits(), 300, [], "all agrees")
    assert "excess_auc is 0 (limit 0.1)" in found["sentence"]
    assert exit_code(found) == 1


@pytest.mark.parametrize("required", [None, list(REQUIRED), ["closure_flux"]])
def test_a_file_that_names_gates_asks_for_all_of_them(
    tmp_path: Path, required: list[str] | None
) -> None:
    gates = "{closure_flux: 0.02}" if required is None else f"{{required: {required}}}"
    (tmp_path / "map.yaml").write_text(f"name: x\ngates: {gates}\n")
    limits = limits_of(settings_of(str(tmp_path / "set.npz"), mapping=str(tmp_path / "map.yaml")))
    assert limits.named == (required is not None)


def split_of(split: list[int], region: list[str], host: list[int], skies: int = 0) -> Gate:
    """The gate of a set that has these rows, all of them injections."""
    n = len(split)
    stats = {"outcomes": np.bincount(np.array(split, int), minlength=len(SPLITS))[None, None]}
    found = quality(
        xr.Dataset(
            {
                "lens_model": ("pair", np.full(n, 2, np.uint8)),
                "region_split": ("pair", np.array(split, np.uint8)),
                "cutout_ok": ("pair", np.ones(n, bool)),
                "coverage": (("pair", "band"), np.ones((n, 2))),
                "region_id": ("pair", np.array(region, dtype=object)),
                "host_id": ("pair", np.array(host)),
            },
            coords={"band": ["g", "r"]},
        ),
        "r",
    )
    return split_gate(found, stats, skies)


@pytest.mark.parametrize(
    ("split", "region", "host", "leaks", "outcome"),
    [
        ([0, 1, 2, 0], ["a", "b", "c", "a"], [1, 2, 3, 4], 0, "pass"),
        ([0, 1, 2, 0], ["a", "b", "c", "c"], [1, 2, 3, 4], 1, "fail"),
        ([0, 1, 2, 0], ["a", "b", "c", "a"], [1, 2, 3, 2], 1, "fail"),
        ([0, GUARD, 2, 0], ["a", "a", "c", "a"], [1, 1, 3, 4], 0, "pass"),
        ([GUARD] * 4, ["a", "b", "c", "a"], [1, 2, 3, 4], 0, "not_enough"),
        ([], [], [], 0, "not_enough"),
    ],
    ids=["clean", "region", "host", "guard", "all_guard", "no_rows"],
)
def test_neither_regions_nor_hosts_are_in_two_splits(
    split: list[int], region: list[str], host: list[int], leaks: int, outcome: str
) -> None:
    gate = split_of(split, region, host)
    assert (gate.value, gate.outcome) == (leaks, outcome)


def test_a_sky_in_two_splits_counts_as_well() -> None:
    gate = split_of([0, 1], ["a", "b"], [1, 2], skies=2)
    assert (gate.value, gate.outcome) == (2, "fail")


def arcs(n: int, off: int = 0, noise: int | None = None, **wrong: float) -> Closure:
    """Closure of ``n`` arcs in one band, ``off`` of them with other values; ``noise`` throws, none off."""
    right = {
        "flux_ratio": 1.0, "width_ratio": 1.0, "shift": 0.0, "centroid_shift": 0.0, "peak_misplaced": 0,
        "quadrant_difference": 0.0,
    }  # fmt: skip
    pairs = pd.DataFrame({"hash": np.arange(n), **right})
    for name, value in wrong.items():
        pairs[name] = np.where(np.arange(n) < off, value, pairs[name])
    thrown = pd.DataFrame({"hash": np.arange(noise or 0), **right})
    return cast(Closure, SimpleNamespace(n_pairs=n, pairs=pairs, noise_pairs=thrown))


FRACTIONS = ((scatter_gate, {"flux_ratio": 1.02}), (localisation_gate, {"centroid_shift": 0.7}))


@pytest.mark.parametrize("noise", [None, 2000], ids=["noiseless", "noisy"])
@pytest.mark.parametrize(("gate", "wrong"), FRACTIONS, ids=["scatter", "localisation"])
def test_fractions_fail_at_the_risk_of_a_family(
    gate: Callable[[Closure, GateLimits], Gate], wrong: dict[str, float], noise: int | None
) -> None:
    n, limits = 200, GateLimits()
    outcome = [gate(arcs(n, k, noise, **wrong), limits).outcome for k in range(60)]
    assert (outcome[0], outcome[59]) == ("pass", "fail")
    # A set with a share of exactly the limit is called wrong once in 2,000 times, either fraction.
    chance = binom(n, limits.closure_scatter).sf(outcome.index("fail") - 1)
    assert FAMILY_RISK / 20 < chance <= FAMILY_RISK / 2
    # The share of an interval's end is not enough.
    k = next(k for k in range(60) if binomial_interval(k, n)[0] > limits.closure_scatter)
    assert outcome[k] == "not_enough"


def test_a_fraction_of_arcs_is_told_beside_what_noise_makes_of_it() -> None:
    noisy = arcs(200, 150, 100, centroid_shift=0.7)
    noisy.noise_pairs.loc[:59, "centroid_shift"] = 0.7
    gate = localisation_gate(noisy, GateLimits())
    assert (gate.value, gate.by_noise, gate.outcome) == (0.75, 0.6, "not_enough")
    assert "60 of 100 arcs are off by it alone" in gate.missing
    still = localisation_gate(arcs(200, 150, centroid_shift=0.7), GateLimits())
    lines = judge([gate, still], [], GateLimits(), 200, [], "all agrees")["gates"]
    assert [line.get("by_noise") for line in lines[:2]] == [0.6, None]


@pytest.mark.parametrize(
    ("lo", "hi", "granted", "says"),
    [
        (-0.5, 2.0, 0.0, "crosses its limit 0.001"),
        (0.9, 1.4, 1.2, "lies beyond its limit 0.001, and 1.2 more is granted"),
        (0.1, 3.0, 0.0, "lies beyond its limit 0.001, but not by what a risk of 0.001"),
    ],
)
def test_a_gate_that_cannot_decide_says_why(
    lo: float, hi: float, granted: float, says: str
) -> None:
    pairs = pd.DataFrame({"band": ["r"]})
    summary = pd.DataFrame(
        [("core_pedestal", "r", 0.5 * (lo + hi), lo, hi, 150, granted)], columns=SUMMARY_COLUMNS
    )
    found = Closure(pairs, summary, pairs, pairs, 150, {}, pairs.iloc[:0])
    gate = next(g for g in closure_gates(found, GateLimits()) if g.name == "residual_pedestal")
    assert gate.outcome == "not_enough"
    assert says in gate.missing
    more = "more closure pairs (or fainter arcs) than 150"
    assert f"needs {'fainter arcs' if granted else more}: its interval" in gate.missing


@pytest.mark.parametrize(
    ("name", "quantity", "noisy", "says"),
    [
        ("closure_flux", "flux", False, "more closure pairs than 150"),
        ("closure_flux", "flux", True, "more closure pairs than 150, or stamps with less noise"),
        ("residual_pedestal", "core_pedestal", True, "more closure pairs than 150, or stamps with"),
        ("closure_residual", "leftover", True, "stamps with less noise (or finer steps)"),
        ("closure_residual", "leftover", False, "more closure pairs than 150"),
    ],
)
def test_fainter_arcs_are_wanted_where_they_help(
    name: str, quantity: str, noisy: bool, says: str
) -> None:
    pairs = pd.DataFrame({"band": ["r"]})
    line = (quantity, "r", 0.0, -0.5, 0.5, 150, 0.0)
    summary = pd.DataFrame([line], columns=SUMMARY_COLUMNS)
    found = Closure(pairs, summary, pairs, pairs, 150, {}, pairs if noisy else pairs.iloc[:0])
    gate = next(g for g in closure_gates(found, GateLimits()) if g.name == name)
    assert gate.missing.startswith(f"{name} needs {says}")
    assert "fainter" not in gate.missing


def auc_at(wanted: int, *sizes: int, total: int = 2000, limit: float = 0.70) -> Gate:
    """The gate of a core AUC of 0.60, 0.64, 0.68, 0.72, ... at ``sizes`` pairs, each known to 0.01."""
    auc = 0.60 + 0.04 * np.arange(len(sizes))
    curve = pd.DataFrame({"pairs": sizes, "auc": auc, "auc_lo": auc - 0.01, "auc_hi": auc + 0.01})
    core = cast(CoreGate, SimpleNamespace(learning_curve=curve, regions=100, pairs=total, tied=0.0))
    return core_gates(core, GateLimits(core_auc_pairs=wanted, core_auc=limit))[0]


@pytest.mark.parametrize(
    ("wanted", "limit", "value", "outcome"),
    [
        (1000, 0.70, 0.68, "pass"),
        (999, 0.70, 0.68, "pass"),  # by the 1,000 that are more
        (1000, 0.66, 0.68, "fail"),
        (1999, 0.66, 0.68, "fail"),  # by the 1,000 that are fewer
        (
            999,
            0.66,
            0.68,
            "not_enough",
        ),  # the 500 pass, and are fewer; the 1,000 fail, and are more
        (100, 0.70, 0.60, "pass"),
        (2001, 0.80, 0.72, "not_enough"),
        (2001, 0.70, 0.72, "fail"),
    ],
)
def test_fewer_pairs_fail_a_core_auc_and_do_not_pass_it(
    wanted: int, limit: float, value: float, outcome: str
) -> None:
    gate = auc_at(wanted, 250, 500, 1000, 2000, limit=limit)
    assert (round(gate.value, 6), gate.outcome) == (value, outcome)
    if outcome == "not_enough":
        assert "pairs" in gate.missing


def test_a_core_auc_of_no_pairs_is_not_enough() -> None:
    assert auc_at(1000, total=0).outcome == "not_enough"


def test_a_band_that_is_covered_nowhere_is_what_is_missing() -> None:
    ds = clean(110)
    spec = spec_of(ds)
    stats = merge([measure(ds, spec)], spec)
    again = undrawn(audit_rows(stats, spec), spec)
    few = core_gate(stats, again, spec)
    says = "20 regions for the interval of excess_auc (0 here)"
    assert (few.bare, excess_gate(few, GateLimits()).missing) == ((), says)
    stats["row_coverage"][:, 2] = 0
    found = core_gate(stats, again, spec)
    for gate in (excess_gate(found, GateLimits()), *core_gates(found, GateLimits())):
        assert gate.outcome == "not_enough"
        assert gate.missing.endswith("(0 here; no audit row has coverage in band z)")
    stats["row_coverage"][5, 2] = stats["row_coverage"][6:, 1] = 1
    stats["row_coverage"][5, 1] = 0
    missing = excess_gate(core_gate(stats, again, spec), GateLimits()).missing
    assert missing.endswith("(0 here; 110 audit rows have a band without coverage)")
