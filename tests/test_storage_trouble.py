"""Files and disks out of reach, writers that meet: the bytes are those of an undisturbed run."""

from __future__ import annotations

import errno
import io
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from distributed import Client, Future
from rich.console import Console
from small_run import Setting, digests

from darkhaloscope import commands, driver, partial, storage, store, workflow
from darkhaloscope.audit import AuditSpec
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.status import status_of
from darkhaloscope.store import Layout
from darkhaloscope.workflow import KERNELS, Kernels

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def undisturbed(
    setting: Setting, threads: Client, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    markers = setting.make(threads, run)
    counts = [c for marker in markers for c in marker["counts"].values()]
    assert {reason for c in counts for reason in c} == {"ok"}
    return digests(run)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.window, "PAUSES_S", (0.0, 0.0, 0.0))
    monkeypatch.setattr(driver.workers, "LOOK_EVERY_S", 0.2)


# --- what is out of reach -------------------------------------------------------------------------


def test_files_out_of_reach_for_a_while_leave_no_trace(
    setting: Setting,
    threads: Client,
    undisturbed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read, left = storage.read, [6]

    def flaky(url: str) -> bytes:
        if "image-r" in url and left[0]:
            left[0] -= 1
            raise storage.StorageError(f"cannot read {url}: 503 Slow Down")
        return read(url)

    monkeypatch.setattr(storage, "read", flaky)
    monkeypatch.setattr(driver.window, "PAUSES_S", (0.0,) * 8)
    setting.make(threads, tmp_path / "run")
    assert left == [0]
    assert digests(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("refused", [False, True])
def test_files_out_of_reach_for_good_are_rows_with_a_reason_until_a_repair(
    setting: Setting,
    threads: Client,
    undisturbed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: bool,
) -> None:
    read, brick, run = storage.read, str(setting.plan.bricks[1]), str(tmp_path / "run")
    asked: list[str] = []

    def broken(url: str) -> bytes:
        if f"{brick}-image-r" in url:
            asked.append(url)
            text = f"cannot read {url}: Forbidden or 503 Slow Down"
            raise storage.StorageError(text, "lasting" if refused else "passing")
        return read(url)

    with monkeypatch.context() as trouble:
        trouble.setattr(storage, "read", broken)
        setting.make(threads, run)
    ds = xr.open_zarr(tmp_path / "run" / "stamps.zarr")
    here = ds.brick.values == brick
    assert (ds.reason.values[here] == Reason.UNREADABLE).all()
    assert (ds.reason.values[~here] == Reason.OK).all()
    holding = np.unique(np.flatnonzero(here) // setting.layout.block).tolist()
    tries = 1 if refused else len(driver.window.PAUSES_S) + 1
    assert len(asked) == tries * len(holding)  # what a store refuses is not asked for again

    said = io.StringIO()
    console = Console(file=said, width=400)
    commands.status(run, console=console)
    assert (
        f"80 rows failed for their files' sake: once these are mended, dhs repair {run} --failed"
        in (said.getvalue())
    )
    assert commands.repair_failed(run, ["missing_file"], console=console).blocks == ()
    done = commands.repair_failed(run, ["missing_file", "unreadable"], console=console)
    assert list(done.blocks) == holding
    assert done.failed == {Reason.UNREADABLE: 80}
    assert f"dropped {len(holding)} blocks of {64 * len(holding)} rows" in said.getvalue()
    assert status_of(run).state == "stopped"
    setting.make(threads, run)
    assert digests(tmp_path / "run") == undisturbed
    assert commands.repair_failed(run, ["unreadable"], console=console).blocks == ()


@pytest.mark.parametrize("reason", ["render_failed", "quarantined", "ok", "", "nonsense"])
def test_only_reasons_that_files_cause_are_tried_again(tmp_path: Path, reason: str) -> None:
    with pytest.raises(
        UserError, match=rf"^--failed {reason}: files cause missing_band, missing_file"
    ):
        commands.repair_failed(str(tmp_path), [reason])


def test_bricks_in_a_row_that_fail_alike_stop_a_run_which_then_resumes(
    setting: Setting,
    threads: Client,
    undisturbed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What failed is made again once it is mended: nothing of the trouble stays."""
    read, first = storage.read, str(setting.plan.bricks[0])
    exp = setting.experiment
    strict = exp.model_copy(update={"read": exp.read.model_copy(update={"stop_after": 3})})
    monkeypatch.setattr(setting.plan, "experiment", strict)

    def gone(url: str) -> bytes:
        if "-image-" in url and first not in url:
            raise FileNotFoundError(url)
        return read(url)

    with monkeypatch.context() as trouble:
        trouble.setattr(storage, "read", gone)
        with pytest.raises(UserError, match=r"3 bricks in a row failed alike \(missing_file\)"):
            setting.make(threads, tmp_path / "run")
    assert len(store.finished_blocks(str(tmp_path / "run"))) == 1
    assert store.read_progress(str(tmp_path / "run"))["blocks_whole"] == 1  # type: ignore[index]
    setting.make(threads, tmp_path / "run")
    assert digests(tmp_path / "run") == undisturbed


def test_a_marker_speaks_of_all_bricks_of_its_block(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one all rows fail alike, of the other they do not."""
    read, run, plan = storage.read, str(tmp_path / "run"), setting.plan

    def gone(url: str) -> bytes:
        if "-image-" in url:
            raise FileNotFoundError(url)
        return read(url)

    monkeypatch.setattr(storage, "read", gone)
    setting.start(run)
    work = workflow.work_of(plan, plan.pieces(1), frozenset())
    first, second = (one.brick for one in work)
    text = plan.experiment.model_dump_json()
    made = workflow.inject_bricks(run, text, work, 1, final=True)
    made[1][1]["reason"].values[0] = Reason.NO_COVERAGE
    marker = workflow.write_piece(run, setting.layout, 1, [made], setting.spec)
    assert marker["bricks"] == [(first, Reason.MISSING_FILE), (second, 0)]
    for brick in (first, second):
        assert any(brick in note for note in marker["notes"])


def block_run(setting: Setting) -> driver.BlockRun:
    client: Any = None
    return driver.BlockRun(
        client, "run", setting.plan, setting.layout, setting.spec, lambda *_: None, None,
        driver.Brake(), KERNELS,
    )  # fmt: skip


def test_a_block_that_waits_is_not_tried_before_its_time(setting: Setting) -> None:
    run, now = block_run(setting), time.monotonic()
    run.again.append((now + 3600, 3))
    assert run._next(iter([4])) == 4
    assert run._next(iter(())) is None
    run.again.append((now, 2))
    assert run._next(iter([4])) == 2


@pytest.mark.parametrize("lasts", [True, False])
def test_a_full_disk_is_said_and_a_busy_one_waited_for(
    setting: Setting,
    threads: Client,
    undisturbed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lasts: bool,
) -> None:
    write_partial, left = partial.write, [3]
    number = errno.ENOSPC if lasts else errno.EBUSY

    def full(target: str, data: bytes) -> str:
        if "/arc/c/" in target and left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return write_partial(target, data)

    monkeypatch.setattr(partial, "write", full)
    if lasts:
        with pytest.raises(UserError, match="No space left on device"):
            setting.make(threads, tmp_path / "run")
        left[0] = 0
    setting.make(threads, tmp_path / "run")
    assert digests(tmp_path / "run") == undisturbed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A disk of its own (tmpfs): called with the bytes that are to be free on it, gives its folder."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(*options: str) -> None:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", disk],
            check=True,
            capture_output=True,
        )

    def leave(free: int) -> Path:
        found = os.statvfs(disk)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        mount("remount", f"size={used + free}")
        return disk

    try:
        mount("size=64m")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    try:
        yield leave
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_disk_that_is_really_full(
    setting: Setting,
    threads: Client,
    undisturbed: dict[str, str],
    small_disk: Callable[[int], Path],
) -> None:
    run = small_disk(2**24) / "run"
    setting.start(run)
    small_disk(400_000)
    with pytest.raises(UserError, match=r"cannot write.*No space left on device"):
        setting.make(threads, run)
    whole = len(store.finished_blocks(str(run)))
    assert whole < 5
    assert status_of(str(run)).blocks_done == whole
    small_disk(2**24)
    setting.make(threads, run)
    assert digests(run) == undisturbed


def test_a_run_killed_over_its_first_file_is_begun_again(setting: Setting, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / "run" / f"run.json~{socket.gethostname()}~{dead.pid}~x.partial"
    left.write_text("{")
    setting.start(tmp_path / "run")
    assert not left.exists()
    assert status_of(str(tmp_path / "run")).state == "not started"


# --- writers --------------------------------------------------------------------------------------


def twice_at_once(
    run: str, layout: Layout, block: int, made: Any, spec: AuditSpec
) -> dict[str, Any]:
    """Write a block from two threads at the same time."""
    markers: list[dict[str, Any]] = []
    both = [
        threading.Thread(
            target=lambda: markers.append(workflow.write_piece(run, layout, block, made, spec))
        )
        for _ in range(2)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert len(markers) == 2
    assert markers[0] == markers[1]
    return markers[0]


def test_the_same_block_twice_at_once(
    setting: Setting, threads: Client, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    setting.make(threads, tmp_path / "run", kernels=Kernels(KERNELS.inject, twice_at_once))
    assert digests(tmp_path / "run") == undisturbed


def test_a_folder_that_goes_away_ends_the_run(
    setting: Setting, threads: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody cleans up, or what was mounted there is lost and comes back empty: nothing is made in vain."""
    monkeypatch.setattr(driver.signs, "PROGRESS_EVERY_S", 0.0)
    run, made = tmp_path / "run", []

    def clean_up(block: int, _: bool) -> None:
        made.append(block)
        shutil.rmtree(run, ignore_errors=True)

    with pytest.raises(
        UserError, match=r"went away while the run wrote there: its run\.json is gone"
    ):
        setting.make(threads, run, on_block=clean_up)
    assert 0 < len(made) < setting.layout.blocks


def test_two_runs_at_once_in_one_folder(
    setting: Setting, threads: Client, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """Whoever comes second finds the same bytes."""
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(setting.make, threads, tmp_path / "run") for _ in range(2)]
    assert both[0].result() == both[1].result()
    assert digests(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("step", ["names", "read"])
def test_a_run_that_starts_while_another_looks_at_the_folder(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Whatever the second sees of the first, it is the same experiment's and is no stranger's."""
    step_of, begun = getattr(storage, step), []

    def beside(url: str) -> Any:
        try:
            return step_of(url)
        finally:
            if not begun:
                begun.append(url)
                setting.start(tmp_path / "run")

    monkeypatch.setattr(storage, step, beside)
    setting.start(tmp_path / "run")
    assert begun


def test_a_dead_writers_claim_holds_nothing_up(
    setting: Setting, threads: Client, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    setting.start(tmp_path / "run")
    storage.create(str(tmp_path / "run" / "blocks" / "000001.claim"), b"of other contents")
    setting.make(threads, tmp_path / "run")
    assert digests(tmp_path / "run") == undisturbed


def test_a_claim_is_released_at_the_third_meeting_and_not_before(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds it may live; that a file is out of reach says nothing of them."""
    monkeypatch.setattr(driver.window, "PAUSES_S", (5.0,) * 8)
    released: list[int] = []
    monkeypatch.setattr(store, "release_claim", lambda _, block: released.append(block))
    run = block_run(setting)
    away = storage.StorageError("cannot read x: 503 Slow Down")
    claimed = store.ClaimedError("block 1 is being written by another worker")
    for error in (away, away, claimed, away, claimed):
        run._out_of_reach(1, error)
    run._out_of_reach(2, claimed)
    assert released == []
    assert min(run.again)[0] > time.monotonic()
    run._out_of_reach(1, claimed)
    assert released == [1]
    assert run._next(iter(())) == 1


def test_a_marker_that_the_scheduler_cannot_hand_over_is_read_from_the_folder(
    setting: Setting,
    threads: Client,
    undisturbed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It went just when it was asked for what a finished task gave."""
    asked: list[Any] = []

    def gone(future: Future, timeout: float) -> Any:
        asked.append(future)
        raise OSError("Timed out trying to connect")

    monkeypatch.setattr(Future, "result", gone)
    assert len(setting.make(threads, tmp_path / "run")) == 5
    assert len(asked) == 5
    assert digests(tmp_path / "run") == undisturbed
