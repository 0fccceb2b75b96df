"""The report: one file, complete, safe, the same bytes each time, and there whatever the data hold."""

from __future__ import annotations

import base64
import io
import re
from functools import lru_cache
from html.parser import HTMLParser
from pathlib import Path

import fsspec
import numpy as np
import pytest
import xarray as xr
from audit_pairs import clean, rerendered, spec_of, with_arc

from darkhaloscope import audit, storage
from darkhaloscope.audit import AuditResult, GateLimits
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.report import write_report
from darkhaloscope.report.examples import arc_gain, choose, examples, rgb
from darkhaloscope.report.style import number

pytestmark = pytest.mark.usefixtures("remembered")

ANCHORS = (
    "verdict", "gates", "examples", "columns", "profiles", "annulus", "core", "zero-dose", "closure",
    "residual", "footprint", "core-shape", "growth", "leak-map", "selection", "alignment", "groups",
    "tests", "untested", "words", "provenance",
)  # fmt: skip


class Page(HTMLParser):
    """Tags with their attributes, ids, visible text and images of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "path", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    @property
    def ids(self) -> list[str]:
        return [str(a["id"]) for _, a in self.tags if "id" in a]

    def images(self, alt: str = "") -> list[str]:
        return [str(a["src"]) for t, a in self.tags if t == "img" and alt in str(a["alt"])]


def save(result: AuditResult, ds: xr.Dataset, folder: str) -> None:
    """The folder of a finished audit, as the commands leave it."""
    for name, table in result.tables.items():
        buffer = io.BytesIO()
        table.to_parquet(buffer, index=False)
        storage.write(storage.join(folder, "audit", f"{name}.parquet"), buffer.getvalue())
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **result.examples)
    storage.write(storage.join(folder, "audit", "examples.npz"), buffer.getvalue())
    storage.write(storage.join(folder, "verdict.json"), audit.to_json(result.verdict).encode())
    put = ds.copy()
    put["band"] = put["band"].astype(object)
    put.to_zarr(storage.join(folder, "stamps.zarr"), mode="w", zarr_format=3, consolidated=True)


def draw(result: AuditResult, ds: xr.Dataset, folder: Path) -> Page:
    save(result, ds, str(folder))
    place = write_report(str(folder), str(folder))
    assert place == str(folder / "report.html")
    html = Path(place).read_text()
    assert len(html) < 3e6
    return Page(html)


def audited(ds: xr.Dataset, **changes: object) -> AuditResult:
    """The audit of a data set as a run makes it, also where there is nothing to draw again."""
    spec = spec_of(ds, **changes)
    stats = audit.merge([audit.measure(ds, spec)], spec)
    rows = audit.audit_rows(stats, spec)
    again = rerendered(ds, stats, spec) if len(rows["hash"]) else audit.rerender(rows, spec)
    return audit.conclude(stats, again, audit.quality(ds, "r"), GateLimits(), spec)


@lru_cache(maxsize=1)
def finished() -> AuditResult:
    return audited(clean())


@lru_cache(maxsize=1)
def small() -> xr.Dataset:
    """Forty injections and four controls of five regions."""
    return clean(40, 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished clean audit with a hostile experiment file beside it."""
    place = tmp_path_factory.mktemp("report")
    save(finished(), clean(), str(place))
    (place / "experiment.yaml").write_text(
        "name: '<b onload=x>sly</b>'\nsurvey: {bands: [g, r, z]}\n"
    )
    write_report(str(place), str(place))
    return place


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page((folder / "report.html").read_text())


def test_the_page_is_one_file_without_scripts(page: Page, folder: Path) -> None:
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#")), value
    css = re.search(r"<style>(.*?)</style>", (folder / "report.html").read_text(), re.S)
    assert css is not None
    assert "url(" not in css.group(1)
    assert "@import" not in css.group(1)


def test_every_section_is_there_and_linked(page: Page) -> None:
    assert set(ANCHORS) <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    links = {str(a["href"]).removeprefix("#") for t, a in page.tags if t == "a"}
    assert links == set(ANCHORS) - {"verdict"}


def test_the_verdict_and_every_gate_are_said(page: Page) -> None:
    verdict = finished().verdict
    assert verdict["sentence"] in page.text
    chips = [a["class"] for t, a in page.tags if t == "span" and "chip" in str(a.get("class"))]
    assert sorted(chips) == sorted(f"chip {g['outcome']}" for g in verdict["gates"])
    for gate in verdict["gates"]:
        assert gate["name"] in page.text
    for line in verdict["not_tested"]:
        assert line in page.text


def test_the_quality_table_holds_every_column(page: Page) -> None:
    table = finished().tables["quality"]
    for column in set(table["column"]):
        assert column in page.text
    line = table[
        (table.column == "theta_e") & (table["class"] == "injection") & (table.split == "all")
    ]
    for value in line[["p5", "median", "p95", "mean"]].iloc[0]:
        assert number(value) in page.text


