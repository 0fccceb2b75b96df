"""Published lenses: cut out, scored, and held against galaxies like them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import yaml
from rich.console import Console

from darkhaloscope import storage
from darkhaloscope.audit.verdict import exit_code
from darkhaloscope.errors import UserError
from darkhaloscope.progress import Bar
from darkhaloscope.survey import Survey, read_targets
from darkhaloscope.survey.catalogues import read_catalogues

if TYPE_CHECKING:
    from darkhaloscope.detect.lenses import Scorer
    from darkhaloscope.detect.recall import Recall

LEAST, RATE = 0.5, 1e-2
"""Recall that the gate asks for, at which false-positive rate, unless something else says."""
HEMISPHERES: tuple[str, ...] = ("south", "north", "none")


@dataclass(frozen=True)
class LensOutcome:
    """Where the results are, every row with its outcome, the recall, and the exit code."""

    folder: str
    table: pd.DataFrame
    recall: Recall
    exit_code: int


def lenses(
    detector: str | Scorer,
    catalogues: Sequence[str],
    *,
    root: str,
    targets: str,
    out: str | None = None,
    nonlenses: Sequence[str] = (),
    grades: Sequence[str] | None = None,
    fpr: float | None = None,
    least: float | None = None,
    hemispheres: Sequence[str] = ("south", "north"),
    layout: Literal["release", "flat"] = "release",
    absent: Sequence[str] = (),
    deploy: bool | None = None,
    threads: int = 4,
    console: Console | None = None,
) -> LensOutcome:
    """Measure a detector's recall of published lenses at a fixed false-positive rate.

    Parameters
    ----------
    detector : str or Scorer
        A detector's folder, or what scores.
    catalogues : sequence of str
        Published lenses: CSV, FITS or Parquet with ra and dec in deg.
    root : str
        The release: a path or any fsspec URL.
    targets : str
        Luminous red galaxies of the same sky (``dhs targets``): matched galaxies are taken from them.
    out : str, optional
        Folder of the results; default ``lenses`` below the detector.
    nonlenses : sequence of str
        Catalogues of what is known to be none.
    grades : sequence of str, optional
        Which grades count, all if empty; by default what the detector's ``config.yaml`` says
        (``gates.real_lens_grades``), else all.
    fpr, least : float
        The gate: recall of at least ``least`` at this rate among matched galaxies; by default what the
        detector's ``config.yaml`` says (``gates.real_lens_fpr``, ``gates.real_lens_recall``), else 0.01 and
        0.5.
    hemispheres : sequence of str
        Folders of the release in which files are looked for, in turn; ``none`` for releases without.
    deploy : bool, optional
        Whether the gate is required; by default what the detector's ``config.yaml`` says.

    Raises
    ------
    UserError
        The detector, a catalogue or the targets cannot be read, or no lens is left.
    """
    from darkhaloscope import detect
    from darkhaloscope.detect.lenses import plan, score
    from darkhaloscope.detect.lenses_page import lenses_page, outcomes, ranks
    from darkhaloscope.detect.recall import GATE, recall, verdict

    console = console or Console()
    if unknown := [h for h in hemispheres if h not in HEMISPHERES]:
        raise UserError(f"--hemisphere is of {', '.join(HEMISPHERES)}, not {unknown[0]}")
    found = detect.load(detector) if isinstance(detector, str) else detector
    name = detector.rstrip("/") if isinstance(detector, str) else type(detector).__name__
    if isinstance(detector, str):
        settings = _settings(detector)
        deploy = bool(settings.get("deploy", False)) if deploy is None else deploy
        least = _gate(settings, "real_lens_recall") if least is None else least
        fpr = _gate(settings, "real_lens_fpr") if fpr is None else fpr
        grades = _grades(settings) if grades is None else grades
        out = out or storage.join(detector, detect.folder.LENSES)
    least = LEAST if least is None else least
    fpr = RATE if fpr is None else fpr
    if not 0.0 < least <= 1.0:
        raise UserError(f"the recall that the gate asks for lies between 0 and 1, not at {least:g}")
    if out is None:
        raise UserError("say where the results go: out")
    known = read_catalogues(catalogues, grades or ())
    others = read_catalogues(nonlenses) if nonlenses else None
    planned = plan(known, read_targets(targets), found.size, others)
    surveys = [
        Survey(
            root,
            None if h == "none" else h,
            tuple(found.bands),
            absent=frozenset(absent),
            layout=layout,
        )
        for h in (hemispheres if layout == "release" else hemispheres[:1])
    ]
    with Bar(console, "bricks", 1, "bricks") as bar:
        scored = score(planned, found, surveys, threads=threads, on_brick=bar.reached)
    result = recall(scored.table, fpr, least)
    table = scored.table.assign(rank=ranks(scored.table))
    document = verdict(result, table, bool(deploy), fpr, str(getattr(found, "digest", "")))
    page, figures = lenses_page(name, scored, result, found.bands)
    files: dict[str, bytes] = {
        "lenses.csv": table.to_csv(index=False).encode(),
        "lenses.parquet": _parquet(table),
        "recall.csv": result.table.to_csv(index=False).encode(),
        "recall.parquet": _parquet(result.table),
        "verdict.json": (json.dumps(document, indent=2, allow_nan=False) + "\n").encode(),
        "lenses.html": page.encode(),
    }
    for key, figure in figures.items():
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
        files[f"{key}.png"] = picture.getvalue()
    folder = storage.absolute(out.rstrip("/"))
    for file, data in files.items():
        storage.write(storage.join(folder, file), data)
    for line in outcomes(table).to_dict("records"):
        why = f"{line['outcome']} ({line['reason'] or '-'})"
        text = f"{line['kind']:8} {line['catalogue']}: {why} {line['rows']}"
        console.print(text, soft_wrap=True, highlight=False, markup=False)
    console.print(result.sentence, soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"page:    {storage.join(folder, 'lenses.html')}", soft_wrap=True, highlight=False
    )
    code = exit_code(document, (GATE,)) if deploy else 0
    return LensOutcome(folder, table, result, code)


def _parquet(table: pd.DataFrame) -> bytes:
    held = io.BytesIO()
    table.to_parquet(held, index=False)
    return held.getvalue()


def _settings(folder: str) -> dict[str, Any]:
    """The detector's configuration, unchecked; empty where it has none."""
    try:
        document: Any = yaml.safe_load(storage.read(storage.join(folder, "config.yaml")))
    except FileNotFoundError:
        return {}
    except yaml.YAMLError:
        raise UserError(f"{folder}/config.yaml is not valid YAML; put the right one back") from None
    return document if isinstance(document, dict) else {}


def _gate(settings: dict[str, Any], name: str) -> float | None:
    value = _said(settings, name)
    return float(value) if isinstance(value, int | float) else None


def _grades(settings: dict[str, Any]) -> list[str]:
    value = _said(settings, "real_lens_grades")
    return [str(grade) for grade in value] if isinstance(value, list) else []


def _said(settings: dict[str, Any], name: str) -> Any:
    """What a configuration says of a gate; None where it says nothing."""
    gates = settings.get("gates")
    return gates.get(name) if isinstance(gates, dict) else None
