"""The plan is a pure function of experiment and brick, and says of every row what the design says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import Generator, Philox

from darkhaloscope.config import Experiment, Splits, parse_experiment
from darkhaloscope.errors import UserError
from darkhaloscope.plan import COLUMNS, Plan, block_rows, uniforms
from darkhaloscope.plan import rows as rows_module
from darkhaloscope.survey.bricks import brick_name
from darkhaloscope.survey.regions import split_of
from darkhaloscope.variables import SPLITS

VARIED = {
    "theta_e": {"uniform": [0.5, 2.5]},
    "q": {"uniform": [0.5, 1.0]},
    "pa": {"uniform": [0, 180]},
    "shear": {"uniform": [0, 0.1]},
    "shear_pa": {"uniform": [0, 180]},
}


def experiment(**sections: Any) -> Experiment:
    document: dict[str, Any] = {
        "seed": 11,
        "survey": {"root": "/data"},
        "targets": {"path": "t.csv"},
        "lens": VARIED,
        "source": {"dmag": {"uniform": [1, 3]}, "dx": {"uniform": [-0.3, 0.3]}},
    }
    for name, value in sections.items():
        merged = {**document.get(name, {}), **value} if isinstance(value, dict) else value
        document[name] = merged
    return parse_experiment(document)


def targets(rows: list[tuple[str, int]], **columns: Any) -> pd.DataFrame:
    """A uniform target table of these (brick, objid)."""
    count = len(rows)
    frame = pd.DataFrame(
        {
            "brick": [brick for brick, _ in rows],
            "objid": np.array([objid for _, objid in rows], dtype=np.int64),
            "target_id": np.arange(count, dtype=np.int64) + 1000,
            "ra": np.linspace(10.0, 11.0, count),
            "dec": np.linspace(-5.0, -4.0, count),
            "mag_g": 20.0,
            "mag_r": 19.0,
            "mag_z": 18.5,
        }
    )
    return frame.assign(**columns)


def all_rows(plan: Plan) -> pd.DataFrame:
    return pd.concat([rows for _, rows in plan.iter_bricks()], ignore_index=True)


# --- random numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "brick", "j"), [(1, "0591m305", 0), (2**63 - 1, "0001p000", 7)])
def test_the_table_of_uniforms_is_the_designs_formula(seed: int, brick: str, j: int) -> None:
    key = np.array([seed, xxhash.xxh64(brick.encode()).intdigest()], dtype=np.uint64)
    counter = np.array([0, 0, 0, j], dtype=np.uint64)
    truth = Generator(Philox(key=key, counter=counter)).random((41, 32))
    np.testing.assert_array_equal(uniforms(seed, brick, j, np.arange(41)), truth)


def test_rows_far_down_the_table_are_the_same_rows() -> None:
    """Large and few OBJIDs are read without making the rows between them."""
    counter = np.array([0, 0, 0, 2], dtype=np.uint64)
    key = np.array([9, xxhash.xxh64(b"0591m305").intdigest()], dtype=np.uint64)
    truth = Generator(Philox(key=key, counter=counter)).random((20_000, 32))
    k = np.array([19_999, 3, 4095, 4096, 12_288])
    np.testing.assert_array_equal(uniforms(9, "0591m305", 2, k), truth[k])


def test_a_row_reads_its_own_place_of_the_table() -> None:
    """theta_e is the first column, row OBJID, table j: worked out here from the numbers alone."""
    made = Plan(experiment(plan={"repeats": 3}), targets([("0591m305", 5), ("0591m305", 17)]))
    rows = made.brick_rows("0591m305").set_index("slot")
    key = np.array([11, xxhash.xxh64(b"0591m305").intdigest()], dtype=np.uint64)
    for j in range(3):
        counter = np.array([0, 0, 0, j], dtype=np.uint64)
        table = Generator(Philox(key=key, counter=counter)).random((18, 32))
        for k in (5, 17):
            row = rows.loc[(j << 32) | k]
            control = table[k, 19] < 0.5
            assert row["theta_e"] == (0 if control else pytest.approx(0.5 + 2.0 * table[k, 0]))


def test_columns_of_the_table_keep_their_places() -> None:
    """Stored data sets depend on them: a new parameter goes at the end."""
    assert COLUMNS[:3] == ("lens.theta_e", "lens.q", "lens.pa")
    assert COLUMNS.index("source.dmag") == 7
    assert COLUMNS.index("plan.control") == 19
    assert COLUMNS.index("plan.joint") == 20
    assert COLUMNS[21:] == (
        "plan.lens_model", "lens.slope", "plan.source_model", "source.bulge_fraction",
        "source.bulge_reff", "source.bulge_n", "source.bulge_q", "plan.image", "source.image_scale",
        "source.rotation",
    )  # fmt: skip
    assert len(set(COLUMNS)) == len(COLUMNS) <= 32


BRICKS = ("0001p000", "0591m305", "0594m305", "3599m890")
PLACES = st.lists(
    st.tuples(st.sampled_from(BRICKS), st.integers(0, 60)), min_size=2, max_size=25, unique=True
)


@given(PLACES, st.data())
@settings(max_examples=40, deadline=None)
def test_other_targets_and_bricks_change_no_row(
    places: list[tuple[str, int]], data: st.DataObject
) -> None:
    """Drop some targets and shuffle the rest: what is left has the rows that it had."""
    exp = experiment(plan={"repeats": 2})
    table = targets(places)
    keep = data.draw(st.permutations(range(len(places))))[: max(1, len(places) // 2)]
    whole = all_rows(Plan(exp, table)).set_index(["brick", "slot"])
    part = all_rows(Plan(exp, table.iloc[keep])).set_index(["brick", "slot"])
    pd.testing.assert_frame_equal(part, whole.loc[part.index])


def test_more_repeats_change_no_row_and_another_seed_changes_them() -> None:
    table = targets([("0591m305", k) for k in range(20)])
    few, many = (all_rows(Plan(experiment(plan={"repeats": n}), table)) for n in (2, 5))
    pd.testing.assert_frame_equal(few, many[: len(few)])
    other = all_rows(Plan(experiment(seed=12, plan={"repeats": 2}), table))
    assert not np.array_equal(other["theta_e"], few["theta_e"])


@pytest.mark.parametrize("fix", [{}, {"core_matched_negatives": True}])
def test_rows_of_a_block_are_those_of_its_turns_alone(
    fix: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A brick of many blocks costs each of them its own rows."""
    there = targets([("0591m305", k) for k in (5, 17, 40)])
    made = Plan(experiment(plan={"repeats": 9, "control_fraction": 0.6}, fix=fix), there)
    whole = made.brick_rows("0591m305")
    assert len(whole) >= 27
    turns: list[int] = []
    draw = rows_module._rows_of_turn
    monkeypatch.setattr(
        rows_module, "_rows_of_turn", lambda *args: turns.append(args[5]) or draw(*args)
    )
    for asked in (slice(0, 4), slice(10, 12), slice(13, 27), slice(26, len(whole))):
        turns.clear()
        some = made.brick_rows("0591m305", asked)
        pd.testing.assert_frame_equal(some, whole.iloc[asked].reset_index(drop=True))
        assert fix or turns == list(range(asked.start // 3, -(-asked.stop // 3)))


def test_one_parameters_rule_changes_no_other_parameter() -> None:
    table = targets([("0591m305", k) for k in range(50)])
    before = all_rows(Plan(experiment(), table))
    after = all_rows(Plan(experiment(lens={**VARIED, "q": 0.7}), table))
    changed = [name for name in before if not before[name].equals(after[name])]
    assert changed == ["lens_q"]


# --- rows, blocks and pieces ----------------------------------------------------------------------


def test_rows_are_ordered_by_brick_and_slot() -> None:
    places = [("0594m305", 3), ("0591m305", 9), ("0591m305", 2), ("0594m305", 1)]
    made = Plan(experiment(plan={"repeats": 2}), targets(places))
    rows = all_rows(made)
    expected = [
        (brick, (j << 32) | k)
        for brick, objids in (("0591m305", (2, 9)), ("0594m305", (1, 3)))
        for j in range(2)
        for k in objids
    ]
    assert list(zip(rows["brick"], rows["slot"], strict=True)) == expected
    assert made.rows == len(rows) == 8
    # ... and each carries its own target.
    of = {(b, k): 1000 + i for i, (b, k) in enumerate(places)}
    found = [of[b, s & 0xFFFFFFFF] for b, s in expected]
    assert rows["target_id"].tolist() == found == rows["host_id"].tolist()
    assert (rows["partner"] == -1).all()
    assert (rows["region_id"] == rows["brick"]).all()


@given(
    st.lists(st.integers(1, 70), min_size=1, max_size=12),
    st.integers(1, 4),
    st.sampled_from([64, 128, 256]),
)
@settings(max_examples=40, deadline=None)
def test_pieces_cover_every_row_once_and_in_order(
    counts: list[int], repeats: int, block: int
) -> None:
    bricks = [f"{100 + i:04d}p000" for i in range(len(counts))]
    places = [(b, k) for b, n in zip(bricks, counts, strict=True) for k in range(n)]
    made = Plan(experiment(plan={"repeats": repeats}, store={"block": block}), targets(places))
    assert made.rows == repeats * len(places)
    assert made.blocks == math.ceil(made.rows / block)
    found: list[tuple[str, int]] = []
    for number in range(made.blocks):
        pieces = made.pieces(number)
        sizes = [piece.rows.stop - piece.rows.start for piece in pieces]
        assert min(sizes) > 0
        assert sum(sizes) == min(block, made.rows - number * block)
        assert {piece.block for piece in pieces} == {number}
        assert len({piece.brick for piece in pieces}) == len(pieces)
        found += [(p.brick, i) for p in pieces for i in range(p.rows.start, p.rows.stop)]
    assert found == [
        (b, i) for b, n in zip(bricks, counts, strict=True) for i in range(n * repeats)
    ]


def test_a_straddling_brick_is_a_piece_of_both_blocks() -> None:
    places = [("0591m305", k) for k in range(50)] + [("0594m305", k) for k in range(50)]
    made = Plan(experiment(store={"block": 64}), targets(places))
    first, second = made.pieces(0), made.pieces(1)
    assert [(p.brick, p.rows) for p in first] == [
        ("0591m305", slice(0, 50)),
        ("0594m305", slice(0, 14)),
    ]
    assert [(p.brick, p.rows) for p in second] == [("0594m305", slice(14, 50))]


@pytest.mark.parametrize(
    ("rows", "size", "bands", "block"),
    [
        (10_000_000, 64, 3, 2048),  # 2048 x 64 x 64 x 3 x 4 bytes = 96 MiB
        (10_000_000, 96, 3, 512),  # 1024 would be 108 MiB
        (10_000_000, 256, 4, 64),
        (2048 * 16, 64, 3, 2048),
        (2048 * 16 - 1, 64, 3, 1024),
        (5_000, 64, 3, 256),
        (1_000, 64, 3, 64),
        (1, 64, 3, 64),
    ],
)
def test_rows_of_a_block(rows: int, size: int, bands: int, block: int) -> None:
    assert block_rows(rows, size, bands) == block


@given(st.integers(1, 10**8), st.integers(16, 256), st.integers(1, 4))
@settings(deadline=None)
def test_a_block_is_the_largest_power_of_two_that_fits(rows: int, size: int, bands: int) -> None:
    block = block_rows(rows, size, bands)

    def fits(n: int) -> bool:
        return n * size * size * bands * 4 <= 104_857_600 and n <= rows / 16

    assert block & (block - 1) == 0
    assert block == 64 or fits(block)
    assert block >= 64
    assert not fits(2 * block)


# --- parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(3, 2), (2, 2), (1, 4), (2, 3)])
def test_grids_are_complete_for_every_target(sizes: tuple[int, int]) -> None:
    thetas, ratios = (np.linspace(0.5, 1.0, n).tolist() for n in sizes)
    lens = {**VARIED, "theta_e": thetas, "q": {"grid": ratios}}
    exp = experiment(lens=lens, plan={"repeats": 2, "control_fraction": 0})
    rows = all_rows(Plan(exp, targets([("0591m305", 4), ("0591m305", 8), ("0594m305", 4)])))
    for _, mine in rows.groupby("target_id"):
        cells = mine.groupby(["theta_e", "lens_q"]).size()
        assert cells.to_dict() == {(t, q): 2 for t in thetas for q in ratios}


def test_a_cycle_takes_its_values_in_turn() -> None:
    lens = {**VARIED, "theta_e": {"cycle": [0.6, 1.0, 1.4]}}
    exp = experiment(lens=lens, plan={"repeats": 3, "control_fraction": 0})
    rows = all_rows(Plan(exp, targets([("0591m305", k) for k in (0, 1, 6)])))
    turn = (rows["slot"] % 2**32) + (rows["slot"] // 2**32)
    assert rows["theta_e"].tolist() == [[0.6, 1.0, 1.4][t % 3] for t in turn]


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_the_fraction_of_controls(fraction: float) -> None:
    places = [(b, k) for b in BRICKS for k in range(1500)]
    rows = all_rows(Plan(experiment(plan={"control_fraction": fraction}), targets(places)))
    controls = int((rows["lens_model"] == 0).sum())
    # Binomial, to 5 sigma; exact at the ends.
    sigma = math.sqrt(len(rows) * fraction * (1 - fraction))
    assert abs(controls - fraction * len(rows)) <= 5 * sigma


def test_draws_are_distributed_as_the_experiment_says() -> None:
    places = [(b, k) for b in BRICKS for k in range(1500)]
    rows = all_rows(Plan(experiment(plan={"control_fraction": 0}), targets(places)))
    assert scipy.stats.kstest(rows["theta_e"], "uniform", (0.5, 2.0)).pvalue > 1e-4
    assert scipy.stats.kstest(rows["lens_pa"], "uniform", (0, 180)).pvalue > 1e-4
    assert scipy.stats.kstest(rows["src_dmag"], "uniform", (1, 2)).pvalue > 1e-4
    gamma = np.hypot(rows["gamma1"], rows["gamma2"])
    assert scipy.stats.kstest(gamma, "uniform", (0, 0.1)).pvalue > 1e-4
    # Parameters of one row are independent of each other: 5 / sqrt(n).
    correlation = rows[["theta_e", "lens_q", "lens_pa", "src_dmag", "src_dx"]].corr().to_numpy()
    assert np.abs(correlation - np.eye(5)).max() < 5 / math.sqrt(len(rows))


def test_controls_have_no_lens_and_no_source() -> None:
    rows = all_rows(Plan(experiment(), targets([("0591m305", k) for k in range(60)])))
    control = rows["lens_model"] == 0
    assert 10 < control.sum() < 50
    assert (rows.loc[control, "theta_e"] == 0).all()
    assert (rows["src_model"] == np.where(control, 0, 1)).all()
    missing = [
        "lens_q", "lens_pa", "gamma1", "gamma2", "lens_dx", "lens_dy", "src_dmag", "src_reff",
        "src_n", "src_q", "src_pa", "src_dx", "src_dy", "src_flux_g", "src_flux_r", "src_flux_z",
    ]  # fmt: skip
    assert rows.loc[control, missing].isna().all(axis=None)
    assert rows.loc[~control, [*missing, "theta_e"]].notna().all(axis=None)
    for band, magnitude in {"g": 20.0, "r": 19.0, "z": 18.5}.items():
        assert (rows[f"host_mag_{band}"] == magnitude).all()


# --- magnitudes and fluxes ------------------------------------------------------------------------


def test_fluxes_are_ab_magnitudes_of_zero_point_22_5() -> None:
    """r = 20.0 and dmag 1 is 21.0: 3.981 nMgy; g - r = 0.5 is 21.5, z - r = -0.25 is 20.75."""
    source = {"dmag": 1.0, "colour": {"g": 0.5, "z": -0.25}}
    exp = experiment(source=source, plan={"control_fraction": 0})
    row = all_rows(Plan(exp, targets([("0591m305", 1)], mag_r=20.0))).iloc[0]
    assert row["src_flux_r"] == pytest.approx(3.9810717, rel=1e-7)
    assert row["src_flux_g"] == pytest.approx(2.5118864, rel=1e-7)
    assert row["src_flux_z"] == pytest.approx(5.0118723, rel=1e-7)


def test_the_reference_band_is_the_one_that_magnitudes_count_in() -> None:
    exp = experiment(
        survey={"bands": ["g", "z"]},
        source={"dmag": 2.0, "colour": {"g": 1.0}},
        plan={"control_fraction": 0},
    )
    row = all_rows(Plan(exp, targets([("0591m305", 1)]))).iloc[0]  # z = 18.5
    assert row["src_flux_z"] == pytest.approx(10 ** (0.4 * (22.5 - 20.5)))
    assert row["src_flux_g"] == pytest.approx(10 ** (0.4 * (22.5 - 21.5)))
    assert "src_flux_r" not in row


def test_a_target_without_magnitude_takes_source_mag() -> None:
    exp = experiment(source={"dmag": 1.0, "mag": 22.5}, plan={"control_fraction": 0})
    table = targets([("0591m305", 1), ("0591m305", 2)], mag_r=[np.nan, 20.0])
    rows = all_rows(Plan(exp, table))
    assert rows["src_flux_r"].tolist() == pytest.approx([1.0, 10**0.6])
    assert np.isnan(rows["src_dmag"][0])
    assert rows["src_dmag"][1] == 1.0
    assert np.isnan(rows["host_mag_r"][0])


def test_a_target_without_magnitude_needs_source_mag() -> None:
    table = targets([("0591m305", 1), ("0591m305", 2)], mag_r=[np.nan, 20.0])
    with pytest.raises(UserError, match=r"1 of 2 targets have no magnitude in r; add source\.mag"):
        Plan(experiment(), table)
    Plan(experiment(plan={"control_fraction": 1}), table)  # nothing is injected
    joint = pd.DataFrame({"source.mag": [22.0]})
    rows = all_rows(Plan(experiment(plan={"control_fraction": 0}), table, joint))
    assert rows["src_flux_r"][0] == pytest.approx(10**0.2)


# --- joint tables ---------------------------------------------------------------------------------


def test_rows_of_a_joint_table_stay_together() -> None:
    joint = pd.DataFrame(
        {
            "lens.theta_e": [0.5, 1.0, 1.5, 2.0],
            "lens.q": [0.9, 0.8, 0.7, 0.6],
            "source.n": [1, 2, 3, 4],
        }
    )
    exp = experiment(plan={"control_fraction": 0})
    rows = all_rows(Plan(exp, targets([("0591m305", k) for k in range(400)]), joint))
    triples = set(zip(rows["theta_e"], rows["lens_q"], rows["src_n"], strict=True))
    assert triples == set(joint.itertuples(index=False, name=None))
    counts = rows["theta_e"].value_counts()
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    # What the table does not name is drawn as ever.
    plain = all_rows(Plan(exp, targets([("0591m305", k) for k in range(400)])))
    pd.testing.assert_series_equal(rows["lens_pa"], plain["lens_pa"])


@pytest.mark.parametrize(
    ("joint", "says"),
    [
        ({"lens.thetae": [1.0]}, "unknown columns \\['lens.thetae'\\]"),
        ({"lens.theta_e": []}, "0 rows"),
        ({"lens.theta_e": [1.0, None]}, "missing or no number"),
        ({"lens.theta_e": [1.0, np.inf]}, "missing or no number"),
        ({"lens.theta_e": ["1.0", "wide"]}, "missing or no number"),
        ({"lens.theta_e": [1.0, 40.0]}, "column lens.theta_e.*40 is outside"),
        ({"source.colour.g": [1.0, 7.0]}, "column source.colour.g.*7 is outside"),
        ({"source.colour.r": [0.5]}, "reference band"),
    ],
)
def test_a_bad_joint_table_is_refused(joint: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        Plan(experiment(), targets([("0591m305", 1)]), pd.DataFrame(joint))


def test_a_grid_of_what_a_joint_table_gives_is_refused() -> None:
    """Its values would be nobody's, and its rows there all the same."""
    exp = experiment(lens={"theta_e": [0.5, 1.0, 1.5]})
    with pytest.raises(
        UserError, match=r"lens\.theta_e is a grid of 3 values and a column of the joint"
    ):
        Plan(exp, targets([("0591m305", 1)]), pd.DataFrame({"lens.theta_e": [0.7, 0.9]}))
    Plan(exp, targets([("0591m305", 1)]), pd.DataFrame({"lens.q": [0.7, 0.9]}))


# --- targets --------------------------------------------------------------------------------------


def test_duplicates_and_bad_objids_are_refused() -> None:
    with pytest.raises(UserError, match="share OBJID 4 in brick 0591m305"):
        Plan(experiment(), targets([("0591m305", 4), ("0594m305", 4), ("0591m305", 4)]))
    Plan(experiment(), targets([("0591m305", 4), ("0594m305", 4)]))
    for objid in (-1, 2**22):
        with pytest.raises(UserError, match=f"OBJID {objid} is outside 0 to 4194303"):
            Plan(experiment(), targets([("0591m305", objid)]))
    with pytest.raises(UserError, match="target list is empty"):
        Plan(experiment(), targets([("0591m305", 1)]).iloc[:0])


def test_the_contents_follow_the_tables_and_not_their_order() -> None:
    table = targets([("0591m305", 1), ("0591m305", 2), ("0594m305", 3)], mag_g=[20.0, np.nan, 21.0])
    exp = experiment()
    contents = Plan(exp, table).contents
    assert Plan(exp, table.iloc[::-1]).contents == contents
    assert Plan(exp, table[list(reversed(table.columns))]).contents == contents
    # A missing value is a missing value, whatever bits say so.
    other_nan = np.array([0xFFF8000000000001], dtype=np.uint64).view(float)[0]
    assert np.isnan(other_nan)
    same = table.assign(mag_g=[20.0, other_nan, 21.0])
    assert Plan(exp, same).contents == contents
    for changed in (
        table.assign(ra=table["ra"] + 1e-9),
        table.assign(dec=table["dec"] + 1e-9),
        table.assign(target_id=[7, 8, 9]),
        table.iloc[:2],
        table.assign(mag_g=[20.0, 20.0, 21.0]),
        *(table.assign(**{f"mag_{band}": 17.0}) for band in "rz"),
        *(table.assign(**{f"psfsize_{band}": 1.3}) for band in "grz"),
        table.assign(brick=["0588m305", "0588m305", "0594m305"]),  # in the same order
    ):
        assert Plan(exp, changed).contents != contents
    joint = pd.DataFrame({"lens.q": [0.5, 0.9]})
    with_joint = Plan(exp, table, joint).contents
    assert with_joint["targets"] == contents["targets"]
    assert Plan(exp, table, joint.iloc[::-1]).contents["joint"] != with_joint["joint"]
    renamed = joint.rename(columns={"lens.q": "source.q"})
    assert Plan(exp, table, renamed).contents["joint"] != with_joint["joint"]


# --- splits ---------------------------------------------------------------------------------------


def test_splits_are_cumulated_fractions_of_xxh64() -> None:
    splits = Splits(train=0.7, val=0.15, test=0.15)
    names = brick_name(np.linspace(0, 359, 4000), np.linspace(-60, 60, 4000))
    names = np.unique(names)
    place = np.array([xxhash.xxh64(str(n).encode(), seed=0).intdigest() / 2**64 for n in names])
    truth = np.digitize(place, [0.7, 0.85])
    found = np.array([split_of(str(n), splits.fractions) for n in names])
    np.testing.assert_array_equal(found, truth)
    shares = np.bincount(found, minlength=3) / len(names)
    assert np.abs(shares - [0.7, 0.15, 0.15]).max() < 5 * math.sqrt(0.25 / len(names))


@pytest.mark.parametrize("only", [0, 1, 2])
def test_a_split_of_everything_takes_everything(only: int) -> None:
    fractions = [0.0, 0.0, 0.0]
    fractions[only] = 1.0
    splits = Splits(train=fractions[0], val=fractions[1], test=fractions[2])
    assert {split_of(f"{i:04d}p000", splits.fractions) for i in range(300)} == {only}


def test_a_region_is_in_one_split() -> None:
    ra, dec = (axis.ravel() for axis in np.meshgrid(np.arange(10.0, 18.0, 0.05), [-4.9, -4.7]))
    bricks = brick_name(ra, dec).tolist()
    table = targets([(b, k) for k, b in enumerate(bricks)], ra=ra, dec=dec)
    for region in ("brick", "healpix"):
        made = Plan(experiment(plan={"repeats": 2}, targets={"region": region}), table)
        rows = all_rows(made)
        free = rows[rows["region_split"] != SPLITS.index("guard")]
        assert (free.groupby("region_id")["region_split"].nunique() == 1).all()
        assert set(free["region_split"]) == {0, 1, 2}
        assert made.n_regions == rows["region_id"].nunique()
        assert (rows.groupby("target_id")["region_split"].nunique() == 1).all()
