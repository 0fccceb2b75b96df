"""Users' tables of any naming, and selections from real and made-up catalogues."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from darkhaloscope.errors import UserError
from darkhaloscope.survey import (
    position_targets,
    read_targets,
    select_lrg,
    select_simple,
    select_targets,
    write_targets,
)
from darkhaloscope.survey.bricks import brick_name, target_id
from darkhaloscope.survey.selection import lrg_cuts
from darkhaloscope.survey.targets import normalise

HERE = Path(__file__).parent
SHARED = HERE.parents[1] / "shared" / "data"
TRACTOR = SHARED / "catalogues" / "dr8_tractor-3303p000.fits"
needs_shared = pytest.mark.skipif(not TRACTOR.exists(), reason="../shared/data is not here")


def put(tmp_path: Path, text: str, name: str = "t.csv") -> str:
    (tmp_path / name).write_text(text)
    return str(tmp_path / name)


def test_a_bare_list(tmp_path: Path) -> None:
    table = read_targets(put(tmp_path, "name,RA ,Dec\na,59.1,-30.5\nb,59.11,-30.5\nc,10,-10\n"))
    assert table["brick"].tolist() == ["0591m305", "0591m305", "0100m100"]
    assert table["objid"].tolist() == [0, 1, 0]
    assert table["target_id"].tolist() == [0, 1, 2]
    assert table[["mag_g", "mag_r", "mag_z"]].isna().all(axis=None)
    assert "mag_i" not in table
    assert [table[c].dtype for c in ("objid", "target_id", "ra")] == ["int64", "int64", "float64"]


def test_names_and_magnitudes(tmp_path: Path) -> None:
    text = (
        "TARGET_RA,TARGET_DEC,BRICKNAME,TARGETID,FLUX_R,mag_i,PSFSIZE_R,MORPHTYPE\n"
        "59.1,-30.5,0591m305,39627484333576263,1.0,99,1.3,DEV\n"
        "59.1,-30.5,,288230376151711743,-1.0,20.5,,REX\n"
    )
    table = read_targets(put(tmp_path, text))
    assert table["brick"].tolist() == ["0591m305", "0591m305"]
    assert table["target_id"].tolist() == [39627484333576263, 288230376151711743]  # not via float
    assert table["mag_r"].tolist() == [22.5, pytest.approx(np.nan, nan_ok=True)]
    assert table["mag_i"].tolist() == [pytest.approx(np.nan, nan_ok=True), 20.5]
    assert table["psfsize_r"][0] == 1.3
    assert table["type"].tolist() == ["DEV", "REX"]


@pytest.mark.parametrize("name", ["t.csv", "t.fits", "t.parquet"])
def test_formats_agree(tmp_path: Path, name: str) -> None:
    frame = pd.DataFrame(
        {
            "ra": [59.1, 59.2],
            "dec": [-30.5, -30.4],
            "release": np.array([9010, 9010], np.int16),
            "brickid": np.array([1, 2], np.int32),
            "objid": np.array([7, 8], np.int32),
            "flux_z": np.array([10.0, 100.0], np.float32),
            "type": ["PSF", "DEV"],
        }
    )
    url = str(tmp_path / name)
    if name.endswith("csv"):
        frame.to_csv(url, index=False)
    elif name.endswith("fits"):
        Table.from_pandas(frame).write(url)  # big-endian columns
    else:
        frame.to_parquet(url)
    table = read_targets(url)
    assert table["target_id"].tolist() == target_id(9010, [1, 2], [7, 8]).tolist()
    np.testing.assert_allclose(table["mag_z"], [20.0, 17.5], atol=1e-6)
    assert table["type"].tolist() == ["PSF", "DEV"]
    assert table["ra"].tolist() == [59.1, 59.2]
    assert table.sort_values("ra", ascending=False)["objid"].tolist() == [8, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ra,dec\n", "lists no targets"),
        ("", "cannot be parsed"),
        ("x,dec\n1,2\n", "no column ra; its columns are x, dec"),
        ("x,y\n1,2\n", "no column ra and no column dec"),
        ("ra,dec\n1,2\nnan,2\n3,2\n-1,2\n", r"rows 2, 4 \(from 1\) have an ra"),
        ("ra,dec\n1,2\n3,-91\n", r"row 2 \(from 1\) has a dec"),
        ("ra,dec\n04:12:13,2\n", r"row 1 \(from 1\) has an ra"),
        ("ra,dec,objid\n1,2,1.5\n", "no whole objid"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_targets(put(tmp_path, text))


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no table at"):
        read_targets(str(tmp_path / "none.csv"))
    with pytest.raises(UserError, match="format is unknown"):
        read_targets(put(tmp_path, "ra,dec\n1,2\n", "t.txt"))
    for name in ("t.fits", "t.parquet"):
        with pytest.raises(UserError, match="cannot be parsed"):
            read_targets(put(tmp_path, "no such thing", name))
    with pytest.raises(UserError, match="cannot read"):
        read_targets("http://no-such-host.invalid/t.csv")


def test_positions() -> None:
    beside = normalise(
        pd.DataFrame(
            {"ra": [59.1, 10.0], "dec": [-30.5, -10.0], "objid": [5, 3], "targetid": [2, 9]}
        )
    )
    added = position_targets([(59.1, -30.5), (59.2, -30.5), (80.0, 1.0)], beside)
    assert added["objid"].tolist() == [6, 7, 0]
    assert added["target_id"].tolist() == [3, 4, 5]
    assert not set(added["target_id"]) & set(beside["target_id"])
    assert position_targets([(1.0, 2.0)])["target_id"].tolist() == [0]
    with pytest.raises(UserError, match="a dec"):
        position_targets([(1.0, 95.0)])


def test_real_targets() -> None:
    table = read_targets(str(HERE / "data" / "targets-0591m305.csv"))
    assert table["brick"].unique().tolist() == ["0591m305"]
    np.testing.assert_allclose(table["mag_r"][0], 22.5 - 2.5 * np.log10(56.4488))


@needs_shared
def test_real_tractor_rows() -> None:
    table = read_targets(str(TRACTOR))
    raw = Table.read(TRACTOR)
    np.testing.assert_array_equal(table["ra"], raw["RA"])
    expected = (8000 << 42) + (raw["BRICKID"].astype(int) << 22) + raw["OBJID"]
    np.testing.assert_array_equal(table["target_id"], expected)
    np.testing.assert_allclose(table["mag_r"], 22.5 - 2.5 * np.log10(raw["FLUX_R"]), rtol=1e-6)


@needs_shared
def test_lrg_of_real_rows_by_hand() -> None:
    """The cuts written out once more, a row at a time, on magnitudes from the raw columns."""
    raw = Table.read(TRACTOR)
    expected = []
    for row in raw:
        m = {b: 22.5 - 2.5 * np.log10(row[f"FLUX_{b}"] / row[f"MW_TRANSMISSION_{b}"])
             for b in ("G", "R", "Z", "W1") if row[f"FLUX_{b}"] > 0}  # fmt: skip
        fibre = 22.5 - 2.5 * np.log10(row["FIBERFLUX_Z"] / row["MW_TRANSMISSION_Z"])
        if {"R", "Z", "W1"} - m.keys() or fibre >= 21.6 or row["MASKBITS"] & 0b11000000000010:
            continue
        r_w1 = m["R"] - m["W1"]
        if (
            m["Z"] - m["W1"] > 0.8 * (m["R"] - m["Z"]) - 0.6
            and (m["G"] - m["W1"] > 2.9 or r_w1 > 1.8)
            and ((r_w1 > 1.8 * (m["W1"] - 17.14) and r_w1 > m["W1"] - 16.33) or r_w1 > 3.3)
            and not 0 < row["GAIA_PHOT_G_MEAN_MAG"] <= 18
        ):
            expected.append(int(row["OBJID"]))
    assert select_lrg([str(TRACTOR)])["objid"].tolist() == expected
    assert expected  # the sample has some


# A galaxy that passes every southern cut: r - z = 1.2, z - W1 = 1.3, so r - W1 = 2.5, W1 = 18.2.
GOOD = {"g": 22.5, "r": 20.7, "z": 19.5, "w1": 18.2, "fibre": 21.0}


@pytest.mark.parametrize(
    ("change", "south", "north"),
    [
        ({}, True, True),
        ({"fibre": 21.605}, False, True),
        ({"fibre": 21.615}, False, False),
        ({"w1": 19.2}, False, False),  # a star's z - W1
        ({"g": 20.0, "r": 19.9, "z": 19.2, "w1": 18.15}, False, False),  # low redshift
        ({"g": 20.75, "r": 19.5, "z": 18.8, "w1": 17.8}, True, False),  # g - W1 = 2.95, r - W1 1.7
        ({"r": 21.6, "z": 20.4, "w1": 18.6, "fibre": 21.5}, True, True),  # r - W1 = 3.0 > 2.63
        ({"r": 21.9, "z": 20.6, "w1": 18.95, "fibre": 21.5}, False, False),  # 2.95 < 3.26
        ({"r": 22.6, "z": 21.0, "w1": 19.25, "fibre": 21.5}, True, False),  # 3.35: 3.3, not 3.4
        ({"r": np.nan}, False, False),
    ],
)
def test_lrg_cuts(change: dict[str, float], south: bool, north: bool) -> None:
    m = {name: np.array([value]) for name, value in (GOOD | change).items()}
    values = (m["g"], m["r"], m["z"], m["w1"], m["fibre"])
    assert bool(lrg_cuts(*values, south=True)[0]) is south
    assert bool(lrg_cuts(*values, south=False)[0]) is north


@pytest.mark.parametrize(
    ("m", "band", "south", "north"),
    [
        # Galaxies that lie on the edge of one cut and well within all others: the magnitude of
        # ``band`` at that edge, from eqs. 1-4 and 5-8 by hand; fainter passes, but for the fibre's.
        ({"g": 24.0, "r": 21.5, "w1": 18.5}, "z", 19.5, 19.5),  # 0.8 * 2 - 0.6 = 1
        ({}, "fibre", 21.60, 21.61),
        ({"r": 19.5, "z": 18.8, "w1": 17.8}, "g", 20.70, 20.77),  # W1 + 2.9, + 2.97
        ({"g": 20.3, "z": 18.8, "w1": 17.8}, "r", 19.60, 19.60),  # W1 + 1.8
        ({"g": 24.0, "z": 19.9, "w1": 18.7}, "r", 21.508, 21.5731),  # 1.8 * 1.56, 1.83 * 1.57
        ({"g": 24.0, "z": 19.4, "w1": 18.25}, "r", 20.248, 20.2996),  # 1.8 * 1.11, 1.83 * 1.12
        ({"g": 21.0, "z": 18.2, "w1": 17.6}, "r", 18.87, 18.89),  # 17.6 - 16.33, - 16.31
        ({"g": 25.0, "z": 21.0, "w1": 19.2}, "r", 22.50, 22.60),  # W1 + 3.3, + 3.4
    ],
)
def test_edges_of_the_lrg_cuts(m: dict[str, float], band: str, south: float, north: float) -> None:
    for is_south, edge in ((True, south), (False, north)):
        for step in (0.003, -0.003):
            at = GOOD | m | {band: edge + step}
            values = [np.array([at[name]]) for name in ("g", "r", "z", "w1", "fibre")]
            passes = step < 0 if band == "fibre" else step > 0
            assert bool(lrg_cuts(*values, south=is_south)[0]) is passes


def catalogue(**change: object) -> pd.DataFrame:
    transmission = {"g": 0.9, "r": 0.93, "z": 0.96, "w1": 0.99}
    row: dict[str, object] = {"ra": 59.1, "dec": -30.5, "release": 9010, "brickid": 5, "objid": 1}
    for band, t in transmission.items():
        row[f"flux_{band}"] = 10 ** (0.4 * (22.5 - GOOD[band])) * t
        row[f"mw_transmission_{band}"] = t
    row["fiberflux_z"] = 10 ** (0.4 * (22.5 - GOOD["fibre"])) * transmission["z"]
    return pd.DataFrame(
        [row | {"brick_primary": True, "maskbits": 0, "nobs_g": 2, "type": "DEV"} | change]
    )


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({}, 1),
        ({"brick_primary": False}, 0),
        ({"maskbits": 1 << 1}, 0),
        ({"maskbits": 1 << 11}, 1),
        ({"maskbits": 1 << 12}, 0),
        ({"maskbits": 1 << 13}, 0),
        ({"nobs_g": 0}, 0),
        ({"nobs_r": 0}, 0),
        ({"nobs_z": 0}, 0),
        ({"flux_ivar_r": 0.0}, 0),
        ({"flux_ivar_z": 0.0}, 0),
        ({"flux_ivar_w1": 0.0}, 0),
        ({"flux_w1": -1.0}, 0),
        ({"flux_g": -1.0}, 1),
        ({"gaia_phot_g_mean_mag": 17.0}, 0),
        ({"gaia_phot_g_mean_mag": 0.0}, 1),
        ({"gaia_phot_g_mean_mag": 18.0}, 0),
        ({"gaia_phot_g_mean_mag": 18.001}, 1),
        ({"fibertotflux_z": 95.9}, 1),  # 17.5 mag is 100 nMgy, dereddened by 0.96
        ({"fibertotflux_z": 96.1}, 0),
        ({"brick_primary": "F"}, 0),
        ({"brick_primary": "false"}, 0),
        ({"brick_primary": 0}, 0),
        ({"brick_primary": "T"}, 1),
        ({"brick_primary": "True"}, 1),
        ({"brick_primary": 1}, 1),
    ],
)
def test_lrg_quality(change: dict[str, object], count: int) -> None:
    assert len(select_lrg([catalogue(**change)])) == count


def test_lrg_hemisphere() -> None:
    only_south = {"fiberflux_z": 10 ** (0.4 * (22.5 - 21.605)) * 0.96}
    assert len(select_lrg([catalogue(**only_south)])) == 0
    assert len(select_lrg([catalogue(**only_south, release=9011)])) == 1
    assert len(select_lrg([catalogue(**only_south)], hemisphere="north")) == 1


@pytest.mark.parametrize(
    # desitarget.io.releasedict: DR4, DR6 and the North of DR8 and DR9, then the South's.
    ("releases", "north"),
    [((4000, 6000, 8001, 9001, 9003, 9011, 9013), 1), ((5000, 7000, 7999, 8000, 9010, 9012, 10000), 0)],
)  # fmt: skip
def test_whose_cuts_a_release_takes(releases: tuple[int, ...], north: int) -> None:
    fibre = 10 ** (0.4 * (22.5 - 21.605)) * 0.96  # between the faint limits of both
    for release in releases:
        assert len(select_lrg([catalogue(fiberflux_z=fibre, release=release)])) == north


def test_selection_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lacks the column flux_w1"):
        select_lrg([catalogue().drop(columns="flux_w1")])
    with pytest.raises(UserError, match="none of the catalogues"):
        select_lrg([])
    with pytest.raises(UserError, match="neither mag_i nor flux_i"):
        select_simple([catalogue()], {"i": (18, 20)})
    with pytest.raises(UserError, match="no tractor catalogues"):
        select_targets([str(tmp_path)])
    with pytest.raises(UserError, match="cuts are"):
        select_targets([], cuts="everything")


def test_simple_cut() -> None:
    table = pd.concat([catalogue(), catalogue(objid=2, type="PSF"), catalogue(objid=3, flux_z=1.0)])
    assert select_simple([table], {"z": (19, 20), "r-z": (1.0, None)})["objid"].tolist() == [1]
    assert select_simple([table], {})["objid"].tolist() == [1, 3]
    assert select_simple([table], {}, exclude_types=())["objid"].tolist() == [1, 2, 3]


def test_parquet_has_units(tmp_path: Path) -> None:
    frame = normalise(catalogue())
    url = str(tmp_path / "sub" / "t.parquet")
    write_targets(frame, url)
    schema = pq.read_schema(io.BytesIO(Path(url).read_bytes()))
    assert schema.field("ra").metadata[b"unit"] == b"deg"
    assert json.loads(schema.metadata[b"units"])["mag_z"] == "mag (AB)"
    pd.testing.assert_frame_equal(read_targets(url), frame)


def test_limits_of_the_plain_cut(tmp_path: Path) -> None:
    url = str(tmp_path / "t.parquet")
    pd.concat([catalogue(), catalogue(objid=2, flux_z=1.0)]).to_parquet(url)
    chosen = select_targets([url], cuts="plain", limits=["z=19:20.3", "r-z=1:"])
    assert chosen["objid"].tolist() == [1]
    assert select_targets([url], cuts="plain", limits=["z=:30"])["objid"].tolist() == [1, 2]
    for text in ("z=19", "y=1:2", "z=a:b", "g-r-z=0:1"):
        with pytest.raises(UserError, match="is no limit"):
            select_targets([url], cuts="plain", limits=[text])
    with pytest.raises(UserError, match="at least one"):
        select_targets([url], cuts="plain")
    with pytest.raises(UserError, match="go with the cuts"):
        select_targets([url], limits=["z=19:20"])


def test_a_source_comes_once(tmp_path: Path) -> None:
    """Files named twice; a brick's overlap without its flag; a sweep beside the tractor catalogues."""
    one = catalogue()
    assert len(select_lrg([one, one])) == 1
    bare = one.drop(columns="brick_primary").assign(dec=-30.4)
    home, neighbour = bare.assign(brickname="0591m305"), bare.assign(brickname="0591m302", objid=9)
    both = [home, neighbour.assign(dec=-30.40001)]  # fitted twice, a little apart
    for pair in (both, both[::-1]):
        other = catalogue(brickname="0591m302", objid=4, dec=-30.3)
        assert sorted(select_lrg([*pair, other])["objid"]) == [1, 4]
    assert len(select_lrg([neighbour])) == 1  # nothing is lost where only one brick is given
    for folder, name in (("south/tractor/059", "tractor-0591m305"),
                         ("south/sweep/9.0", "sweep-050m035-060m030"),
                         ("south/sweep/9.0", "sweep-050m035-060m030-pz")):  # fmt: skip
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        Table.from_pandas(one).write(tmp_path / folder / f"{name}.fits")
    assert len(select_targets([str(tmp_path)])) == 1
    (tmp_path / "south/tractor/059/tractor-0591m305.fits").unlink()
    assert len(select_targets([str(tmp_path)])) == 1


