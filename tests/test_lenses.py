"""Real lenses: published catalogues, planted arcs at their positions, and real pixels for what is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from darkhaloscope import cli, commands, lensing
from darkhaloscope.audit.verdict import Gate, exit_code
from darkhaloscope.detect import lenses as reader
from darkhaloscope.detect.detector import Detector, save
from darkhaloscope.detect.lenses import plan, score
from darkhaloscope.detect.networks import make_network
from darkhaloscope.detect.recall import measured_gate, of_grades, recall, verdict
from darkhaloscope.errors import UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.survey import Survey, bricks, read_targets, skyfiles
from darkhaloscope.survey.catalogues import read_catalogues
from darkhaloscope.views import Reading, Scale

pytestmark = pytest.mark.usefixtures("no_pictures")

DATA = Path(__file__).parent / "data"
CATALOGUES = sorted(str(path) for path in (DATA / "catalogues").glob("*.csv"))
QUIET = Console(quiet=True)
BANDS, N, SIZE = ("g", "r", "z"), 256, 48
SIGMA = {"g": 0.002, "r": 0.0025, "z": 0.008}
GALAXY = {"g": 6.3, "r": 25.0, "z": 52.0}  # nMgy: r 19.0, g - r 1.5, r - z 0.8


class RingReader:
    """Blue light in a ring about the target, over its noise: finds arcs of blue sources."""

    bands, size = BANDS, SIZE

    def score(self, images: Any, nodata: Any, target: Any = None) -> Any:
        y, x = np.mgrid[:SIZE, :SIZE]
        radius = np.hypot(x - target[:, 0, None, None], y - target[:, 1, None, None]) * PIXEL_SCALE
        ring = ((radius > 0.9) & (radius < 2.2))[:, None] & ~nodata
        g, r, _ = np.moveaxis((np.where(ring, images, 0)).sum(axis=(2, 3), dtype=float), 1, 0)
        noise = SIGMA["g"] * np.sqrt(ring[:, 0].sum(axis=(1, 2)))
        return (g - GALAXY["g"] / GALAXY["r"] * r) / noise


def _planted(lenses: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Catalogue rows near their brick's centre, whose small coadds hold them."""
    ra, dec = bricks.brick_centre(lenses["brick"].to_numpy(str))
    east = (lenses["ra"] - ra) * np.cos(np.radians(lenses["dec"])) * 3600
    near = np.maximum(east.abs(), (lenses["dec"] - dec).abs() * 3600) < 25
    kept = lenses[near & (lenses["outcome"] == "")]
    return kept.drop_duplicates("brick"), lenses[~near]


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, set[str]]:
    """Small coadds about published positions: a galaxy at each, an arc at all but every fifth of them.

    Gives root, table of galaxies, and the names of the lenses with an arc.
    """
    folder = tmp_path_factory.mktemp("lenses")
    rng = np.random.default_rng(3)
    planted, _ = _planted(read_catalogues(CATALOGUES))
    survey = Survey(str(folder / "sky"), "south", BANDS)
    galaxies, with_arc = [], set()
    grid = np.array([(x, y) for x in (30, 95, 160, 225) for y in (30, 95, 160, 225)], float)
    for k, lens in enumerate(planted.to_dict("records")):
        wcs = skyfiles.brick_wcs(lens["brick"], N)
        at = np.ravel(wcs.wcs_world2pix(lens["ra"], lens["dec"], 0))
        others = grid[np.hypot(*(grid - at).T) > 60] + rng.uniform(-3, 3, (1, 2))
        places = np.vstack([at, others])
        y, x = np.mgrid[:N, :N]
        shape = sum(
            np.exp(-0.5 * (((x - px) ** 2 + (y - py) ** 2) / 2.4**2)) / (2 * np.pi * 2.4**2)
            for px, py in places
        )
        planes = {b: GALAXY[b] * shape + rng.normal(0.0, SIGMA[b], (N, N)) for b in BANDS}
        if k % 5 != 4:
            with_arc.add(lens["name"])
            psf = lensing.Psf("moffat", fwhm=1.2, beta=3.5)
            source = lensing.Sersic([0.5, 0.5, 0.5], 0.25, dx=0.1)
            deflector = lensing.Lens("SIE", 1.4, q=0.8)
            arc = lensing.render(
                deflector, source, [psf] * 3, size=N, x=at[0], y=at[1],
                pixel_scale=PIXEL_SCALE, supersample=4,
            ).arc  # fmt: skip
            for b, band in enumerate(BANDS):
                planes[band] += arc[b]
        for band in BANDS:
            invvar = np.full((N, N), 1 / SIGMA[band] ** 2)
            for kind, pixels in (("image", planes[band]), ("invvar", invvar)):
                cards = skyfiles.header(lens["brick"], N, kind, BANDS, band)
                raw = skyfiles.pack(kind, pixels.astype(np.float32), cards, 1)
                path = Path(survey.url(kind, lens["brick"], band))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(raw)
        ra, dec = wcs.wcs_pix2world(*places.T, 0)
        jitter = rng.uniform(0.95, 1.05, (len(ra), 3))
        galaxies.append(
            pd.DataFrame({"ra": ra, "dec": dec, "brickname": lens["brick"]}).assign(
                **{f"flux_{b}": GALAXY[b] * jitter[:, i] for i, b in enumerate(BANDS)}
            )
        )
    table = str(folder / "galaxies.csv")
    pd.concat(galaxies).to_csv(table, index=False)
    return str(folder / "sky"), table, with_arc


