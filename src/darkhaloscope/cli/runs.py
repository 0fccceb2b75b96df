"""From an experiment, or a finished data set, to a verdict."""

from __future__ import annotations

from typing import Annotated

import typer

from darkhaloscope import commands
from darkhaloscope.cli.app import (
    Cluster,
    Out,
    Overrides,
    Workers,
    app,
    brake,
    console,
    parse_overrides,
)


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="Experiment file (YAML).")],
    out: Out = None,
    cluster: Cluster = None,
    workers: Workers = None,
    require_gate: Annotated[
        str | None,
        typer.Option(
            "--require-gate", help="Start only if this run's gates passed (docs/tiers.md)."
        ),
    ] = None,
    overrides: Overrides = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Serve Prometheus metrics there while it runs."),
    ] = None,
) -> None:
    """Inject, write, audit and report; called again, it resumes.

    Example: [bold]dhs run workflows/real-brick.yaml --out runs/real-brick[/bold]
    """
    outcome = commands.run(
        experiment,
        out=out,
        cluster=cluster,
        workers=workers,
        overrides=parse_overrides(overrides),
        require_gate=require_gate,
        brake=brake,
        metrics_port=metrics_port,
        console=console,
    )
    raise typer.Exit(outcome.exit_code)


@app.command()
def audit(
    source: Annotated[str, typer.Argument(help="A run's folder, or any set of stamps.")],
    mapping: Annotated[
        str | None,
        typer.Option("--mapping", help="Columns of a foreign set: seed, or a YAML file."),
    ] = None,
    out: Out = None,
    cluster: Cluster = None,
    workers: Workers = None,
) -> None:
    """Audit a data set by reading its pixels.

    Example: [bold]dhs audit runs/real-brick[/bold]
    """
    outcome = commands.audit_dataset(
        source, mapping=mapping, out=out, cluster=cluster, workers=workers, console=console
    )
    raise typer.Exit(outcome.exit_code)


@app.command()
def report(
    folder: Annotated[str, typer.Argument(help="Folder of a finished run or audit.")],
    source: Annotated[
        str | None, typer.Option(help="The data set, where the audit's folder is not the run's.")
    ] = None,
) -> None:
    """Draw report.html again.

    Example: [bold]dhs report runs/real-brick[/bold]
    """
    commands.make_report(folder, source=source, console=console)


@app.command()
def selftest() -> None:
    """Check the renderer's physics before a long run; exit code 1 if a check fails.

    Example: [bold]dhs selftest[/bold]
    """
    checks = commands.selftest(console=console)
    raise typer.Exit(0 if all(check.passed for check in checks) else commands.EXIT_BUG)


@app.command()
def demo(
    out: Annotated[str, typer.Option("--out", help="Folder of the results.")] = "demo",
    workers: Workers = None,
) -> None:
    """The whole path on a synthetic sky, a few minutes; called again, it resumes.

    Example: [bold]dhs demo --out demo[/bold]
    """
    raise typer.Exit(commands.demo(out, workers=workers, console=console).exit_code)
