"""What each fix of a data set, and each way to read it, does to a network: a data set and a training an arm.

Every arm has the targets, the stamps and the random numbers of the others. It is judged twice on test: on its
own two classes, and on arcs that nothing was done to, which is what a survey will show it. All arms are
resampled over the same regions in the same draws, so that a difference has the interval of a paired
comparison.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from distributed import Client, as_completed
from pydantic import Field

from darkhaloscope import __version__, driver, prepare, storage, store
from darkhaloscope.audit.intervals import MIN_REGIONS
from darkhaloscope.config import Experiment, digest_of, load_document, replace_keys
from darkhaloscope.detect import folder as folders
from darkhaloscope.detect.areas import Area, area, difference, region_numbers, relative_drop
from darkhaloscope.detect.config import DetectorConfig, parse_config, resolve_paths
from darkhaloscope.detect.detector import load
from darkhaloscope.detect.scores import identity_of, loader_of
from darkhaloscope.detect.training import plane_of, scored, train
from darkhaloscope.errors import UserError
from darkhaloscope.study.arms import (
    REFERENCE,
    Sky,
    WithArms,
    changed_by,
    check_aligned,
    experiment_of,
    take_section,
)

VERSION = 1
"""Raised when what is measured of an arm changes: finished arms are then measured again."""

OWN, UNFIXED, MASKED = "own", "unfixed", "masked"
"""Test sets: the arm's own classes; unfixed arcs; unfixed arcs with the core hidden."""

COLUMNS = [
    "arm", "test", "auroc", "lo", "hi", "difference", "difference_lo", "difference_hi", "core_drop",
    "core_drop_lo", "core_drop_hi", "positives", "negatives", "regions", "epochs",
]  # fmt: skip

OnStep = Callable[[str, int, int], None]


class Ablation(WithArms):
    """The section ``ablation``."""

    sky: Sky | None = None
    """A synthetic sky that is made beside the results; without one the experiment's coadds and targets."""
    detector: dict[str, Any] = Field(default_factory=dict)
    """Keys of a detector's file that all arms share."""
    arms: dict[str, dict[str, Any]]
    """What each arm changes, by dotted key: of the experiment, or ``detector.`` of the detector's file; null
    takes a key out."""


@dataclass(frozen=True)
class Arm:
    """A data set, and a detector that is trained on it."""

    name: str
    experiment: Experiment
    detector: dict[str, Any]

    def config(self, run: str) -> DetectorConfig:
        """The detector's configuration on its run."""
        document = {**self.detector, "run": run, "name": self.name}
        document["gates"] = {**document.get("gates", {}), "beside": False}
        return parse_config(document, f"arm {self.name}")


@dataclass(frozen=True)
class Compared:
    """The table, a line an arm and test set, and the sentence that it supports."""

    table: pd.DataFrame
    sentence: str


def load_ablation(
    url: str,
    overrides: Mapping[str, Any] | None = None,
    places: Mapping[str, str] | None = None,
    only: Sequence[str] | None = None,
) -> tuple[Ablation, list[Arm]]:
    """Read and check an ablation's file.

    Parameters
    ----------
    url : str
        Path or URL of an experiment with a section ``ablation``.
    overrides, places : mapping, optional
        Values by dotted key that replace those of the file; ``places`` are the caller's own.
    only : sequence of str, optional
        Arms to keep, ``none`` always with them.

    Returns
    -------
    settings : Ablation
    arms : list of Arm
        In the file's order, ``none`` first.

    Raises
    ------
    UserError
        A mistake in the file, no arm ``none``, or an arm with other targets than the others.
    """
    document = load_document(url)
    replace_keys(document, {**(overrides or {}), **(places or {})})
    settings = take_section(document, "ablation", Ablation, url)
    names = [n for n in settings.arms if only is None or n in only or n == REFERENCE]
    if unknown := sorted(set(only or ()) - set(settings.arms)):
        raise UserError(f"{url} has no arm {unknown[0]}; its arms are {', '.join(settings.arms)}")
    names.sort(key=lambda name: name != REFERENCE)
    arms = [_arm(name, settings, document, url) for name in names]
    for arm in arms:
        check_aligned(arms[0].experiment, arm.experiment, f"{url}: ablation.arms.{arm.name}")
        arm.config("run")  # a mistake in a detector's key is found before anything is made
    return settings, arms


def _arm(name: str, settings: Ablation, document: Mapping[str, Any], url: str) -> Arm:
    where = f"{url}: ablation.arms.{name}"
    detector = json.loads(json.dumps(settings.detector))
    changed = changed_by(settings.arms[name], document, url, where, {"detector": detector})
    resolve_paths(detector, url)
    return Arm(name, experiment_of(name, changed, where), detector)


