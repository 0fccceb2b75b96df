"""``dhs``: the terminal's face of :mod:`darkhaloscope.commands`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from typing import Annotated, Any, TextIO, cast

import typer
import yaml
from rich.console import Console

from darkhaloscope import __version__, commands, logs
from darkhaloscope.driver import Brake
from darkhaloscope.errors import Incomplete, UserError

app = typer.Typer(
    name="dhs",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Inject strong lenses into survey coadds, and audit what a classifier could learn from them.",
)
console = Console()
errors = Console(stderr=True)

Out = Annotated[
    str | None, typer.Option("--out", help="Folder of the results: a path or any fsspec URL.")
]
Cluster = Annotated[
    str | None,
    typer.Option("--cluster", help="Address of a running Dask scheduler, e.g. tcp://host:8786."),
]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Local worker processes.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="Replace one key of the experiment: --set stamp.size=96."),
]


def _parse_overrides(items: list[str] | None) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for item in items or []:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise UserError(f"--set {item} has no value; write --set section.key=value")
        try:
            made[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {item}: the value is not valid YAML") from None
    return made


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
    made = commands.plan(
        experiment, out=out, overrides=_parse_overrides(overrides), console=console
    )
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
        overrides=_parse_overrides(overrides),
        console=console,
    )
    raise typer.Exit(commands.cache_exit_code(done))


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
        overrides=_parse_overrides(overrides),
        require_gate=require_gate,
        brake=_brake,
        metrics_port=metrics_port,
        console=console,
    )
    raise typer.Exit(outcome.exit_code)


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
        overrides=_parse_overrides(overrides),
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
def train(
    source: Annotated[str, typer.Argument(help="A detector's file (YAML), or a run's folder.")],
    out: Out = None,
    despite: Annotated[
        bool,
        typer.Option("--despite", help="Although the run's audit said bug or shortcut; recorded."),
    ] = False,
    overrides: Overrides = None,
) -> None:
    """Train a network on a run; called again, it resumes. Needs darkhaloscope[detect].

    Example: [bold]dhs train runs/train --out detectors/first --set training.epochs=10[/bold]
    """
    commands.train(
        source, out=out, despite=despite, overrides=_parse_overrides(overrides), console=console
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
        overrides=_parse_overrides(overrides),
        console=console,
    )


ReadAhead = Annotated[int, typer.Option(min=0, max=64, help="Threads that read ahead.")]


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
def status(
    folder: Annotated[str, typer.Argument(help="A run's folder: a path or any fsspec URL.")],
) -> None:
    """Say how far a run is: done, running, failed by reason, rate, ETA.

    Example: [bold]dhs status s3://bucket/runs/first[/bold]
    """
    commands.status(folder, console=console)


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


Threads = Annotated[int, typer.Option(min=1, max=64, help="Blocks that are read at once.")]


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


def _version(show: bool) -> None:
    if show:
        console.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    log: Annotated[
        str, typer.Option(envvar=logs.VARIABLE, help="text, or json: an object a line, on stderr.")
    ] = "text",
) -> None:
    if log not in ("text", "json"):
        raise UserError(f"--log (or {logs.VARIABLE}) is text or json, not {log}")
    os.environ[logs.VARIABLE] = log  # local workers are told
    if logs.are_json():
        logs.to_json()
        said = cast("TextIO", logs.Lines(logging.getLogger("darkhaloscope.cli")))
        for one in (console, errors):
            one.file, one.soft_wrap = said, True


class _Interrupted(BaseException):
    """Ctrl-C or SIGTERM, under a name that the command-line library does not take for its own."""


_brake = Brake()


def _interrupt(number: int, frame: object) -> None:
    """The first Ctrl-C or SIGTERM lets a run finish what is in flight; the next one stops it now."""
    if _brake.listening and not _brake.pulled:
        _brake.pulled = True
        again = "Ctrl-C again" if number == signal.SIGINT else "once more"
        errors.print(f"dhs: told to stop, finishing the blocks in flight; {again} stops now")
        return
    raise _Interrupted


def main() -> None:
    """Entry point: a user's mistake is one sentence and exit code 2; what passes, or is not done, is 4.

    So are Ctrl-C and SIGTERM. An error of ours is a traceback and exit code 70, so that nobody takes it for
    a verdict.
    """
    # As the first process of a container nothing but a handler makes SIGTERM end us.
    before = {each: signal.signal(each, _interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        app()
    except UserError as error:
        store_is_away = error.passes and not isinstance(error, Incomplete)
        said = f"{error}; it may pass, then the same command goes on" if store_is_away else error
        errors.print(f"dhs: {said}", style="red", soft_wrap=True, markup=False, highlight=False)
        sys.exit(commands.EXIT_INCOMPLETE if error.passes else commands.EXIT_USER)
    except _Interrupted:
        errors.print("dhs: interrupted; the same command again resumes")
        sys.exit(commands.EXIT_INCOMPLETE)
    except Exception:  # noqa: BLE001 (the last line of defence: Python's own exit code is a verdict's)
        traceback.print_exc()
        errors.print("dhs: this is an error of darkhaloscope; please report it")
        sys.exit(commands.EXIT_OURS)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
