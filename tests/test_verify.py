"""What is wrong in a run's folder is named, and repair with a resume gives an undisturbed run's bytes."""

from __future__ import annotations

import importlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from rich.console import Console

import darkhaloscope
from darkhaloscope import commands, prepare, storage, store, workflow
from darkhaloscope.completeness import read_injections
from darkhaloscope.errors import UserError
from darkhaloscope.mapping import load_mapping
from darkhaloscope.status import status_of, writes_now
from darkhaloscope.storage import read_objects
from darkhaloscope.store import Verification, export_tables, repair_run, verify_run
from darkhaloscope.trouble import Trouble
from darkhaloscope.views import Reading

pytestmark = pytest.mark.usefixtures("no_pictures")

ROOT = Path(__file__).parents[1]
EXPERIMENT = str(ROOT / "workflows" / "real-brick.yaml")
QUIET = Console(quiet=True)
CHANGES = {"stamp.size": 16, "store.block": 64, "plan.repeats": 4}


def resume(folder: Path, changes: dict[str, Any] = CHANGES) -> None:
    """What ``dhs run`` makes of a folder, without a cluster and without the audit."""
    exp = prepare.experiment_of(EXPERIMENT, changes)
    made = prepare.plan_of(exp)
    layout = prepare.layout_of(made)
    run = str(folder)
    store.create_run(run, layout, exp.to_yaml(), exp.identity_document(made.contents), "0.1.0")
    prepare.complete_plan(run, made)
    spec = prepare.spec_of(exp, prepare.planned_strata(made), n_regions=1)
    apart = store.bricks_set_apart(run)
    for block in set(range(layout.blocks)) - set(store.finished_blocks(run)):
        cubes = [
            workflow.inject_piece(run, exp, work)
            for work in workflow.work_of(made, made.pieces(block), apart)
        ]
        workflow.write_piece(run, layout, block, [cubes], spec)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a few blocks; tests work on copies."""
    folder = tmp_path_factory.mktemp("verify") / "run"
    resume(folder)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def tree(folder: Path) -> dict[str, bytes]:
    """What a run's bytes are: data set, markers and plan."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for place in ("stamps.zarr", "blocks", "plan")
        for path in sorted((folder / place).rglob("*"))
        if path.is_file()
    }


def said(found: Verification) -> list[tuple[int | None, str, str]]:
    return [(f.block, f.where, f.says) for f in found.findings]


def shard(run: Path, array: str = "arc", block: int = 1) -> Path:
    found = [p for p in (run / "stamps.zarr" / array / "c" / str(block)).rglob("*") if p.is_file()]
    return found[0] if found else run / "stamps.zarr" / array / "c" / str(block)


