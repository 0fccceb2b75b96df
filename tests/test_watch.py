"""What a run tells others while it runs: Prometheus, a log of JSON lines, and whoever tells it to stop."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from prometheus_client.parser import text_string_to_metric_families
from small_run import Setting, digests

from darkhaloscope import logs, metrics, store
from darkhaloscope.driver.signs import Signs
from darkhaloscope.errors import UserError

BLOCKS = 10


class Told:
    """What one run said: of itself while it went, and where it was then stopped."""

    def __init__(
        self, setting: Setting, run: Path, scrapes: list[str], lines: list[str], code: int
    ) -> None:
        self.setting = setting
        self.run, self.scrapes, self.lines, self.code = str(run), scrapes, lines, code


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """A run that is scraped all the time, and gets SIGTERM once a block is whole."""
    folder = tmp_path_factory.mktemp("told")
    setting = Setting(folder, repeats=16)
    run, experiment = folder / "run", folder / "experiment.yaml"
    experiment.write_text(setting.experiment.to_yaml())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "darkhaloscope", "--log", "json", "run", str(experiment)]
    options = ["--out", str(run), "--workers", "1", "--metrics-port", str(port)]
    with (folder / "log").open("w") as log:
        going = subprocess.Popen([*command, *options], stderr=log, stdout=log)
    scrapes: list[str] = []
    try:
        while going.poll() is None:
            with contextlib.suppress(OSError):
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)
                scrapes.append(page.read().decode())
            if store.finished_blocks(str(run)):
                break
            time.sleep(0.02)
        going.send_signal(signal.SIGTERM)
        going.wait(120)
    finally:
        going.kill()
    return Told(setting, run, scrapes, (folder / "log").read_text().splitlines(), going.returncode)


def test_sigterm_finishes_what_is_being_written(told: Told) -> None:
    whole = store.finished_blocks(told.run)
    assert told.code == 4, told.lines
    assert 0 < len(whole) < BLOCKS
    assert not list(Path(told.run, "blocks").glob("*.claim"))
    last = json.loads([line for line in told.lines if line.startswith("{")][-1])
    assert f"stopped as asked, {len(whole)} of {BLOCKS} blocks are whole" in last["message"]


def test_what_sigterm_stopped_resumes_to_the_same_bytes(
    told: Told, threads: Client, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(told.run, tmp_path / "run"))
    told.setting.make(threads, run)
    told.setting.make(threads, tmp_path / "undisturbed")
    assert digests(run) == digests(tmp_path / "undisturbed")
    before, after = (store.read_progress(str(one)) or {} for one in (told.run, run))
    blocks = list(range(BLOCKS))
    markers = list(
        store.read_markers(str(run), blocks, (store.read_run(str(run)) or {})["identity"])
    )
    size = sum(one["bytes"] for marker in markers for one in marker["objects"].values() if one)
    assert after["bytes"] == size
    assert before["bytes"] == before["bytes_fresh"] == size - after["bytes_fresh"]
    assert before["rows_fresh"] + after["rows_fresh"] == 64 * BLOCKS
    assert after["rows_fresh"] == 64 * (BLOCKS - before["blocks_whole"])
    assert before["again"] == after["again"] == 0


def test_the_log_is_objects_with_block_and_brick(told: Told) -> None:
    # Dask's nannies keep their own form, and say something where a machine is slow.
    said = [json.loads(line) for line in told.lines if line.startswith("{")]
    assert all({"time", "level", "logger", "message"} <= set(one) for one in said)
    blocks = {one["block"]: one for one in said if one["message"] == "block is whole"}
    assert sorted(blocks) == sorted(store.finished_blocks(told.run))
    counts = {block: _counts(told.run, block) for block in blocks}
    assert {block: one["reasons"] for block, one in blocks.items()} == counts
    assert {one["run"] for one in blocks.values()} == {told.run}
    injected = [one for one in said if one["message"] == "brick is injected"]
    for block in blocks:
        assert sum(one["rows"] for one in injected if one["block"] == block) == 64
    assert all(one["worker"] and one["brick"] for one in injected)


def _counts(run: str, *blocks: int) -> dict[str, int]:
    identity = (store.read_run(run) or {})["identity"]
    found: Counter[str] = Counter()
    for marker in store.read_markers(run, list(blocks), identity):
        for by_reason in marker["counts"].values():
            found.update(by_reason)
    return dict(found)


def test_prometheus_reads_the_metrics(told: Told) -> None:
    first, last = (_samples(told.scrapes[i]) for i in (0, -1))
    assert first["darkhaloscope_stageplan"] == 1, "it serves before it reads anything"
    assert last["darkhaloscope_stageplan"] == 0
    assert last["darkhaloscope_stageblocks"] == 1
    assert last["darkhaloscope_rows_planned"] == 64 * BLOCKS
    assert last["darkhaloscope_blocks_planned"] == BLOCKS


PROGRESS = {
    "started": 100.0, "written": 110.0, "blocks_whole": 3, "workers": 2, "again": 1,
    "rows_by_reason": {"ok": 150, "missing_file": 42}, "rows_fresh": 128, "bytes": 9000,
    "bytes_fresh": 5000, "running": [{"block": 4, "bricks": 7, "bricks_done": 2}],
}  # fmt: skip


@pytest.fixture
def page() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with metrics.served(port) as watched:
        watched.stage = "blocks"
        watched.hear(PROGRESS)
        # Prometheus comes from elsewhere; that is any address of the machine but the usual one.
        url = f"http://127.0.0.{2 if sys.platform == 'linux' else 1}:{port}/metrics"
        yield urllib.request.urlopen(url, timeout=10).read().decode()
    with pytest.raises(OSError, match=r"refused|reset"):
        urllib.request.urlopen(url, timeout=10)


def _samples(page: str) -> dict[str, float]:
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_metrics_say_what_the_driver_says(page: str) -> None:
    found = _samples(page)
    assert found["darkhaloscope_rows_totalok"] == 150
    assert found["darkhaloscope_rows_totalmissing_file"] == 42
    assert found["darkhaloscope_bytes_total"] == 9000
    assert found["darkhaloscope_rows_per_second"] == pytest.approx(12.8)
    assert found["darkhaloscope_bytes_per_second"] == pytest.approx(500)
    assert found["darkhaloscope_blocks_whole"] == 3
    assert found["darkhaloscope_blocks_in_flight"] == 1
    assert found[SIGN] == PROGRESS["written"]
    assert found["darkhaloscope_bricks_in_flight"] == 7
    assert found["darkhaloscope_bricks_in_flight_injected"] == 2
    assert found["darkhaloscope_workers"] == 2
    assert found["darkhaloscope_tries_again_total"] == 1


def test_what_is_of_now_ends_with_the_blocks() -> None:
    """An audit of an hour is no driver that hangs, nor one that works at a rate."""
    collector = metrics.Collector()
    collector.hear(PROGRESS)
    said = {}
    for stage in metrics.STAGES:
        collector.stage = stage
        said[stage] = {family.name for family in collector.collect()}
    assert {stage for stage, names in said.items() if SIGN in names} == {"blocks"}
    assert all({"darkhaloscope_rows", "darkhaloscope_blocks_whole"} <= n for n in said.values())


def test_rows_that_are_well_are_said_before_there_are_any() -> None:
    """A rate over them has no gap."""
    collector = metrics.Collector()
    collector.hear(PROGRESS | {"rows_by_reason": {}})
    said = {s.labels.get("reason"): s.value for f in collector.collect() for s in f.samples}
    assert said["ok"] == 0


SIGN = "darkhaloscope_last_sign_timestamp_seconds"


def test_bricks_of_another_run_on_the_scheduler_are_not_ours() -> None:
    signs = Signs("run", {}, lambda _: None)
    for run in ("run", "another"):
        signs._hear((0.0, {"run": run, "block": 4, "bricks": ["0001m002"]}))
    assert signs.injected == {4: 1}


def test_a_port_that_is_taken_is_a_sentence() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"port {port}: .*choose another --metrics-port"),
            metrics.served(port),
        ):
            pass


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What is logged as JSON; the process's own handlers come back afterwards."""
    loggers = [logging.root, *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    before = [(one, one.handlers, one.propagate, one.level) for one in loggers]
    stream = io.StringIO()
    logs.to_json(stream, worker="w-1")
    yield stream
    for one, handlers, propagate, level in before:
        one.handlers, one.propagate = handlers, propagate
        one.setLevel(level)


def test_text_says_what_is_waited_for_on_kubernetes_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    waits, other = map(
        logging.getLogger, ("darkhaloscope.cluster.kubernetes", "darkhaloscope.some")
    )
    before = waits.parent and waits.parent.level
    try:
        logs.to_text()
        waits.info("created the DaskCluster %s", "dhs-x")
        other.info("a block")
    finally:
        logging.getLogger("darkhaloscope.cluster").setLevel(before or logging.NOTSET)
        assert logging.lastResort is not None
        logging.lastResort.setLevel(logging.WARNING)
    assert capsys.readouterr().err == "created the DaskCluster dhs-x\n"


def test_a_record_keeps_its_text_and_its_fields(logged: io.StringIO) -> None:
    logger = logging.getLogger("darkhaloscope.some")
    try:
        raise ValueError("über\nzwei")
    except ValueError:
        logger.exception("a %s", 'quote " and a\nline', extra={"block": 3, "other": 4})
    logging.getLogger("elsewhere").info("is not for us")
    print("dhs: one\n\ntwo", file=logs.Lines(logger), flush=True)
    said: list[dict[str, Any]] = [json.loads(line) for line in logged.getvalue().splitlines()]
    assert [one["message"] for one in said] == ['a quote " and a\nline', "dhs: one", "two"]
    assert (said[0]["block"], said[0]["worker"], said[0]["level"]) == (3, "w-1", "error")
    assert "ValueError: über\nzwei" in said[0]["traceback"]
    assert "other" not in said[0]


def test_an_unknown_form_of_the_log_is_refused() -> None:
    command = [sys.executable, "-m", "darkhaloscope", "selftest"]
    env = os.environ | {"DHS_LOG": "xml"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("dhs: --log (or DHS_LOG) is text or json, not xml")
