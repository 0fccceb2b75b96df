"""Copy what an experiment reads of a release to another place."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from rich.console import Console

from darkhaloscope import prepare, storage, store
from darkhaloscope.commands.common import EXIT_INCOMPLETE
from darkhaloscope.config import parse_experiment
from darkhaloscope.errors import UserError
from darkhaloscope.inject import survey_of
from darkhaloscope.progress import Bar
from darkhaloscope.survey.cache import CachedBrick, cache_brick

SHOWN = 10
"""Files that could not be copied, and bricks without images, of which each is named."""


def cache(
    experiment: str,
    to: str,
    *,
    layout: Literal["release", "flat"] = "release",
    threads: int = 4,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> list[CachedBrick]:
    """Copy the coadds of an experiment's bricks and bands; called again, it resumes.

    Parameters
    ----------
    experiment : str
        An experiment file, or a run's folder.
    to : str
        Where they go: a path or any fsspec URL; ``survey.root`` afterwards.
    layout : {"release", "flat"}
        As the release lays its files out, or all in one folder.
    threads : int
        Bricks that are copied at once; memory is that of so many.

    Raises
    ------
    UserError
        The experiment cannot be read, the two places are the same, the copy cannot be written, or the
        release has no image of any of the bricks.
    """
    console = console or Console()
    if not experiment.endswith((".yaml", ".yml")) and store.read_run(experiment) is not None:
        stored = parse_experiment(store.read_experiment(experiment), experiment)
        exp = prepare.experiment_of(stored, overrides)
    else:
        exp = prepare.experiment_of(experiment, overrides)
    release = survey_of(exp)
    to = storage.absolute(to.rstrip("/"))
    copy = replace(release, root=to, layout=layout)
    if storage.absolute(release.root.rstrip("/")) == to:
        raise UserError(f"{to} is the release itself; give another place with --to")
    bricks = [str(brick) for brick in prepare.plan_of(exp).bricks]
    done = []
    with (
        Bar(console, "cache", len(bricks), "bricks") as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        for one in pool.map(partial(cache_brick, release, copy), bricks):
            done.append(one)
            bar.advance(1, skipped=not one.copied)
    if not any(one.images for one in done):
        raise UserError(
            f"none of the {len(done)} bricks has an image: there is no "
            f"{release.url('image', bricks[0], exp.survey.reference)}; check survey.root, "
            "survey.hemisphere, survey.layout and survey.bands"
        )
    _say(done, exp.survey.root, copy, console)
    return done


def _say(done: list[CachedBrick], root: str, copy: Any, console: Console) -> None:
    copied, kept = sum(one.copied for one in done), sum(one.kept for one in done)
    failed = [sentence for one in done for sentence in one.failed]
    empty = [one.brick for one in done if not one.images]
    verified = sum(one.verified for one in done)
    lines = [
        f"{copied} files of {len(done)} bricks copied from {root}, "
        f"{sum(one.bytes for one in done) / 1e6:.1f} MB; {kept} were there, "
        f"{sum(one.absent for one in done)} are not in the release; {verified} bricks verified against "
        "its checksums",
        *failed[:SHOWN],
    ]
    if empty:
        more = f" and {len(empty) - SHOWN} more" if len(empty) > SHOWN else ""
        lines.append(
            f"{len(empty)} bricks have no image in the release: {', '.join(empty[:SHOWN])}{more}"
        )
    if len(failed) > SHOWN:
        lines.append(f"and {len(failed) - SHOWN} more")
    if failed:
        lines.append(f"{len(failed)} files could not be copied; the same command again resumes")
    else:
        lines.append(f"in the experiment: survey.root: {copy.root}, survey.layout: {copy.layout}")
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def cache_exit_code(done: list[CachedBrick]) -> int:
    """0 all there, 4 some files could not be copied."""
    return EXIT_INCOMPLETE if any(one.failed for one in done) else 0
