"""Targets read a row group at a time are those that were read whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from darkhaloscope.config import Experiment, parse_experiment
from darkhaloscope.errors import UserError
from darkhaloscope.plan import Plan
from darkhaloscope.plan.targetlist import MemoryTargets, ParquetTargets, open_targets
from darkhaloscope.prepare import plan_of, planned_strata
from darkhaloscope.survey.targets import read_targets, write_targets


def experiment(path: Path, **lens: object) -> Experiment:
    return parse_experiment(
        {
            "survey": {"root": "/data"},
            "targets": {"path": str(path)},
            "plan": {"control_fraction": 0.25},
            "lens": lens or {"theta_e": {"uniform": [0.3, 1.0]}},
        }
    )


def table(bricks: int = 40, seed: int = 1) -> pd.DataFrame:
    """Bricks of 1 to 9 targets, in order."""
    rng = np.random.default_rng(seed)
    names = np.repeat([f"{i:04d}p000" for i in range(bricks)], rng.integers(1, 10, bricks))
    count = len(names)
    objid = pd.Series(names).groupby(names).cumcount().to_numpy() * 101 + rng.integers(
        0, 101, count
    )
    columns = {f"mag_{band}": rng.uniform(17, 21, count) for band in "grz"}
    place = {"ra": rng.uniform(0, 360, count), "dec": rng.uniform(-80, 80, count)}
    return pd.DataFrame(
        {"brick": names, "objid": objid, "target_id": np.arange(count), **place, **columns}
    )


def regroup(path: Path, rows: int) -> None:
    """The same Parquet file with row groups of another size."""
    whole = pq.read_table(path)
    pq.write_table(whole, path, row_group_size=rows)


@pytest.mark.parametrize("rows", [1, 7, 64, 100_000])
def test_in_pieces_and_whole_are_the_same_plan(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "targets.parquet"
    write_targets(table(), str(path))
    regroup(path, rows)
    exp = experiment(path)
    pieces, whole = plan_of(exp), Plan(exp, read_targets(str(path)))
    assert isinstance(pieces.targets, ParquetTargets)
    assert isinstance(whole.targets, MemoryTargets)
    assert pieces.contents == whole.contents
    assert pieces.regions[0].tolist() == whole.regions[0].tolist()
    for block in range(whole.blocks):
        assert pieces.pieces(block) == whole.pieces(block)
        pd.testing.assert_frame_equal(pieces.block_rows(block), whole.block_rows(block))


def test_what_is_not_in_order_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "targets.parquet"
    whole = table()
    for frame in (
        whole.iloc[::-1],
        whole.assign(objid=whole["objid"].to_numpy()[::-1]),
        pd.concat([whole, whole.iloc[:1]]),
    ):
        write_targets(frame.reset_index(drop=True), str(path))
        regroup(path, 16)
        assert open_targets(str(path)) is None
    whole.to_parquet(path)  # not ours: its columns may be called anything
    assert open_targets(str(path)) is None
    write_targets(whole, str(path))
    assert open_targets(str(path)) is not None


def test_a_target_that_is_not_on_the_sky_is_said(tmp_path: Path) -> None:
    path = tmp_path / "targets.parquet"
    write_targets(table().assign(dec=95.0), str(path))
    with pytest.raises(UserError, match="not on the sky"):
        open_targets(str(path))


@pytest.mark.parametrize(
    "theta_e",
    [
        {"uniform": [0.3, 1.9]},
        {"log_uniform": [0.3, 2.5]},
        {"normal": [1.0, 0.4, 0.3, 2.0]},
        {"cycle": [0.4, 0.6, 0.9, 1.2, 1.7, 2.2, 2.4]},
        [0.4, 1.2, 2.2],
        0.8,
    ],
)
def test_strata_of_the_prior_are_those_of_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, theta_e: object
) -> None:
    path = tmp_path / "targets.parquet"
    write_targets(table(200), str(path))
    made = plan_of(experiment(path, theta_e=theta_e))
    counted = np.array(planned_strata(made))
    monkeypatch.setattr("darkhaloscope.prepare.COUNTED_BRICKS", 0)
    expected = np.array(planned_strata(made))
    assert (np.abs(counted - expected) <= 5 * np.sqrt(expected + 1)).all(), (counted, expected)
    assert ((expected == 0) == (counted == 0)).all()