def test_pictures_are_drawings_and_examples_are_pixels(page: Page) -> None:
    drawn = [
        base64.b64decode(uri.split(",")[1]).decode()
        for uri in page.images()
        if uri.startswith("data:image/svg")
    ]
    # 3 profiles, 1 annulus and 1 difference, 2 AUC, excess, curve, 2 doses, 3 closure, 4 residuals, map,
    # 3 core shapes, 3 core slopes, 3 of growth, 3 of the leak map, metadata, 3 of alignment, AUC against dose
    assert len(drawn) == 36
    for svg in drawn:
        assert "<script" not in svg
        assert "dc:date" not in svg
    pixels = [u for u in page.images() if u.startswith("data:image/png")]
    assert len(pixels) == 8 * 3 + 6 * 3  # examples, and the worst
    assert "% of its light is not as re-rendered" in page.text


def test_the_same_audit_gives_the_same_bytes(folder: Path) -> None:
    before = (folder / "report.html").read_bytes()
    write_report(str(folder), str(folder))
    assert (folder / "report.html").read_bytes() == before


def test_hostile_text_is_text(page: Page, tmp_path: Path) -> None:
    assert "<b onload=x>sly</b>" in page.text  # from the experiment file, and no tag
    evil = '<script>alert("x")</script>'
    ds = small().copy()
    ds["brick"] = ("pair", np.full(ds.sizes["pair"], evil, dtype=object))
    ds.attrs["identity"] = evil
    result = audited(small())
    result.verdict["not_tested"].append(evil)
    result.verdict["sentence"] += evil
    result.verdict["causes"].append(
        {"name": evil, "size": None, "interval": [None, None], "evidence": evil}
    )
    result.tables["auc_by_stratum"]["note"] = evil
    hostile = draw(result, ds, tmp_path)
    assert "script" not in {tag for tag, _ in hostile.tags}
    assert hostile.text.count(evil) >= 8


def test_examples_are_spread_and_fixed() -> None:
    ds = clean()
    rows = choose(ds)
    theta = ds["theta_e"].values[rows]
    assert len(set(rows)) == 8
    assert len(set(ds["host_id"].values[rows])) == 8
    assert np.all(np.diff(theta) >= 0)
    quarters = np.quantile(ds["theta_e"].values[ds["lens_model"].values > 0], [0.25, 0.5, 0.75])
    assert np.bincount(np.digitize(theta, quarters), minlength=4).tolist() == [2, 2, 2, 2]
    assert np.array_equal(choose(ds), rows)
    few = ds.isel(pair=[3, 5, 320])  # two injections and a control
    assert sorted(choose(few)) == [0, 1]


def test_colours_keep_flux_ratios_and_bands_their_place() -> None:
    lost = np.zeros((1, 1), dtype=bool)
    # Lupton et al. (2004): the stretch is of the mean, so that ratios of channels are those of fluxes.
    flux = np.array([0.4, 0.9, 2.0])
    scaled = flux * np.array([6.0, 3.4, 2.2]) / 50 + 0.03
    out = rgb(flux[:, None, None] / 50, ("g", "r", "z"), lost)[0, 0]
    assert np.allclose(out / out[1], scaled[::-1] / scaled[1])
    mean = scaled.mean()
    assert out[1] == pytest.approx(scaled[1] / mean * np.arcsinh(20 * mean) / np.sqrt(20))
    # However the bands are listed, the reddest is red; two bands share green; one is grey.
    shuffled = rgb(flux[[2, 0, 1], None, None] / 50, ("z", "g", "r"), lost)[0, 0]
    assert np.allclose(shuffled, out)
    two = rgb(np.array([[[0.01]], [[0.3]]]), ("g", "z"), lost)[0, 0]
    assert two[0] > two[1] > two[2]
    one = rgb(np.array([[[0.1]]]), ("r",), lost)[0, 0]
    assert one[0] == one[1] == one[2]
    bright = rgb(np.full((3, 1, 1), 1e4), ("g", "r", "z"), lost)
    assert bright.max() <= 1.0


def test_a_faint_arc_alone_is_shown_brighter() -> None:
    arc = np.zeros((3, 4, 4))
    arc[:, 1, 2] = 0.01  # 0.01 (6.0 + 3.4 + 2.2) / 3 = 0.0387, 5.17 times below what is seen
    assert arc_gain(arc, ("g", "r", "z")) == 5.0
    assert arc_gain(100 * arc, ("g", "r", "z")) == 1.0
    assert arc_gain(0 * arc, ("g", "r", "z")) == 1.0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (-0.0, "0"), (1234567.0, "1,234,567"), (4398046511104321.0, "4.398×10¹⁵"),
        (0.262, "0.2620"), (-30.4836, "−30.48"), (1.23456e-5, "1.235×10⁻⁵"), (-0.0012345, "−0.001234"),
        (float("nan"), "–"), (None, "–"), (float("inf"), "–"), (99999.96, "100,000"),
    ],
)  # fmt: skip
def test_numbers_read_well(value: float | None, text: str) -> None:
    assert number(value) == text


