"""What the page says in words: what was measured, where a set comes from, and nothing that it cannot know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from audit_pairs import clean, spec_of
from test_report import Page, save

from darkhaloscope import audit, commands, storage
from darkhaloscope.audit import GateLimits
from darkhaloscope.audit.causes import per_band
from darkhaloscope.audit.examples import plain
from darkhaloscope.audit.intervals import Estimate
from darkhaloscope.audit.spec import REDRAW
from darkhaloscope.report import captions, facts, write_report
from darkhaloscope.report.load import COLUMNS, Findings, load
from darkhaloscope.report.style import estimate, number

pytestmark = pytest.mark.usefixtures("remembered")

NOTHING_SAID = (
    *REDRAW, "arc_snr", "magnification", "brick", "slot", "region_id", "region_split", "ra", "dec",
    "host_mag", "psf_source", "src_dmag",
)  # fmt: skip
"""What a set of two stacks and nothing else lacks, of what the page would show."""


def page_of(folder: Path, ds: xr.Dataset, **changes: Any) -> tuple[Page, Findings]:
    """The page of a set of others, and what it is made of."""
    spec = spec_of(ds, **changes)
    stats = audit.merge([audit.measure(ds, spec)], spec)
    again = audit.undrawn(audit.audit_rows(stats, spec), spec)
    result = audit.conclude(stats, again, audit.quality(ds, "r"), GateLimits(), spec)
    result.verdict.update(source="s3://bucket/theirs.npz", mapping=None)
    save(result, ds, str(folder))
    storage.write(str(folder / "audit" / "made.json"), b'{"finished": "a day", "version": "9"}')
    html = Path(write_report(str(folder / "theirs.npz"), str(folder))).read_text()
    return Page(html), load(str(folder / "theirs.npz"), str(folder))


def unsaid(ds: xr.Dataset) -> xr.Dataset:
    """Injections with the stand-ins that an audit of two stacks puts for positions and splits."""
    ds = ds.isel(pair=ds["lens_model"].values > 0).copy(deep=True)
    ds["region_split"][:] = 0
    ds["ra"][:] = ds["dec"][:] = np.nan
    return ds


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Findings]:
    return page_of(tmp_path_factory.mktemp("stacks"), unsaid(clean(60, 30)), lacks=NOTHING_SAID)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, Findings]:
    ds = unsaid(clean(60, 30))
    return page_of(tmp_path_factory.mktemp("classes"), ds, lacks=NOTHING_SAID, paired=False)


def test_the_page_says_how_peaks_go_and_not_how_they_should() -> None:
    theta = np.linspace(0.5, 2.0, 40)
    peaks = theta / 0.262
    pairs = pd.DataFrame(
        {"theta_e": theta, "band": "r", "peak_radius": peaks, "peak_radius_rerendered": peaks}
    )
    mixed = pairs.assign(peak_radius=np.random.default_rng(0).permutation(peaks))
    quadrants = pd.DataFrame(
        {
            "quadrant": ["NE", "SW"],
            "value": [0.3, 0.2],
            "lo": 0.1,
            "hi": 0.4,
            "rerendered": [0.25, 0.26],
        }
    )
    gates = [{"name": "arc_localisation", "value": 0.4, "limit": 0.05}]
    nothing = {name: pd.DataFrame(columns=columns) for name, columns in COLUMNS.items()}
    bands = pd.DataFrame({"band": ["r"]})

    def said(pairs: pd.DataFrame) -> str:
        tables = {**nothing, "psf_sources": bands, "closure_pairs": pairs, "quadrants": quadrants}
        return captions.alignment(Findings({"gates": gates}, tables, "", {}, {}))

    seen = captions.rank_correlation(mixed["theta_e"], mixed["peak_radius"])
    assert abs(seen) < 0.4
    assert "correlation of 1 with θ_E in r (re-rendered 1)." in said(pairs)
    assert f"correlation of {number(seen, 2)} with θ_E in r (re-rendered 1)." in said(mixed)
    assert "by 0.060 at most" in said(mixed)
    assert "40 % of the arcs lie elsewhere than re-rendered." in said(mixed)
    gates[0]["by_noise"] = 0.425
    assert "than re-rendered; noise alone puts 42.5 % elsewhere." in said(mixed)
    assert "follow the Einstein radius" not in said(mixed)
    assert "peaks" not in said(pairs.head(0))


def test_a_rank_correlation_is_spearmans() -> None:
    a, b = pd.Series([1.0, 2.0, 3.0, 4.0]), pd.Series([1.0, 8.0, 9.0, 100.0])
    assert captions.rank_correlation(a, b) == pytest.approx(1.0)
    assert captions.rank_correlation(a, -b) == pytest.approx(-1.0)
    assert np.isnan(captions.rank_correlation(a, b * 0))


def test_what_two_stacks_do_not_say_is_not_on_their_page(stacks: tuple[Page, Findings]) -> None:
    page, found = stacks
    for untrue in (
        "too few regions for an interval", "train", "none: the band has no pixels", "–″", "μ –",
        "S/N –", "Einstein radius:", "re-rendered arc in the band", "brick row", "Grey circles",
        "if ctrl plus", "measured minus re-rendered (",
    ):  # fmt: skip
        assert untrue not in page.text.split("How to read this page")[0], untrue
    assert "no arc could be drawn again to compare it with" in page.text
    assert "with most light far out, stamp and arc" in page.text
    assert "picked at random" in page.text
    assert not page.images("map of regions")
    assert not page.images("difference between observed and re-rendered AUC")
    assert page.images("core AUC against dose")
    assert not {"closure", "residual", "zero-dose", "groups", "growth"} & set(page.ids)
    assert "rows60" in page.text.replace("\n", "")
    assert "regions60" not in page.text.replace("\n", "")
    lines = found.verdict["not_tested"]
    assert "pixels of controls: 0 controls and 60 injections, 30 of each needed" in lines


def test_two_classes_are_counted_as_such_and_nothing_of_pairs_is_said(
    classes: tuple[Page, Findings],
) -> None:
    page, found = classes
    assert not found.paired
    assert found["dose"].empty
    assert not page.images("dose")
    text = page.text.replace("\n", "")
    assert "lens images60non-lens images0failed0audited of each class60" in text
    for untrue in (
        "within pair",
        "controls0",
        "injections, all splits",
        "injections0",
        "with pixels to average",
        "stamp = ctrl + arc",
    ):
        assert untrue not in text.split("How to read this page")[0], untrue
    pairs = {"profiles", "annulus", "core-shape", "growth", "alignment", "groups", "closure"}
    assert not pairs & set(page.ids)
    assert {str(a["href"])[1:] for t, a in page.tags if t == "a"} <= set(page.ids)


def test_where_a_set_comes_from_is_on_its_page(stacks: tuple[Page, Findings]) -> None:
    page, _ = stacks
    text = page.text.replace("\n", "")
    assert "audit of theirs.npz" in text
    assert (
        "sources3://bucket/theirs.npzmappingown namesrows60auditeda day by darkhaloscope 9" in text
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/data/a b/x?.npz", "/data/a b/x?.npz"),
        ("s3://bucket/runs/a", "s3://bucket/runs/a"),
        ("https://me:secret@host:8/a/b.npz?X-Amz-Signature=1#c", "https://host:8/a/b.npz"),
        ("s3://key:sec/ret@bucket/a", "s3://bucket/a"),
        ("s3://:sec/ret@bucket/a", "s3://bucket/a"),
        ("https://host?token=1", "https://host"),
    ],
)
def test_an_address_is_shown_without_secrets(url: str, shown: str) -> None:
    assert storage.without_secrets(url) == shown


def test_the_table_of_tests_says_how_many_it_shows(
    stacks: tuple[Page, Findings], tmp_path: Path
) -> None:
    _, found = stacks
    many = pd.concat([found["tests"].dropna(subset=["p"])] * 10).assign(n=31)
    more = Findings(found.verdict, {"tests": many}, "", {}, {})
    assert (
        facts.named_tests(more)
        == f"the 20 of {len(many)} with the least p, corrected together (Holm)"
    )
    table = facts.tests(more)
    assert len(table.rows) == 20
    assert table.head[2:6] == ["effect", "interval", "tolerance", "n"]
    line = many.sort_values("p", kind="stable").iloc[0]
    assert table.rows[0][2:4] == list(estimate(line.value, line.lo, line.hi))
    few = Findings(found.verdict, {"tests": many.head(3)}, "", {}, {})
    assert facts.named_tests(few) == "all 3, corrected together (Holm)"
    assert "n counts the regions" in captions.tests(few, 3)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.99999, 0.9999, 1.00003), ("0.99999", "[0.99990, 1.00003]")),
        ((2.0, 1.9998, 2.0002), ("2.00000", "[1.99980, 2.00020]")),
        ((2.0, 2.0, 2.0), ("2.00", "[2.00, 2.00]")),
        ((8.67, 8.2, 9.1), ("8.67", "[8.20, 9.10]")),
        ((-0.00001, -0.01, 0.02), ("0.0000", "[−0.0100, 0.0200]")),
        ((1.2e-6, -1e-5, 2e-5), ("0.12×10⁻⁵", "[−1.00×10⁻⁵, 2.00×10⁻⁵]")),
        ((0.5, None, None), ("0.500", "–")),
        ((None, None, None), ("–", "–")),
        ((5200.3, 4000.0, 6000.0), ("5,200", "[4,000, 6,000]")),
    ],
)
def test_a_number_and_its_interval_are_written_alike(
    numbers: tuple[float | None, float | None, float | None], text: tuple[str, str]
) -> None:
    assert estimate(*numbers) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5234.0, "5,200"),
        (100.0, "100"),
        (1.26, "1.3"),
        (0.0132, "0.013"),
        (1e-5, "less than 0.001"),
    ],
)
def test_how_far_off_the_worst_are_is_a_plain_number(value: float, text: str) -> None:
    assert plain(value) == text


def test_sizes_of_causes_have_their_unit(stacks: tuple[Page, Findings]) -> None:
    causes = [
        {"name": name, "size": 3.0, "interval": [2.0, 4.0], "evidence": ""}
        for name in ("shift", "core_pedestal", "flux_scale", "light_on_controls")
    ]
    found = Findings({**stacks[1].verdict, "causes": causes}, {}, "", {}, {})
    sizes = [(size, ends) for _, size, ends, _ in facts.cause_lines(found)]
    assert sizes == [
        ("3.00 px", "[2.00, 4.00]"), ("3.00 sky σ / pixel", "[2.00, 4.00]"), ("3.00", "[2.00, 4.00]"),
        ("3 rows", "–"),
    ]  # fmt: skip


def test_evidence_by_band_shows_how_wide_an_interval_is() -> None:
    doubled = Estimate(0.99998, 0.99997, 0.999996, 300)
    assert per_band([("g", doubled)], 1.0) == "g 1.999980 [1.999970, 1.999996]"
    assert per_band([("z", Estimate(0.0586, 0.05, 0.067, 9))]) == "z 0.05860 [0.05000, 0.06700]"
    assert per_band([("r", Estimate(1.0, 1.0, 1.0, 9))], 1.0) == "r 2 [2, 2]"


def test_the_glossary_says_what_a_gate_of_closure_does(stacks: tuple[Page, Findings]) -> None:
    assert "wholly outside" not in stacks[0].text
    assert "one chance in a thousand" in stacks[0].text


def test_the_verdict_says_where_a_foreign_set_lies(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_text("name: theirs\nstacks: {stamp: a, ctrl: b}\n")
    assert commands.runs._provenance(
        "https://me:secret@host/set.npz", str(tmp_path / "map.yaml")
    ) == {"source": "https://host/set.npz", "mapping": "theirs"}
    assert json.loads(json.dumps(commands.runs._provenance("set.npz", None)))["mapping"] is None
