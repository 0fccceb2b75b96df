"""Targets read a row group at a time are those that were read whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from darkhaloscope.config import Experiment, parse_experiment
from darkhaloscope.errors import UserError
from darkhaloscope.plan import Plan
from darkhaloscope.plan.targetlist import MemoryTargets, ParquetTargets, open_targets
from darkhaloscope.prepare import plan_of, planned_strata, widths_known
from darkhaloscope.survey.bricktable import brick_widths
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
    assert pieces.regions.tolist() == whole.regions.tolist()
    for block in range(whole.blocks):
        assert pieces.pieces(block) == whole.pieces(block)
        pd.testing.assert_frame_equal(pieces.block_rows(block), whole.block_rows(block))


def test_what_is_not_in_order_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "targets.parquet"
    whole = table()
    write_targets(whole, str(path))
    ours = pq.read_table(path)
    backwards = np.arange(len(whole))[::-1]
    for frame in (
        ours.take(backwards),
        ours.set_column(1, "objid", ours["objid"].take(backwards)),
        pa.concat_tables([ours, ours.slice(0, 1)]),
    ):
        pq.write_table(frame, path, row_group_size=16)
        assert open_targets(str(path)) is None
    # Of one brick two row groups, each in order.
    write_targets(whole.iloc[:16].assign(brick="0000p000", objid=np.arange(16)), str(path))
    one = pq.read_table(path)
    for frame in (one, pa.concat_tables([one.slice(8), one.slice(0, 8)])):
        pq.write_table(frame, path, row_group_size=8)
        assert (open_targets(str(path)) is None) == (frame is not one)
    whole.to_parquet(path)  # not ours: its columns may be called anything
    assert open_targets(str(path)) is None
    write_targets(whole, str(path))
    assert open_targets(str(path)) is not None


def test_a_user_s_table_may_name_its_columns_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "mine.parquet"
    places = pd.DataFrame({"RA": [59.18, 59.19, 10.0], "DEC": [-30.5, -30.51, 0.0], "mag_r": 20.0})
    for frame in (
        places.assign(BRICKNAME=["0591m305", "0591m305", "0101p000"]),
        places.rename(columns=str.lower),
    ):
        frame.to_parquet(path)
        assert plan_of(experiment(path)).bricks.tolist() == ["0101p000", "0591m305"]


def test_a_table_is_written_in_the_order_that_it_is_read_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "targets.parquet"
    monkeypatch.setattr("darkhaloscope.survey.targets.ROW_GROUP", 50)
    whole = table()
    write_targets(whole.sample(frac=1.0, random_state=3), str(path))
    assert pq.ParquetFile(path).num_row_groups == -(-len(whole) // 50)
    pd.testing.assert_frame_equal(read_targets(str(path)), whole)
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
    monkeypatch.setattr("darkhaloscope.prepare.planned.COUNTED_BRICKS", 0)
    expected = np.array(planned_strata(made))
    assert (np.abs(counted - expected) <= 5 * np.sqrt(expected + 1)).all(), (counted, expected)
    assert ((expected == 0) == (counted == 0)).all()


def bricks_file(path: Path, names: list[str], **columns: list[float]) -> str:
    """A table as the releases' ``survey-bricks-*.fits.gz``."""
    Table({"brickname": names, "ra": [0.0] * len(names), **columns}).write(path)
    return str(path)


@pytest.mark.parametrize("in_pieces", [True, False])
def test_a_brick_s_width_stands_in_for_a_target_s(tmp_path: Path, in_pieces: bool) -> None:
    """Only where it is > 0; a target's own value comes first; a brick that is not listed has none."""
    targets = table(4)
    path = tmp_path / ("targets.parquet" if in_pieces else "targets.csv")
    first = targets["brick"] == "0000p000"
    own = targets.assign(psfsize_r=np.where(first, 1.9, 0.0))
    if in_pieces:
        write_targets(own, str(path))
    else:
        own.to_csv(path, index=False)
    bricks = bricks_file(
        tmp_path / "survey-bricks-x.fits.gz",
        ["0001p000", "0000p000", "0002p000"],
        psfsize_g=[1.5, 1.4, 0.0],
        psfsize_r=[1.3, 1.2, np.nan],
    )
    bare = experiment(path)
    exp = experiment(path).model_copy(
        update={"survey": bare.survey.model_copy(update={"bricks_table": bricks})}
    )
    made = plan_of(exp)
    rows = made.block_rows(0).set_index("brick")
    wanted = {
        "0000p000": (1.4, 1.9, np.nan),
        "0001p000": (1.5, 1.3, np.nan),
        "0002p000": (np.nan, np.nan, np.nan),
        "0003p000": (np.nan, np.nan, np.nan),
    }
    for brick, widths in wanted.items():
        found = rows.loc[[brick], [f"manifest_psfsize_{b}" for b in "grz"]].to_numpy()
        np.testing.assert_array_equal(np.nan_to_num(found), np.nan_to_num([widths] * len(found)))
    assert "gives the PSF widths of 4 bricks, but not g in 2, r in 2, z in 4" in widths_known(made)
    # The widths decide rows, wherever the table lies: they are part of the identity.
    assert made.contents != plan_of(bare).contents
    assert (
        made.targets.rows(2, 5)["psfsize_g"].to_numpy()
        == made.targets.rows(0, 5)["psfsize_g"][2:].to_numpy()
    ).all()
    pd.testing.assert_frame_equal(
        pd.concat(list(made.targets.chunks()), ignore_index=True),
        made.targets.rows(0, int(made.targets.first[-1])),
    )


def test_what_is_no_table_of_widths(tmp_path: Path) -> None:
    url = bricks_file(tmp_path / "b.fits", ["0000p000"], psfdepth_r=[1.0])
    with pytest.raises(UserError, match="needs the columns brickname and psfsize_g, its columns"):
        brick_widths(url, ("g", "r"))
    with pytest.raises(UserError, match="no table at"):
        brick_widths(str(tmp_path / "none.fits.gz"), ("g",))


def test_without_a_table_of_bricks_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "targets.csv"
    table(2).to_csv(path, index=False)
    assert "no PSF widths of bricks" in widths_known(plan_of(experiment(path)))
    table(2).assign(psfsize_r=1.2).to_csv(path, index=False)
    assert not widths_known(plan_of(experiment(path)))