def test_a_bug_is_said_first(tmp_path: Path) -> None:
    ds = with_arc(clean(), lambda arc: arc * 1.05)
    result = audited(ds)
    page = draw(result, ds, tmp_path)
    assert result.verdict["verdict"] == "bug"
    assert ("section", {"class": "head bug", "id": "verdict"}) in page.tags
    assert result.verdict["causes"][0]["evidence"] in page.text
    assert ("span", {"class": "chip fail"}) in page.tags


def test_a_set_where_every_row_failed(tmp_path: Path) -> None:
    ds = small().copy(deep=True)
    ds["cutout_ok"][:] = False
    ds["reason"][:] = int(Reason.MISSING_FILE)
    for name in ("ctrl", "arc"):
        ds[name][:] = 0
    for name in ("arc_snr", "magnification", "total_injected_flux", "arc_flux_total", "coverage"):
        ds[name][:] = np.nan
    page = draw(audited(ds), ds, tmp_path)
    assert set(ANCHORS) <= set(page.ids)
    assert "missing file" in page.text
    assert "holds no injection with pixels" in page.text
    assert page.images("map of regions")
    assert page.images("rows that are not ok, by reason")


def test_a_set_of_controls_only(tmp_path: Path) -> None:
    ds = small().isel(pair=slice(40, None))
    page = draw(audited(ds), ds, tmp_path)
    assert set(ANCHORS) <= set(page.ids)
    assert "controls, all splits" in page.text
    assert "injections, all splits" not in page.text


def test_a_set_of_one_region(tmp_path: Path) -> None:
    ds = clean(40, 1)
    page = draw(audited(ds), ds, tmp_path)
    assert "No core AUC" in page.text
    assert page.images("mean radial profile")
    assert page.images("flux ratio")


def test_a_set_of_two_bands(tmp_path: Path) -> None:
    ds = small().isel(band=[1, 2])
    ds["nodata"] = ds["nodata"] >> np.uint8(1)
    page = draw(audited(ds, bands=("r", "z")), ds, tmp_path)
    assert "in bands r, z" in page.text
    assert len(page.images("mean radial profile")) == 2
    assert not page.images("band g")


def test_an_example_without_a_band_says_so(tmp_path: Path) -> None:
    ds = small().copy(deep=True)
    ds["coverage"][:, 0] = 0
    ds["arc"][:, 0] = 0
    for name in ("psf_fwhm_used", "total_injected_flux", "arc_flux_total"):
        ds[name][:, 0] = np.nan
    page = draw(audited(ds), ds, tmp_path)
    assert page.text.count("no data in g") == 8 + 6  # the worst ones too


def test_tables_that_are_not_there_leave_a_page(tmp_path: Path) -> None:
    result = finished()
    storage.write(str(tmp_path / "verdict.json"), audit.to_json(result.verdict).encode())
    page = Page(Path(write_report(str(tmp_path), str(tmp_path))).read_text())
    assert set(ANCHORS) <= set(page.ids)
    assert "holds no Zarr data set" in page.text
    assert not page.images()


def test_the_scale_bar_is_five_arcsec(page: Page) -> None:
    bars = [a["style"] for t, a in page.tags if t == "i"]
    assert set(bars) == {f"width:{100 * 5 / (PIXEL_SCALE * 48):.2f}%"}


def test_a_set_of_others_shows_what_the_audit_kept(tmp_path: Path) -> None:
    place = str(tmp_path / "audit")
    save(finished(), small(), place)
    page = Page(Path(write_report(str(tmp_path / "theirs.npz"), place)).read_text())
    assert "8 of the audited rows, from small to large Einstein radius: ctrl" in page.text
    assert len([u for u in page.images() if u.startswith("data:image/png")]) == 42
    kept = {**finished().examples, "paired": np.array(False)}
    kept["kind"] = np.full(len(kept["kind"]), "spread")
    shown = examples(str(tmp_path / "theirs.npz"), kept)
    assert {label for e in shown.pairs for label, _ in e.panels} == {"no lens", "lens"}
    storage.write(storage.join(place, "audit", "examples.npz"), b"PK no archive")
    with pytest.raises(UserError, match=r"examples\.npz is no \.npz file"):
        write_report(str(tmp_path / "theirs.npz"), place)


def test_folders_behind_a_url() -> None:
    url = "memory://report-test/run"
    save(audited(small()), small(), url)
    place = write_report(url, url)
    assert place == f"{url}/report.html"
    html = fsspec.filesystem("memory").cat_file("/report-test/run/report.html").decode()
    assert html.count("data:image/png") == 42


def test_a_missing_or_damaged_verdict_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no verdict\.json") as error:
        write_report(str(tmp_path), str(tmp_path))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()
    for damaged in ("{", "[]", '{"schema": 99}'):
        (tmp_path / "verdict.json").write_text(damaged)
        with pytest.raises(UserError, match="audit the data set again"):
            write_report(str(tmp_path), str(tmp_path))
    (tmp_path / "verdict.json").write_text(audit.to_json(finished().verdict))
    (tmp_path / "audit").mkdir()
    (tmp_path / "audit" / "profiles.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(UserError, match=r"profiles\.parquet is no Parquet file"):
        write_report(str(tmp_path), str(tmp_path))
