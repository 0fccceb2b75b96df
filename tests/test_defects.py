"""Planted defects are called by their names, and the study that counts it counts right."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import defects
import numpy as np
import pandas as pd
import pytest
import tabulate_defects
from audit_pairs import (
    Ds,
    audit_rows,
    clean,
    measure,
    on_other_skies,
    rerendered,
    run_audit,
    spec_of,
)
from defects import INDEPENDENT, Case
from planted import DEFECTS, NOISELESS, NOISY, UNPAIRED, planted
from shared_work import Memo, shared

from darkhaloscope.audit.causes import Limits
from darkhaloscope.audit.closure import closure
from darkhaloscope.audit.core_gate import match
from darkhaloscope.audit.gates import localisation_gate, scatter_gate
from darkhaloscope.audit.named import closure_causes
from darkhaloscope.audit.reasoned import reasoned
from darkhaloscope.audit.verdict import GateLimits

PAIRS = 110
FEW = 120
"""Closure rows of an audit in a test: a few more than its gates need."""

PLANTS = [name for name, defect in DEFECTS.items() if NOISELESS in defect.kinds]

FAMILIES = (
    "magnification twice", "normalised after lensing", "lens offset ignored", "FFT wrap-around",
)  # fmt: skip
COSTLY = (
    "theta_e in pixels", "one sample a pixel", "rows shuffled", "pixels mirrored", "PSF not applied",
    "source ellipticity", "lens ellipticity", "theta_e on the major axis", "R_e on the major axis",
    "pixels turned by 180 degrees",
    "PSF of one band for all", "north for south", "lens angle turned", "shear with the other sign",
)  # fmt: skip
"""The whole audit is asked of every plant; closure alone, which draws each row again, of a few."""


@pytest.fixture(scope="module")
def memo() -> Iterator[Memo]:
    with shared() as found:
        yield found


def closure_names(ds: Ds, memo: Memo) -> list[str]:
    """What closure alone says of pairs."""
    spec = spec_of(ds)
    stats = measure(ds, spec)
    again = rerendered(ds, stats, spec)
    found = closure(stats, again, spec)
    gates = (scatter_gate(found, GateLimits()), localisation_gate(found, GateLimits()))
    doubtful = any(g.outcome == "fail" for g in gates)
    limits = Limits()
    causes = closure_causes(found, limits)
    causes = reasoned(causes, doubtful, stats, again, limits, spec, memo.redraw)
    return [c.name for c in causes if c.kind == "bug"]


@pytest.mark.parametrize(
    "defect", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.long) for name in COSTLY)]
)
def test_a_planted_defect_is_called_by_its_name(defect: str, memo: Memo) -> None:
    called = closure_names(planted(clean(PAIRS), defect), memo)
    assert called
    assert called[0] in DEFECTS[defect].names


@pytest.mark.long
def test_two_defects_are_both_named(memo: Memo) -> None:
    spoilt = planted(planted(clean(PAIRS), "theta_e in pixels"), "pedestal", 0.2)
    assert closure_names(spoilt, memo) == ["theta_e_unit", "pedestal"]


def test_clean_pairs_have_no_cause(memo: Memo) -> None:
    assert closure_names(clean(PAIRS), memo) == []


def assert_right(done: list[dict[str, Any]], clean_sets: int) -> None:
    lines = {line["defect"]: line for line in defects.confusion(done)}
    assert (lines["nothing"]["plants"], lines["nothing"]["alarms"]) == (clean_sets, 0)
    for name in PLANTS:
        assert (lines[name]["alarms"], lines[name]["named"]) == (1, 1), lines[name]


def test_every_plant_is_found_and_clean_sets_are_clean(tmp_path: Path) -> None:
    """One plant of each defect in 500 pairs, by the whole audit; the clean arcs lie on five skies."""
    wanted = defects.cases([NOISELESS], PLANTS, sizes=False, skies=4)
    done = defects.study(tmp_path, 500, 1, wanted, closure=FEW, keep=False)
    assert_right(done, 5)


@pytest.mark.long
def test_every_plant_is_found_with_all_closure_rows_and_five_bases_are_clean(
    tmp_path: Path,
) -> None:
    """Of 500 pairs, all of which closure draws again."""
    wanted = defects.cases([NOISELESS], PLANTS, sizes=False)
    done = defects.study(tmp_path, 500, 1, wanted, clean_seeds=5, keep=False)
    assert_right(done, 5)


def line(defect: str, verdict: str, *causes: str, size: float | None = None) -> dict[str, Any]:
    case = Case(NOISELESS, defect, size)
    told = {"verdict": verdict, "causes": list(causes), "least_p": 0.5, "seconds": 2.0}
    return {**case._asdict(), **told, **({} if size else {"p": [0.5, 0.005, None]})}


def test_counts_are_those_of_the_audits() -> None:
    done = [
        line("nothing", "physics"),
        line("nothing", "bug", "shift"),
        line("zero point", "bug", "flux_scale", "shift", size=1.05),
        line("zero point", "bug", "blur", "flux_scale", size=1.05),
        line("zero point", "undecided", size=1.05),
        line("zero point", "physics", size=1.02),
    ]
    nothing, faint, flux = defects.confusion(done)
    assert (nothing["plants"], nothing["alarms"], nothing["named"]) == (2, 1, 1)
    assert (flux["plants"], flux["alarms"], flux["named"]) == (3, 2, 1)
    assert flux["called"] == {"flux_scale": 1, "blur": 1, "undecided": 1}
    assert (flux["reference"], faint["reference"], faint["size"]) == (True, False, 1.02)
    bounds = defects.bounds([nothing, faint, flux], NOISELESS)
    assert bounds is not None
    assert bounds["plants"] == 3
    assert bounds["below"] == ["zero point"]
    # Clopper & Pearson: p with P(2 or 3 of 3) = 0.05 is the root of 3 p^2 - 2 p^3 = 0.05.
    low = bounds["detected"]["lower"]
    assert 3 * low**2 - 2 * low**3 == pytest.approx(0.05)
    tests = {(v["from"], v["to"]): v["tests"] for v in defects.p_values(done)}
    assert (tests[0.5, 0.75], tests[1e-3, 1e-2]) == (2, 2)


def test_false_alarms_are_bounded_from_above() -> None:
    clean_sets = [line("nothing", "physics") | {"seed": i % 60} for i in range(626)]
    alarmed = [line("nothing", "shortcut") | {"seed": i} for i in range(2)]
    plants = [line("zero point", "bug", size=1.05) | {"seed": 1}]
    found = defects.false_alarms([*clean_sets, *alarmed, *plants], NOISELESS)
    assert found is not None
    assert (found["sets"], found["bases"], found["alarms"]) == (628, 60, 2)
    # Clopper & Pearson: P(0, 1 or 2 of 628) = 0.05.
    p = found["upper"]
    few = sum(math.comb(628, k) * p**k * (1 - p) ** (628 - k) for k in range(3))
    assert few == pytest.approx(0.05)
    assert found["reached"]
    assert defects.false_alarms(plants, NOISELESS) is None


def test_other_code_that_draws_draws_bases_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = defects.places(tmp_path, 12, 3)
    monkeypatch.setattr(defects, "drawing", lambda: "others")
    assert not set(mine) & set(defects.places(tmp_path, 12, 3))


def test_the_digest_knows_all_that_a_result_depends_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: read.append(self.name) or plain(self))
    defects.sources()
    assert {"defects.py", "planted.py", "render.py", "verdict.py", "difference.py"} <= set(read)
    assert not {"opening.py", "spread.py", "mapping.py"} & set(read)
    read.clear()
    defects.drawing()
    assert {"reference.py", "rerender.py", "render.py", "audit_pairs.py"} <= set(read)
    assert not {"verdict.py", "defects.py"} & set(read)


def test_a_study_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def audit(ds: object, truth: object, case: Case, *_: object) -> dict[str, Any]:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(case.defect)
        return {"verdict": "bug", "causes": ["flux_scale"], "least_p": 1.0, "seconds": 0.0}

    monkeypatch.setattr(defects, "audit", audit)
    monkeypatch.setattr(defects, "base", lambda *_: (None, {}))
    wanted = defects.cases([NOISELESS], ["flux doubled", "pedestal"], sizes=False)
    with pytest.raises(KeyboardInterrupt):
        defects.study(tmp_path, 10, 1, wanted)
    assert asked == ["nothing", "flux doubled"]
    asked.clear()
    done = defects.study(tmp_path, 10, 1, wanted)
    assert asked == ["pedestal"]
    assert [d["defect"] for d in done] == ["nothing", "flux doubled", "pedestal"]
    # Audits by other sources are not counted, and are done again.
    asked.clear()
    monkeypatch.setattr(defects, "sources", lambda: "others")
    assert len(defects.study(tmp_path, 10, 1, wanted[:2])) == 2
    assert asked == ["nothing", "flux doubled"]


def test_plants_of_earlier_code_count_once_and_clean_sets_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    cause = "flux_scale"

    def audit(ds: object, truth: object, case: Case, *_: object) -> dict[str, Any]:
        asked.append(f"{case.kind} {case.defect}")
        return {"verdict": "bug", "causes": [cause], "least_p": 1.0, "seconds": 0.0, "p": []}

    monkeypatch.setattr(defects, "audit", audit)
    monkeypatch.setattr(defects, "base", lambda *_: (None, {}))
    monkeypatch.setattr(defects, "sources", lambda: "old")
    monkeypatch.setattr(defects, "EARLIER", ("old",))
    wanted = defects.cases([NOISELESS, NOISY], ["pedestal", "flux doubled"], sizes=False)
    assert len(defects.study(tmp_path, 10, 2, wanted)) == 12
    asked.clear()
    monkeypatch.setattr(defects, "sources", lambda: "new")
    done = defects.study(tmp_path, 10, 2, wanted)
    assert set(asked) == {
        "noiseless nothing", "noisy nothing", "noisy pedestal", "noisy flux doubled",
    }  # fmt: skip
    assert len(asked) == 8
    assert sorted(d["code"] for d in done) == ["new"] * 8 + ["old"] * 4
    asked.clear()
    monkeypatch.setattr(defects, "sources", lambda: "twin")
    monkeypatch.setattr(defects, "SAME", ("new",))
    assert len(defects.study(tmp_path, 10, 2, wanted)) == 12
    assert not asked, "of the same code all counts"
    monkeypatch.setattr(defects, "sources", lambda: "new")
    cause = "blur"
    done = defects.study(tmp_path, 10, 2, wanted, again=1)
    assert asked == ["noiseless pedestal", "noiseless flux doubled"]
    assert sorted(d["code"] for d in done) == ["new"] * 10 + ["old"] * 2
    every = list(defects.finished(tmp_path, 10, defects.CLOSURE))
    both = defects.agreement(every, ("new",), ("old",))
    names = ("audits", "seeds", "verdict", "first_cause", "all_causes", "everything")
    counts = dict(zip(names, (2, 1, 2, 0, 0, 0), strict=True))
    assert both == counts


def test_seeds_are_shared_between_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"verdict": "physics", "causes": [], "least_p": 1.0, "seconds": 0.0}
    monkeypatch.setattr(defects, "audit", lambda *_: told)
    monkeypatch.setattr(defects, "base", lambda *_: (None, {}))
    wanted = defects.cases([NOISELESS], ["pedestal"], sizes=False)
    first = defects.study(tmp_path, 10, 3, wanted, clean_seeds=5, part=(0, 2))
    assert {d["seed"] for d in first} == {0, 2, 4}
    both = defects.study(tmp_path, 10, 3, wanted, clean_seeds=5, part=(1, 2))
    assert sorted((d["seed"], d["defect"]) for d in both) == [
        *((s, d) for s in range(3) for d in ("nothing", "pedestal")),
        (3, "nothing"),
        (4, "nothing"),
    ]


def test_a_base_comes_back_as_it_was(tmp_path: Path) -> None:
    first, truth = defects.base(tmp_path, 12, 3)
    again, kept = defects.base(tmp_path, 12, 3)
    assert first.equals(again)
    assert set(truth) == set(kept)
    fresh = clean(12, seed=3)
    spec = spec_of(fresh)
    stats = measure(fresh, spec)
    drawn = rerendered(fresh, stats, spec)
    mine = defects.of_rows(kept, fresh, np.arange(12), audit_rows(stats, spec), spec)
    assert set(mine) == set(drawn)
    for key, names in (("hash", ("core", "flux_total")), ("whole_hash", ("whole",))):
        order = match(drawn[key], mine[key])
        for name in names:
            np.testing.assert_array_equal(mine[name][order], drawn[name])


def test_arcs_on_other_skies_take_what_drew_them_along(tmp_path: Path) -> None:
    ds, truth = defects.base(tmp_path, 12, 3)
    other, dealt = on_other_skies(ds, 5)
    assert sorted(dealt) == list(range(12))
    assert (dealt != np.arange(12)).any()
    spec = spec_of(other)
    rows = audit_rows(measure(other, spec), spec)
    mine = defects.of_rows(truth, other, dealt, rows, spec)
    hashes = defects.hashes_of(other, spec)
    stored = other["arc"].values[:12][match(mine["whole_hash"], hashes)]
    np.testing.assert_allclose(mine["whole"], stored, atol=2e-3 * stored.max())
    again = rerendered(other, measure(other, spec), spec)
    order = match(again["hash"], mine["hash"])
    np.testing.assert_array_equal(mine["core"][order], again["core"])
    assert np.abs(other["ctrl"].values - ds["ctrl"].values).mean() > 1e-4


def test_an_arc_is_drawn_once_whatever_its_row_says_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def draw(rows: dict[str, np.ndarray], *_: object) -> dict[str, np.ndarray]:
        drawn.extend(rows["hash"].tolist())
        return {"hash": rows["hash"], "core": 2 * rows["theta_e"]}

    monkeypatch.setattr("shared_work.redraw_plain", draw)
    memo, names = Memo(), ("hash", "theta_e", "total_injected_flux")
    rows = {name: np.arange(4.0) for name in names}
    spec = spec_of(clean(12, seed=3))
    np.testing.assert_array_equal(memo.redraw(rows, spec, 1e-3)["core"], 2 * np.arange(4.0))
    other = {name: values[[2, 0]] for name, values in rows.items()}
    other["total_injected_flux"] = np.array([7.0, 8.0])
    np.testing.assert_array_equal(memo.redraw(other, spec, 1e-3)["core"], [4, 0])
    assert drawn == [0, 1, 2, 3]
    memo.redraw({**other, "theta_e": np.array([2.5, 0.0])}, spec, 1e-3)
    assert drawn == [0, 1, 2, 3, 2]


def test_noise_of_each_sky_is_its_own() -> None:
    ds = clean(12, seed=3)
    noise = [defects.as_kind(ds, NOISY, 1, sky)["ctrl"] - ds["ctrl"] for sky in (0, 2)]
    assert abs(np.corrcoef(noise[0].values.ravel(), noise[1].values.ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("blank", [False, True])
def test_an_independent_pair_shares_its_galaxy_at_most(blank: bool) -> None:
    ds = clean(12, seed=3)
    found = defects.as_kind(ds, defects.INDEPENDENT, 1, sky=0 if blank else 1)
    far = np.s_[:12, 1, :8, :8]
    ctrl, under = (found[name].values[far] for name in ("ctrl", "arc"))
    sky = under + ctrl - ds["arc"].values[far]  # of the stamp
    for image in (ctrl, sky):
        assert (image - np.median(image)).std() == pytest.approx(defects.SKY[1], rel=0.3)
    noise = [v - v.mean(axis=(1, 2), keepdims=True) for v in (ctrl, sky)]
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.5
    bright = np.abs(found["ctrl"].values[:12, 1, 22:26, 22:26]).mean() / defects.SKY[1]
    assert (bright < 2) == blank


def test_planted_noise_is_each_sets_own() -> None:
    noise = []
    for seed in (3, 4):
        ds = clean(12, seed=seed)
        noise.append((planted(ds, "noise in one class")["arc"] - ds["arc"]).values[:12].ravel())
    assert abs(np.corrcoef(*noise)[0, 1]) < 0.02


def test_sets_of_other_kinds_hold_the_same_light() -> None:
    ds = clean(12, seed=3)
    noisy, unpaired = (defects.as_kind(ds, kind, 1) for kind in (NOISY, UNPAIRED))
    stamp, moved = ((d["ctrl"] + d["arc"]).values[:12] for d in (ds, unpaired))
    np.testing.assert_allclose(moved, stamp, rtol=1e-3, atol=1e-3)
    assert not np.allclose(unpaired["ctrl"].values[:12], ds["ctrl"].values[:12], atol=1e-2)
    gap = (noisy["arc"] - ds["arc"]).values[:12] / ds["sky_sigma"].values[:12, :, None, None]
    assert gap.std() == pytest.approx(defects.EACH_NOISE * np.sqrt(2), rel=0.02)
    assert not noisy["arc"].values[12:].any()


def test_what_only_describes_changes_no_verdict() -> None:
    """The study, and tests of verdicts, leave it out."""
    for ds in (clean(PAIRS, seed=5), planted(clean(PAIRS, seed=5), "pedestal")):
        whole = run_audit(ds)
        with shared(verdict_alone=True):
            bare = run_audit(ds)
        assert bare.verdict == whole.verdict
        pd.testing.assert_frame_equal(bare.tables["tests"], whole.tables["tests"])


def test_the_page_rounds_no_bound_to_what_was_not_reached() -> None:
    line = {
        "kind": NOISELESS,
        "defect": "pedestal",
        "size": 0.01,
        "unit": "sky sigma",
        "reference": True,
    }
    part = {"count": 118, "lower": 0.94999}
    figures = {
        "pairs": 2000,
        "code": "abc",
        "codes": {"abc": 20, "twin": 7, "old": 1234},
        "agreement": {"audits": 41, "seeds": 1, "verdict": 41, "first_cause": 40, "all_causes": 39},
        "same": {"codes": ["twin"], "audits": 30, "everything": 29},
        "defects": [
            line | {"plants": 59, "alarms": 58, "named": 58, "called": {"pedestal": 58, "leak": 1}}
        ],
        "bounds": [{"kind": NOISELESS, "plants": 120, "detected": part, "named": part}],
        "false_alarms": [
            {"kind": NOISELESS, "sets": 628, "bases": 60, "alarms": 2, "upper": 0.010001},
            {"kind": INDEPENDENT, "sets": 10, "bases": 2, "alarms": 1, "upper": 0.4},
        ],
        "p_values": [{"from": 0.0, "to": 1.0, "tests": 1234, "audits": 5}],
    }
    found = tabulate_defects.page(figures)
    for says in (
        "not finished: 59 seeds of 60",
        "but for 7 of `twin`,\nwhose audits are the same",
        "30 were made by both, 29 with the\nsame verdicts, causes and p-values), and for 1,234",
        "1,234 noiseless plants of `old`",
        "Of 41 plants of 1 seed that both audited, the verdict is the same in 41, the first",
        "cause in 40 and the list of all causes in 39.",
        "118 of 120, at least 94.9 % | at least 95 %",
        "the least in 58 of 59 (pedestal)",
        "2 of 628 (60 bases under several skies), at most 1.01 %",
        "| pedestal | 0.01 sky sigma | 59 | 58 | 58 | `pedestal` 58, `leak` 1 |",
        "stay clean is asked for here.\nOf 10 clean sets 1 alarmed.\n",
        "| 0 | 1 | 1,234 | 5 |",
    ):
        assert says in found
