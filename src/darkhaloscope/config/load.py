"""Reading an experiment file: paths, overrides, and mistakes said in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from darkhaloscope import storage
from darkhaloscope.config.sections import Experiment
from darkhaloscope.errors import UserError


class _UniqueKeys(yaml.SafeLoader):
    """YAML's safe loader, for which a key that stands twice is a mistake and not the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key} stands twice", node.value[number][0].start_mark
                )
        return super().construct_mapping(node, deep=deep)


def load_experiment(url: str, overrides: Mapping[str, Any] | None = None) -> Experiment:
    """Read and check an experiment file.

    Parameters
    ----------
    url : str
        Local path or any fsspec URL. Relative paths inside the file are taken from its folder.
    overrides : mapping, optional
        Values by dotted key (``{"survey.root": "s3://bucket/dr9"}``) that replace those of the file;
        relative paths among them are taken from the working directory.

    Raises
    ------
    UserError
        The file cannot be read, is no YAML mapping, or a key is missing, unknown or out of range.
    """
    document = load_document(url)
    if "study" in document:
        raise UserError(f"{url} is a study of several experiments; run it with dhs study {url}")
    if "ablation" in document:
        raise UserError(f"{url} is an ablation of several networks; run it with dhs ablation {url}")
    replace_keys(document, overrides or {})
    return parse_experiment(document, url)


def load_document(url: str) -> dict[str, Any]:
    """The mapping of an experiment file, unchecked, with what it inherits and its paths resolved.

    ``inherits: common.yaml`` names a file beside this one, whose keys hold wherever this one has none.
    Sections are merged key by key; whatever else is a value, and replaced whole.

    Raises
    ------
    UserError
        As :func:`load_experiment`; or files inherit from each other in a circle.
    """
    return _with_inherited(url, ())


def _with_inherited(url: str, below: tuple[str, ...]) -> dict[str, Any]:
    if url in below:
        raise UserError(
            f"{below[0]} inherits from itself, by way of {' and '.join(below[1:]) or url}"
        )
    document = _read(url)
    _resolve_paths(document, url)
    parent = document.pop("inherits", None)
    if parent is None:
        return document
    if not isinstance(parent, str):
        raise UserError(f"{url}: inherits is {parent!r}; it names one file, beside this one")
    return _merged(_with_inherited(beside(url, parent), (*below, url)), document, ())


def _merged(
    base: Mapping[str, Any], over: Mapping[str, Any], location: tuple[str, ...]
) -> dict[str, Any]:
    """Two documents as one, that of ``over`` where both have a value."""
    made = dict(base)
    for key, value in over.items():
        here, before = (*location, key), made.get(key)
        is_section = not location or bool(known_keys(here))
        if is_section and isinstance(value, dict) and isinstance(before, dict):
            value = _merged(before, value, here)
        made[key] = value
    return made


def _read(url: str) -> dict[str, Any]:
    """One YAML file as a mapping."""
    try:
        data = storage.read(url)
    except FileNotFoundError:
        raise UserError(f"there is no experiment file {url}; check the path") from None
    return parse_yaml(data, url, "an experiment", "sections such as survey:")


def parse_yaml(data: bytes, where: str, of: str, holds: str) -> dict[str, Any]:
    """The keys of a YAML file, unchecked.

    Parameters
    ----------
    data : bytes
    where : str
        What was read, and with ``of`` and ``holds`` what it should be, in words.

    Raises
    ------
    UserError
        It is no text, no YAML, holds no keys, or one twice.
    """
    try:
        document = yaml.load(data.decode(), Loader=_UniqueKeys)
    except UnicodeDecodeError:
        raise UserError(f"{where} is not a text file; {of} is YAML") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2020-13-45
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", error)).splitlines()[0]
        raise UserError(f"{where} is not valid YAML{line}: {problem}") from None
    if not isinstance(document, dict):
        raise UserError(f"{where} is empty or no mapping; {of} has {holds}")
    return document


def parse_experiment(document: Mapping[str, Any], where: str = "the experiment") -> Experiment:
    """Check a mapping as it would stand in an experiment file; errors as :func:`load_experiment`."""
    try:
        return Experiment.model_validate(document)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, Experiment, 'an experiment')}") from None


def replace_keys(document: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Put values into an experiment's mapping by dotted key, in place.

    Relative paths among them are taken from the working directory.

    Raises
    ------
    UserError
        A key leads through something that is no section.
    """
    for key, value in overrides.items():
        is_path = tuple(key.split(".")) in _PATHS and isinstance(value, str)
        _set(document, key, storage.absolute(value) if is_path else value)


_PATHS = (
    ("survey", "root"),
    ("survey", "bricks_table"),
    ("targets", "path"),
    ("plan", "joint"),
    ("source", "catalogue"),
)


def beside(url: str, path: str) -> str:
    """A path as it stands in the file ``url``: relative ones are taken from its folder."""
    if "://" in path or Path(path).is_absolute():
        return path
    folder = url.rsplit("/", 1)[0] if "://" in url else str(Path(url).resolve().parent)
    return storage.absolute(storage.join(folder, path))


def _resolve_paths(document: dict[str, Any], url: str) -> None:
    for section, key in _PATHS:
        part = document.get(section)
        if isinstance(part, dict) and isinstance(part.get(key), str):
            part[key] = beside(url, part[key])


def _set(document: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, key = dotted.split(".")
    place = document
    for section in sections:
        if place.get(section) is None:
            place[section] = {}
        place = place[section]
        if not isinstance(place, dict):
            raise UserError(f"--set {dotted}: {section} is no section of the experiment")
    place[key] = value


def known_keys(location: tuple[Any, ...], model: Any = Experiment) -> list[str]:
    """The keys that the section of ``model`` at ``location`` accepts."""
    for part in location:
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        if field is None:
            return []
        candidates = getattr(field.annotation, "__args__", None) or (field.annotation,)
        model = next((c for c in candidates if hasattr(c, "model_fields")), None)
        if model is None:
            return []
    return list(model.model_fields)


_ON_READ = {
    "fix.input_mask": "views.View(input_mask=...), or view.input_mask of a study's arm",
    "fix.normalize": "views.View(normalize=True), or view.normalize of a study's arm",
    "fix.arc_snr_min": "views.arc_snr_at_least",
}
"""What changes no stored pixel and no row is done on read, and by what."""


def explain(mistakes: ValidationError, model: Any, of: str) -> str:
    """The first mistake as a sentence, and how many more there are.

    Parameters
    ----------
    mistakes : ValidationError
    model : type
        What was read.
    of : str
        In words, for a key that it does not have.
    """
    errors: list[Any] = mistakes.errors()
    error = errors[0]
    location = tuple(error["loc"])
    key = ".".join(str(part) for part in location if part != "[key]")
    kind = error["type"]
    if kind == "extra_forbidden" and key in _ON_READ:
        text = f"{key} is not a key of {of}; it is done on read, by {_ON_READ[key]} (docs/views.md)"
    elif kind == "extra_forbidden":
        known = known_keys(location[:-1], model)
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
        text = f"{key} is not a key of {of}; {hint}"
    elif kind == "missing":
        text = f"{key} is missing; add it"
    elif kind in ("model_type", "model_attributes_type"):
        text = f"{key} is {error['input']!r}, but it is a section with keys of its own"
    elif kind == "value_error":
        text = f"{key}: {error['ctx']['error']}" if key else str(error["ctx"]["error"])
    else:
        text = f"{key} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"
    more = len(errors) - 1
    return text + (f" (and {more} more mistake{'s' if more > 1 else ''})" if more else "")