def run_ablation(
    client: Client, folder: str, arms: Sequence[Arm], on_step: OnStep
) -> tuple[dict[str, pd.DataFrame], dict[str, str]]:
    """Make each data set, train and score each arm; what the folder holds is not made again.

    Data sets lie in ``data/IDENTITY``, one for all arms that differ in reading alone; detectors in
    ``detectors/ARM-KEY``, scores in ``results/ARM-KEY.parquet``. An arm that is refused ends no other.

    Returns
    -------
    results : dict of str to DataFrame
        By the arms' names: ``test``, ``label``, ``score``, ``region``, ``epochs``.
    refused : dict of str to str
        By the names of the arms that have no results, why.
    """
    runs: dict[str, str] = {}
    for number, arm in enumerate(arms):
        runs[arm.name] = make_data(client, folder, arm.experiment)
        on_step("data sets", number + 1, len(arms))
    keys = {arm.name: _key(arm, runs[arm.name], runs[REFERENCE]) for arm in arms}
    results = {n: storage.join(folder, "results", f"{k}.parquet") for n, k in keys.items()}
    wanted = [arm for arm in arms if not storage.exists(results[arm.name])]
    futures = [
        client.submit(
            train_arm,
            arm.config(runs[arm.name]),
            storage.join(folder, "detectors", keys[arm.name]),
            runs[REFERENCE],
            results[arm.name],
            key=f"train-{keys[arm.name]}",
        )
        for arm in wanted
    ]
    names = {future.key: arm.name for future, arm in zip(futures, wanted, strict=True)}
    refused: dict[str, str] = {}
    for done, future in enumerate(as_completed(futures), start=1):
        try:
            future.result()
        except UserError as error:
            refused[names[future.key]] = str(error)
        on_step("networks", done, len(futures))
    return {n: _read(path) for n, path in results.items() if n not in refused}, refused


def make_data(client: Client, folder: str, experiment: Experiment) -> str:
    """The data set of an experiment below a folder, injected and written, not audited; gives its place."""
    plan = prepare.plan_of(experiment)
    layout = prepare.layout_of(plan)
    run = storage.join(folder, "data", layout.attributes["identity"][:12])
    document = experiment.identity_document(plan.contents)
    spec = prepare.spec_of(experiment, prepare.planned_strata(plan), n_regions=plan.n_regions)
    store.create_run(run, layout, experiment.to_yaml(), document, __version__)
    driver.run_blocks(client, run, plan, layout, spec, lambda block, was_there: None)
    return run