def test_published_catalogues_are_read_and_every_row_keeps_a_place() -> None:
    rows = read_catalogues(CATALOGUES, ["A", "B"])
    assert len(rows) == sum(len(Path(url).read_text().splitlines()) - 1 for url in CATALOGUES)
    assert set(rows["outcome"]) == {"", "left_out"}
    assert (rows.loc[rows["grade"] == "C", "reason"] == "grade_c").all()
    assert rows.loc[rows["outcome"] == "", "grade"].isin(["A", "B"]).all()
    first = rows[(rows["catalogue"] == "huang2020")].iloc[0]
    place = ("DESI-011.5084-01.9412", 11.5084, -1.9412)
    assert (first["name"], first["ra"], first["dec"]) == place
    west, east, south, north = bricks.brick_bounds(first["brick"])
    assert west <= first["ra"] < east
    assert south <= first["dec"] < north


def test_a_row_without_a_place_and_a_lens_told_twice(tmp_path: Path) -> None:
    """Columns as Jacobs et al. (2019) and VizieR name them; 1 arcsec apart is the same lens."""
    text = "RAJ2000,DEJ2000,Name\n11.5084,-1.94147,one\n400,0,two\n,,three\n"
    other = tmp_path / "jacobs.csv"
    other.write_text(text)
    rows = read_catalogues([CATALOGUES[0], str(other)])
    mine = rows[rows["catalogue"] == "jacobs"]
    assert mine["reason"].tolist() == ["duplicate", "no_position", "no_position"]
    other.write_text("name\nonly\n")
    with pytest.raises(UserError, match="no catalogue of positions"):
        read_catalogues([str(other)])


