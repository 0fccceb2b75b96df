"""The experiment file: every mistake is one sentence, and the identity follows pixels and rows only."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import yaml

from darkhaloscope.audit import GATES, REQUIRED, GateLimits
from darkhaloscope.config import Experiment, digest_of, load_experiment, parse_experiment
from darkhaloscope.config.physics import LATER_KEYS, LensSection, SourceSection
from darkhaloscope.config.sections import GateName, GatesSection, StoreSection
from darkhaloscope.draw import Draw
from darkhaloscope.errors import UserError
from darkhaloscope.plan import Plan
from darkhaloscope.survey import read_targets
from darkhaloscope.variables import default_bad_bits

MINIMAL: dict[str, Any] = {
    "survey": {"root": "/data/dr9"},
    "targets": {"path": "/data/targets.csv"},
    "lens": {"theta_e": 1.2},
}


def document(changes: dict[str, Any]) -> dict[str, Any]:
    """The minimal experiment with some dotted keys set; a value of ``...`` removes the key."""
    made = copy.deepcopy(MINIMAL)
    for dotted, value in changes.items():
        *sections, key = dotted.split(".")
        place = made
        for section in sections:
            place = place.setdefault(section, {})
        if value is ...:
            del place[key]
        else:
            place[key] = value
    return made


def experiment(**changes: Any) -> Experiment:
    return parse_experiment(
        document({key.replace("__", "."): value for key, value in changes.items()})
    )


def refusal(changes: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        parse_experiment(document(changes))
    return str(caught.value)


# --- mistakes in the keys -------------------------------------------------------------------------

MISTAKES: list[tuple[dict[str, Any], list[str]]] = [
    # Missing keys.
    ({"lens": ...}, ["lens is missing"]),
    ({"lens.theta_e": ...}, ["lens.theta_e is missing"]),
    ({"survey.root": ...}, ["survey.root is missing"]),
    ({"targets.path": ...}, ["targets", "neither path nor positions"]),
    # Unknown keys, with the nearest known one or all of them.
    ({"lens.thetae": 1.0}, ["lens.thetae is not a key", "did you mean theta_e?"]),
    ({"sorce": {}}, ["sorce is not a key", "did you mean source?"]),
    ({"fix.core_mask.radius": 5}, ["fix.core_mask.radius", "did you mean radius_px?"]),
    # What is done on read is no fix, and no misspelt one.
    (
        {"fix.input_mask.radius_px": 5},
        ["fix.input_mask is not", "view.input_mask", "docs/views.md"],
    ),
    ({"fix.normalize": True}, ["fix.normalize is not", "view.normalize", "docs/views.md"]),
    ({"fix.arc_snr_min": 5}, ["fix.arc_snr_min is not", "views.arc_snr_at_least (docs/views.md)"]),
    (
        {"fix.core_mask": {"radius_px": 5, "radius_arcsec": 1.3}},
        ["fix.core_mask", "radius_px and radius_arcsec are both given; leave one out"],
    ),
    (
        {"fix.core_mask": {"shape": "box", "taper_px": 1}},
        ["fix.core_mask", "taper_px is given but shape is box", "take taper_px out"],
    ),
    (
        {"fix.src_reff_max": 0.3, "source.model": "point"},
        ["fix.src_reff_max", "point, which has no size", "take it out"],
    ),
    ({"targets.splits.trian": 0.7}, ["targets.splits.trian", "did you mean train?"]),
    ({"stamp.zzzzzz": 1}, ["stamp.zzzzzz is not a key", "known keys: size"]),
    # Wrong units.
    ({"lens.theta_e": "0.8 mag"}, ["lens.theta_e", "in mag", "arcsec"]),
    ({"lens.q": "0.5 arcsec"}, ["lens.q", "arcsec", "plain numbers"]),
    ({"source.dmag": "1 arcsec"}, ["source.dmag", "mag"]),
    ({"lens.theta_e": "1 parsnip"}, ["lens.theta_e", "'1 parsnip' is not a number"]),
    # Out of range: constants, and everything that a distribution could give.
    ({"lens.theta_e": -1}, ["lens.theta_e", "-1 is outside", "0.01 to 10 arcsec"]),
    ({"lens.theta_e": "20000 mas"}, ["lens.theta_e", "20 is outside"]),
    ({"lens.theta_e": [1, 2, 30]}, ["lens.theta_e", "30 is outside"]),
    ({"lens.q": {"uniform": [0.5, 1.5]}}, ["lens.q", "1.5 is outside"]),
    ({"source.n": {"normal": [2, 1, 0.1, 4]}}, ["source.n", "0.1 is outside"]),
    ({"source.mag": 50}, ["source.mag", "50 is outside"]),
    ({"source.colour.g": 9}, ["source.colour.g", "9 is outside"]),
    ({"lens.theta_e": float("nan")}, ["lens.theta_e", "not a finite number"]),
    ({"lens.theta_e": 10**400}, ["lens.theta_e", "not a finite number"]),
    ({"gates.closure_flux": float("inf")}, ["gates.closure_flux", "finite number"]),
    ({"audit.theta_e_edges": [1, float("nan")]}, ["audit.theta_e_edges", "finite number"]),
    ({"lens.theta_e": True}, ["lens.theta_e", "True is not a number"]),
    ({"stamp.size": 8}, ["stamp.size is 8", "16"]),
    ({"stamp.size": "64 px"}, ["stamp.size is '64 px'"]),
    ({"plan.control_fraction": 1.5}, ["plan.control_fraction is 1.5"]),
    ({"plan.repeats": 0}, ["plan.repeats is 0"]),
    ({"seed": -1}, ["seed is -1"]),
    ({"psf.beta": 1.05}, ["psf.beta is 1.05"]),
    ({"psf.model": "airy"}, ["psf.model is 'airy'", "moffat"]),
    ({"render.supersample": 5}, ["render.supersample is 5"]),
    ({"store.block": 100}, ["store.block", "100", "power of two"]),
    ({"store.block": "big"}, ["store.block", "'big'", "power of two"]),
    ({"store.block": 2**40}, ["store.block", "power of two from 64 to 65536"]),
    ({"max_failed_fraction": 2}, ["max_failed_fraction is 2"]),
    ({"name": "a b"}, ["name is 'a b'"]),
    # Distributions.
    ({"lens.theta_e": {"unifrom": [1, 2]}}, ["lens.theta_e", "no distribution", "uniform"]),
    ({"lens.theta_e": {"uniform": [1, 2, 3]}}, ["uniform takes 2 numbers, not 3"]),
    ({"lens.theta_e": {"uniform": [2, 1]}}, ["must rise"]),
    ({"lens.dx": {"log_uniform": [0, 1]}}, ["log_uniform", "above 0"]),
    ({"lens.theta_e": {"normal": [1, 0, 0.5, 2]}}, ["width above 0"]),
    ({"lens.theta_e": {"normal": [1, 0.01, 5, 6]}}, ["next to nothing"]),
    ({"lens.theta_e": []}, ["grid needs a list of numbers"]),
    # Sections that do not fit together.
    ({"lens": 5}, ["lens is 5", "section"]),
    ({"plan": None}, ["plan is None", "section"]),
    ({"lens.model": "SIS", "lens.q": 0.7}, ["lens", "SIS", "round", "SIE"]),
    ({"lens.model": "SIE", "lens.slope": 2.2}, ["lens", "slope is given", "model is SIE", "EPL"]),
    ({"lens.model": "EPL", "lens.slope": 2.8}, ["lens.slope", "2.8", "1.4 to 2.6"]),
    ({"lens.model": "NFW"}, ["lens.model", "'NFW' is none of SIS, SIE, EPL"]),
    ({"lens.model": ["SIE", "SIE"]}, ["lens.model", "is no choice"]),
    ({"lens.model": []}, ["lens.model", "is no choice"]),
    ({"lens.model": 3}, ["lens.model", "3 is no choice"]),
    ({"lens.model": {"SIE": 1, "EPL": 0}}, ["lens.model", "weights", "above 0"]),
    ({"source.model": {"sersic": "many"}}, ["source.model", "'many' is not a number"]),
    ({"source.model": "disk"}, ["source.model", "'disk' is none of sersic, point, bulge_disc"]),
    (
        {"source.model": "point", "source.n": 2},
        ["source", "n is given", "model is point", "sersic"],
    ),
    ({"source.model": "image"}, ["source", "no catalogue is given"]),
    ({"source.catalogue": "c.fits"}, ["source", "catalogue is given", "model is sersic", "image"]),
    (
        {"source.model": "image", "source.catalogue": "c.fits", "source.image_mag": [23, 22]},
        ["source", "image_mag [23.0, 22.0] must rise"],
    ),
    (
        {"source.model": "image", "source.catalogue": "c.fits", "source.image_scale": 20},
        ["source.image_scale", "20", "0.1 to 10"],
    ),
    ({"source.bulge_n": 2}, ["source", "bulge_n is given", "model is sersic", "bulge_disc"]),
    (
        {"source.model": "bulge_disc", "source.bulge_fraction": 1.2},
        ["source.bulge_fraction", "1.2", "0 to 1"],
    ),
    ({"survey.bands": []}, ["survey", "bands is empty"]),
    ({"survey.bands": ["g", "g"]}, ["survey", "names a band twice"]),
    ({"survey.bands": ["g", "y"]}, ["survey.bands.1 is 'y'"]),
    ({"survey.reference_band": "i"}, ["reference_band i", "not among the bands"]),
    ({"read": {"mode": "ranges", "checksums": True}}, ["read", "whole files", "checksums"]),
    ({"source.colour.r": 0.3}, ["source.colour.r is not 0", "reference band"]),
    ({"source.colour.y": 0.3}, ["source.colour.y is 'y'"]),
    ({"targets.splits": {"train": 0.5}}, ["targets.splits", "0.8", "add up to 1"]),
    ({"targets.positions": [[400, 0]]}, ["targets", "(400, 0) is not on the sky"]),
    ({"targets.region": "tile"}, ["targets.region is 'tile'"]),
    ({"audit.theta_e_edges": [2, 1]}, ["audit", "must rise"]),
]


PASSWORD = "s3cr/et"
ADDRESSES = (
    "survey.root", "survey.bricks_table", "targets.path", "plan.joint", "source.catalogue",
)  # fmt: skip


@pytest.mark.parametrize("key", ADDRESSES)
@pytest.mark.parametrize("scheme", ["https", "s3"])
def test_a_password_in_an_address_is_refused_and_not_repeated(key: str, scheme: str) -> None:
    text = refusal({key: f"{scheme}://user:{PASSWORD}@host:8000/dr9"})
    assert f"{key}: the address holds a password" in text
    assert "docs/reading.md" in text
    assert PASSWORD not in text


@pytest.mark.parametrize(
    "root", ["sftp://user@host/dr9", "http://host:8000/a@b", "/data/a:b@c", "s3://bucket/a:b@c"]
)
def test_an_address_without_a_password_is_taken(root: str) -> None:
    assert parse_experiment(document({"survey.root": root})).survey.root == root


@pytest.mark.parametrize(("changes", "says"), MISTAKES, ids=[str(m[0])[:50] for m in MISTAKES])
def test_a_mistake_is_one_sentence(changes: dict[str, Any], says: list[str]) -> None:
    text = refusal(changes)
    for part in says:
        assert part in text
    assert "\n" not in text
    assert "more mistake" not in text  # One mistake is told once.


def test_several_mistakes_are_counted() -> None:
    text = refusal({"stamp.size": 8, "plan.repeats": 0, "seed": -1})
    assert text.endswith("(and 2 more mistakes)")


@pytest.mark.parametrize(
    "changes",
    [
        {"lens.model": "SIS"},
        {"lens.model": "SIS", "lens.q": 1.0},
        {"lens.model": ["SIS", "SIE"], "lens.q": 0.7},
        {"lens.model": {"SIE": 3, "EPL": 1}, "lens.slope": 2.2},
        {"source.model": ["point", "sersic"], "source.n": 2},
        {"store.block": 64},
        {"store.block": 4096},
        {"survey.bands": ["z", "g"], "source.colour.g": 0.5},
        {"survey.hemisphere": None},
        {"source.mag": None},
        {"targets.path": ..., "targets.positions": [[0.0, -90.0], [359.9, 90.0]]},
    ],
)
def test_what_is_allowed_is_accepted(changes: dict[str, Any]) -> None:
    parse_experiment(document(changes))


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"# only a comment\n", "is empty"),
        (b"- a\n- b\n", "no mapping"),
        (b"just words\n", "no mapping"),
        (b"lens: {theta_e: 1\nsurvey: x\n", "not valid YAML at line"),
        (b"lens: [1, 2\n", "not valid YAML at line"),
        (b"name: 2020-13-45\n", "not valid YAML"),
        (b"name: a\x00b\n", "not valid YAML"),
        (b"SIMPLE  =\xff\xfe\x80\x00 binary", "not a text file"),
    ],
)
def test_a_file_that_is_no_experiment(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_experiment(str(path))
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("{tmp}/nothing.yaml", "no experiment file"),
        ("{tmp}", "cannot read"),
        ("{tmp}/a-file/x.yaml", "cannot read"),
        ("gopher://host/x.yaml", "no address that can be opened"),
        ("http://127.0.0.1:9/x.yaml", "cannot read"),  # the discard port: nobody listens
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, url: str, says: str) -> None:
    (tmp_path / "a-file").write_bytes(b"")
    with pytest.raises(UserError, match=says):
        load_experiment(url.format(tmp=tmp_path))


def written(folder: Path, content: dict[str, Any]) -> str:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_relative_paths_are_taken_from_the_files_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "work").mkdir()
    content = document(
        {"survey.root": "../dr9", "targets.path": "lrg.csv", "plan.joint": "s3://bucket/j.csv"}
    )
    url = written(tmp_path / "work", content)
    monkeypatch.chdir(tmp_path / "elsewhere")
    made = load_experiment(url)
    assert made.survey.root == str(tmp_path / "dr9")
    assert made.targets.path == str(tmp_path / "work" / "lrg.csv")
    assert made.plan.joint == "s3://bucket/j.csv"


def test_relative_paths_of_a_file_behind_a_url() -> None:
    import fsspec

    with fsspec.open("memory://bucket/exp/e.yaml", "wb") as stream:
        stream.write(yaml.safe_dump(document({"survey.root": "dr9"})).encode())
    made = load_experiment("memory://bucket/exp/e.yaml")
    assert made.survey.root == "memory://bucket/exp/dr9"
    assert made.targets.path == "/data/targets.csv"


def test_overrides_replace_and_are_checked(tmp_path: Path) -> None:
    url = written(tmp_path, MINIMAL)
    made = load_experiment(url, {"survey.root": "s3://bucket/dr9", "psf.model": "gaussian"})
    assert (made.survey.root, made.psf.model) == ("s3://bucket/dr9", "gaussian")
    assert made.lens.theta_e == Draw.constant(1.2)
    with pytest.raises(UserError, match="did you mean size"):
        load_experiment(url, {"stamp.sizes": 96})
    with pytest.raises(UserError, match="no section"):
        load_experiment(url, {"survey.root.x": 1})


def test_a_yaml_round_trip_changes_nothing() -> None:
    made = experiment(
        lens__theta_e={"normal": [1.2, 0.3, 0.5, 2.5]},
        lens__q=[0.6, 0.8, 1.0],
        lens__pa={"cycle": [0, "1 rad"]},
        source__reff={"log_uniform": [0.1, 0.5]},
        source__colour={"g": {"uniform": [0.1, 0.9]}, "z": -0.2},
        source__mag=22,
        fix__core_mask={"radius_px": 4.5, "taper_px": 1.0},
        store__block=256,
        survey__bad_bits=["BRIGHT"],
        targets__positions=[[10.0, -5.0]],
    )
    again = parse_experiment(yaml.safe_load(made.to_yaml()))
    assert again == made
    assert again.identity({}) == made.identity({})


# --- units ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "given", "number"),
    [
        ("lens.theta_e", "800 mas", 0.8),
        ("lens.theta_e", "0.8 arcsec", 0.8),
        ("lens.theta_e", "0.8", 0.8),
        ("lens.theta_e", "1e-1", 0.1),  # YAML reads this as text
        ("lens.pa", "1.5707963267948966 rad", 90.0),
        ("lens.dx", "-0.01 arcmin", -0.6),
        ("source.dmag", "1500 mmag", 1.5),
        ("lens.q", "80 %", 0.8),
    ],
)
def test_units_are_converted(key: str, given: str, number: float) -> None:
    made = parse_experiment(document({key: given}))
    section, name = key.split(".")
    draw = getattr(getattr(made, section), name)
    assert draw.kind == "constant"
    assert draw.values == pytest.approx((number,), rel=1e-12)


def test_units_inside_lists() -> None:
    made = experiment(lens__theta_e={"uniform": ["500 mas", "2 arcsec"]})
    assert made.lens.theta_e == Draw("uniform", (0.5, 2.0))


@pytest.mark.parametrize(
    ("bands", "reference"),
    [("grz", "r"), ("gz", "z"), ("ig", "g"), ("i", "i"), ("zi", "z"), ("girz", "r")],
)
def test_reference_band_is_r_else_the_first_of_z_g_i(bands: str, reference: str) -> None:
    assert experiment(survey__bands=list(bands)).survey.reference == reference


# --- identity -------------------------------------------------------------------------------------


def test_a_digest_is_that_of_canonical_json() -> None:
    """Pinned: data sets, arms and detectors that are kept are found again by it."""
    text = r'{"a":{"x":1e-05,"\u00fc":"\u00e9"},"b":[1,2.5,null,true],"c":1.0}'
    made = digest_of({"c": 1.0, "b": [1, 2.5, None, True], "a": {"ü": "é", "x": 1e-05}})
    assert made == hashlib.sha256(text.encode()).hexdigest()
    assert made == "233469ff0c578d781dac2064702837cef83748c3545fb72bd83ab9222f2c7f70"
    whole = experiment()
    assert whole.identity({"targets": "a"}) == digest_of(whole.identity_document({"targets": "a"}))
    assert whole.identity({"targets": "a"}) == (
        "c577357c39a2de754b3b69fa2a6a6ca20b434ca1fd49599b1d73d18ac5aa3d4a"
    )
    with pytest.raises(ValueError, match="JSON"):
        digest_of({"a": float("inf")})


IMAGES = {"source.model": "image", "source.catalogue": "c.fits"}

DECIDES: list[dict[str, Any]] = [
    {"seed": 2},
    {"survey.bands": ["g", "r"]},
    {"survey.reference_band": "g"},
    {"survey.absent": ["psfsize"]},
    {"survey.bad_bits": ["BRIGHT"]},
    {"survey.hemisphere": "north"},
    {"targets.splits": {"train": 0.8, "val": 0.1, "test": 0.1}},
    {"stamp.size": 96},
    {"plan.repeats": 2},
    {"plan.control_fraction": 0.4},
    {"lens.model": "SIS"},
    {"lens.model": "EPL"},
    {"lens.model": ["SIE", "EPL"]},
    {"lens.model": {"SIE": 2, "EPL": 1}},
    {"lens.model": "EPL", "lens.slope": 2.2},
    {"source.model": "point"},
    {"source.model": "bulge_disc"},
    {"source.model": "bulge_disc", "source.bulge_fraction": 0.4},
    {"source.model": "bulge_disc", "source.bulge_reff": 0.2},
    {"source.model": "bulge_disc", "source.bulge_n": 3},
    {"source.model": "bulge_disc", "source.bulge_q": 0.5},
    IMAGES,
    {**IMAGES, "source.image_mag": [21, 22]},
    {**IMAGES, "source.image_reff": [0.2, 0.4]},
    {**IMAGES, "source.image_scale": 1.1},
    {**IMAGES, "source.rotation": 20},
    {**IMAGES, "source.deconvolved": True},
    {"lens.theta_e": 1.3},
    {"lens.theta_e": {"uniform": [1, 2]}},
    {"lens.q": 0.9},
    {"lens.pa": 3},
    {"lens.shear": 0.05},
    {"lens.shear_pa": 3},
    {"lens.dx": 0.1},
    {"lens.dy": 0.1},
    {"source.dmag": 2},
    {"source.mag": 22},
    {"source.colour": {"g": 0.4}},
    {"source.reff": 0.3},
    {"source.n": 2},
    {"source.q": 0.9},
    {"source.pa": 5},
    {"source.dx": 0.1},
    {"source.dy": 0.1},
    {"psf.model": "gaussian"},
    {"psf.beta": 3.0},
    {"psf.width": "fwhm"},
    {"psf.pixel": "integrate"},
    {"render.supersample": 8},
    {"fix.core_mask": {"radius_px": 5}},
    {"fix.core_mask": {"radius_px": 5, "taper_px": 1}},
    {"fix.core_mask": {"radius_px": 5, "centre": "pixel_32"}},
    {"fix.core_mask": {"shape": "box"}},
    {"fix.src_reff_max": 0.3},
    {"fix.theta_e_min": 0.5},
    {"fix.min_theta_e_over_psf": 0.6},
    {"fix.core_matched_negatives": True},
    {"store.block": 128},
    {"store.precision": "exact"},
    {"store.invvar": True},
]


def test_every_later_key_decides() -> None:
    changed = {key for change in DECIDES for key in change}
    assert {f"{s}.{key}" for s, keys in LATER_KEYS.items() for key in keys} <= changed


def test_what_decides_pixels_or_rows_decides_the_identity() -> None:
    made = [parse_experiment(document(change)).identity({}) for change in [{}, *DECIDES]]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"survey.root": "s3://bucket/dr9"},
        {"survey.layout": "flat"},
        {"survey.bricks_table": "b.fits"},
        {"targets.path": "/elsewhere/t.parquet"},
        {"audit.cap": 500},
        {"audit.theta_e_edges": [1.0]},
        {"gates.core_auc": 0.65},
        {"gates.closure_flux": 0.02},
        {"cluster.workers": 2},
        {"cluster.address": "tcp://host:8786"},
        {"max_failed_fraction": 0.5},
        # The same thing said otherwise.
        {"lens.theta_e": "1200 mas"},
        {"survey.reference_band": "r"},
        {"survey.bad_bits": list(default_bad_bits(("g", "r", "z")))},
        {"lens.q": 1},
        {"psf": {"model": "moffat", "beta": 3.5}},
    ],
)
def test_what_decides_neither_leaves_the_identity(change: dict[str, Any]) -> None:
    assert parse_experiment(document(change)).identity({}) == experiment().identity({})


def test_keys_that_came_later_leave_the_identity_of_older_experiments() -> None:
    """At their defaults they are not in the document, so that a data set from before them resumes."""
    plain = experiment().identity_document({})
    assert {"slope"} == LensSection.model_fields.keys() - plain["lens"].keys()
    assert {*LATER_KEYS["source"], "catalogue"} == SourceSection.model_fields.keys() - plain[
        "source"
    ].keys()
    assert plain["lens"]["model"] == "SIE"
    assert plain["source"]["model"] == "sersic"
    assert {"invvar"} == StoreSection.model_fields.keys() - plain["store"].keys()
    assert experiment().kinds == ()
    changed = parse_experiment(document({"lens.model": ["SIE", "EPL"], "lens.slope": 2.1}))
    assert changed.identity_document({})["lens"]["slope"] == 2.1
    assert changed.kinds == ("EPL",)


def test_the_contents_of_the_tables_enter_the_identity() -> None:
    made = experiment()
    several = [{}, {"targets": "a"}, {"targets": "b"}, {"targets": "a", "joint": "a"}]
    assert len({made.identity(contents) for contents in several}) == len(several)


def test_csv_and_parquet_of_the_same_targets_are_one_identity(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)  # full doubles: every digit has to survive the CSV
    count = 200
    table = pd.DataFrame(
        {
            "ra": rng.uniform(59.0, 59.2, count),
            "dec": rng.uniform(-30.6, -30.4, count),
            "objid": rng.permutation(count),
            "mag_r": np.where(rng.random(count) < 0.1, np.nan, rng.uniform(17, 22, count)),
            "mag_z": rng.uniform(16, 21, count),
        }
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    table.to_parquet(tmp_path / "t.parquet")
    made = experiment(source__mag=22)
    digests = {
        made.identity(Plan(made, read_targets(str(tmp_path / name))).contents)
        for name in ("t.csv", "t.parquet")
    }
    assert len(digests) == 1
    table.loc[0, "mag_z"] = 17.6
    table.to_csv(tmp_path / "t.csv", index=False)
    changed = made.identity(Plan(made, read_targets(str(tmp_path / "t.csv"))).contents)
    assert changed not in digests


def test_every_key_is_known_to_decide_or_not() -> None:
    """A new key has to be placed: in the identity, or in the list of what may change.

    Later keys enter it where they are not at their defaults: see ``DECIDES``.
    """
    may_change = {
        "name", "after", "survey.root", "survey.layout", "survey.bricks_table", "targets.path",
        "targets.positions", "plan.joint", "source.catalogue", "max_failed_fraction",
    }  # fmt: skip
    may_change |= {f"{section}.{key}" for section, keys in LATER_KEYS.items() for key in keys}
    document_keys = experiment().identity_document({})
    for section, model in Experiment.model_fields.items():
        inner = getattr(model.annotation, "model_fields", None)
        for key in [section] if inner is None else [f"{section}.{name}" for name in inner]:
            top = key.split(".")[0]
            if key in may_change or top in ("audit", "gates", "cluster", "read"):
                continue
            place = document_keys
            for part in key.split("."):
                assert part in place, f"{key} is neither in the identity nor known to be free"
                place = place[part]


def test_a_key_that_stands_twice_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("seed: 1\nlens:\n  theta_e: 1\n  theta_e: 2\n")
    with pytest.raises(UserError, match="line 4: the key theta_e stands twice"):
        load_experiment(str(tmp_path / "e.yaml"))


def test_the_gates_that_can_be_required_are_those_that_are_reported() -> None:
    assert set(get_args(GateName)) == set(GATES)
    assert experiment().gates.required == REQUIRED == GateLimits().required
    shared = {f.name for f in fields(GateLimits)} & set(GatesSection.model_fields)
    assert {name: getattr(GateLimits(), name) for name in shared} == {
        name: getattr(experiment().gates, name) for name in shared
    }
