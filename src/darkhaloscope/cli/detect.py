"""Networks on a data set, and published lenses scored by them."""

from __future__ import annotations

from typing import Annotated

import typer

from darkhaloscope import commands
from darkhaloscope.cli.app import Out, Overrides, app, console, parse_overrides
from darkhaloscope.errors import UserError

ReadAhead = Annotated[int, typer.Option(min=0, max=64, help="Threads that read ahead.")]


@app.command()
def train(
    source: Annotated[str, typer.Argument(help="A detector's file (YAML), or a run's folder.")],
    out: Out = None,
    despite: Annotated[
        bool,
        typer.Option("--despite", help="Although the run's audit said bug or shortcut; recorded."),
    ] = False,
    overrides: Overrides = None,
) -> None:
    r"""Train a network on a run; called again, it resumes. Needs darkhaloscope\[detect].

    Example: [bold]dhs train runs/train --out detectors/first --set training.epochs=10[/bold]
    """
    commands.train(
        source, out=out, despite=despite, overrides=parse_overrides(overrides), console=console
    )


@app.command()
def score(
    folder: Annotated[str, typer.Argument(help="A detector's folder.")],
    run: Annotated[
        str | None, typer.Argument(help="A run's folder; default the one of the training.")
    ] = None,
    out: Annotated[str | None, typer.Option("--out", help="Parquet file that is written.")] = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Only these: train, val, test, guard.")
    ] = None,
    workers: ReadAhead = 0,
) -> None:
    """Score every image of a run; a look at test is recorded in the detector.

    Example: [bold]dhs score detectors/first runs/grid[/bold]
    """
    commands.score(folder, run, out=out, splits=split, workers=workers, console=console)


@app.command()
def evaluate(
    folder: Annotated[str, typer.Argument(help="A detector's folder.")],
    run: Annotated[
        str | None, typer.Option("--run", help="Where its data set lies now, if it was moved.")
    ] = None,
    workers: ReadAhead = 0,
) -> None:
    """Judge a detector's gates on test; each look at test is recorded in it.

    Example: [bold]dhs evaluate detectors/first[/bold]
    """
    judged = commands.evaluate(folder, run=run, workers=workers, console=console)
    raise typer.Exit(judged.exit_code)


@app.command()
def lenses(
    detector: Annotated[str, typer.Argument(help="A detector's folder.")],
    catalogues: Annotated[list[str], typer.Argument(help="Published lenses: CSV, FITS, Parquet.")],
    root: Annotated[str, typer.Option("--root", help="The release: a path or any fsspec URL.")],
    targets: Annotated[str, typer.Option("--targets", help="LRGs of the same sky (dhs targets).")],
    out: Out = None,
    nonlenses: Annotated[
        list[str] | None, typer.Option("--nonlenses", help="Catalogue of what is known to be none.")
    ] = None,
    grades: Annotated[
        str | None,
        typer.Option(help="Which grades count, e.g. A,B, or '' for all; default the detector's."),
    ] = None,
    fpr: Annotated[
        float | None,
        typer.Option(help="The gate's rate among matched galaxies; default the detector's, 0.01."),
    ] = None,
    least: Annotated[
        float | None,
        typer.Option(help="Recall that the gate asks for; default the detector's, 0.5."),
    ] = None,
    hemisphere: Annotated[
        str, typer.Option(help="Where files are looked for, in turn: south,north, or none.")
    ] = "south,north",
    layout: Annotated[
        str, typer.Option(help="release: as published; flat: one folder.")
    ] = "release",
    absent: Annotated[str, typer.Option(help="Kinds of files that the release lacks.")] = "",
    threads: Annotated[int, typer.Option(min=1, max=64, help="Bricks that are read at once.")] = 4,
) -> None:
    """Recall of published lenses at a fixed false-positive rate.

    Example: [bold]dhs lenses detectors/first huang2021.csv --root /data/dr10 --targets lrg.parquet[/bold]
    """
    if layout not in ("release", "flat"):
        raise UserError(f"--layout is release or flat, not {layout}")

    def split(text: str) -> list[str]:
        return [part.strip() for part in text.split(",") if part.strip()]

    outcome = commands.lenses(
        detector,
        catalogues,
        root=root,
        targets=targets,
        out=out,
        nonlenses=nonlenses or (),
        grades=None if grades is None else split(grades),
        fpr=fpr,
        least=least,
        hemispheres=split(hemisphere),
        layout="flat" if layout == "flat" else "release",
        absent=split(absent),
        threads=threads,
        console=console,
    )
    raise typer.Exit(outcome.exit_code)
