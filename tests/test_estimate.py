"""What a run will take: scaled from tried bricks, and against what a whole run took."""

from __future__ import annotations

from pathlib import Path

import pytest
from distributed import Client, LocalCluster
from rich.console import Console
from small_run import Setting

from darkhaloscope import commands, store
from darkhaloscope.commands.estimate import BrickCost, extrapolate
from darkhaloscope.inject import load_brick


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
    assert found.requests == (8 * 20, 8 * 10, 8 * 30)
    assert found.bytes_in == (8 * 2000, 8 * 1000, 8 * 3000)
    assert found.bytes_out == pytest.approx((320 * 1000 / 120, 320 * 5, 320 * 10))
    cpu = [320 * 45 / 120, 320 * 9 / 40, 320 * 36 / 80]
    assert found.cpu_hours == pytest.approx([seconds / 3600 for seconds in cpu])
    wall = [320 * 81 / 120, 320 * 9 / 40, 320 * 72 / 80]
    assert found.wall_hours == pytest.approx([seconds / 3600 / 4 for seconds in wall])


def test_the_estimate_is_near_what_a_run_takes(setting: Setting, tmp_path: Path) -> None:
    found = commands.estimate(setting.plan, 2, console=Console(quiet=True))
    assert len(found.tried) == 3
    assert found.cpu_hours.least <= found.cpu_hours.value <= found.cpu_hours.most
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
