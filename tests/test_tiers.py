"""Tiers: files that inherit, a gate between them, and the trial that every run begins with."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from distributed import Client
from small_run import Setting

from darkhaloscope import cli, prepare, store, trial
from darkhaloscope.commands.tiers import require_passed, run_below
from darkhaloscope.config import Experiment, GatesSection, load_experiment, parse_experiment
from darkhaloscope.errors import Incomplete, Reason, UserError
from darkhaloscope.inject import inject_brick, load_brick
from darkhaloscope.plan import joint_digest
from darkhaloscope.study import load_study
from darkhaloscope.study.graph import SPARE
from darkhaloscope.survey import whole_bricks
from darkhaloscope.variables import REQUIRED_GATES, SOURCE_MODELS

WORKFLOWS = Path(__file__).parents[1] / "workflows"
STUDIES = {"core_neutral", "core_neutral_cluster"}
OTHERS = {"common", "real-brick", "ablation"}
TIERS = sorted(p.stem for p in WORKFLOWS.glob("*.yaml") if p.stem not in OTHERS | STUDIES)


@pytest.mark.parametrize("name", TIERS)
def test_a_tier_is_what_its_name_says(name: str) -> None:
    tier = load_experiment(str(WORKFLOWS / f"{name}.yaml"))
    assert tier.name == name
    assert tier.stamp.size == (96 if name.endswith("_96") else 64)
    assert Path(tier.survey.root).is_absolute()
    if tier.after is not None:
        below = load_experiment(str(WORKFLOWS / f"{tier.after}.yaml"))
        for section in ("survey", "stamp", "lens", "source", "psf", "render", "fix", "gates"):
            assert getattr(below, section) == getattr(tier, section)


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_arm_of_a_shipped_study_is_an_experiment(name: str) -> None:
    study, arms = load_study(str(WORKFLOWS / f"{name}.yaml"))
    assert arms[0].name == "none"
    assert len({arm.key({}, study.pairs, "") for arm in arms}) == len(arms)


def test_the_targets_of_the_large_study_are_enough_for_its_pairs() -> None:
    file = WORKFLOWS / "core_neutral_cluster.yaml"
    study, arms = load_study(str(file))
    made = re.search(r"dhs targets .* --most (\d+) --out (\S+)", file.read_text())
    assert made is not None
    assert int(made[1]) > SPARE * study.pairs
    assert Path(arms[0].experiment.targets.path).name == made[2]


def test_the_sizes_of_the_seed_study_are_flat_on_the_major_axis() -> None:
    """R_e of 0.2-0.5 arcsec is semi-major there, ``source.reff`` our sqrt(a b)."""
    experiment = load_experiment(str(WORKFLOWS / "seed_paired.yaml"))
    assert experiment.plan.joint is not None
    sizes = pd.read_csv(experiment.plan.joint)
    q = sizes["source.q"].to_numpy()
    for values, low, high in (
        (sizes["source.reff"] / np.sqrt(q), 0.2, 0.5),
        ((1 - q) / (1 + q), 0.0, 0.6),
    ):
        counts, _ = np.histogram(values, 20, (low, high))
        assert counts.tolist() == [len(sizes) // 20] * 20


def test_sections_are_merged_and_values_replaced(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    base = {
        "survey": {"root": "coadds", "bands": ["g", "r", "z"]},
        "targets": {"path": "t.csv"},
        "lens": {"theta_e": {"uniform": [0.5, 1]}, "model": {"SIE": 0.5, "EPL": 0.5}},
        "fix": {"core_mask": {"radius_px": 5, "taper_px": 1}},
    }
    (tmp_path / "below" / "base.yaml").write_text(yaml.safe_dump(base))
    over = {
        "inherits": "below/base.yaml",
        "lens": {"theta_e": {"normal": [1, 0.1, 0.5, 2]}, "model": {"SIS": 1}},
        "fix": {"core_mask": {"radius_px": 7}},
        "survey": {"bands": ["r"]},
    }
    (tmp_path / "over.yaml").write_text(yaml.safe_dump(over))
    made = load_experiment(str(tmp_path / "over.yaml"), {"stamp.size": 32})
    assert made.lens.theta_e.kind == "normal"
    assert made.lens.model.names == ("SIS",)
    assert made.survey.bands == ("r",)
    assert made.fix.core_mask is not None
    assert (made.fix.core_mask.radius_px, made.fix.core_mask.taper_px) == (7, 1)
    assert made.stamp.size == 32
    # Each file's paths are taken from its own folder.
    assert made.survey.root == str(tmp_path / "below" / "coadds")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a": {"inherits": "a.yaml"}}, "inherits from itself"),
        ({"a": {"inherits": "b.yaml"}, "b": {"inherits": "a.yaml"}}, "inherits from itself"),
        ({"a": {"inherits": "gone.yaml"}}, "there is no experiment file"),
        ({"a": {"inherits": ["b.yaml"]}}, "names one file"),
        ({"a": {"study": {}}}, "dhs study"),
    ],
)
def test_mistakes_in_inheriting(tmp_path: Path, files: dict[str, Any], says: str) -> None:
    for name, document in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(UserError, match=says):
        load_experiment(str(tmp_path / "a.yaml"))


def test_a_smaller_tier_s_targets_are_among_a_larger_one_s() -> None:
    brick = np.repeat([f"{b:04d}m300" for b in range(50)], np.arange(50) % 4 + 1)
    table = pd.DataFrame({"brick": brick, "objid": np.arange(len(brick))})
    few, more = whole_bricks(table, 30), whole_bricks(table, 90)
    assert 26 < len(few) <= 30
    assert set(few["objid"]) < set(more["objid"])
    assert (
        few.groupby("brick").size() == table.groupby("brick").size()[few["brick"].unique()]
    ).all()
    with pytest.raises(UserError, match="more than --most 0"):
        whole_bricks(table, 0)


@pytest.fixture(scope="module")
def below(tmp_path_factory: pytest.TempPathFactory, threads: Client) -> tuple[Path, Experiment]:
    """A finished run that says it passed, and its experiment."""
    setting = Setting(tmp_path_factory.mktemp("tiers"), repeats=4)
    run = tmp_path_factory.mktemp("runs") / "chaos"
    setting.make(threads, run)
    _conclude(run, "physics", "pass")
    return run, setting.experiment


def _conclude(
    run: Path, verdict: str, outcome: str, looser: dict[str, float] | None = None, **others: str
) -> None:
    """A verdict whose required gates passed, but for closure_flux as said, and for the others named, by
    the limits of every experiment but those in ``looser``."""
    outcomes = dict.fromkeys(REQUIRED_GATES, "pass") | {"closure_flux": outcome} | others
    limits = GatesSection().model_dump(exclude={"required"}) | (looser or {})
    gates = [
        {"name": name, "outcome": said, "limit": limits.get(name, 0.0)}
        for name, said in outcomes.items()
    ]
    document = {"verdict": verdict, "sentence": f"It is {verdict}.", "gates": gates}
    (run / "verdict.json").write_text(json.dumps(document))


def _tier(experiment: Experiment, **change: Any) -> Experiment:
    return parse_experiment(experiment.model_dump(mode="json") | {"name": "full"} | change)


def test_a_tier_starts_after_a_run_that_passed(below: tuple[Path, Experiment]) -> None:
    run, experiment = below
    more = _tier(experiment, after="chaos", plan={"repeats": 9, "control_fraction": 0.5}, seed=8)
    folder = str(run.parent / "full")
    assert run_below(more, folder, None) == str(run)
    assert run_below(more, folder, "elsewhere/r").endswith("/elsewhere/r")  # type: ignore[union-attr]
    assert run_below(_tier(experiment), folder, None) is None
    require_passed(str(run), more)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"after": "other"}, "only after other, and .* is a run of chaos"),
        ({"source": {"mag": 20.0}}, r"whose arcs are others: source.mag \(21.0 -> 20.0\)"),
        ({"stamp": {"size": 24}}, "stamp.size"),
        ({"lens": {"theta_e": {"uniform": [0.5, 1.2]}}}, "lens.theta_e"),
        ({"psf": {"beta": 3.1}}, "psf.beta"),
        ({"render": {"supersample": 5}}, "render.supersample"),
        ({"fix": {"core_mask": {"radius_px": 3}}}, "fix.core_mask"),
    ],
)
def test_a_run_of_another_family_says_nothing(
    below: tuple[Path, Experiment], change: dict[str, Any], says: str
) -> None:
    run, experiment = below
    with pytest.raises(UserError, match=says):
        require_passed(str(run), _tier(experiment, **change))


def test_a_run_that_did_not_pass_stops_the_next(below: tuple[Path, Experiment]) -> None:
    run, experiment = below
    tier = _tier(experiment, after="chaos")
    for verdict, outcome in (("bug", "pass"), ("undecided", "pass"), ("physics", "fail")):
        _conclude(run, verdict, outcome)
        with pytest.raises(UserError, match="did not pass"):
            require_passed(str(run), tier)
    (run / "verdict.json").write_text('{"verdict": "phy')
    with pytest.raises(UserError, match=r"verdict.json is damaged; dhs audit"):
        require_passed(str(run), tier)
    (run / "verdict.json").unlink()
    with pytest.raises(UserError, match="no verdict yet"):
        require_passed(str(run), tier)
    _conclude(run, "physics", "pass")
    with pytest.raises(UserError, match="there is no run"):
        require_passed(str(run.parent / "gone"), tier)


def test_a_run_below_is_held_to_what_this_one_asks(
    below: tuple[Path, Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gates that it did not require itself, and rows that failed though its gates passed."""
    run, experiment = below
    tier = _tier(experiment, after="chaos")
    asks = _tier(tier, gates={"required": ["core_auc"]})
    _conclude(run, "physics", "pass", core_auc="fail")
    require_passed(str(run), tier)
    with pytest.raises(UserError, match="did not pass"):
        require_passed(str(run), asks)
    with monkeypatch.context() as patched:  # and to what it asked of itself
        patched.setattr(store, "read_experiment", lambda _: _tier(asks, name="chaos").model_dump())
        with pytest.raises(UserError, match="did not pass"):
            require_passed(str(run), tier)
    _conclude(run, "physics", "pass")
    rows = store.open_dataset(str(run)).load()
    lost = np.arange(rows.sizes["pair"]) % 8 == 0
    rows["reason"].values[lost] = Reason.CORRUPT_FILE
    rows["cutout_ok"].values[lost] = False
    monkeypatch.setattr(store, "open_dataset", lambda _: rows)
    for most in (0.05, 0.5):  # the smaller of the two holds
        with pytest.raises(UserError, match=r"12.5% of its rows failed, more than .* = 5.0%"):
            require_passed(str(run), _tier(tier, max_failed_fraction=most))
    lost[:] = np.arange(len(lost)) == 0
    rows = rows.isel(pair=slice(0, 64))
    with pytest.raises(UserError, match=r"more than max_failed_fraction = 0.1%"):
        require_passed(str(run), _tier(tier, max_failed_fraction=0.001))