def train_arm(config: DetectorConfig, folder: str, reference: str, place: str) -> None:
    """Train one arm and score test: its own, and unfixed arcs with and without their core."""
    torch.set_num_threads(1)  # as many trainings at once as there are workers
    train(config, folder)
    detector = load(folder)
    plane = plane_of("annulus_only", detector.size, config.gates.core_radius_px)
    parts = []
    for test, run, left in (
        (OWN, config.run, None),
        (UNFIXED, reference, None),
        (MASKED, reference, plane),
    ):
        folders.record_test_use(
            folder, "ablation", data=identity_of(run), detector=detector.digest, test=test
        )
        reading = detector.reading
        if test != OWN and reading.negatives == "matched":
            # The reference has none: an arc on a galaxy against that galaxy, as for all arms.
            reading = reading.model_copy(update={"negatives": "ctrl"})
        loader = loader_of(detector, run, "test", reading=reading)
        seen = scored(detector.network, loader.in_order(), left)
        region = loader.columns["region_id"].values.astype(object)[seen.row]
        parts.append(
            pd.DataFrame(
                {
                    "test": test,
                    "label": seen.label,
                    "score": detector.calibrated(seen.logit).astype(np.float32),
                    "region": region,
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    table["epochs"] = len(folders.read_table(storage.join(folder, folders.METRICS)))
    folders.write_table(place, table)


def compare(results: Mapping[str, pd.DataFrame], seed: int) -> Compared:
    """One table of all arms, and what it says.

    Parameters
    ----------
    results : mapping of str to DataFrame
        As :func:`run_ablation` gives them, ``none`` first: the others are compared with it.
    seed : int
        Of the resampling.
    """
    names = np.unique(np.concatenate([t["region"].to_numpy(str) for t in results.values()]))
    reference: dict[str, Area] = {}
    lines: list[dict[str, Any]] = []
    for arm, table in results.items():
        areas: dict[str, Area] = {}
        for test in (OWN, UNFIXED, MASKED):
            part = table[table["test"] == test]
            pos, neg = part[part["label"]], part[~part["label"]]
            # The same numbers for all arms: regions of one that another lacks count nothing there.
            (of_pos, of_neg, _), n = region_numbers(
                pos["region"].to_numpy(), neg["region"].to_numpy(), names
            )
            areas[test] = area(
                pos["score"].to_numpy(float), neg["score"].to_numpy(float), of_pos, of_neg, n, seed
            )
        for test in (OWN, UNFIXED):
            found = areas[test]
            reference.setdefault(test, found)
            lo, hi = found.interval()
            line: dict[str, Any] = {
                "arm": arm,
                "test": test,
                "auroc": found.value,
                "lo": lo,
                "hi": hi,
            }
            names_of = ("difference", "difference_lo", "difference_hi")
            line |= dict(zip(names_of, difference(found, reference[test]), strict=True))
            if test == UNFIXED:
                drop = relative_drop(found, areas[MASKED])
                line |= dict(zip(("core_drop", "core_drop_lo", "core_drop_hi"), drop, strict=True))
            line |= {"positives": found.positives, "negatives": found.negatives}
            line |= {"regions": found.regions, "epochs": int(table["epochs"].iloc[0])}
            lines.append(line)
    made = pd.DataFrame(lines).reindex(columns=COLUMNS)
    return Compared(made, _sentence(made))


def _sentence(table: pd.DataFrame) -> str:
    """What the differences on unfixed arcs support, and no more."""
    lines = table[table["test"] == UNFIXED]
    first, others = lines.iloc[0], lines.iloc[1:]
    regions = int(lines["regions"].min())
    head = (
        f"On arcs that nothing was done to, a network trained without a fix has an AUROC of "
        f"{first['auroc']:.3f} [{first['lo']:.3f}, {first['hi']:.3f}]"
    )
    if regions < MIN_REGIONS:
        return f"{head}; {regions} regions of test are too few to tell the arms apart."
    worse = others[others["difference_hi"] < 0].sort_values("difference")
    better = others[others["difference_lo"] > 0].sort_values("difference", ascending=False)
    same = others[(others["difference_hi"] >= 0) & (others["difference_lo"] <= 0)]
    said = [head]
    for part, words in ((worse, "lose"), (better, "gain")):
        if len(part):
            named = [
                f"{r.arm} {r.difference:+.3f} [{r.difference_lo:+.3f}, {r.difference_hi:+.3f}]"
                for r in part.itertuples()
            ]
            said.append(f"{words}: {', '.join(named)}")
    if len(same):
        said.append(f"not told apart from it: {', '.join(same['arm'])}")
    return f"{'; '.join(said)} ({regions} regions, one training an arm)."


def markdown(found: Compared) -> str:
    """The table for a page."""
    lines = [
        "| arm | AUROC, own classes | AUROC, unfixed arcs | minus `none` | lost without the core | epochs |",
        "|---|---|---|---|---|---|",
    ]

    def number(row: Any, name: str, ends: tuple[str, str], sign: str = "") -> str:
        value, lo, hi = (row[k] for k in (name, *ends))
        if not np.isfinite(value):
            return "none"
        return f"{value:{sign}.3f} [{lo:{sign}.3f}, {hi:{sign}.3f}]"

    for arm in dict.fromkeys(found.table["arm"]):
        mine = found.table[found.table["arm"] == arm].set_index("test")
        own, unfixed = mine.loc[OWN], mine.loc[UNFIXED]
        gap = ("difference_lo", "difference_hi")
        drop = ("core_drop_lo", "core_drop_hi")
        lines.append(
            f"| `{arm}` | {number(own, 'auroc', ('lo', 'hi'))} | {number(unfixed, 'auroc', ('lo', 'hi'))} | "
            f"{'' if arm == REFERENCE else number(unfixed, 'difference', gap, '+')} | "
            f"{number(unfixed, 'core_drop', drop, '+')} | {unfixed['epochs']} |"
        )
    return "\n".join([*lines, "", found.sentence, ""])


def _key(arm: Arm, run: str, reference: str) -> str:
    """The arm's name with what its results depend on."""
    document = {
        "learned": arm.config(run).learned(),
        "core": arm.config(run).gates.core_radius_px,
        "data": [path.rsplit("/", 1)[-1] for path in (run, reference)],
        "version": VERSION,
    }
    return f"{arm.name}-{digest_of(document)[:12]}"


def _read(path: str) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(storage.read(path)))
