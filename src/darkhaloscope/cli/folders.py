"""What is done with a run's folder."""

from __future__ import annotations

from typing import Annotated

import typer

from darkhaloscope import commands
from darkhaloscope.cli.app import app, console

Threads = Annotated[int, typer.Option(min=1, max=64, help="Blocks that are read at once.")]


@app.command()
def status(
    folder: Annotated[str, typer.Argument(help="A run's folder: a path or any fsspec URL.")],
) -> None:
    """Say how far a run is: done, running, failed by reason, rate, ETA.

    Example: [bold]dhs status s3://bucket/runs/first[/bold]
    """
    commands.status(folder, console=console)


@app.command()
def verify(
    run: Annotated[str, typer.Argument(help="A run's folder: a path or any fsspec URL.")],
    threads: Threads = 4,
) -> None:
    """Prove that a run's folder holds what its markers and plan say; name what does not.

    Example: [bold]dhs verify runs/real-brick[/bold]
    """
    found = commands.verify(run, threads=threads, console=console)
    raise typer.Exit(commands.verify_exit_code(found))


@app.command()
def repair(
    run: Annotated[str, typer.Argument(help="A run's folder that nothing writes to meanwhile.")],
    threads: Threads = 4,
    failed: Annotated[
        list[str] | None,
        typer.Option(
            "--failed",
            help="Verify nothing; drop the blocks with rows that failed so: unreadable,missing_file.",
        ),
    ] = None,
) -> None:
    """Drop what is broken in a run's folder; dhs run then makes it again, the same bytes.

    Example: [bold]dhs repair runs/real-brick[/bold]
    """
    if failed is not None:
        reasons = [text.strip() for item in failed for text in item.split(",")]
        again = commands.repair_failed(run, reasons, console=console)
        raise typer.Exit(commands.EXIT_INCOMPLETE if again.blocks else 0)
    done = commands.repair(run, threads=threads, console=console)
    raise typer.Exit(commands.repair_exit_code(done))


@app.command()
def export(
    source: Annotated[
        str, typer.Argument(help="A finished run's folder, or a Zarr group of pairs.")
    ],
    to: Annotated[str, typer.Option("--to", help="An empty folder: a path or any fsspec URL.")],
    stamps: Annotated[
        bool, typer.Option("--stamps", help="Pixels as well, as .npz blobs.")
    ] = False,
    mapping: Annotated[
        str, typer.Option(help="Column names: a shipped mapping (seed), or a YAML file.")
    ] = "seed",
) -> None:
    """Write a data set as Parquet tables, for other people's readers.

    Example: [bold]dhs export runs/real-brick --to tables --stamps[/bold]
    """
    commands.export(source, to, stamps=stamps, mapping=mapping, console=console)