def flip_bit(run: Path, block: int = 1) -> None:
    data = bytearray(shard(run, block=block).read_bytes())
    data[len(data) // 2] ^= 4
    shard(run, block=block).write_bytes(data)


def cut(run: Path) -> None:
    shard(run, "ctrl").write_bytes(shard(run, "ctrl").read_bytes()[:-7])


def miscount(run: Path) -> None:
    path = run / "blocks" / "000001.json"
    marker = json.loads(path.read_text())
    marker["counts"]["control"]["ok"] -= 1
    path.write_text(json.dumps(marker))


def claim(run: Path) -> None:
    path = run / "blocks" / "000001.json"
    path.write_text(path.read_text().replace('"block": 1', '"block": 7'))


def forget(run: Path) -> None:
    path = run / "blocks" / "000001.json"
    marker = json.loads(path.read_text())
    del marker["objects"]["ra/c/1"]
    path.write_text(json.dumps(marker))


def flip_statistics(run: Path) -> None:
    path = run / "blocks" / "000001.npz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def edit_plan(run: Path) -> None:
    path = run / "plan" / "000001.parquet"
    table = pd.read_parquet(path)
    table.loc[6, "src_reff"] = 0.123
    table.loc[6, "theta_e"] = 3.21
    table.to_parquet(path, index=False)


def break_plan(run: Path) -> None:
    (run / "plan" / "000000.parquet").write_bytes(b"PAR1")


def break_metadata(run: Path) -> None:
    (run / "stamps.zarr" / "arc" / "zarr.json").write_bytes(b"{}")


DAMAGE: list[tuple[Callable[[Path], object], int | None, str, str]] = [
    (flip_bit, 1, "arc", "checksum"),
    (lambda run: shard(run).unlink(), 1, "arc", "is missing"),
    (cut, 1, "ctrl", "bytes, and"),
    (miscount, 1, "reason", "the marker counts"),
    (claim, 1, "blocks/000001.json", "is damaged"),
    (forget, 1, "blocks/000001.json", "other objects"),
    (lambda run: (run / "blocks" / "000001.npz").unlink(), 1, "blocks/000001.npz", "is missing"),
    (flip_statistics, 1, "blocks/000001.npz", "checksum"),
    (edit_plan, None, "plan/000001.parquet", "theta_e of 1 rows"),
    (break_plan, None, "plan/000000.parquet", "cannot be read"),
    (break_metadata, None, "stamps.zarr/arc/zarr.json", "is not what"),
]
NAMES = [
    "bit flip", "missing object", "truncated object", "edited counts", "marker of another block",
    "marker without an object", "missing statistics", "other statistics", "edited plan",
    "damaged plan", "metadata",
]  # fmt: skip


def test_an_undisturbed_run_is_proved(whole: Path) -> None:
    found = verify_run(str(whole))
    assert found.findings == ()
    assert found.finished == found.blocks > 1
    assert commands.verify_exit_code(found) == 0
    assert commands.repair_exit_code(repair_run(str(whole), found)) == 0


@pytest.mark.parametrize(("damage", "block", "where", "says"), DAMAGE, ids=NAMES)
def test_damage_is_named_and_repaired(
    run: Path,
    whole: Path,
    damage: Callable[[Path], object],
    block: int | None,
    where: str,
    says: str,
) -> None:
    damage(run)
    found = verify_run(str(run))
    assert next((f.block, f.where) for f in found.findings) == (block, where)
    assert any(says in f.says for f in found.findings), said(found)
    assert commands.verify_exit_code(found) == commands.EXIT_BUG
    if block is not None:
        assert {f.brick for f in found.findings} == {"0591m305"}
        assert found.broken_blocks == [1]
    done = commands.repair(str(run), console=QUIET)
    assert done.left == ()
    again = verify_run(str(run))
    assert [f for f in again.findings if not f.where.startswith("plan")] == []
    if done.needs_resume:
        assert commands.repair_exit_code(done) == commands.EXIT_INCOMPLETE
        resume(run)
    assert tree(run) == tree(whole)
    assert verify_run(str(run)).findings == ()


# --- run.json, on which everything else stands ----------------------------------------------------

EDITS: list[tuple[str, Any, str]] = [
    ("rows", 159, "(159, 64, none) are not those of the arrays (160, 64): dhs run"),
    ("block", 32, "(160, 32, none) are not those of the arrays (160, 64)"),
    ("blocks", 2, "160 rows in blocks of 64 are 3, not 2"),
    ("kinds", ["EPL"], "EPL) are not those of the arrays"),
    ("kinds", ["POINT"], "POINT) are not those of the arrays"),
    ("identity", "b2" * 32, "its identity is not that of its document"),
    ("document", {}, ""),
]


def edit(run: Path, **changes: Any) -> None:
    path = run / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(("key", "value", "says"), EDITS, ids=[f"{k}-{v}" for k, v, _ in EDITS])
def test_one_edited_number_of_run_json_costs_no_block(
    run: Path, whole: Path, key: str, value: Any, says: str
) -> None:
    seed = json.loads((run / "run.json").read_text())["document"]
    edit(run, **{key: {**seed, "seed": 99} if key == "document" else value})
    if key == "block":  # and the number of blocks that goes with it
        assert "are 5, not 3" in verify_run(str(run)).findings[0].says
        edit(run, blocks=5)
    found = verify_run(str(run))
    assert [(f.kind, f.block, f.where) for f in found.findings] == [("broken", None, "run.json")]
    assert says in found.findings[0].says
    assert commands.verify_exit_code(found) == commands.EXIT_BUG
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    done = commands.repair(str(run), console=QUIET)
    assert done.left == found.findings
    assert not done.needs_resume
    assert commands.repair_exit_code(done) == commands.EXIT_BUG
    with pytest.raises(UserError, match=r"run\.json is not to be trusted"):
        commands.repair_failed(str(run), ["missing_file"], console=QUIET)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    if key != "identity":  # that one only its owner can mend
        resume(run)
        assert verify_run(str(run)).findings == ()
        assert tree(run) == tree(whole)


def test_damaged_metadata_do_not_put_run_json_in_doubt(run: Path, whole: Path) -> None:
    """The group's, with an array's, and all of them at once."""
    for name in ("zarr.json", "arc/zarr.json"):
        (run / "stamps.zarr" / name).write_text("{}")
    found = verify_run(str(run))
    assert {f.where for f in found.findings} == {
        "stamps.zarr/zarr.json",
        "stamps.zarr/arc/zarr.json",
    }
    assert repair_run(str(run), found).left == ()
    for path in (run / "stamps.zarr").rglob("zarr.json"):
        path.unlink()
    assert repair_run(str(run), verify_run(str(run))).blocks == ()
    assert tree(run) == tree(whole)


# --- documents that somebody edited ---------------------------------------------------------------


@pytest.mark.parametrize("lacks", ["identity", "objects", "plan", "statistics", "counts", "notes"])
def test_a_marker_without_a_part_is_one_sentence_everywhere(run: Path, lacks: str) -> None:
    path = run / "blocks" / "000001.json"
    marker = json.loads(path.read_text())
    del marker[lacks]
    path.write_text(json.dumps(marker))
    found = verify_run(str(run))
    assert [(f.block, f.where) for f in found.findings] == [(1, "blocks/000001.json")]
    assert "is damaged" in found.findings[0].says
    with pytest.raises(UserError, match=r"000001\.json is damaged; dhs repair"):
        status_of(str(run))
    with pytest.raises(UserError, match=r"000001\.json is damaged; dhs repair"):
        store.check_stored(str(run))
    assert repair_run(str(run), found).blocks == (1,)


@pytest.mark.parametrize("said", ["{}", "[]", "{", '{"state": "running", "written": "now"}'])
def test_a_damaged_sign_of_life_is_none(run: Path, said: str) -> None:
    (run / "progress.json").write_text(said)
    assert writes_now(str(run)) is None
    assert status_of(str(run)).state == "whole"
    assert commands.repair_exit_code(commands.repair(str(run), console=QUIET)) == 0


@pytest.mark.parametrize("lacks", ["rows", "block", "blocks", "kinds"])
def test_a_run_json_without_a_number_is_one_sentence(run: Path, lacks: str) -> None:
    path = run / "run.json"
    path.write_text(
        json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != lacks})
    )
    for look in (verify_run, status_of, darkhaloscope.open):
        with pytest.raises(UserError, match=r"run\.json is damaged"):
            look(str(run))


