"""Whatever dies on the way, a run ends with the bytes of an undisturbed one, or says why not."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from distributed import Client, LocalCluster, get_worker
from rich.console import Console
from small_run import Setting, digests

from darkhaloscope import commands, driver, lensing, storage, store, workflow
from darkhaloscope.audit import AuditSpec
from darkhaloscope.config import Experiment
from darkhaloscope.errors import Incomplete, Reason, UserError
from darkhaloscope.status import Status, lines, status_of
from darkhaloscope.store import Layout
from darkhaloscope.survey import Cutouts
from darkhaloscope.workflow import KERNELS, Kernels, Work


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


@pytest.mark.parametrize(("workers", "window", "bricks_per_task"), [(1, 5, 3), (4, 1, 1)])
def test_workers_order_window_and_task_size_change_no_byte(
    setting: Setting,
    undisturbed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    window: int,
    bricks_per_task: int,
) -> None:
    """Blocks are begun in another order, and those in flight end in any."""
    assert len([name for name in undisturbed if name.startswith("plan/")]) == setting.layout.blocks
    until_done, order = driver.BlockRun._until_done, [3, 0, 4, 2, 1]
    assert sorted(order) == list(range(setting.layout.blocks))
    monkeypatch.setattr(driver.BlockRun, "_until_done", lambda run, _: until_done(run, iter(order)))
    monkeypatch.setattr(driver.window, "BLOCKS_PER_WORKER", window)
    ended: list[int] = []
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        setting.make(
            client,
            tmp_path / "run",
            bricks_per_task=bricks_per_task,
            kernels=Kernels(at_its_leisure, KERNELS.write),
            on_block=lambda block, _: ended.append(block),
        )
    assert ended != sorted(ended)
    assert digests(tmp_path / "run") == undisturbed


def at_its_leisure(
    run: str, experiment: str, work: Sequence[Work], block: int, *, final: bool
) -> list[Any]:
    """Inject, some bricks later than others."""
    time.sleep(sum(map(ord, work[0].brick)) % 5 / 20)
    return workflow.inject_bricks(run, experiment, work, block, final=final)


def test_a_fused_task_is_named_by_its_bricks_and_tells_of_each(setting: Setting) -> None:
    block = next(b for b in range(setting.plan.blocks) if len(setting.plan.pieces(b)) > 1)
    pieces = setting.plan.pieces(block)
    _, graph = workflow.block_graph(
        "run", setting.plan, setting.layout, setting.spec, block,
        bricks_per_task=9, mark="m", kernels=KERNELS,
    )  # fmt: skip
    span = f"{pieces[0].brick}..{pieces[-1].brick}"
    assert f"inject-{block:06d}-{span}-m" in graph


def test_a_scheduler_neither_makes_nor_takes_apart_tables_of_targets(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes objects of a graph, and messages of its objects."""
    block = next(b for b in range(setting.plan.blocks) if len(setting.plan.pieces(b)) > 1)
    pieces = setting.plan.pieces(block)
    apart = frozenset({pieces[1].brick})
    write, graph = workflow.block_graph(
        "run", setting.plan, setting.layout, setting.spec, block,
        bricks_per_task=2, mark="m", set_apart=apart, kernels=KERNELS,
    )  # fmt: skip
    sent = [pickle.dumps(graph[name][0]) for name in graph[write][4]]
    with monkeypatch.context() as patched:
        patched.setattr(pd.DataFrame, "__setstate__", None)
        patched.setattr(pd.DataFrame, "__getstate__", None)
        packed = [pickle.loads(pickle.dumps(pickle.loads(task))).args[2] for task in sent]  # noqa: S301
        assert [name for some in packed for name in some.bricks] == [p.brick for p in pieces]
    found = [one for some in packed for one in some]
    right = workflow.work_of(setting.plan, pieces, apart)
    assert [one.set_apart for one in found] == [one.brick in apart for one in right]
    for one, other in zip(found, right, strict=True):
        assert (one.brick, one.rows, one.set_apart) == (other.brick, other.rows, other.set_apart)
        pd.testing.assert_frame_equal(one.targets, other.targets)