def test_matched_galaxies_are_alike_of_the_same_brick_and_hold_no_lens() -> None:
    lens = read_catalogues(CATALOGUES).iloc[[0]].reset_index(drop=True)
    ra, dec = float(lens["ra"].iloc[0]), float(lens["dec"].iloc[0])
    step = 20 / 3600
    table = pd.DataFrame(
        [
            (ra, dec, 19.0, 20.5, 18.2),  # the lens's own
            (ra, dec + 5 / 3600, 19.0, 20.5, 18.2),  # its stamp holds the lens
            (ra, dec + step, 19.2, 20.6, 18.4),
            (ra, dec - step, 19.0, 20.5, 18.2),
            (ra, dec + 2 * step, 19.7, 21.2, 18.9),  # too faint
            (ra, dec - 2 * step, 19.0, 19.9, 18.2),  # too blue
            (ra, dec + 3 * step, np.nan, 20.5, 18.2),
            (ra + 1.0, dec, 19.0, 20.5, 18.2),  # another brick
        ],
        columns=["ra", "dec", "mag_r", "mag_g", "mag_z"],
    )
    table["brick"] = bricks.brick_name(table["ra"], table["dec"])
    table["target_id"] = np.arange(len(table))
    made = plan(lens, table, 64)
    assert made.loc[0, "mag_r"] == 19.0
    assert made[made["kind"] == "control"]["name"].tolist() == ["2", "3"]
    assert made.loc[0, "matched"] == 2
    nearest = plan(lens, table, 64, controls=1)
    assert nearest[nearest["kind"] == "control"]["name"].tolist() == ["3"]


def test_planted_lenses_are_found_and_the_gate_says_so(
    sky: tuple[str, str, set[str]], tmp_path: Path
) -> None:
    root, table, with_arc = sky
    planted, elsewhere = _planted(read_catalogues(CATALOGUES))
    lost = planted["brick"].iloc[1]
    broken = Path(Survey(root, "south", BANDS).url("image", lost, "r"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:2000])
    how: dict[str, Any] = {
        "root": root, "targets": table, "absent": ("maskbits", "psfsize"), "fpr": 0.05,
        "console": QUIET,
    }  # fmt: skip
    done = commands.lenses(RingReader(), CATALOGUES, out=str(tmp_path / "out"), deploy=True, **how)
    assert done.exit_code == 0
    broken.write_bytes(whole)
    rows = pd.read_parquet(tmp_path / "out" / "lenses.parquet")
    lenses = rows[rows["kind"] == "lens"]
    assert len(lenses) == len(read_catalogues(CATALOGUES))
    assert (lenses["outcome"] != "").all()
    assert (lenses["reason"] != "").all()
    seen = set(lenses.loc[lenses["outcome"] == "scored", "name"])
    assert seen == set(planted["name"]) - {planted["name"].iloc[1]}
    assert lenses.loc[lenses["brick"] == lost, "reason"].tolist() == ["corrupt_file"]
    gone = lenses[lenses["name"].isin(elsewhere["name"]) & (lenses["outcome"] == "not_scored")]
    assert set(gone["reason"]) == {"missing_file"}
    controls = rows[(rows["kind"] == "control") & (rows["outcome"] == "scored")]
    assert len(controls) > 200
    cut = done.recall.threshold
    found = set(lenses.loc[lenses["score"] > cut, "name"])
    assert found == with_arc & seen
    gate = done.recall.gate
    assert gate.value == len(found) / len(seen)
    assert gate.interval[0] < gate.value < gate.interval[1]
    assert gate.outcome == "pass"  # half of them are asked for
    assert (controls["score"] > cut).mean() == pytest.approx(0.05, abs=0.005)
    by_rate = done.recall.table.set_index(["fpr", "of"])["note"]
    assert "needs at least 10 false positives" in by_rate[1e-4, "lenses"]
    page = (tmp_path / "out" / "lenses.html").read_text()
    assert page.count("data:image/png") == min(len(found), 12) + len(seen - found)
    document = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert document["gates"][0]["name"] == "real_lens_recall"
    _check_measured_gate(str(tmp_path / "out" / "verdict.json"), gate)
    for least, outcome, code in ((0.97, "fail", 1), (0.75, "not_enough", 3), (0.4, "pass", 0)):
        again = recall(rows, 0.05, least)
        assert again.gate.outcome == outcome
        assert exit_code(verdict(again, rows, True, 0.05, ""), (again.gate.name,)) == code


