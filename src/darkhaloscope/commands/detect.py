"""Networks on a data set: trained, scored, judged. torch is imported when a command is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console

from darkhaloscope import storage
from darkhaloscope.audit.verdict import exit_code
from darkhaloscope.cluster import connect
from darkhaloscope.commands.common import with_cluster
from darkhaloscope.commands.studies import make_sky
from darkhaloscope.errors import UserError
from darkhaloscope.progress import Bar, Bars
from darkhaloscope.variables import SPLITS

if TYPE_CHECKING:
    import pandas as pd

    from darkhaloscope.detect.ablation import Compared
    from darkhaloscope.detect.assess import Assessment
    from darkhaloscope.detect.detector import Detector
    from darkhaloscope.detect.training import Part, Trainer


@dataclass(frozen=True)
class Judged:
    """What a detector has shown, and the exit code that it means."""

    folder: str
    assessment: Assessment
    exit_code: int


def train(
    source: str,
    *,
    out: str | None = None,
    despite: bool = False,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Detector:
    """Train a detector on a run, and the networks of the core and of the annulus beside it; resumes.

    Parameters
    ----------
    source : str
        A detector's file (docs/detect.md), or a run's folder for the defaults.
    out : str, optional
        The detector's folder; default ``detectors/<name>``.
    despite : bool
        Train although the run's audit said bug or shortcut; recorded in the detector for good.
    overrides : mapping, optional
        Values by dotted key.

    Raises
    ------
    UserError
        torch is missing, a mistake in the file, data that its audit forbids, or another's folder.
    """
    from darkhaloscope import detect
    from darkhaloscope.detect import figures

    console = console or Console()
    config = detect.load_config(source, overrides)
    folder = storage.absolute((out or f"detectors/{config.name}").rstrip("/"))
    made = _train_part(config, folder, "all", despite, console)
    if config.gates.beside:
        for part in detect.BESIDE:
            _train_part(config, storage.join(folder, part), part, despite, console)
    metrics = detect.folder.read_table(storage.join(folder, detect.folder.METRICS))
    picture = figures.png(figures.training_figure(metrics))
    storage.write(storage.join(folder, "training.png"), picture)
    best = metrics.iloc[int(metrics["val_loss"].to_numpy(float).argmin())]
    console.print(
        f"kept epoch {int(best['epoch'])} of {len(metrics)}: val loss {best['val_loss']:.4f}, "
        f"val AUROC {best['val_auroc']:.4f} -> {folder}",
        soft_wrap=True,
        highlight=False,
    )
    if made.despite:
        console.print(
            f"trained despite the data set's verdict {made.despite}; every result says so"
        )
    return made


def _train_part(config: Any, folder: str, part: Part, despite: bool, console: Console) -> Detector:
    from darkhaloscope import detect

    name = "train" if part == "all" else f"train {part.replace('_', ' ')}"
    bar: list[Bar] = []

    def on_start(resumed: bool, trainer: Trainer) -> None:
        epochs, at = config.training.epochs, trainer.progress.epoch
        network = config.network.name
        console.print(
            f"{name}: {network} on {trainer.device}, {trainer.train.batches(at)} batches an epoch, "
            f"{epochs} epochs at most" + (f"; resumed in epoch {at}" if resumed else ""),
            soft_wrap=True,
            highlight=False,
        )
        bar.append(Bar(console, name, epochs * trainer.train.batches(0), "batches").__enter__())
        bar[0].advance(at * trainer.train.batches(0), skipped=True)

    def on_batch(epoch: int, done: int, of: int) -> None:
        bar[0].advance(1)

    def on_epoch(line: Mapping[str, float]) -> None:
        console.print(
            f"epoch {int(line['epoch'])}: loss {line['train_loss']:.4f}, val loss {line['val_loss']:.4f}, "
            f"val AUROC {line['val_auroc']:.4f}, {line['images'] / max(line['seconds'], 1e-9):.0f} images/s",
            soft_wrap=True,
            highlight=False,
        )

    try:
        return detect.train(
            config,
            folder,
            despite=despite,
            part=part,
            on_start=on_start,
            on_batch=on_batch,
            on_epoch=on_epoch,
        )
    finally:
        for one in bar:
            one.__exit__(None)


def score(
    folder: str,
    run: str | None = None,
    *,
    out: str | None = None,
    splits: Sequence[str] | None = None,
    workers: int = 0,
    console: Console | None = None,
) -> pd.DataFrame:
    """Score every image of a run with pixels; gives the table that it writes.

    Parameters
    ----------
    folder : str
        The detector's.
    run : str, optional
        A run's folder; default the one that it was trained on.
    out : str, optional
        Where the table goes; default ``scores.parquet`` in the detector's folder, and for another run
        ``scores-IDENTITY.parquet`` there.
    splits : sequence of str, optional
        Default all. Scoring test is recorded in the detector.
    """
    from darkhaloscope import detect

    console = console or Console()
    folder = storage.absolute(folder.rstrip("/"))
    document, config = detect.folder.require(folder)
    run = storage.absolute((run or config.run).rstrip("/"))
    wanted = tuple(splits or SPLITS)
    for name in wanted:
        if name not in SPLITS:
            raise UserError(f"there is no split {name!r}; the splits are {', '.join(SPLITS)}")
    detector = detect.load(folder)
    identity = detect.identity_of(run)
    own = identity == document["data"]["identity"]
    file = detect.folder.SCORES if own else f"scores-{identity[:12]}.parquet"
    path = out or storage.join(folder, file)
    if "test" in wanted:
        detect.folder.record_test_use(folder, "score", data=identity, detector=detector.digest)
    with Bar(console, "score", 1, "images") as bar:
        table = detect.score_run(detector, run, splits=wanted, workers=workers, on_rows=bar.reached)
    detect.write_scores(path, table, detector, identity, folder)
    console.print(f"{len(table)} scores -> {path}", soft_wrap=True, highlight=False)
    return table


def evaluate(
    folder: str,
    *,
    run: str | None = None,
    workers: int = 0,
    console: Console | None = None,
) -> Judged:
    """Evaluate a detector on test and judge its gates; each call is recorded in the detector.

    The gate ``real_lens_recall`` is taken from what ``dhs lenses`` wrote below the detector.

    Parameters
    ----------
    folder : str
        The detector's.
    run : str, optional
        Where its data set lies now, if it was moved.
    """
    from darkhaloscope import detect
    from darkhaloscope.detect import figures
    from darkhaloscope.detect.recall import measured_gate

    console = console or Console()
    folder = storage.absolute(folder.rstrip("/"))
    _, config = detect.folder.require(folder)
    of_lenses = measured_gate(
        storage.join(folder, detect.folder.LENSES, detect.folder.VERDICT),
        detect.load(folder).digest,
        config.gates.real_lens_fpr,
        config.gates.real_lens_recall,
    )
    with Bars(console, "done") as on_step:
        found = detect.assess(
            folder,
            run=None if run is None else storage.absolute(run),
            workers=workers,
            further=() if of_lenses is None else (of_lenses,),
            on_step=on_step,
        )
    table = found.evaluation.table
    detect.folder.write_table(storage.join(folder, "evaluation.parquet"), table)
    files = {
        "evaluation.csv": table.to_csv(index=False).encode(),
        "evaluation.json": detect.to_bytes(detect.summary(found)),
        "reliability.csv": found.evaluation.reliability.curve.to_csv(index=False).encode(),
        "evaluation.png": figures.png(figures.evaluation_figure(found)),
        "looked.png": figures.png(figures.looked_figure(found)),
    }
    for name, data in files.items():
        storage.write(storage.join(folder, name), data)
    for gate in found.verdict["gates"]:
        mark = "" if gate["name"] in config.required else " (reported)"
        value = "none" if gate["value"] is None else f"{gate['value']:.3g}"
        console.print(
            f"{gate['name']}: {value}, limit {gate['limit']:g}: {gate['outcome']}{mark}",
            soft_wrap=True,
            highlight=False,
        )
    console.print(
        f"test was shown to this detector {found.test_uses} times",
        highlight=False,
    )
    console.print(f"verdict: {found.verdict['sentence']}", soft_wrap=True, highlight=False)
    return Judged(folder, found, exit_code(found.verdict, config.required))


@dataclass(frozen=True)
class Ablated:
    """Where an ablation's results are, and what they are."""

    folder: str
    compared: Compared


