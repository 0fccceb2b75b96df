"""The study's file: a common experiment, what each arm changes in it, and the rules of the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import Field, ValidationError

from darkhaloscope.config import Experiment, load_document, parse_experiment, replace_keys
from darkhaloscope.config.base import Section
from darkhaloscope.errors import UserError
from darkhaloscope.views import View

READING_VERSION = 1
"""Raised when what is read of an arm, or how, changes: finished arms are then made again."""

REFERENCE = "none"
"""The arm that all others are compared with: nothing is done to it."""


class Sky(Section):
    """A synthetic sky that the study makes for itself, beside its results."""

    bricks: int = Field(48, ge=1)
    size: int = Field(512, ge=128)
    seed: int = Field(5, ge=0)
    lrgs: float = Field(60.0, gt=0)


class Rules(Section):
    """What an arm must show to be recommended; each with its interval, never the point alone."""

    core_auc: float = Field(0.65, gt=0.5, le=1)
    """The core AUC lies below this."""
    leak: float = Field(0.02, ge=0)
    """No part of the stamp tells the classes apart by more than this beyond what unfixed arcs do."""
    physics_loss: float = Field(0.02, ge=0)
    """On unfixed arcs the non-linear reader trained on this arm loses no more than this AUC."""
    small_lost: float = Field(0.5, ge=0, le=1)
    """At most this fraction of the small lenses is lost."""


class WithArms(Section):
    """A section that compares arms; one of them is ``none``."""

    arms: dict[str, dict[str, Any]]
    """What each arm changes, by dotted key."""


Compares = TypeVar("Compares", bound=WithArms)


class Study(WithArms):
    """The section ``study``."""

    pairs: int = Field(2000, ge=50)
    """Injections that every arm is read with."""
    sky: Sky | None = None
    """Without one the coadds and targets are those of the experiment."""
    small_theta_e_over_psf: float = Field(0.8, gt=0)
    """A lens is small where theta_e / PSF width is below this."""
    lost_below: float = Field(0.5, gt=0, le=1)
    """A small lens is lost where a cut marks it, or less than this fraction of its light is kept."""
    rules: Rules = Rules()
    arms: dict[str, dict[str, Any]]
    """What each arm changes, by dotted key: of the experiment, or ``view.`` of how it is read."""


@dataclass(frozen=True)
class Arm:
    """One experiment of a study, and how its images are read."""

    name: str
    experiment: Experiment
    view: View

    def key(self, contents: Mapping[str, str], pairs: int) -> str:
        """What the arm's results depend on, as the first 12 digits of a sha256."""
        document = {
            "identity": self.experiment.identity(contents),
            "view": self.view.model_dump(mode="json"),
            "pairs": pairs,
            "version": READING_VERSION,
        }
        text = json.dumps(document, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def load_study(
    url: str, overrides: Mapping[str, Any] | None = None, places: Mapping[str, str] | None = None
) -> tuple[Study, list[Arm]]:
    """Read and check a study's file.

    Parameters
    ----------
    url : str
        Path or URL.
    overrides : mapping, optional
        Values by dotted key that replace those of the file, ``study.pairs`` among them.
    places : mapping, optional
        The same, for places that the caller makes (``survey.root``, ``targets.path``).

    Returns
    -------
    study : Study
    arms : list of Arm
        In the file's order; the first is ``none``.

    Raises
    ------
    UserError
        A mistake in the file, no arm ``none``, or an arm with other targets than the others.
    """
    document = load_document(url)
    replace_keys(document, {**(overrides or {}), **(places or {})})
    study = take_section(document, "study", Study, url)
    arms = [_arm(name, changes, document, url) for name, changes in study.arms.items()]
    arms.sort(key=lambda arm: arm.name != REFERENCE)
    for arm in arms[1:]:
        check_aligned(arms[0].experiment, arm.experiment, f"{url}: study.arms.{arm.name}")
    return study, arms


def take_section(document: dict[str, Any], name: str, model: type[Compares], url: str) -> Compares:
    """Take the section that compares arms out of an experiment's document, and check it.

    Parameters
    ----------
    document : dict
        The whole file; what is left is an experiment.
    name : str
        Of the section.
    model : type
        What it must be.
    url : str
        The file, for errors.

    Raises
    ------
    UserError
        There is no such section, a mistake in it, or no arm ``none`` that nothing is done to.
    """
    section = document.pop(name, None)
    if not isinstance(section, dict):
        raise UserError(f"{url} has no section {name}; an experiment is run with dhs run {url}")
    try:
        made = model.model_validate(section)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{url}: {name}.{where} is wrong: {first['msg']}") from None
    if made.arms.get(REFERENCE) != {}:
        raise UserError(
            f"{url}: {name}.arms needs an arm {REFERENCE}: {{}}, which nothing is done to"
        )
    return made


def _arm(name: str, changes: Mapping[str, Any], document: Mapping[str, Any], url: str) -> Arm:
    experiment = json.loads(json.dumps(document))
    seen: dict[str, Any] = {"view": {}}
    for key, value in changes.items():
        replace_keys(seen if key.startswith("view.") else experiment, {key: value})
    where = f"{url}: study.arms.{name}"
    try:
        view = View.model_validate(seen["view"])
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in ("view", *first["loc"]))
        raise UserError(f"{where}: {key} is wrong: {first['msg']}") from None
    experiment["name"] = f"{experiment.get('name', 'study')}-{name}"
    return Arm(name, parse_experiment(experiment, where), view)


def check_aligned(reference: Experiment, other: Experiment, where: str) -> None:
    """Rows are compared one by one, so targets, stamps and random numbers must be the same."""
    for section in ("seed", "survey", "targets", "stamp", "plan"):
        if getattr(reference, section) != getattr(other, section):
            raise UserError(
                f"{where} changes {section}, which all arms share; change it for the whole study"
            )