def _check_measured_gate(url: str, gate: Gate) -> None:
    """What dhs evaluate takes from it: the gate of the same weights, rate and limit, or none that decides."""
    assert measured_gate(url, "", 0.05, 0.5) == gate
    for asked, says in (
        (("other", 0.05, 0.5), "other weights"),
        (("", 0.01, 0.5), "at a rate of 0.05 against 0.5"),
        (("", 0.05, 0.9), "asks for 0.9 at 0.05"),
    ):
        found = measured_gate(url, *asked)
        assert found is not None
        assert (found.outcome, found.limit) == ("not_enough", asked[2])
        assert says in found.missing
    path = Path(url)
    assert measured_gate(str(path.with_name("none.json")), "", 0.05, 0.5) is None
    whole = path.read_text()
    for broken in (whole[:200], "[]", "{}", whole.replace("real_lens_recall", "recall")):
        path.write_text(broken)
        with pytest.raises(UserError, match="is damaged; make it again with dhs lenses"):
            measured_gate(url, "", 0.05, 0.5)
    path.write_text(whole)


@pytest.mark.parametrize(
    ("asked", "told", "says"),
    [
        ((), {"counted": ["a", "b"], "left_out": []}, ""),
        (("A", "B"), {"counted": ["a", "b"], "left_out": ["c"]}, ""),
        (("A", "B"), {"counted": ["a"], "left_out": []}, ""),  # the catalogues have no others
        ((), {"counted": ["a"], "left_out": ["b", "c"]}, "without --grades"),
        (("A", "B"), {"counted": ["a"], "left_out": ["b", "c"]}, "again, without --grades"),
        (("A", "B"), {"counted": ["a", "b", "c"], "left_out": []}, "asks for the grades a, b:"),
        (("A",), None, "nobody knows which grades"),
    ],
)
def test_a_gate_decides_only_of_the_grades_that_are_asked_for(
    tmp_path: Path, asked: tuple[str, ...], told: Any, says: str
) -> None:
    place = tmp_path / "verdict.json"
    place.write_text(json.dumps({} if told is None else {"grades": told}))
    gate = Gate("real_lens_recall", 0.8, (0.7, 0.9), 0.5, "pass", "")
    found = of_grades(gate, str(place), asked)
    assert says in found.missing
    assert found.outcome == ("not_enough" if says else "pass")
    place.write_text(json.dumps({"grades": ["a"]}))
    with pytest.raises(UserError, match="is damaged; make it again"):
        of_grades(gate, str(place), asked)


def _rows(lenses: int, bricks_: int, shift: float) -> pd.DataFrame:
    """Scores without pixels: so many lenses, ten times as many galaxies."""
    rng = np.random.default_rng(1)
    n = 11 * lenses
    is_lens = np.arange(n) < lenses
    return pd.DataFrame(
        {
            "kind": np.where(is_lens, "lens", "control"), "outcome": "scored", "grade": "A",
            "reason": "ok",
            "brick": np.array([f"{k % bricks_:04d}p000" for k in range(n)], object),
            "score": rng.normal(size=n) + shift * is_lens,
        }
    )  # fmt: skip


def test_too_few_galaxies_or_bricks_decide_nothing() -> None:
    found = recall(_rows(200, 40, 2.0), 0.01, 0.5)
    assert found.gate.outcome in ("pass", "fail", "not_enough")
    assert np.isfinite(found.gate.value)
    few = recall(_rows(200, 12, 5.0), 0.01, 0.5)
    assert few.gate.outcome == "not_enough"
    assert "20 bricks" in few.gate.missing
    rare = recall(_rows(50, 40, 5.0), 0.01, 0.5)
    assert rare.gate.outcome == "not_enough"
    assert "at least 10 false positives" in rare.gate.missing