# --- what reads as zeros --------------------------------------------------------------------------


def test_a_lost_object_is_not_exported_and_not_audited(run: Path, tmp_path: Path) -> None:
    """A Zarr array without it reads as fill: arcs of nothing."""
    shard(run, "theta_e").unlink()
    for look in (
        lambda: commands.export(str(run), str(tmp_path / "out"), console=QUIET),
        lambda: prepare.source_of(str(run)),
    ):
        with pytest.raises(UserError, match=r"block 1 of .*theta_e/c/1 is missing; dhs repair"):
            look()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("array", ["theta_e", "ctrl", "brick"])
def test_a_finished_run_that_lost_an_object_is_not_opened(run: Path, array: str) -> None:
    lost = shard(run, array)
    lost.rename(run / "kept")
    with pytest.raises(
        UserError, match=rf"block 1 of .*{array}/c/1.* is missing; dhs repair.*dhs verify"
    ):
        darkhaloscope.open(run)
    (run / "blocks" / "000000.json").rename(run / "marker")
    assert darkhaloscope.open(run).sizes["pair"]  # not finished: what is there
    (run / "marker").rename(run / "blocks" / "000000.json")
    (run / "kept").rename(lost)
    assert np.isfinite(darkhaloscope.open(run)["ctrl"].values).any()