def ablation(
    file: str,
    *,
    out: str | None = None,
    cluster: str | None = None,
    workers: int | None = None,
    arms: Sequence[str] | None = None,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> Ablated:
    """Train one network for each arm of an ablation, and compare them; called again, it resumes.

    Parameters
    ----------
    file : str
        An experiment with a section ``ablation`` (docs/studies/ablation.md).
    out : str, optional
        Folder of the results; default ``studies/<name>``.
    cluster, workers
        As :func:`darkhaloscope.commands.run`.
    arms : sequence of str, optional
        Of the file's, ``none`` always with them; default all.
    overrides : mapping, optional
        Values by dotted key.

    Raises
    ------
    UserError
        A mistake in the file; or arms whose reading or data no network can be trained on, once those of
        the others are compared and written.
    """
    from darkhaloscope.detect import ablation as of
    from darkhaloscope.detect.folder import write_table

    console = console or Console()
    changed = with_cluster(overrides, cluster, workers)
    settings, chosen = of.load_ablation(file, changed, only=arms)
    name = chosen[0].experiment.name.removesuffix("-none")
    folder = storage.absolute((out or f"studies/{name}").rstrip("/"))
    if settings.sky is not None:
        places = make_sky(settings.sky, folder, workers, console)
        settings, chosen = of.load_ablation(file, changed, places, arms)
    with connect(chosen[0].experiment.cluster, folder) as client:
        console.print(f"dashboard: {client.dashboard_link}", soft_wrap=True)
        with Bars(console, "arms") as on_step:
            results, refused = of.run_ablation(client, folder, chosen, on_step)
    why = "; ".join(f"{arm}: {sentence}" for arm, sentence in refused.items())
    if of.REFERENCE in refused:
        raise UserError(f"there is nothing to compare with: {why}")
    found = of.compare(results, chosen[0].experiment.seed)
    write_table(storage.join(folder, "table.parquet"), found.table)
    storage.write(storage.join(folder, "table.csv"), found.table.to_csv(index=False).encode())
    storage.write(storage.join(folder, "summary.md"), of.markdown(found).encode())
    console.print(f"table:   {storage.join(folder, 'summary.md')}", soft_wrap=True, highlight=False)
    console.print(found.sentence, soft_wrap=True, highlight=False)
    if refused:
        raise UserError(
            f"{len(refused)} of {len(chosen)} arms were refused, and the table is of the others: {why}"
        )
    return Ablated(folder, found)
