"""The page: everything read, drawn and laid out in one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from darkhaloscope import __version__, storage
from darkhaloscope.report import closure_pictures, facts, leak_pictures, pictures
from darkhaloscope.report.examples import Examples, examples
from darkhaloscope.report.facts import Table
from darkhaloscope.report.load import Findings, load
from darkhaloscope.report.pictures import Picture
from darkhaloscope.report.words import DEFINITIONS, INTERVALS, VERDICTS


@dataclass(frozen=True)
class Section:
    """A question, its pictures, what to look for in them, and the numbers behind, folded."""

    anchor: str
    title: str
    caption: str
    pictures: list[Picture]
    nothing: str
    tables: list[tuple[str, Table]] = field(default_factory=list)


def write_report(source: str, folder: str) -> str:
    """Draw ``report.html`` of an audit.

    Parameters
    ----------
    source : str
        A run's folder or a Zarr group (path or URL): example pairs, and ``experiment.yaml`` and
        ``run.json`` where it has them.
    folder : str
        The folder with ``verdict.json`` and ``audit/*.parquet``; the page goes there.

    Returns
    -------
    str
        The page's place.

    Raises
    ------
    UserError
        There is no verdict, or something cannot be read or written.
    """
    source, folder = source.rstrip("/"), folder.rstrip("/")
    found = load(source, folder)
    shown = examples(source, found.kept)
    place = storage.join(folder, "report.html")
    storage.write(place, page(found, shown).encode())
    return place


def page(found: Findings, shown: Examples) -> str:
    """The page as HTML; the same findings give the same text."""
    text = resources.files("darkhaloscope.report").joinpath("report.html.j2").read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    identity = shown.attributes.get("identity", str(found.run.get("identity", "")))
    environment.filters["theta"] = _theta
    return environment.from_string(text).render(
        verdict=found.verdict,
        verdict_means=VERDICTS.get(str(found.verdict["verdict"]), ""),
        name=found.name,
        identity=identity,
        counts=facts.counts(found),
        gates=facts.gate_lines(found),
        causes=facts.cause_lines(found),
        shown=shown,
        sections=sections(found),
        quality=facts.quality(found),
        reasons=facts.reasons(found),
        psf_sources=facts.psf_sources(found),
        column_coverage=facts.column_coverage(found),
        definitions=DEFINITIONS,
        intervals=INTERVALS,
        experiment=found.experiment,
        attributes=shown.attributes,
        version=__version__,
    )


def _theta(text: str) -> Markup:
    """Escaped text with a proper subscript in θ_E."""
    return Markup(str(escape(text)).replace("θ_E", "θ<sub>E</sub>"))


def _stamps(found: Findings) -> str:
    """How many whole stamps the leak map rests on."""
    table = found["leak_map"]
    if table.empty:
        return "no whole stamps"
    return f"{int(table['pairs'].iloc[0]):,} pairs, {int(table['regions'].iloc[0]):,} regions"


def sections(found: Findings) -> list[Section]:
    """The sections with pictures, after the examples and the table of columns."""
    pairs = f"{int(found.verdict['pairs']):,}"
    everything = found["auc_by_stratum"]
    everything = everything[everything["family"] == "all"]
    rests = (
        f"{int(everything['pairs'].iloc[0]):,} pairs, {int(everything['hosts'].iloc[0]):,} hosts, "
        f"{int(everything['regions'].iloc[0]):,} regions"
        if len(everything)
        else f"{pairs} audited pairs"
    )
    profiles = found["profiles"]
    whole = profiles[profiles["stratum"] == "all"]
    summed = (
        f"{int(whole['pairs'].iloc[0]):,} injections, {int(whole['regions'].iloc[0]):,} regions"
        if len(whole)
        else "no injections"
    )
    closed = f"{found['closure_pairs']['hash'].nunique():,} re-rendered pairs"
    return [
        Section(
            "profiles",
            "What was injected: radial profiles",
            f"Mean of stamp − ctrl in rings about the target, by Einstein radius ({summed}). "
            "Look for a bump that moves outward with θ_E, and no floor at large radius: a floor "
            "is a pedestal. Bands are 95 % intervals over regions. The scale is linear near "
            "zero and logarithmic beyond.",
            pictures.radial_profiles(found),
            "There is no injection with pixels to average.",
        ),
        Section(
            "annulus",
            "Far out: annulus offsets",
            f"Mean of stamp − ctrl in the outer annuli ({summed}). Wide arcs and PSF wings do "
            "reach there, so an offset alone is no fault; what counts is the last picture, "
            f"measured minus re-rendered ({closed}), which should hold zero between the dashed "
            "limits.",
            pictures.annulus_pictures(found),
            "There is no injection with pixels in the outer annuli.",
        ),
        Section(
            "core",
            "What a classifier reads in the core",
            f"A linear reader sees the central 10×10 pixels only ({rests}; pairs of each stratum "
            "in brackets). Look at the distance between the filled points (observed) and the "
            "open ones (ctrl plus re-rendered arc): arcs may be visible, but not more than "
            "physics makes them. The excess should stay left of the dashed tolerance.",
            [*pictures.core_auc(found), *pictures.learning_curve(found), *pictures.dose(found)],
            "No core AUC: it needs pairs of at least two regions that share no host.",
            [
                ("core AUC by stratum", facts.strata(found)),
                (
                    "all, clean and no PSF fallback; by θ_E / PSF, depth and masks",
                    facts.strata(found, "auc_by_quality"),
                ),
                ("rows in each quality set", facts.quality_sets(found)),
            ],
        ),
        Section(
            "core-shape",
            "How much of an arc lies in the core",
            f"Stored arcs beside re-rendered ones in the reference band ({_stamps(found)}). The two "
            "marks should lie on each other: small rings fill the core because they are small. Light in the "
            "core that goes with neither θ_E, nor the arc's light, nor its S/N is none of an arc's.",
            [*leak_pictures.core_pictures(found), *leak_pictures.core_slopes(found)],
            "No arc was kept whole.",
            [
                ("by Einstein radius", facts.core(found)),
                ("straight lines through the core's light", facts.slopes(found)),
            ],
        ),
        Section(
            "growth",
            "Larger lenses: light, area and magnification",
            f"Stored arcs beside re-rendered ones in the reference band ({_stamps(found)}). Area is (Σ a)² "
            "/ Σ a², which needs no threshold. Both should rise with θ_E as the re-rendered ones do; "
            f"{facts.trends(found)} No lens of positive mass gives a magnification below 1.",
            [*leak_pictures.growth_pictures(found), *leak_pictures.magnifications(found)],
            "No θ_E, no pairs, or no arc that was kept whole.",
            [
                ("light and area by Einstein radius", facts.growth(found)),
                ("magnifications", facts.magnification(found)),
            ],
        ),
        Section(
            "leak-map",
            "Leak map: where stamp and ctrl can be told apart",
            f"A linear reader of each ring and each block, in all bands ({_stamps(found)}). Light shows "
            "where arcs are; the difference to the re-rendered arcs should be white everywhere, edges "
            f"and corners too. {facts.boosted(found)}",
            leak_pictures.leak_pictures(found),
            "No stamp was kept whole in two regions that share no host.",
        ),
        Section(
            "selection",
            "Selection: do metadata alone give the classes away?",
            f"Gradient boosting on what is known before an arc is drawn ({facts.classes(found)}; regions "
            "held out), then each column alone. All should lie on 0.5.",
            leak_pictures.selection_pictures(found),
            "Too few controls, or no column to look at.",
            [
                ("columns", facts.selection(found)),
                ("drawn parameters against the sky", facts.independence(found)),
                ("outlying PSF widths", facts.psf_outliers(found)),
            ],
        ),
        Section(
            "alignment",
            "Alignment: the same sky, and arcs about the target",
            f"{facts.displaced(found)} The first picture is the core's mean difference if ctrl were moved "
            "by a pixel: least in the middle, where a galaxy cancels itself. Peaks follow the Einstein "
            "radius, and quadrants share the light as the re-rendered arcs do.",
            leak_pictures.alignment_pictures(found),
            "There are no pairs to compare.",
        ),
        Section(
            "groups",
            "Splits and PSF sources",
            "The same closure in each split and for each source of the PSF width. None should differ "
            "from the others by more than the limits of closure.",
            leak_pictures.group_pictures(found),
            "There is one group only.",
            [("all tests, corrected together (Holm)", facts.tests(found))],
        ),
        Section(
            "zero-dose",
            "Zero dose: is there light that no parameter asked for?",
            "Each point is a pair and band: mean core light as stored against as re-rendered. "
            "Points should lie on the line of slope 1, and the difference should shrink to "
            "zero, well inside the dashed limits, as the dose does: at large dose a share of "
            "it, for rounding, is granted (grey).",
            closure_pictures.zero_dose(found),
            "No re-rendered core to compare with.",
            [("fitted lines", facts.zero_dose(found))],
        ),
        Section(
            "closure",
            "Closure: do the arcs hold what their parameters promise?",
            f"{closed}, each band by itself. The limits (dashed) are for the mean of all pairs, "
            "not for each point. Look for a cloud about zero without a trend in θ_E.",
            closure_pictures.closure_scatters(found),
            "No arc could be compared with a re-rendered one.",
            [("means with intervals", facts.closure_summary(found))],
        ),
        Section(
            "residual",
            "Closure: what is left over",
            "First the mean profiles themselves. Then the mean residual after scale, "
            "displacement and width are fitted, in sky σ a pixel, with its interval; grey is "
            "the error granted to rendering and rounding. Look for a plateau outside the dashed "
            "limits: in the core it is a pedestal of the core, everywhere it is a pedestal of "
            "the stamp.",
            closure_pictures.residual_profiles(found),
            "No arc could be compared with a re-rendered one.",
        ),
        Section(
            "footprint",
            "Where rows failed",
            f"Each marker is {'a square degree' if found.folded else 'a region'}; East is left. "
            "Grey circles lost no row, other shapes say the most frequent reason and their "
            "colour how much of the region failed. Look for failures that sit together.",
            pictures.footprint(found),
            "There are no rows.",
        ),
    ]