def test_nobody_learns_from_what_was_lost(run: Path) -> None:
    shard(run, "arc").unlink()
    with pytest.raises(UserError, match="is missing; dhs repair"):
        read_injections(str(run))
    pytest.importorskip("torch")
    chunks = importlib.import_module("darkhaloscope.detect.chunks")
    with pytest.raises(UserError, match="is missing; dhs repair"):
        chunks.ChunkReader(str(run), Reading())


def test_arrays_of_a_large_run_are_listed_one_by_one(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    markers = importlib.import_module("darkhaloscope.store.markers")
    layout = store.layout_of_run(str(run))
    once = markers._stored_bytes(str(run), layout, ())
    monkeypatch.setattr(markers, "_LISTED_AT_ONCE", 1)
    each = markers._stored_bytes(str(run), layout, ())
    assert {name: sizes.tolist() for name, sizes in once.items()} == {
        name: sizes.tolist() for name, sizes in each.items()
    }
    assert max(once["ctrl"]) > 0
    shard(run, "theta_e").unlink()
    with pytest.raises(UserError, match="theta_e/c/1 is missing"):
        darkhaloscope.open(run)


@pytest.mark.parametrize("passes", [True, False])
def test_a_place_that_gives_no_listings_is_opened_with_a_warning(
    run: Path, monkeypatch: pytest.MonkeyPatch, passes: bool
) -> None:
    def refused(url: str) -> list[str]:
        trouble: Trouble = "passing" if passes else "lasting"
        raise storage.StorageError(f"cannot list {url}: Access Denied", trouble)

    monkeypatch.setattr(storage, "names", refused)
    if passes:
        with pytest.raises(storage.StorageError):
            darkhaloscope.open(run)
        return
    with pytest.warns(UserWarning, match="would read as fill: cannot list .*Access Denied"):
        assert darkhaloscope.open(run).sizes["pair"]


def test_what_is_not_of_the_run_is_named_and_left_alone(run: Path) -> None:
    zarr.open_group(run / "stamps.zarr", mode="r+").create_array("weight", shape=(3,), dtype="f4")[
        :
    ] = 1
    (run / "blocks" / "notes.txt").write_text("mine")
    (run / "stamps.zarr" / "arc" / "c" / "99").write_bytes(b"x")
    before = tree(run)
    found = verify_run(str(run))
    assert {f.where for f in found.of_kind("foreign")} == {
        "stamps.zarr/weight/zarr.json",
        "stamps.zarr/weight/c/0",
        "blocks/notes.txt",
        "stamps.zarr/arc/c/99",
    }
    assert commands.verify_exit_code(found) == commands.EXIT_BUG
    done = repair_run(str(run), found)
    assert {f.where for f in done.left} == {f.where for f in found.of_kind("foreign")}
    assert tree(run) == before


def test_leftovers_of_killed_writers_are_named_and_removed(run: Path, whole: Path) -> None:
    for place in ("blocks", "stamps.zarr/arc/c", "plan"):
        (run / place / "0.x1.partial").write_bytes(b"half")
    found = verify_run(str(run))
    assert [f.kind for f in found.findings] == ["leftover"] * 3
    assert commands.verify_exit_code(found) == 0  # the data are right
    assert repair_run(str(run), found).swept == 3
    assert tree(run) == tree(whole)


def test_an_unfinished_run_is_right_as_far_as_it_goes(run: Path) -> None:
    (run / "blocks" / "000001.json").unlink()
    found = verify_run(str(run))
    assert found.findings == ()
    assert found.finished == found.blocks - 1
    assert commands.verify_exit_code(found) == commands.EXIT_INCOMPLETE


def test_a_part_of_the_plan_is_its_blocks_whatever_parts_are_missing(run: Path) -> None:
    """Blocks are finished in any order: the number is in the name."""
    (run / "blocks" / "000000.json").unlink()
    (run / "plan" / "000000.parquet").unlink()
    found = verify_run(str(run))
    assert found.findings == ()
    assert found.finished == found.blocks - 1


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize("number", [0, 2])
def test_a_part_of_the_plan_that_is_gone_or_bent_is_named_alone(
    run: Path, whole: Path, edited: bool, number: int
) -> None:
    """The first and the last."""
    name = f"plan/{number:06d}.parquet"
    part = run / name
    if edited:  # other bytes of the same rows
        pd.read_parquet(part).to_parquet(part, index=False, compression="gzip")
    else:
        part.unlink()
    found = verify_run(str(run))
    assert {(f.block, f.where) for f in found.findings} == {(None, name)}
    done = repair_run(str(run), found)
    assert (done.blocks, done.plan) == ((), (name,))
    resume(run)
    assert tree(run) == tree(whole)


def test_quarantine_is_named_and_released_by_a_repair(tmp_path: Path, whole: Path) -> None:
    run = tmp_path / "run"
    exp = prepare.experiment_of(EXPERIMENT, CHANGES)
    made = prepare.plan_of(exp)
    document = exp.identity_document(made.contents)
    store.create_run(str(run), prepare.layout_of(made), exp.to_yaml(), document, "0.1.0")
    store.set_apart(str(run), "0591m305", 0, 3)
    resume(run)
    store.write_progress(str(run), SIGN | {"state": "whole"})
    found = verify_run(str(run))
    assert {f.kind for f in found.findings} == {"set apart"}
    assert found.blocks_set_apart == list(range(found.blocks))
    assert commands.verify_exit_code(found) == 0, "the data are what they should be"
    done = commands.repair(str(run), console=QUIET)
    assert done.released == ("0591m305",)
    assert commands.repair_exit_code(done) == commands.EXIT_INCOMPLETE
    resume(run)
    assert tree(run) == tree(whole)


def test_one_repair_takes_what_is_broken_and_what_was_set_apart(run: Path, whole: Path) -> None:
    layout = store.layout_of_run(str(run))
    for block in (1, 2):
        store.drop_block(str(run), layout, block)
    store.set_apart(str(run), "0591m305", 1, 3)
    resume(run)
    flip_bit(run, block=0)
    found = verify_run(str(run))
    assert (found.broken_blocks, found.blocks_set_apart) == ([0], [1, 2])
    done = repair_run(str(run), found)
    assert (done.blocks, done.released) == ((0, 1, 2), ("0591m305",))
    resume(run)
    assert tree(run) == tree(whole)


def test_a_second_repair_still_asks_for_a_resume(run: Path) -> None:
    flip_bit(run)
    for dropped in ((1,), ()):
        done = commands.repair(str(run), console=QUIET)
        assert done.blocks == dropped
        assert done.needs_resume
        assert commands.repair_exit_code(done) == commands.EXIT_INCOMPLETE


def test_a_repair_that_is_killed_leaves_no_block_without_its_objects(
    run: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove, removed = storage.remove, []

    def killed(url: str) -> None:
        if removed:
            raise KeyboardInterrupt(url)
        removed.append(url)
        remove(url)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "remove", killed)
        with pytest.raises(KeyboardInterrupt):
            store.drop_block(str(run), store.layout_of_run(str(run)), 1)
    assert store.finished_blocks(str(run)) == [0, 2]
    resume(run)
    assert tree(run) == tree(whole)


SIGN = {
    "state": "running", "started": 0.0, "written": 0.0, "blocks_whole": 0, "rows_by_reason": {},
    "rows_fresh": 0, "running": [], "workers": 1,
}  # fmt: skip


def test_a_claim_is_a_leftover(run: Path, whole: Path) -> None:
    (run / "blocks" / "000001.claim").write_bytes(b"of a writer that was killed")
    found = verify_run(str(run))
    assert [(f.kind, f.where) for f in found.findings] == [("leftover", "blocks/000001.claim")]
    assert repair_run(str(run), found).swept == 1
    assert tree(run) == tree(whole)


def test_rate_and_time_left_are_those_of_this_call(run: Path) -> None:
    """64 of the 96 rows that are there were made in the ten seconds before the last sign of life."""
    (run / "blocks" / "000001.json").unlink()
    now = time.time()
    sign = SIGN | {"started": now - 10, "written": now, "rows_fresh": 64, "blocks_whole": 2}
    store.write_progress(str(run), sign | {"rows_by_reason": {"ok": 96}})
    found = status_of(str(run))
    assert (found.state, found.rows_done, found.rows) == ("running", 96, 160)
    assert found.rows_per_s == pytest.approx(6.4)
    assert found.eta_s == pytest.approx(10)
    store.write_progress(str(run), sign | {"rows_fresh": 0})
    assert status_of(str(run)).rows_per_s is None


# --- a plan that is there -------------------------------------------------------------------------


def test_another_experiments_plan_is_not_put_into_a_run(run: Path) -> None:
    before = tree(run)
    with pytest.raises(UserError, match=r"belongs to another experiment: .*seed"):
        commands.plan(EXPERIMENT, out=str(run), overrides={**CHANGES, "seed": 99}, console=QUIET)
    assert tree(run) == before
    commands.plan(EXPERIMENT, out=str(run), overrides=CHANGES, console=QUIET)
    assert tree(run) == before


def test_a_plan_that_is_there_and_differs_is_refused_before_the_run(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    made = commands.plan(EXPERIMENT, out=out, overrides=CHANGES, console=QUIET)
    prepare.check_plan(out, made)
    edit_plan(tmp_path / "run")
    with pytest.raises(UserError, match=r"000001\.parquet is not what the experiment plans"):
        prepare.check_plan(out, made)
    shorter = prepare.plan_of(prepare.experiment_of(EXPERIMENT, {**CHANGES, "plan.repeats": 2}))
    with pytest.raises(UserError, match=r"a longer plan than this experiment's 2 blocks"):
        prepare.check_plan(out, shorter)


def test_nothing_is_repaired_under_a_run(run: Path) -> None:
    flip_bit(run)
    before = tree(run)
    sign = SIGN | {"written": time.time() - 5}
    store.write_progress(str(run), sign)
    with pytest.raises(UserError, match=r"a run writes to .* 5 s old"):
        commands.repair(str(run), console=QUIET)
    assert tree(run) == before
    store.write_progress(str(run), {**sign, "written": time.time() - 3600})
    assert commands.repair(str(run), console=QUIET).blocks == (1,)


@pytest.mark.parametrize("damage", ["edited", "gone", "unreadable"])
def test_the_joint_table_is_that_of_the_identity(whole: Path, tmp_path: Path, damage: str) -> None:
    table = pd.DataFrame({"source.n": [1.0, 4.0], "lens.theta_e": [0.8, 1.2]})
    table.to_parquet(tmp_path / "joint.parquet")
    exp = prepare.experiment_of(
        EXPERIMENT, {**CHANGES, "lens.theta_e": 1.0, "plan.joint": str(tmp_path / "joint.parquet")}
    )
    made = prepare.plan_of(exp)
    run = str(tmp_path / "run")
    document = exp.identity_document(made.contents)
    store.create_run(run, prepare.layout_of(made), exp.to_yaml(), document, "0.1.0")
    store.write_joint(run, table[["lens.theta_e", "source.n"]])
    assert verify_run(run).findings == ()
    path = Path(run, "joint.parquet")
    if damage == "gone":
        path.unlink()
    elif damage == "edited":
        store.write_joint(run, table.assign(**{"source.n": [1.0, 2.0]}))
    else:
        path.write_bytes(b"PAR1")
    found = verify_run(run)
    assert [(f.kind, f.where) for f in found.findings] == [("broken", "joint.parquet")]
    assert repair_run(run, found).needs_resume
    assert not path.exists()


def rewrite(run: Path, block: int, cube: xr.Dataset) -> None:
    """Put other rows into a block, with right checksums."""
    layout = store.layout_of_run(str(run))
    marker = store.read_marker(str(run), block, layout.attributes["identity"])
    assert marker is not None
    statistics = store.read_statistics(str(run), marker)
    (run / "blocks" / f"{block:06d}.json").unlink()
    store.write_block(
        str(run), layout, block, cube, statistics, marker["statistics_spec"], marker["notes"]
    )


def test_values_that_are_not_finite_are_named_even_under_right_checksums(run: Path) -> None:
    """A writer with a defect: its checksums are those of what it wrote."""
    layout = store.layout_of_run(str(run))
    cube = store.read_rows(str(run), layout.rows_of(1))
    injected = int(np.flatnonzero(cube["lens_model"].values > 0)[0])
    cube["arc"].values[injected, 0, 3, 3] = np.nan
    cube["arc_snr"].values[injected] = np.nan
    rewrite(run, 1, cube)
    assert said(verify_run(str(run))) == [
        (1, "arc", "1 rows are not finite"),
        (1, "arc_snr", "1 rows are not finite"),
    ]


@pytest.mark.parametrize(
    ("change", "where", "says"),
    [
        ("ctrl", "ctrl", "1 rows are not finite"),
        ("magnification", "magnification", "1 rows are not finite"),
        ("reason", "reason", "1 rows are not written"),
    ],
)
def test_each_thing_that_a_defective_writer_leaves_is_named(
    run: Path, change: str, where: str, says: str
) -> None:
    cube = store.read_rows(str(run), store.layout_of_run(str(run)).rows_of(1))
    ok = cube["cutout_ok"].values & (cube["lens_model"].values > 0)
    row = int(np.flatnonzero(ok)[0])
    if change == "ctrl":
        cube["nodata"].values[row] = 0
        cube["ctrl"].values[row, 0, 3, 3] = np.inf
    else:
        cube[change].values[row] = 0 if change == "reason" else np.nan
    rewrite(run, 1, cube)
    assert said(verify_run(str(run))) == [(1, where, says)]


def test_pixels_without_data_need_not_be_finite(run: Path) -> None:
    cube = store.read_rows(str(run), store.layout_of_run(str(run)).rows_of(1))
    cube["nodata"].values[5] |= 1
    cube["ctrl"].values[5, 0] = np.nan
    rewrite(run, 1, cube)
    assert verify_run(str(run)).findings == ()


def test_an_object_that_its_marker_calls_fill_is_named(run: Path) -> None:
    cube = store.read_rows(str(run), store.layout_of_run(str(run)).rows_of(1))
    cube["partner"].values[:] = -1
    rewrite(run, 1, cube)
    assert verify_run(str(run)).findings == ()
    path = run / "stamps.zarr" / "partner" / "c" / "1"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    assert said(verify_run(str(run))) == [
        (1, "partner", "is there, and its marker says that it is all fill")
    ]


def test_a_planned_column_of_a_band_is_compared(run: Path) -> None:
    path = run / "plan" / "000001.parquet"
    table = pd.read_parquet(path)
    row = int(np.flatnonzero(table["lens_model"].to_numpy() > 0)[0])
    table.loc[row, "src_flux_r"] *= 1.5
    table.to_parquet(path, index=False)
    assert said(verify_run(str(run))) == [
        (None, "plan/000001.parquet", "src_flux of 1 rows is not the stored one")
    ]


def test_a_value_is_not_no_value(run: Path) -> None:
    """A writer with a defect, right checksums: it lost a planned value, and made one up."""
    cube = store.read_rows(str(run), store.layout_of_run(str(run)).rows_of(1))
    injected = cube["lens_model"].values > 0
    cube["src_reff"].values[injected.argmax()] = np.nan
    cube["lens_q"].values[injected.argmin()] = 0.7
    rewrite(run, 1, cube)
    assert said(verify_run(str(run))) == [
        (None, "plan/000001.parquet", "lens_q of 1 rows is not the stored one"),
        (None, "plan/000001.parquet", "src_reff of 1 rows is not the stored one"),
    ]


def test_an_invvar_is_proved_against_nodata(tmp_path: Path) -> None:
    """Resumed, verified, opened and exported like any other run, with one array more."""
    run = tmp_path / "run"
    resume(run, {**CHANGES, "plan.repeats": 1, "store.invvar": True})
    assert not verify_run(str(run)).findings
    lazy = darkhaloscope.open(str(run))["invvar"]
    assert lazy.chunks is not None
    assert lazy.sizes == {"pair": 40, "band": 3, "y": 16, "x": 16}
    assert (lazy > 0).any()
    tables = export_tables(str(run), str(tmp_path / "out"), [slice(0, 40)], load_mapping("seed"))
    assert tables
    cube = store.read_rows(str(run), slice(0, 40))
    good = int(np.flatnonzero(cube["cutout_ok"].values)[0])
    cube["invvar"].values[good, 0, 3, 3] = 0
    rewrite(run, 0, cube)
    assert said(verify_run(str(run))) == [(0, "invvar", "1 rows have an invvar that nodata denies")]


def test_a_run_elsewhere_than_on_a_disk(run: Path, s3_server: str, tmp_path: Path) -> None:
    place = f"dhs-test/verify-{tmp_path.name}"
    fsspec.filesystem("s3").put(str(run), place, recursive=True)
    assert verify_run(f"s3://{place}").findings == ()
    assert darkhaloscope.open(f"s3://{place}").sizes["pair"]
    lost = f"{place}/{shard(run, 'theta_e').relative_to(run)}"
    fsspec.filesystem("s3").rm_file(lost)
    with pytest.raises(UserError, match=r"block 1 of s3:.*theta_e/c/1 is missing"):
        darkhaloscope.open(f"s3://{place}")
    fsspec.filesystem("s3").put_file(str(shard(run, "theta_e")), lost)
    flip_bit(run)
    fsspec.filesystem("s3").put_file(str(shard(run)), f"{place}/{shard(run).relative_to(run)}")
    found = verify_run(f"s3://{place}", threads=1)
    assert [(f.block, f.where) for f in found.findings] == [(1, "arc")]
    assert repair_run(f"s3://{place}", found).blocks == (1,)
    assert verify_run(f"s3://{place}").finished == found.blocks - 1


def test_another_versions_run_is_not_torn_down(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays that this version does not know, in markers and on the disk alike, are no damage."""
    for path in (run / "blocks").glob("*.json"):
        path.write_text(path.read_text().replace('"src_n/c/', '"sersic_n/c/'))
    (run / "stamps.zarr" / "src_n").rename(run / "stamps.zarr" / "sersic_n")
    with pytest.raises(UserError, match=r"use the version in its run\.json"):
        verify_run(str(run))


@pytest.mark.parametrize("name", ["nothing", "broken"])
def test_what_is_no_run_is_one_sentence(tmp_path: Path, name: str) -> None:
    if name == "broken":
        (tmp_path / "run.json").write_text('{"schema": 2, "identity": "a", "document": {}}')
    with pytest.raises(UserError, match=r"holds no run|is damaged"):
        verify_run(str(tmp_path))


def test_objects_are_read_at_once_under_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "run [1] *"
    folder.mkdir()
    (folder / "a").write_bytes(b"x")
    assert read_objects(str(folder), ["a", "b"]) == {"a": b"x", "b": None}
