"""What a run must have shown before a larger one of the same family starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from darkhaloscope import audit, storage, store, trial
from darkhaloscope.config import Experiment, parse_experiment
from darkhaloscope.errors import Incomplete, Reason, UserError
from darkhaloscope.plan import joint_digest
from darkhaloscope.plan.rows import galaxies_of
from darkhaloscope.survey.galaxies import galaxies_digest
from darkhaloscope.survey.targets import read_table

FAMILY = ("pixel_version", "survey", "stamp", "lens", "source", "psf", "render", "fix")
"""Parts of the identity that two tiers share: the same arcs, on other targets."""

CONTENTS = ("joint", "galaxies")
"""And of what the two name: the joint table of parameters, and the galaxies that sources are."""


def run_below(experiment: Experiment, folder: str, named: str | None) -> str | None:
    """The run that must have passed: as named, else that of ``after`` beside this run; None for none.

    Raises
    ------
    UserError
        The name is empty.
    """
    if named is not None and not named.strip():
        raise UserError("--require-gate is empty; give the folder of a run, or leave it out")
    if named is not None:
        return storage.absolute(named.rstrip("/") or "/")
    if experiment.after is None:
        return None
    return storage.join(folder.rpartition("/")[0], experiment.after)


def require_passed(below: str, experiment: Experiment) -> None:
    """See that a run passed its own gates, and that what it showed holds for this experiment.

    Raises
    ------
    UserError
        There is no such run, it was not concluded, a required gate did not pass or had a looser limit, it is
        of another family, or its rows are wrong.
    """
    try:
        summary = store.read_run(below)
    except storage.StorageError as error:
        if not isinstance(error.__cause__, NotADirectoryError):
            raise
        raise UserError(
            f"{below} is no folder, and {experiment.name} starts only after a run; name its folder with "
            "--require-gate RUN"
        ) from None
    how = "run it first, or name another with --require-gate RUN"
    if summary is None:
        after = experiment.after or "a run that passed"
        raise UserError(
            f"{experiment.name} starts only after {after}: there is no run {below}; {how}"
        )
    there = parse_experiment(store.read_experiment(below), below)
    if experiment.after not in (None, there.name):
        raise UserError(
            f"{experiment.name} starts only after {experiment.after}, and {below} is a run of "
            f"{there.name}; {how}"
        )
    before, document = summary["document"], experiment.identity_document({})
    old, new = ({key: part.get(key) for key in FAMILY} for part in (before, document))
    changed = store.differences(old, new)
    if not changed:  # galaxies are looked at only where it takes that to know
        was, now = before["contents"], _contents(experiment)
        changed = [f"the contents of its {k}" for k in CONTENTS if was.get(k) != now.get(k)]
    if changed:
        raise UserError(
            f"{below} says nothing of {experiment.name}, whose arcs are others: {', '.join(changed)}; {how}"
        )
    try:
        verdict = json.loads(storage.read(storage.join(below, "verdict.json")))
    except FileNotFoundError:
        raise UserError(f"{below} has no verdict yet; finish it with dhs run") from None
    except ValueError:
        raise UserError(
            f"{below}/verdict.json is damaged; dhs audit {below} writes it again"
        ) from None
    required = sorted({*there.gates.required, *experiment.gates.required})
    if audit.exit_code(verdict, required) != 0:
        raise UserError(
            f"{below} did not pass: {verdict['sentence']} {experiment.name} does not start"
        )
    outcomes = {gate["name"]: gate["outcome"] for gate in verdict["gates"]}
    if unproved := [name for name in required if outcomes.get(name) != "pass"]:
        raise UserError(
            f"{below} did not pass {', '.join(unproved)}, which a run before {experiment.name} must have "
            "passed: its verdict has no evidence of it; give it more pairs, or audit it again with dhs audit "
            f"{below}"
        )
    if looser := _looser_limits(verdict, experiment, required):
        raise UserError(
            f"{below} was judged by looser limits than {experiment.name} has: {', '.join(looser)}; run it "
            "again with these (--set gates.NAME=LIMIT), which makes no row again"
        )
    columns = store.open_dataset(below).drop_vars("arc")  # its verdict has looked at the pixels
    reference = there.survey.reference
    if (columns["reason"].values == Reason.NOT_WRITTEN).any():
        raise Incomplete(f"{below} is not finished; call dhs run again, it resumes")
    failed = np.isin(columns["reason"].values, [r for r in Reason if r.failed]).mean()
    most = min(there.max_failed_fraction, experiment.max_failed_fraction)
    if failed > most:
        raise UserError(
            f"{below} did not pass: {failed:.1%} of its rows failed, more than max_failed_fraction = "
            f"{most:.1%}; {experiment.name} does not start"
        )
    wrong = trial.faults(columns, reference)
    if falls := trial.flux_falls(columns, reference):
        wrong.append(falls)
    if wrong:
        raise UserError(f"the rows of {below} are wrong: {'; '.join(wrong)}")


ONLY_IF_REQUIRED = ("core_auc", "core_auc_strict")
"""Gates whose limits decide nothing where they are not required; all others speak in every verdict."""


def _looser_limits(
    verdict: Mapping[str, Any], experiment: Experiment, required: Sequence[str]
) -> list[str]:
    """Gates of a verdict whose limits are larger than this experiment's, with both."""
    own = experiment.gates.model_dump(exclude={"required"})
    found = []
    for gate in verdict["gates"]:
        name, limit = gate["name"], own.get(gate["name"])
        counts = name in required or name not in ONLY_IF_REQUIRED
        if limit is not None and counts and gate["limit"] > limit:
            found.append(f"{name} {gate['limit']:g} and not {limit:g}")
    return found


def _contents(experiment: Experiment) -> dict[str, str]:
    """Digests of what decides arcs and is no key, as a plan's contents; the targets are others anyway."""
    found = {}
    if experiment.plan.joint is not None:
        found["joint"] = joint_digest(read_table(experiment.plan.joint))
    if (galaxies := galaxies_of(experiment)) is not None:
        found["galaxies"] = galaxies_digest(str(experiment.source.catalogue), galaxies)
    return found