def test_real_pixels_without_a_lens_from_the_terminal(real_root: str, tmp_path: Path) -> None:
    """The real brick's galaxies are scored as known non-lenses; published lenses have no pixels here."""
    network = make_network("small", 3, 3, seed=1)
    network.eval()
    folder = tmp_path / "detector"
    scale = Scale((1.3, 1.2, 1.1), (0.1, 0.1, 0.1))
    detector = Detector(network, "small", BANDS, 64, Reading(aux_psf=True), aux_scale=scale)
    digest = save(detector, str(folder))
    (folder / "config.yaml").write_text("deploy: true\n")
    none = str(DATA / "targets-0591m305.csv")
    args = ["lenses", str(folder), *CATALOGUES, "--root", real_root, "--targets", none]
    done = CliRunner().invoke(cli.app, [*args, "--nonlenses", none, "--grades", "A"])
    assert done.exit_code == 3, (
        done.output
    )  # the configuration deploys, and nothing shows the recall
    rows = pd.read_parquet(folder / "lenses" / "lenses.parquet")
    known = rows[rows["kind"] == "nonlens"]
    assert len(known) == len(read_targets(none))
    assert set(known["outcome"]) == {"scored"}
    assert np.isfinite(known["score"]).all()
    said = json.loads((folder / "lenses" / "verdict.json").read_text())
    assert (said["detector"], said["fpr"]) == (digest, 0.01)
    assert said["grades"] == {"counted": ["a"], "left_out": ["b", "c"]}
    assert "grade b, c was left out" in said["sentence"]
    assert set(rows.loc[rows["kind"] == "lens", "reason"]) == {"missing_file", "grade_b", "grade_c"}
    # Without --grades those count that the detector's file names; with an empty one all do.
    (folder / "config.yaml").write_text("deploy: false\ngates: {real_lens_grades: [A, B]}\n")
    for asked, left_out in (((), ["c"]), (("--grades", ""), []), (("--grades", "A"), ["b", "c"])):
        assert CliRunner().invoke(cli.app, [*args, *asked]).exit_code == 0
        said = json.loads((folder / "lenses" / "verdict.json").read_text())
        assert said["grades"]["left_out"] == left_out
    with pytest.raises(UserError, match="no lens of the catalogues is left"):
        raise CliRunner().invoke(cli.app, [*args, "--grades", "Z"]).exception  # type: ignore[misc]


class WidthReader:
    """Remembers what it is given beside the images."""

    bands, size, needs_psf = BANDS, 64, True

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def score(self, images: Any, nodata: Any, target: Any = None, *, psf: Any) -> Any:
        assert len(psf) == len(images)
        self.seen.append(psf)
        return psf.sum(axis=1)


def test_psf_widths_reach_a_detector_that_was_trained_with_them(
    real_root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an experiment would take them: the map's, else the reference band's; no row is scored without."""
    table = str(DATA / "targets-0591m305.csv")
    planned = plan(read_catalogues(CATALOGUES), read_targets(table), 64, read_catalogues([table]))
    planned = planned[planned["kind"] == "nonlens"]
    survey = Survey(real_root, "south", BANDS)
    spy = WidthReader()
    made = score(planned, spy, [survey])
    given = np.concatenate(spy.seen)
    brick = planned["brick"].iloc[0]
    places = (planned[name].to_numpy(float) for name in ("ra", "dec"))
    cut = reader.read_cutouts(survey, str(brick), *places, 64)
    np.testing.assert_array_equal(given, cut.psfsize)
    assert (given > 0.5).all()
    assert len(np.unique(given[0])) == 3

    def patchy(*args: Any) -> Any:
        found = read(*args)
        found.psfsize[1:, 0] = 0
        found.psfsize[0] = 0
        return found

    read = reader.read_cutouts
    monkeypatch.setattr(reader, "read_cutouts", patchy)
    spy = WidthReader()
    again = score(planned, spy, [survey])
    np.testing.assert_array_equal(np.concatenate(spy.seen), cut.psfsize[1:, [1, 1, 2]])
    assert again.table["reason"].tolist()[:2] == ["psf_missing", "ok"]
    assert again.table["outcome"].tolist()[:2] == ["not_scored", "scored"]
    assert set(made.table["outcome"]) == {"scored"}
    absent = Survey(real_root, "south", BANDS, absent=frozenset({"psfsize"}))
    with pytest.raises(UserError, match="the release is said to have no psfsize"):
        score(planned, WidthReader(), [absent])
