"""Several experiments compared: a study, from its file to its page."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from dask.system import CPU_COUNT
from rich.console import Console

from darkhaloscope import storage, study
from darkhaloscope.cluster import connect
from darkhaloscope.commands.common import with_cluster
from darkhaloscope.commands.inputs import sky, targets
from darkhaloscope.errors import UserError
from darkhaloscope.progress import Bars

NOTES_SHOWN = 5
"""Of the sentences on files that were in the way; all are written."""


@dataclass(frozen=True)
class StudyOutcome:
    """Where a study's results are, and what it concludes."""

    folder: str
    page: str
    conclusion: study.Conclusion


def run_study(
    file: str,
    *,
    out: str | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> StudyOutcome:
    """Run every arm of a study on the same targets, compare them, and recommend one or none.

    Parameters
    ----------
    file : str
        The study's file: an experiment with a section ``study`` (docs/studies/core-neutral.md).
    out : str, optional
        Folder of the results; default ``studies/<name>``. Called again, it resumes.
    cluster, workers
        As :func:`darkhaloscope.commands.run`.
    overrides : mapping, optional
        Values by dotted key, ``study.pairs`` among them.

    Raises
    ------
    UserError
        A mistake in the file, its targets or its survey: said before a cluster is started.
    Incomplete
        The survey was out of reach for some bricks; called again, it resumes.
    """
    console = console or Console()
    changed = with_cluster(overrides, cluster, workers)
    settings, arms = study.load_study(file, changed)
    name = arms[0].experiment.name.removesuffix("-none")
    folder = storage.absolute((out or f"studies/{name}").rstrip("/"))
    if settings.sky is not None:
        places = make_sky(settings.sky, folder, workers, console)
        settings, arms = study.load_study(file, changed, places)
    ready = study.prepare_study(settings, arms)  # before a cluster is started
    if not study.is_made(folder, ready):
        with connect(arms[0].experiment.cluster, folder) as client:
            console.print(f"dashboard: {client.dashboard_link}", soft_wrap=True)
            with Bars(console, "tasks") as on_step:
                study.make_study(client, folder, ready, on_step)
    read = study.read_study(folder, ready)
    found = study.compare(read.results, settings, arms[0].experiment.seed)
    page = _write(folder, name, ready, read, found)
    console.print(read.sentence(settings.pairs), soft_wrap=True, highlight=False)
    for note in read.notes[:NOTES_SHOWN]:
        console.print(f"note:    {note}", soft_wrap=True, highlight=False)
    if len(read.notes) > NOTES_SHOWN:
        console.print(f"note:    and {len(read.notes) - NOTES_SHOWN} more, in notes.txt")
    console.print(f"page:    {page}", soft_wrap=True, highlight=False)
    console.print(found.sentence, soft_wrap=True, highlight=False)
    return StudyOutcome(folder, page, found)


def make_sky(
    wanted: study.Sky, folder: str, workers: int | None, console: Console
) -> dict[str, str]:
    """The study's own sky and targets, made once.

    Raises
    ------
    UserError
        The folder holds another sky: the targets of both would be mixed, and results of one be lost.
    """
    root, table = storage.join(folder, "sky"), storage.join(folder, "targets.parquet")
    place = storage.join(folder, "sky.json")
    asked = wanted.model_dump()
    if storage.exists(place):
        there = json.loads(storage.read(place))
        if other := [f"{key} {there.get(key)}" for key in asked if asked[key] != there.get(key)]:
            raise UserError(
                f"{folder} holds another sky ({', '.join(other)}) than study.sky asks for; "
                "choose another --out"
            )
    else:  # first: what an interrupted study leaves is of this sky as well
        storage.write(place, json.dumps(asked, sort_keys=True).encode())
    if not storage.exists(table):
        sky(
            root,
            bricks=wanted.bricks,
            size=wanted.size,
            seed=wanted.seed,
            lrgs=wanted.lrgs,
            workers=workers or CPU_COUNT,
            console=console,
        )
        targets([storage.join(root, "south")], table, console=console)
    return {"survey.root": root, "targets.path": table}


def _write(
    folder: str, name: str, ready: study.Ready, read: study.Read, found: study.Conclusion
) -> str:
    """The table, its summary, the picture and the page, and what became of every planned pair; gives the
    page's place."""
    from darkhaloscope.study.page import markdown, study_page  # matplotlib is slow to import

    settings = ready.study
    document = {
        "study": settings.model_dump(mode="json"),
        "experiment": ready.reference.experiment.model_dump(mode="json"),
    }
    definition = yaml.safe_dump(document, sort_keys=False)
    pairs = read.sentence(settings.pairs)
    page, figure = study_page(name, settings, found, read.outcomes, pairs, definition)
    tables = {"table": io.BytesIO(), "pairs": io.BytesIO()}
    found.table.to_parquet(tables["table"], index=False)
    read.rows.to_parquet(tables["pairs"], index=False)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": None})
    files = {
        "table.csv": found.table.to_csv(index=False).encode(),
        "table.parquet": tables["table"].getvalue(),
        "pairs.parquet": tables["pairs"].getvalue(),
        "outcomes.csv": read.outcomes.to_csv(index=False).encode(),
        "notes.txt": "".join(f"{note}\n" for note in read.notes).encode(),
        "summary.md": markdown(found, pairs).encode(),
        "picture.png": picture.getvalue(),
        "study.yaml": definition.encode(),
        "study.html": page.encode(),
    }
    for file, data in files.items():
        storage.write(storage.join(folder, file), data)
    return storage.join(folder, "study.html")
