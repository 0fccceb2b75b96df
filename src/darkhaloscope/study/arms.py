"""The study's file: a common experiment, what each arm changes in it, and the rules of the end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from darkhaloscope.config import (
    Experiment,
    FixSection,
    digest_of,
    load_document,
    parse_experiment,
    replace_keys,
)
from darkhaloscope.config.base import Number, Section
from darkhaloscope.config.load import beside, known_keys
from darkhaloscope.errors import UserError
from darkhaloscope.plan.rows import grid_cells
from darkhaloscope.views import View

READING_VERSION = 2
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

    core_auc: Number = Field(0.65, gt=0.5, le=1)
    """The core AUC lies below this."""
    leak: Number = Field(0.02, ge=0)
    """No part of the stamp tells the classes apart by more than this beyond what the arm's physics does."""
    physics_loss: Number = Field(0.02, ge=0)
    """On plain arcs the non-linear reader trained on this arm loses no more than this AUC."""
    small_lost: Number = Field(0.5, ge=0, le=1)
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
    small_theta_e_over_psf: Number = Field(0.8, gt=0)
    """A lens is small where theta_e / PSF width is below this."""
    lost_below: Number = Field(0.5, gt=0, le=1)
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

    def key(self, contents: Mapping[str, str], pairs: int, pixels: str) -> str:
        """What the arm's results depend on, as the first 12 digits of a digest.

        Parameters
        ----------
        contents : mapping
            Digests of what the experiment names (:attr:`darkhaloscope.plan.Plan.contents`).
        pairs : int
        pixels : str
            Of the coadds that are read: :func:`darkhaloscope.study.coadds.fingerprint`. An experiment's
            identity says nothing of them, since a run may go on where they were moved to.
        """
        document = {
            "identity": self.experiment.identity(contents),
            "pixels": pixels,
            "view": self.view.model_dump(mode="json"),
            "pairs": pairs,
            "version": READING_VERSION,
        }
        return digest_of(document)[:12]


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
        A mistake in the file, no arm ``none``, a fix that all arms would have, or an arm with other targets
        or lenses than the others.
    """
    document = load_document(url)
    replace_keys(document, {**(overrides or {}), **(places or {})})
    study = take_section(document, "study", Study, url)
    arms = [_arm(name, changes, document, url) for name, changes in study.arms.items()]
    arms.sort(key=lambda arm: arm.name != REFERENCE)
    if arms[0].experiment.fix != FixSection():
        raise UserError(
            f"{url} has a fix for all arms, {REFERENCE} among them, which nothing is done to; take it out, "
            "and give it to an arm of its own in study.arms"
        )
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
        raise UserError(f"{url}: {_said(error, model, name)}") from None
    if made.arms.get(REFERENCE) != {}:
        raise UserError(
            f"{url}: {name}.arms needs an arm {REFERENCE}: {{}}, which nothing is done to"
        )
    return made


def _said(error: ValidationError, model: type[BaseModel], section: str) -> str:
    """The first mistake in a section as a sentence; of an unknown key, which are known."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in (section, *first["loc"]))
    if first["type"] != "extra_forbidden":
        return f"{key} is wrong: {first['msg']}"
    for part in first["loc"][:-1]:
        annotation: Any = model.model_fields[str(part)].annotation
        inside: tuple[Any, ...] = getattr(annotation, "__args__", (annotation,))
        model = next(kind for kind in inside if hasattr(kind, "model_fields"))
    return f"{key} is not a key; known keys: {', '.join(model.model_fields)}"


def _arm(name: str, changes: Mapping[str, Any], document: Mapping[str, Any], url: str) -> Arm:
    where = f"{url}: study.arms.{name}"
    view: dict[str, Any] = {}
    changed = changed_by(changes, document, url, where, {"view": view})
    try:
        seen = View.model_validate(view)
    except ValidationError as error:
        raise UserError(f"{where}: {_said(error, View, 'view')}") from None
    return Arm(name, experiment_of(name, changed, where), seen)


def changed_by(
    changes: Mapping[str, Any],
    document: Mapping[str, Any],
    url: str,
    where: str,
    beside_it: Mapping[str, dict[str, Any]],
) -> dict[str, Any]:
    """An experiment's mapping with what an arm changes.

    Parameters
    ----------
    changes : mapping
        By dotted key; null takes a key out, which has its default then.
    document : mapping
        Of the experiment; it stays what it is.
    url : str
        The file: a path of an arm stands in it, as any other of its paths, and is taken from its folder.
    where : str
        The arm's place in its file, for errors.
    beside_it : mapping
        By their first name, mappings beside the experiment whose keys an arm changes as well, in place.

    Raises
    ------
    UserError
        A key of a section that does nothing to an arm; one to take out that is neither there nor known;
        one that leads through something that is no section.
    """
    idle = set(Experiment.model_fields).difference(VARIED, SHARED)
    if changes_nothing := [key for key in changes if key.partition(".")[0] in idle]:
        raise UserError(
            f"{where} changes {changes_nothing[0]}, which does nothing to an arm; arms differ in "
            f"{', '.join(VARIED)} and {', '.join(beside_it)}"
        )
    made: dict[str, Any] = json.loads(json.dumps(document))
    for key, value in changes.items():
        first, _, rest = key.partition(".")
        place, inside = (beside_it[first], rest) if rest and first in beside_it else (made, key)
        if value is None:
            *sections, last = inside.split(".")
            known = place is made and last in known_keys(tuple(sections))
            if not _take_out(place, inside) and not known:
                raise UserError(
                    f"{url}: an arm takes {key} out with null, which is no key of the file"
                )
        else:
            replace_keys(place, {inside: value})
    if isinstance(catalogue := changes.get("source.catalogue"), str):
        made["source"]["catalogue"] = beside(url, catalogue)
    return made


def experiment_of(name: str, document: dict[str, Any], where: str) -> Experiment:
    """The experiment of an arm, whose name ends with that of the arm.

    Parameters
    ----------
    where : str
        The arm's place in its file, for errors.

    Raises
    ------
    UserError
        A mistake in it.
    """
    document["name"] = f"{document.get('name', 'study')}-{name}"
    try:
        return parse_experiment(document, where)
    except UserError as error:
        if "take " in str(error):
            raise UserError(f"{error} (an arm takes a key out with null)") from None
        raise


def _take_out(document: dict[str, Any], dotted: str) -> bool:
    """Take a key out of a mapping, which has its default then; False where it was not there."""
    *sections, key = dotted.split(".")
    place: Any = document
    for section in sections:
        place = place.get(section) if isinstance(place, dict) else None
    if not isinstance(place, dict) or key not in place:
        return False
    del place[key]
    return True


VARIED = ("source", "psf", "render", "fix")
"""Sections that an arm of a study changes, beside how it is read."""

SHARED = ("seed", "survey", "targets", "stamp", "plan", "lens")
"""Sections that say which lens lies where: arms differ in sources, in fixes and in how they are read."""


def check_aligned(reference: Experiment, other: Experiment, where: str) -> None:
    """Rows are compared one by one, so targets, stamps, lenses and random numbers must be the same.

    Raises
    ------
    UserError
        Another section than those of sources and fixes is changed, or a target has another number of rows.
    """
    for section in SHARED:
        if getattr(reference, section) != getattr(other, section):
            raise UserError(
                f"{where} changes {section}, which all arms share; change it for the whole study"
            )
    here, there = grid_cells(other), grid_cells(reference)
    if here != there:
        raise UserError(
            f"{where} has {here} rows for each target and repeat, where {REFERENCE} has {there}: a list is a "
            "grid; give both lists of one length, or use a distribution"
        )
