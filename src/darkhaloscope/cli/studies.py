"""Several experiments compared, and what fraction of injections is recovered."""

from __future__ import annotations

from typing import Annotated

import typer

from darkhaloscope import commands
from darkhaloscope.cli.app import Cluster, Out, Overrides, Workers, app, console, parse_overrides


@app.command()
def study(
    file: Annotated[str, typer.Argument(help="A study's file (YAML).")],
    out: Out = None,
    cluster: Cluster = None,
    workers: Workers = None,
    overrides: Overrides = None,
) -> None:
    """Compare what several fixes buy and cost, on the same targets; called again, it resumes.

    Example: [bold]dhs study workflows/core_neutral.yaml --set study.pairs=500[/bold]
    """
    commands.run_study(
        file,
        out=out,
        cluster=cluster,
        workers=workers,
        overrides=parse_overrides(overrides),
        console=console,
    )


@app.command()
def ablation(
    file: Annotated[str, typer.Argument(help="An ablation's file (YAML).")],
    out: Out = None,
    arm: Annotated[
        list[str] | None, typer.Option(help="Only this one beside none; may be repeated.")
    ] = None,
    cluster: Cluster = None,
    workers: Workers = None,
    overrides: Overrides = None,
) -> None:
    """Train a network for each fix of a data set, and compare them; called again, it resumes.

    Example: [bold]dhs ablation workflows/ablation.yaml --arm mask_5[/bold]
    """
    commands.ablation(
        file,
        out=out,
        cluster=cluster,
        workers=workers,
        arms=arm,
        overrides=parse_overrides(overrides),
        console=console,
    )


@app.command()
def completeness(
    run: Annotated[str, typer.Argument(help="A finished run's folder.")],
    scores: Annotated[
        str | None, typer.Option("--scores", help="scores.parquet of a detector (dhs score).")
    ] = None,
    fpr: Annotated[
        float | None,
        typer.Option("--fpr", help="False-positive rate that sets the threshold; default 1e-3."),
    ] = None,
    criterion: Annotated[
        str | None, typer.Option("--criterion", help="Instead of scores: 'arc_snr > 10'.")
    ] = None,
    out: Out = None,
    over: Annotated[
        str, typer.Option("--over", help="Axes of the function, one or two.")
    ] = "theta_e_over_psf,src_mag",
    prior: Annotated[
        list[str] | None,
        typer.Option("--prior", help="Another prior: 'theta_e={log_uniform: [0.5, 2.5]}'."),
    ] = None,
) -> None:
    """What fraction of the test split's injections is recovered, as a function of what they are.

    Example: [bold]dhs completeness runs/grid --criterion 'arc_snr > 10'[/bold]
    """
    commands.completeness(
        run,
        scores=scores,
        fpr=fpr,
        criterion=criterion,
        out=out,
        over=[name.strip() for name in over.split(",")],
        priors=prior or (),
        console=console,
    )