def test_north_and_south_together() -> None:
    """Above 32.375 deg and north of the Galactic plane the North counts, elsewhere the South."""
    places = [(200.0, 33.0), (200.0, 32.0), (0.0, 33.0)]  # the last lies south of the plane
    south = pd.concat([catalogue(ra=a, dec=d, objid=k) for k, (a, d) in enumerate(places)])
    north = south.assign(release=9011)
    both = select_lrg([south, north])
    assert (both["target_id"].to_numpy() >> 42).tolist() == [9010, 9010, 9011]
    assert both["objid"].tolist() == [1, 2, 0]
    assert len(select_lrg([north])) == 3  # alone, it is all there is


@needs_shared
def test_the_tiling_agrees_with_a_real_sweep() -> None:
    """Rows of a sweep are primary by construction, and have no flag."""
    sweep = SHARED / "catalogues" / "dr8_sweep-320m005-330p000.fits"
    raw = Table.read(sweep)
    assert "BRICK_PRIMARY" not in raw.colnames
    assert brick_name(raw["RA"], raw["DEC"]).tolist() == raw["BRICKNAME"].tolist()
    assert len(select_targets([str(sweep), str(TRACTOR)], cuts="all")) == 12


def test_a_flag_that_is_neither_yes_nor_no() -> None:
    with pytest.raises(UserError, match=r"catalogue 1, row 1 .* the brick_primary 'maybe'"):
        select_lrg([catalogue(brick_primary="maybe")])


def test_a_target_id_of_64_bits_is_said_not_turned_negative() -> None:
    rows = pd.DataFrame({"ra": [59.1, 59.2], "dec": [-30.5, -30.5]})
    ids = np.array([1, 2**63], np.uint64)
    with pytest.raises(UserError, match=r"row 2 .* a target_id of 2\^63 or more"):
        normalise(rows.assign(TARGETID=ids))
    assert normalise(rows.assign(TARGETID=ids - np.uint64(1)))["target_id"].tolist() == [
        0,
        2**63 - 1,
    ]