@pytest.mark.parametrize("outcome", ["not_enough", None])
def test_a_gate_without_evidence_is_not_passed(
    below: tuple[Path, Experiment], outcome: str | None
) -> None:
    """That nothing failed is no proof: what this one asks must stand in the verdict, as passed."""
    run, experiment = below
    asks = _tier(experiment, gates={"required": ["core_auc"]})
    _conclude(run, "physics", "pass", **({} if outcome is None else {"core_auc": outcome}))
    with pytest.raises(UserError, match="did not pass core_auc, which a run before full must have"):
        require_passed(str(run), asks)
    _conclude(run, "physics", "pass", core_auc="pass")
    require_passed(str(run), asks)


def test_a_run_that_was_held_to_less_opens_nothing(below: tuple[Path, Experiment]) -> None:
    """A gate that anything passes is no gate."""
    run, experiment = below
    tier = _tier(experiment, after="chaos")
    _conclude(run, "physics", "pass", {"closure_flux": 1.0, "excess_auc": 0.2})
    says = r"looser limits than full has: closure_flux 1 and not 0.01, excess_auc 0.2 and not 0.02;"
    with pytest.raises(UserError, match=says):
        require_passed(str(run), tier)
    require_passed(str(run), _tier(tier, gates={"closure_flux": 1.0, "excess_auc": 0.3}))
    _conclude(run, "physics", "pass", {"closure_flux": 0.005})
    require_passed(str(run), tier)
    with pytest.raises(UserError, match=r"closure_flux 0.005 and not 0.002"):
        require_passed(str(run), _tier(tier, gates={"closure_flux": 0.002}))
    # Of a core AUC that nobody requires the limit decides nothing.
    _conclude(run, "physics", "pass", {"core_auc": 0.9}, core_auc="pass")
    require_passed(str(run), tier)
    with pytest.raises(UserError, match=r"core_auc 0.9 and not 0.7"):
        require_passed(str(run), _tier(tier, gates={"required": ["core_auc"]}))


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def start(
    below: tuple[Path, Experiment],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., Answer]:
    """``dhs run`` of a tier, which ends with exit code 4 where it begins with its plan."""

    def began(_: Experiment) -> None:
        raise Incomplete("it began")

    monkeypatch.setattr(prepare, "plan_of", began)

    def call(*arguments: object, out: Path = tmp_path / "runs" / "full", **change: Any) -> Answer:
        file = tmp_path / "full.yaml"
        file.write_text(_tier(below[1], **change).to_yaml())
        command = ["dhs", "run", str(file), "--out", str(out), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capfd.readouterr()
        return Answer(int(stop.value.code or 0), said.out, said.err)

    return call


def test_a_run_of_the_command_line_asks_the_gate(
    below: tuple[Path, Experiment], start: Callable[..., Answer], tmp_path: Path
) -> None:
    run, _ = below
    _conclude(run, "bug", "fail")
    beside = run.parent / "full"
    for refused in (start("--require-gate", run), start(out=beside, after="chaos")):
        assert refused.code == 2
        assert f"{run} did not pass: It is bug. full does not start" in refused.err
    assert {path.name for path in tmp_path.iterdir()} == {"full.yaml"}
    assert not beside.exists()
    _conclude(run, "physics", "pass")
    for begun in (start("--require-gate", run), start(out=beside, after="chaos")):
        assert begun.code == 4
        assert f"gate: {run} passed" in begun.out
        assert "it began" in begun.err
    ungated = start()
    assert (ungated.code, ungated.out) == (4, "")


def test_what_is_no_run_s_folder_is_no_gate(
    below: tuple[Path, Experiment], start: Callable[..., Answer], tmp_path: Path
) -> None:
    file = tmp_path / "verdict.json"
    file.write_text("{}")
    for named, says in (
        ("", "--require-gate is empty; give the folder of a run"),
        (" ", "--require-gate is empty; give the folder of a run"),
        (file, f"{file} is no folder, and full starts only after a run; name its folder"),
        (f"{file}/", f"{file} is no folder"),
        ("/", "there is no run /;"),
        (file / "run", f"{file}/run is no folder"),
        (tmp_path / "gone", f"there is no run {tmp_path}/gone; run it first"),
    ):
        refused = start("--require-gate", named)
        assert refused.code == 2
        assert says in refused.err
        assert len(refused.err.strip().splitlines()) == 1


def test_arcs_from_another_joint_table_are_others(
    below: tuple[Path, Experiment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, experiment = below
    _conclude(run, "physics", "pass")
    table = tmp_path / "joint.csv"
    table.write_text("lens.q,source.q\n0.5,0.6\n0.7,0.8\n")
    tier = _tier(experiment, plan={"joint": str(table)})
    with pytest.raises(UserError, match="whose arcs are others: the contents of its joint"):
        require_passed(str(run), tier)
    summary = store.read_run(str(run))
    assert summary is not None
    summary["document"]["contents"]["joint"] = joint_digest(pd.read_csv(table))
    monkeypatch.setattr(store, "read_run", lambda _: summary)
    require_passed(str(run), tier)
    summary["document"]["contents"]["galaxies"] = "others"
    with pytest.raises(UserError, match="the contents of its galaxies"):
        require_passed(str(run), tier)


@pytest.mark.parametrize(
    ("name", "says"),
    [("theta_e", "controls have an Einstein radius"), ("flux", "flux does not rise")],
)
def test_the_gate_looks_at_the_rows_below(
    below: tuple[Path, Experiment], monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    run, experiment = below
    _conclude(run, "physics", "pass")
    wrong = _spoil(store.read_rows(str(run), slice(0, 10**6)), name)
    monkeypatch.setattr(store, "open_dataset", lambda _: wrong)
    with pytest.raises(UserError, match=f"the rows of .* are wrong: .*{says}"):
        require_passed(str(run), _tier(experiment))


def test_fainter_sources_behind_larger_lenses_are_no_fault(
    below: tuple[Path, Experiment],
) -> None:
    """The trend is of the magnification: flux in units of the source's own."""
    run, _ = below
    columns = store.read_rows(str(run), slice(0, 10**6))
    fainter = (columns["theta_e"].values[:, None].clip(0.1) ** -4).astype(np.float32)
    for name in ("src_flux", "total_injected_flux"):
        columns[name].values[:] *= fainter
    lensed = columns["lens_model"].values > 0
    flux = columns["total_injected_flux"].values[lensed, 1]
    large = columns["theta_e"].values[lensed] > 0.75
    assert np.nanmean(flux[large]) < np.nanmean(flux[~large])
    assert trial.flux_falls(columns, "r") == ""


def _spoil(columns: xr.Dataset, name: str) -> xr.Dataset:
    made = columns.copy(deep=True)
    control = np.flatnonzero(made["lens_model"].values == 0)
    lensed = np.flatnonzero((made["lens_model"].values > 0) & made["cutout_ok"].values)
    if name == "theta_e":
        made["theta_e"].values[control[0]] = 1.0
    elif name == "arc":
        made["arc"].values[control[0], 0, 3, 3] = 1.0
    elif name == "snr":
        made["arc_snr"].values[lensed[:2]] = np.nan
    elif name == "zero":
        made["arc_snr"].values[control] = 0.0
    elif name == "reason":
        made["cutout_ok"].values[lensed[0]] = False
    elif name == "contradiction":
        made["reason"].values[lensed[0]] = Reason.CORRUPT_FILE
    else:
        gain = made["theta_e"].values[lensed, None] ** -2
        made["total_injected_flux"].values[lensed] = made["src_flux"].values[lensed] * gain
    return made


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("theta_e", "1 controls have an Einstein radius"),
        ("arc", "1 controls hold an arc"),
        ("snr", "arc_snr is missing on 2 of"),
        ("zero", "arc_snr is there on"),
        ("reason", "no pixels and no reason"),
        ("contradiction", "pixels and a reason why not"),
        ("flux", "flux does not rise"),
    ],
)
def test_planted_faults_are_named(below: tuple[Path, Experiment], name: str, says: str) -> None:
    run, _ = below
    columns = store.read_rows(str(run), slice(0, 10**6))
    assert trial.faults(columns, "r") == []
    assert trial.flux_falls(columns, "r") == ""
    wrong = _spoil(columns, name)
    assert says in "; ".join([*trial.faults(wrong, "r"), trial.flux_falls(wrong, "r")])


def test_a_run_begins_with_a_trial(
    below: tuple[Path, Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, experiment = below
    plan = prepare.plan_of(experiment)
    rows = plan.brick_rows(str(plan.bricks[0]))
    cutouts = load_brick(rows, experiment)
    trial.check_trial(experiment, rows, cutouts, plan.theta_e_prior())
    with monkeypatch.context() as patched:
        patched.setattr(trial, "inject_brick", lambda *a: _spoil(inject_brick(*a), "arc"))
        with pytest.raises(UserError, match="nothing was written: 1 controls hold an arc"):
            prepare.preflight(plan)
    drawn = trial.draw_arc

    def backwards(row: Any, *rest: Any) -> Any:
        row = row.copy()
        row["theta_e"] = 1.5 - row["theta_e"]
        return drawn(row, *rest)

    monkeypatch.setattr(trial, "draw_arc", backwards)
    with pytest.raises(UserError, match="do not get brighter"):
        prepare.preflight(plan)


def test_points_on_the_axis_are_no_fault(below: tuple[Path, Experiment]) -> None:
    """A lens of any size magnifies them alike: their flux is no sign of a broken renderer."""
    run, given = below
    source = {"model": "point", "mag": 21.0}
    raw = given.model_dump(exclude_unset=True) | {"source": source}
    experiment = parse_experiment(raw, "points")
    plan = prepare.plan_of(experiment)
    rows = plan.brick_rows(str(plan.bricks[0]))
    trial.check_trial(experiment, rows, load_brick(rows, experiment), plan.theta_e_prior())
    points = store.read_rows(str(run), slice(0, 10**6))
    points["src_model"].values[:] = SOURCE_MODELS.index("POINT")
    assert trial.flux_falls(_spoil(points, "flux"), "r") == ""
