"""What a run begins with: a sky, a table of targets, a plan, copies of coadds."""

from __future__ import annotations

from typing import Annotated

import typer

from darkhaloscope import commands
from darkhaloscope.cli.app import Cluster, Out, Overrides, Workers, app, console, parse_overrides
from darkhaloscope.errors import UserError


@app.command()
def sky(
    out: Annotated[str, typer.Argument(help="Root of the release that is written.")],
    bricks: Annotated[int, typer.Option(min=1, help="How many bricks.")] = 28,
    size: Annotated[int, typer.Option(min=128, help="Pixels on a side of a brick.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same sky.")] = 1,
    lrgs: Annotated[
        float, typer.Option(help="LRGs per 512x512 pixels; the real sky has 0.84.")
    ] = 60.0,
    bands: Annotated[str, typer.Option(help="Of g, r, i, z.")] = "grz",
    cluster: Cluster = None,
    workers: Workers = None,
) -> None:
    """Write a synthetic sky laid out as a DR10 south release.

    The same bytes in any order, number and place of the bricks. Real size and density:
    [bold]dhs sky my-sky --bricks 4 --size 3600 --lrgs 0.84 --workers 2[/bold]

    Example: [bold]dhs sky my-sky --bricks 28 --size 512[/bold]
    """
    commands.sky(
        out,
        bricks=bricks,
        size=size,
        seed=seed,
        lrgs=lrgs,
        bands=bands,
        cluster=cluster,
        workers=workers,
        console=console,
    )


@app.command()
def targets(
    sources: Annotated[
        list[str], typer.Argument(help="Tractor or sweep files, or a release's folder.")
    ],
    out: Annotated[
        str, typer.Option("--out", help="Parquet file that is written.")
    ] = "targets.parquet",
    cuts: Annotated[
        str, typer.Option(help="lrg (DESI LRGs, Zhou et al. 2023), plain (see --cut) or all.")
    ] = "lrg",
    limits: Annotated[
        list[str] | None,
        typer.Option("--cut", help="For plain: --cut z=18:20.3 --cut g-r=0.5: (AB, observed)."),
    ] = None,
    region: Annotated[
        str, typer.Option(help="What splits keep in one piece: brick or healpix (nside 64).")
    ] = "brick",
    size: Annotated[
        int, typer.Option(min=16, max=256, help="Stamp side in pixels: how wide the guard is.")
    ] = 64,
    splits: Annotated[
        str, typer.Option(help="Fractions of the regions in train, val and test.")
    ] = "0.7,0.15,0.15",
    most: Annotated[
        int | None, typer.Option(min=1, help="Whole bricks with at most so many targets.")
    ] = None,
) -> None:
    """Select lens galaxies from catalogues.

    Example: [bold]dhs targets my-sky/south --out targets.parquet[/bold]
    """
    if region not in ("brick", "healpix"):
        raise UserError(f"--region is brick or healpix, not {region}")
    try:
        fractions = [float(part) for part in splits.split(",")]
    except ValueError:
        raise UserError(f"--splits {splits} is not three numbers, like 0.7,0.15,0.15") from None
    commands.targets(
        sources,
        out,
        cuts=cuts,
        limits=limits or (),
        region="healpix" if region == "healpix" else "brick",
        size=size,
        splits=fractions,
        most=most,
        console=console,
    )


@app.command()
def plan(
    experiment: Annotated[str, typer.Argument(help="Experiment file (YAML).")],
    out: Out = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Make a few bricks, and say what the run will take.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="For --estimate: workers of the run.")] = 1,
    overrides: Overrides = None,
) -> None:
    """Say what a run would do: rows, bricks, blocks. Reads no pixels but for --estimate.

    Example: [bold]dhs plan workflows/real-brick.yaml --estimate --workers 240[/bold]
    """
    made = commands.plan(experiment, out=out, overrides=parse_overrides(overrides), console=console)
    if estimate:
        commands.estimate(made, workers, console=console)


@app.command()
def cache(
    experiment: Annotated[str, typer.Argument(help="Experiment file (YAML), or a run's folder.")],
    to: Annotated[str, typer.Option("--to", help="Where the files go: a path or any fsspec URL.")],
    layout: Annotated[
        str, typer.Option(help="release: as published; flat: all files in one folder.")
    ] = "release",
    threads: Annotated[int, typer.Option(min=1, max=64, help="Bricks copied at once.")] = 4,
    overrides: Overrides = None,
) -> None:
    """Copy the coadds that an experiment reads, verified; called again, it resumes.

    Example: [bold]dhs cache workflows/real-brick.yaml --to coadds --layout flat[/bold]
    """
    if layout not in ("release", "flat"):
        raise UserError(f"--layout is release or flat, not {layout}")
    done = commands.cache(
        experiment,
        to,
        layout="flat" if layout == "flat" else "release",
        threads=threads,
        overrides=parse_overrides(overrides),
        console=console,
    )
    raise typer.Exit(commands.cache_exit_code(done))
