"""What a run will take: scaled from tried bricks, and against what a whole run took."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, LocalCluster
from rich.console import Console
from small_run import Setting

from darkhaloscope import commands, store
from darkhaloscope.commands.estimate import (
    DRIVER_S,
    DRIVER_S_A_ROW,
    START_S,
    BrickCost,
    extrapolate,
    ratio,
)
from darkhaloscope.config import parse_experiment
from darkhaloscope.inject import load_brick
from darkhaloscope.plan import Plan
from darkhaloscope.prepare import planned_strata


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("setting"))


def test_costs_are_scaled_by_bricks_and_by_rows(setting: Setting) -> None:
    """80 rows a brick, blocks of 64: of the edges at 64, 128, 192 and 256 none is a brick's."""
    tried = [
        BrickCost("a", 80, 0, requests=10, bytes_in=1000, bytes_out=800, cpu_s=36.0, wall_s=72.0),
        BrickCost("b", 40, 4, requests=30, bytes_in=3000, bytes_out=200, cpu_s=9.0, wall_s=9.0),
    ]
    found = extrapolate(tried, setting.plan, workers=4)
    assert (found.rows, found.bricks) == (320, 4)
    assert found.requests.value == 8 * 20
    assert found.bytes_in.value == 8 * 2000
    assert found.bytes_out.value == pytest.approx(320 * 1000 / 120)
    assert found.cpu_hours.value == pytest.approx(320 * 45 / 120 / 3600)
    # Five blocks by four workers: one of them makes two.
    assert found.wall_hours.value == pytest.approx((START_S + 2 * 64 * 81 / 120) / 3600)


def test_the_audit_is_counted_by_the_rows_that_it_draws_again(setting: Setting) -> None:
    """Half of 320 rows are injections, fewer than the cap: all are drawn again, 100 of them whole."""
    tried = [
        BrickCost(
            "a", 80, 0, 10, 1000, 800, 36.0, 72.0, cores=20, core_s=2.0, wholes=4, whole_s=2.0
        ),
        BrickCost("b", 40, 4, 30, 3000, 200, 9.0, 9.0, cores=20, core_s=4.0, wholes=4, whole_s=1.0),
    ]
    few = Plan(
        parse_experiment(setting.experiment.model_dump(mode="json") | {"audit": {"closure": 100}}),
        setting.plan.targets,
        None,
    )
    rows = sum(planned_strata(few))
    assert 130 < rows < 190
    found = extrapolate(tried, few, workers=4)
    assert found.audit_rows == rows
    again, driver = (rows - 100) * 6 / 40 + 100 * 3 / 8, DRIVER_S + DRIVER_S_A_ROW * rows
    assert found.audit_cpu_hours.value == pytest.approx((again + driver) / 3600)
    assert found.audit_wall_hours.value == pytest.approx((again / 4 + driver) / 3600)
    assert found.audit_cpu_hours.low < found.audit_cpu_hours.value < found.audit_cpu_hours.high
    # Thirty-two rows a task: more workers than tasks have nothing to do.
    many = extrapolate(tried, few, workers=1000)
    tasks = -(-rows // 32)
    assert many.audit_wall_hours.value == pytest.approx((again / tasks + driver) / 3600)
    assert many.cpu_hours == found.cpu_hours


def test_an_audit_costs_the_same_whatever_the_number_of_rows(setting: Setting) -> None:
    tried = [
        BrickCost(name, 80, 0, 10, 1000, 800, 36.0, 40.0, 20, 2.0, 4, 2.0) for name in ("a", "b")
    ]
    capped = {"audit": {"cap": 100, "whole_cap": 100, "closure": 10}}
    document = setting.experiment.model_dump(mode="json") | capped
    costs = []
    for repeats in (8, 80):
        document["plan"] = document["plan"] | {"repeats": repeats}
        plan = Plan(parse_experiment(document), setting.plan.targets, None)
        costs.append(extrapolate(tried, plan, workers=4))
    assert costs[1].rows == 10 * costs[0].rows
    assert costs[0].audit_rows == costs[1].audit_rows == 100
    assert costs[0].audit_cpu_hours == costs[1].audit_cpu_hours


def test_a_run_takes_at_least_a_block_and_its_start(setting: Setting) -> None:
    tried = [BrickCost(name, 80, 0, 10, 1000, 800, 36.0, wall_s=40.0) for name in "ab"]
    found = extrapolate(tried, setting.plan, workers=1000)
    assert found.wall_hours == pytest.approx([(START_S + 64 * 0.5) / 3600] * 3)


def test_the_interval_is_that_of_a_ratio(setting: Setting) -> None:
    """Student's t of the scatter of five bricks about their common rate, of the plan's twenty."""
    costs, shares = np.array([3.0, 5.0, 4.0, 9.0, 4.0]), np.array([30.0, 50.0, 50.0, 80.0, 40.0])
    found = ratio(costs, shares, 1000.0, part=0.25)
    rest = costs - 0.1 * shares
    error = 2.1318 * np.sqrt(rest @ rest / 4 / 5 * 0.75) / 50
    assert found == pytest.approx((100, 1000 * (0.1 - error), 1000 * (0.1 + error)), rel=1e-4)
    assert ratio(costs, shares, 1000.0, part=1.0) == pytest.approx((100, 100, 100))
    assert np.isnan(ratio(costs[:1], shares[:1], 1000.0, part=0.05).low)
    assert ratio(np.array([0.0, 9.0]), np.ones(2), 100.0, part=0.0).low == 0


def test_the_estimate_is_near_what_a_run_takes(setting: Setting, tmp_path: Path) -> None:
    said = io.StringIO()
    found = commands.estimate(setting.plan, 2, console=Console(file=said, width=200))
    assert "then the audit, CPU hours" in said.getvalue()
    assert f"which draws {found.audit_rows} rows again" in said.getvalue()
    assert all(one.cores >= 10 and one.wholes >= 1 for one in found.tried)
    assert all(0 < one.core_s < 60 and 0 < one.whole_s < 60 for one in found.tried)
    assert len(found.tried) == 4  # all that there are: nothing is uncertain but what was timed
    assert found.requests.low == found.requests.value == found.requests.high
    read = [load_brick(setting.plan.brick_rows(str(b)), setting.experiment)
            for b in setting.plan.bricks]  # fmt: skip
    assert found.requests.value == pytest.approx(2 * sum(c.requests for c in read), rel=0.2)
    assert found.bytes_in.value == pytest.approx(2 * sum(c.bytes for c in read), rel=0.2)
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        setting.make(client, tmp_path / "run")
    chunks = (tmp_path / "run" / "stamps.zarr").rglob("c/**/*")
    written = sum(path.stat().st_size for path in chunks if path.is_file())
    written += sum(path.stat().st_size for path in (tmp_path / "run" / "blocks").glob("*.npz"))
    assert store.finished_blocks(str(tmp_path / "run")) == [0, 1, 2, 3, 4]
    assert found.bytes_out.value == pytest.approx(written, rel=0.2)
