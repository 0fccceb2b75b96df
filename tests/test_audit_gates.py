"""Gates and their outcomes, from columns and tables alone: no arc is drawn here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from darkhaloscope.audit import GATES, REQUIRED, GateLimits
from darkhaloscope.audit.gates import split_gate
from darkhaloscope.audit.quality import Quality, quality
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


@pytest.mark.parametrize("required", [None, list(REQUIRED), ["closure_flux"]])
def test_a_file_that_names_gates_asks_for_all_of_them(
    tmp_path: Path, required: list[str] | None
) -> None:
    gates = "{closure_flux: 0.02}" if required is None else f"{{required: {required}}}"
    (tmp_path / "map.yaml").write_text(f"name: x\ngates: {gates}\n")
    limits = limits_of(settings_of(str(tmp_path / "set.npz"), mapping=str(tmp_path / "map.yaml")))
    assert limits.named == (required is not None)


def columns(split: list[int], region: list[str], host: list[int]) -> Quality:
    """The look at a set of two bands that has these rows, all of them injections."""
    n = len(split)
    return quality(
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
    gate = split_gate(columns(split, region, host))
    assert (gate.value, gate.outcome) == (leaks, outcome)