def test_the_next_brick_is_read_while_one_is_injected(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, inject = workflow.load_brick, workflow.inject_brick
    begun: queue.SimpleQueue[str] = queue.SimpleQueue()
    ahead: list[bool] = []

    def loading(rows: pd.DataFrame, experiment: Experiment) -> Cutouts:
        begun.put(str(rows["brick"].iloc[0]))
        return load(rows, experiment)

    def injecting(rows: pd.DataFrame, cutouts: Cutouts, *rest: Any) -> xr.Dataset:
        assert begun.get(timeout=10) == cutouts.brick
        until = time.monotonic() + (5 if cutouts.brick != last else 0)
        while begun.empty() and time.monotonic() < until:
            time.sleep(0.001)
        ahead.append(begun.qsize() == (cutouts.brick != last))  # the next one, and none after it
        return inject(rows, cutouts, *rest)

    bricks = [str(brick) for brick in setting.plan.bricks]
    last = bricks[-1]
    work = [Work(brick, setting.plan.targets_of(brick), slice(None), False) for brick in bricks]
    monkeypatch.setattr(workflow, "load_brick", loading)
    monkeypatch.setattr(workflow, "inject_brick", injecting)
    text = setting.experiment.model_dump_json()
    made = workflow.inject_bricks("run", text, work, 0, final=True)
    assert ahead == [True] * len(bricks)
    monkeypatch.undo()
    for one, (_, cube) in zip(work, made, strict=True):
        alone = workflow.inject_piece("run", setting.experiment, one)[1]
        xr.testing.assert_identical(alone.drop_attrs(), cube.drop_attrs())


class Recorder:
    """A client that is asked for blocks, and makes none."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def get(self, graph: Any, name: str, **options: Any) -> Any:
        self.asked.append(options | {"annotations": dask.get_annotations()})
        return SimpleNamespace(key=name, add_done_callback=lambda _: None)


def test_a_block_is_placed_on_the_least_loaded_worker_and_annotated(setting: Setting) -> None:
    """Unplaced, half of the pixels and more would cross between workers."""
    client: Any = Recorder()
    run = driver.BlockRun(
        client, "run", setting.plan, setting.layout, setting.spec, lambda *_: None, None,
        driver.Brake(), KERNELS,
    )  # fmt: skip
    run.set_apart = frozenset()
    run.workers.addresses = ["tcp://a", "tcp://b"]
    for block in range(4):
        run._submit(block)
    assert [one["workers"] for one in client.asked] == [["tcp://a"], ["tcp://b"]] * 2
    assert all(one["allow_other_workers"] is True for one in client.asked)
    assert [one["annotations"] for one in client.asked] == [
        {"run": "run", "block": block} for block in range(4)
    ]


def test_machines_live_where_every_nanny_has_a_worker_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver.workers, "NANNY_WITHIN_S", 0.3)
    client: Any = None
    crew = driver.workers.Workers(client, lambda: None)
    monkeypatch.setattr(crew, "look", lambda now: None)
    crew.nannies = {"tcp://a", "tcp://c"}
    assert crew.came_back({"tcp://a"})
    assert not crew.came_back({"tcp://a", "tcp://b"})
    assert not crew.came_back({"tcp://a", None})  # nobody knows


def test_all_workers_are_seen_and_not_the_first_few() -> None:
    with (
        LocalCluster(
            n_workers=6, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        crew = driver.workers.Workers(client, lambda: None)
        crew.look()
        assert len(crew.addresses) == 6


def test_where_no_worker_is_left_for_ten_minutes_the_run_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, there = [0.0], {"tcp://a": {"nanny": None}}
    client: Any = SimpleNamespace(status="running", cluster=None)
    monkeypatch.setattr(driver.workers, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    crew = driver.workers.Workers(client, lambda: None)

    def look(at: float, workers: dict[str, Any]) -> None:
        clock[0] = at
        client.scheduler_info = lambda **_: {"id": "s", "workers": workers}
        crew.look()

    look(0.0, there)
    look(300.0, {})
    look(500.0, there)  # one came back
    look(1100.0, {})
    with pytest.raises(Incomplete, match="has no workers any more; start some"):
        look(1101.0, {})


def test_a_worker_that_is_not_as_the_driver_leaves_whenever_it_joins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that are there are looked at when a run connects; this one came later."""
    plugin = driver.Warm()
    called: list[Any] = []
    worker: Any = SimpleNamespace(
        name="late", nanny="tcp://n", close=lambda **how: called.append(how),
        loop=SimpleNamespace(add_callback=lambda call: call()),
    )  # fmt: skip
    monkeypatch.setattr(lensing, "warm", lambda: called.append("warm"))
    plugin.setup(worker)
    assert called == ["warm"]
    for name, value in (("NUMBA_CPU_NAME", "skylake-avx512"), ("NPY_DISABLE_CPU_FEATURES", "")):
        with monkeypatch.context() as other:
            other.setenv(name, value)
            plugin.setup(worker)
    assert called[1:] == [{"nanny": True, "reason": "darkhaloscope-unlike"}] * 2
    plugin.here["numcodecs"] = "0.1"
    plugin.setup(worker)
    assert len(called) == 4


def test_tasks_are_longer_where_reading_waits(setting: Setting, threads: Client) -> None:
    def bricks_per_task(root: str, workers: int) -> int:
        made = setting.plan_elsewhere(root)
        run = driver.BlockRun(
            threads, "run", made, setting.layout, setting.spec, lambda *_: None, None,
            driver.Brake(), KERNELS,
        )  # fmt: skip
        return run._bricks_per_task(workers)

    assert setting.layout.blocks >= 2
    assert bricks_per_task("/data/sky", 2) == 1
    assert bricks_per_task("s3://bucket/sky", 2) == driver.window.READ_AHEAD
    assert bricks_per_task("s3://bucket/sky", setting.layout.blocks + 1) == 1
    assert bricks_per_task("/data/sky", 32) == 1
    assert bricks_per_task("/data/sky", 1000) == 32


def test_the_plan_and_the_store_say_the_same(
    setting: Setting, threads: Client, tmp_path: Path
) -> None:
    setting.make(threads, tmp_path / "run")
    planned = pd.read_parquet(tmp_path / "run" / "plan")
    whole = pd.concat([rows for _, rows in setting.plan.iter_bricks()], ignore_index=True)
    pd.testing.assert_frame_equal(planned, whole)
    ds = xr.open_zarr(tmp_path / "run" / "stamps.zarr")
    np.testing.assert_array_equal(ds.slot.values, planned["slot"])


# --- being asked to stop --------------------------------------------------------------------------


def test_the_brake_finishes_what_is_in_flight(
    setting: Setting,
    threads: Client,
    undisturbed: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(driver.window, "BLOCKS_PER_WORKER", 1)
    brake = driver.Brake()
    run = tmp_path / "run"

    def pull(block: int, was_there: bool) -> None:
        assert brake.listening
        brake.pulled = True

    with pytest.raises(Incomplete, match=r"stopped as asked, [2-3] of 5 blocks are whole"):
        setting.make(threads, run, brake=brake, on_block=pull)
    whole = store.finished_blocks(str(run))
    assert 1 < len(whole) < 5
    assert not list((run / "blocks").glob("*.claim"))
    assert not brake.listening
    assert store.read_progress(str(run))["state"] == "stopped"  # type: ignore[index]
    before: list[int] = []
    setting.make(threads, run, on_block=lambda b, there: before.append(b) if there else None)
    assert before == sorted(whole)
    assert digests(run) == undisturbed


def test_asked_to_stop_nobody_waits_for_a_scheduler_that_is_away(
    setting: Setting, threads: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a run is uninstalled from Kubernetes: its scheduler goes, and never comes back."""
    brake = driver.Brake()

    def pull(block: int, was_there: bool) -> None:
        brake.pulled = True
        monkeypatch.setattr(threads, "status", "connecting")

    with pytest.raises(Incomplete, match=r"stopped as asked, [1-4] of 5 blocks are whole"):
        setting.make(threads, tmp_path / "run", brake=brake, on_block=pull)
    monkeypatch.undo()
    setting.make(threads, tmp_path / "run")


# --- deaths ---------------------------------------------------------------------------------------


@pytest.fixture
def processes() -> Iterator[Callable[..., Client]]:
    """A local cluster of two processes with the settings of the run's own."""
    from darkhaloscope.cluster import connect
    from darkhaloscope.config import ClusterSection

    with connect(ClusterSection(workers=2), "run") as client:
        yield client


def die_once(run: str, layout: Layout, block: int, made: Any, spec: AuditSpec) -> dict[str, Any]:
    """Die in the middle of writing block 1, the first time, by the signal in the run's folder."""
    how = Path(run) / "die"
    if block == 1 and how.exists():
        number = int(how.read_text())
        how.unlink()
        write_all = storage.write_all

        def half(folder: str, objects: dict[str, bytes]) -> None:
            some = dict(list(objects.items())[: len(objects) // 2])
            write_all(folder, some)
            (Path(folder) / "half.partial").write_bytes(b"ha")
            if number == signal.SIGTERM:
                os.kill(os.getpid(), number)
                time.sleep(1)
                write_all(folder, objects)
                return
            os.kill(os.getpid(), number)

        storage.write_all = half
    return workflow.write_piece(run, layout, block, made, spec)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_dies_in_mid_write(
    setting: Setting,
    processes: Client,
    undisturbed: dict[str, str],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    run = tmp_path / "run"
    setting.start(run)
    (run / "die").write_text(str(int(number)))
    setting.make(processes, run, kernels=Kernels(KERNELS.inject, die_once))
    assert not (run / "die").exists()
    assert not (run / "stamps.zarr" / "half.partial").exists(), "leftovers go"
    assert digests(run) == undisturbed
    assert not store.bricks_set_apart(str(run))


def end_all_once(
    run: str, experiment: str, work: list[Work], block: int, *, final: bool
) -> list[Any]:
    """The first task on each of two workers ends it; both are gone at the same time."""
    mine = Path(run) / f"{os.getpid()}.ended"
    if len(list(Path(run).glob("*.ended"))) < 2 and not mine.exists():
        mine.touch()
        until = time.monotonic() + 60
        while len(list(Path(run).glob("*.ended"))) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return workflow.inject_bricks(run, experiment, work, block, final=final)


def test_all_workers_die_at_once(
    setting: Setting, processes: Client, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    """The scheduler is without any worker for a while, and those that come have other addresses."""
    run = tmp_path / "run"
    setting.make(processes, run, kernels=Kernels(end_all_once, KERNELS.write))
    assert len(list(run.glob("*.ended"))) == 2
    assert digests(run) == undisturbed


def test_a_worker_that_is_lost_with_its_nanny_is_replaced() -> None:
    """Dask restarts what a nanny finds dead; a run sees to it where there is no nanny either."""
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "50 ms"}),
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        crew = driver.workers.Workers(client, lambda: None)
        crew.look(now=True)
        lost = crew.addresses
        assert len(lost) == 1
        client.retire_workers(lost)
        until = time.monotonic() + 60
        while crew.addresses in ([], lost) and time.monotonic() < until:
            crew.look(now=True)
            time.sleep(0.02)
        assert len(crew.addresses) == 1
        assert crew.addresses != lost


def deadly(run: str, experiment: str, work: list[Work], block: int, *, final: bool) -> list[Any]:
    """Kill the worker that meets the third brick.

    Not in the instant: a worker that dies while its nanny still waits for it is not started again.
    """
    for one in work:
        if one.brick == Path(run, "deadly").read_text() and not one.set_apart:
            time.sleep(2.0)
            os.kill(os.getpid(), signal.SIGKILL)
    return workflow.inject_bricks(run, experiment, work, block, final=final)


@pytest.mark.parametrize("killers", [set(), {2}, {0, 5}, {3, 4}, {6}])
def test_bricks_that_kill_are_found_by_halves(killers: set[int]) -> None:
    work = [Work(f"{i:04d}p000", pd.DataFrame(), slice(0, 1), False) for i in range(7)]
    asked: list[int] = []

    def kills(some: Sequence[Work]) -> bool:
        asked.append(len(some))
        return any(int(one.brick[:4]) in killers for one in some)

    found = driver.suspects.killers(work, kills)
    assert {int(one.brick[:4]) for one in found} == killers
    assert len(asked) <= 1 + 6 * max(1, len(killers))


def test_a_brick_in_quarantine_is_rows_with_the_reason(
    setting: Setting, threads: Client, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    run, brick = tmp_path / "run", str(setting.plan.bricks[2])
    setting.start(run)
    store.set_apart(str(run), brick, 2, 3)
    setting.make(threads, run)
    ds = xr.open_zarr(run / "stamps.zarr")
    here = ds.brick.values == brick
    assert (ds.reason.values[here] == Reason.QUARANTINED).all()
    assert (ds.reason.values[~here] == Reason.OK).all()
    assert (ds.ctrl.values[here] == 0).all()
    assert status_of(str(run)).set_apart == (brick,)
    # Retried, the rows are as if nothing had been: what a repair does.
    (run / "quarantine" / f"{brick}.json").unlink()
    for block in np.unique(np.flatnonzero(here) // setting.layout.block):
        (run / "blocks" / f"{block:06d}.json").unlink()
    setting.make(threads, run)
    assert digests(run) == undisturbed


# --- another scheduler ----------------------------------------------------------------------------


def test_another_scheduler_at_the_address_is_told_all_again(
    threads: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows of no subscription, and makes no worker ready that comes."""
    told: list[str] = []
    crew = driver.workers.Workers(threads, lambda: told.append("listen"))
    with monkeypatch.context() as another:
        another.setattr(threads, "register_plugin", lambda _, name: told.append(name))
        crew.look(now=True)
        assert len(crew.addresses) == 2
        assert not told
        here = dict(threads.scheduler_info(n_workers=-1))
        another.setattr(threads, "scheduler_info", lambda **_: {**here, "id": "Scheduler-b"})
        crew.look(now=True)
        crew.look(now=True)
    assert told == [driver.Warm.name, "listen"]


# --- how far it is --------------------------------------------------------------------------------


def test_the_status_of_a_run_before_during_and_after(
    setting: Setting, threads: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with pytest.raises(UserError, match="holds no run"):
        status_of(str(run))
    setting.start(run)
    assert status_of(str(run)).state == "not started"
    monkeypatch.setattr(driver.signs, "PROGRESS_EVERY_S", 0.0)
    seen = []

    def look(block: int, was_there: bool) -> None:
        going_on = store.read_progress(str(run))
        if going_on is not None:
            seen.append(status_of(str(run)))

    setting.make(threads, run, on_block=look)
    during = [status for status in seen if status.state == "running"]
    assert during
    assert all(status.running and status.workers == 2 for status in during)
    after = status_of(str(run))
    assert (after.state, after.rows_done, after.rows) == ("whole", 320, 320)
    assert after.rows_by_reason == {"ok": 320}
    assert after.rows_per_s is not None
    assert "320 of 320 rows (100%), 5 of 5 blocks" in lines(after)[0]
    assert "not judged yet" in lines(after)[-1]
    (run / "verdict.json").write_text("{}")
    assert not any("judged" in line for line in lines(status_of(str(run))))
    # Killed in the middle: the last sign of life is old, a marker newer than it.
    said = store.read_progress(str(run))
    assert said is not None
    (run / "blocks" / "000003.json").unlink()
    flying = [{"block": 3, "bricks": 2, "bricks_done": 1}]
    old = {**said, "state": "running", "written": said["written"] - 3600, "running": flying}
    store.write_progress(str(run), {**old, "started": old["written"] - 10, "blocks_whole": 3})
    crashed = status_of(str(run))
    assert (crashed.state, crashed.rows_done, crashed.blocks_done) == ("silent", 256, 4)
    assert crashed.running == [(3, 2, 1)]
    assert crashed.eta_s is None
    assert "1 blocks were in flight, 1 of their 2 bricks injected" in "".join(lines(crashed))


def test_rows_that_a_cut_leaves_out_are_no_failures() -> None:
    counts = {"ok": 5, "excluded_by_theta_e_min": 3}
    said = lines(Status("whole", 8, 8, 1, 1, counts, [], 0, None, None, None, (), judged=True))
    assert said[1:] == ["failed: none", "marked: 3 excluded_by_theta_e_min"]


def test_the_tree_of_a_long_run_merges_all_blocks(
    setting: Setting, threads: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three levels: five blocks, three tasks, two, one."""
    run, groups = str(tmp_path / "run"), workflow.groups
    markers = setting.make(threads, run)
    monkeypatch.setattr(workflow, "groups", lambda items, size=2: groups(items, size))
    found = workflow.reduce_run(threads, run, markers, setting.spec)
    wanted = workflow.read_and_merge(run, markers, setting.spec)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)


@pytest.mark.long
def test_a_brick_that_kills_its_workers_is_found_and_set_apart(
    setting: Setting, processes: Client, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    run, brick = tmp_path / "run", str(setting.plan.bricks[2])
    setting.start(run)
    (run / "deadly").write_text(brick)
    setting.make(processes, run, kernels=Kernels(deadly, KERNELS.write))
    assert store.bricks_set_apart(str(run)) == {brick}
    ds = xr.open_zarr(run / "stamps.zarr")
    here = ds.brick.values == brick
    assert here.sum() == 80
    assert (ds.reason.values[here] == Reason.QUARANTINED).all()
    assert not ds.cutout_ok.values[here].any()
    assert (ds.reason.values[~here] == Reason.OK).all()
    others = {name for name in undisturbed if name.startswith("plan/")}
    mine = digests(run)
    assert {name: mine[name] for name in others} == {n: undisturbed[n] for n in others}
    done = commands.repair(str(run), console=Console(quiet=True))
    assert done.released == (brick,)
    setting.make(processes, run)
    assert digests(run) == undisturbed


def test_workers_log_bricks_with_the_scheduler(threads: Client) -> None:
    heard: list[Any] = []
    threads.subscribe_topic(workflow.TOPIC, lambda event: heard.append(event[1]))
    threads.submit(workflow.tell, "run", 3, ["0591m305"], pure=False).result()
    for _ in range(50):
        if heard:
            break
        time.sleep(0.1)
    threads.unsubscribe_topic(workflow.TOPIC)
    # Some versions of distributed say the worker as well.
    told = [{name: event[name] for name in ("run", "block", "bricks")} for event in heard]
    assert told == [{"run": "run", "block": 3, "bricks": ["0591m305"]}]
    with pytest.raises(ValueError, match="worker"):
        get_worker()
    workflow.tell("run", 3, ["0591m305"])
