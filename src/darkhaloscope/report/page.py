"""The page: everything read, drawn and laid out in one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from darkhaloscope import __version__, storage
from darkhaloscope.report import captions, closure_pictures, facts, leak_pictures, pictures
from darkhaloscope.report.examples import Examples, examples
from darkhaloscope.report.facts import Table
from darkhaloscope.report.load import Findings, load
from darkhaloscope.report.pictures import Picture
from darkhaloscope.report.words import DEFINITIONS, INTERVALS, VERDICTS


@dataclass(frozen=True)
class Section:
    """A question, its pictures, what they show, and the numbers behind, folded; ``nothing`` is said where
    there is no picture. One that does not apply to a data set is not on its page."""

    anchor: str
    title: str
    caption: str
    pictures: list[Picture]
    nothing: str
    tables: list[tuple[str, Table]] = field(default_factory=list)
    applies: bool = True


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
        sections=[s for s in sections(found) if s.applies],
        provenance=facts.provenance(found),
        quality=facts.quality(found),
        splits="region_split" not in found.lacks,
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


def sections(found: Findings) -> list[Section]:
    """The sections with pictures, after the examples and the table of columns."""
    map_and_reasons = pictures.footprint(found)
    mapped = any(p.wide for p in map_and_reasons)
    no_arc = "No arc could be compared with a re-rendered one."
    pairs, drawn = found.paired, found.redraws
    return [
        Section(
            "profiles",
            "What was injected: radial profiles",
            captions.profiles(found),
            pictures.radial_profiles(found),
            "There is no injection with pixels to average.",
            applies=pairs,
        ),
        Section(
            "annulus",
            "Far out: annulus offsets",
            captions.annulus(found),
            pictures.annulus_pictures(found),
            "There is no injection with pixels in the outer annuli.",
            applies=pairs,
        ),
        Section(
            "core",
            "What a classifier reads in the core",
            captions.core(found),
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
            captions.core_shape(found),
            [*leak_pictures.core_pictures(found), *leak_pictures.core_slopes(found)],
            "No arc was kept whole.",
            [
                ("by Einstein radius", facts.core(found)),
                ("straight lines through the core's light", facts.slopes(found)),
            ],
            pairs,
        ),
        Section(
            "growth",
            "Larger lenses: light, area and magnification",
            captions.growth(found),
            [*leak_pictures.growth_pictures(found), *leak_pictures.magnifications(found)],
            "No arc was kept whole.",
            [
                ("light and area by Einstein radius", facts.growth(found)),
                ("magnifications", facts.magnification(found)),
            ],
            pairs and "theta_e" not in found.lacks,
        ),
        Section(
            "leak-map",
            f"Leak map: where {'stamp and ctrl' if pairs else 'the classes'} can be told apart",
            captions.leak_map(found),
            leak_pictures.leak_pictures(found),
            "No stamp was kept whole in two regions that share no host.",
        ),
        Section(
            "selection",
            "Selection: do metadata alone give the classes away?",
            captions.selection(found),
            leak_pictures.selection_pictures(found),
            "Too few controls, or no column to look at: what was not tested says which.",
            [
                ("columns", facts.selection(found)),
                ("drawn parameters against the sky", facts.independence(found)),
                ("outlying PSF widths", facts.psf_outliers(found)),
            ],
        ),
        Section(
            "alignment",
            "Alignment: are they the same sky, and where are the arcs?",
            captions.alignment(found),
            leak_pictures.alignment_pictures(found),
            "No pair was kept whole.",
            applies=pairs,
        ),
        Section(
            "groups",
            "Splits and PSF sources",
            "The flux ratio of closure, minus 1, in each split and for each source of the PSF width, with "
            "intervals. Whether groups differ is asked of flux, width and place: see the tests.",
            leak_pictures.group_pictures(found),
            "There is one group only.",
            applies=drawn,
        ),
        Section(
            "tests",
            "All tests with a p-value",
            "",
            [],
            captions.tests(found, len(facts.with_p(found))),
            [(facts.named_tests(found), facts.tests(found))],
        ),
        Section(
            "zero-dose",
            "Zero dose: is there light that no parameter asked for?",
            captions.zero_dose(found),
            closure_pictures.zero_dose(found),
            "No re-rendered core to compare with.",
            [("fitted lines", facts.zero_dose(found))],
            drawn,
        ),
        Section(
            "closure",
            "Closure: do the arcs hold what their parameters promise?",
            captions.closure(found),
            closure_pictures.closure_scatters(found),
            no_arc,
            [("means with intervals", facts.closure_summary(found))],
            drawn,
        ),
        Section(
            "residual",
            "Closure: what is left over",
            captions.residual(found),
            closure_pictures.residual_profiles(found),
            no_arc,
            applies=drawn,
        ),
        Section(
            "footprint",
            "Where rows failed" if mapped else "Rows that failed",
            captions.footprint(found, mapped),
            map_and_reasons,
            "No row failed." if len(found["footprint"]) else "There are no rows.",
        ),
    ]
