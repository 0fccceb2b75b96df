"""A run's folder: what claims it for an experiment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from darkhaloscope import partial, storage
from darkhaloscope.errors import UserError
from darkhaloscope.store.dataset import STAMPS, Layout, metadata_objects
from darkhaloscope.store.documents import RunDocument, is_whole, parse
from darkhaloscope.store.markers import check_schema
from darkhaloscope.store.planned import PLAN, foreign_in_plan

RUN_SCHEMA = 2
RUN_JSON = "run.json"
EXPERIMENT = "experiment.yaml"


def create_run(
    run: str, layout: Layout, experiment_yaml: str, document: Mapping[str, Any], version: str
) -> bool:
    """Make a run's folder, or accept it where it already holds this experiment.

    Parameters
    ----------
    run : str
        Local path or fsspec URL.
    layout : Layout
    experiment_yaml : str
        The experiment, for people and for later runs.
    document : mapping
        What the identity was made from: lets a refusal say which key differs.
    version : str
        Of this package.

    Returns
    -------
    bool
        True where the folder was there: the run resumes.

    Raises
    ------
    UserError
        As :func:`check_run`.
    """
    resumes = check_run(run, layout, document)
    summary = {
        "schema": RUN_SCHEMA,
        "identity": layout.attributes["identity"],
        "rows": layout.rows,
        "block": layout.block,
        "blocks": layout.blocks,
        "kinds": list(layout.kinds),
        "version": version,
        "document": dict(document),
    }
    storage.sweep(run)
    # run.json first: it claims the folder, so that a run killed right here is resumed, not refused.
    # The data set's metadata are always the same bytes, and are written again by every resume.
    storage.write(
        storage.join(run, RUN_JSON), json.dumps(summary, indent=1, sort_keys=True).encode()
    )
    storage.write(storage.join(run, EXPERIMENT), experiment_yaml.encode())
    storage.write_all(storage.join(run, STAMPS), metadata_objects(layout))
    return resumes


def check_run(run: str, layout: Layout, document: Mapping[str, Any]) -> bool:
    """See whether a folder can take a run; writes nothing.

    Returns
    -------
    bool
        True where the run is there: it resumes.

    Raises
    ------
    UserError
        The folder holds another experiment, a run of another version, or something that is no run.
    """
    identity = layout.attributes["identity"]
    # The folder is listed before run.json is read: a run that starts beside this one writes run.json
    # first, so that what the list shows of it has its run.json by then.
    found = [n for n in storage.names(run) if n != PLAN and not n.endswith(partial.ENDING)]
    found += [storage.join(PLAN, name) for name in foreign_in_plan(run)]
    before, lost = None, None
    try:
        before = read_run(run)
        if before is None and found:
            lost = UserError(
                f"{run} is not empty and holds no run (it has {found[0]}); choose a new --out"
            )
    except DamagedRunError as error:
        lost = error
    if lost is not None:
        if _stored_root(run) == metadata_objects(layout)["zarr.json"]:
            return True  # what is lost follows from the experiment, and is written anew
        raise lost
    if before is not None and before["identity"] != identity:
        changed = ", ".join(differences(before["document"], document)) or "the data set's identity"
        raise UserError(
            f"{run} belongs to another experiment: {changed} changed; "
            "choose a new --out, or take the change back"
        )
    if before is not None:
        _check_metadata(run, layout)
    return before is not None


def _stored_root(run: str) -> bytes | None:
    """The metadata of the folder's data set, with the identity of its experiment; None where none is."""
    return storage.read_objects(storage.join(run, STAMPS), ["zarr.json"])["zarr.json"]


def _check_metadata(run: str, layout: Layout) -> None:
    """A data set whose arrays this version would make otherwise is not resumed: it would be a mix.

    Raises
    ------
    UserError
        The stored metadata are not the ones that this version writes.
    """
    stored = _stored_root(run)
    if stored is None:
        return  # killed before the data set was made: it is made now
    if stored != metadata_objects(layout)["zarr.json"]:
        raise UserError(
            f"the arrays of {run} are not those that this version of darkhaloscope makes; "
            "resume it with the version in its run.json, or choose a new --out"
        )


class DamagedRunError(UserError):
    """``run.json`` is no document of a run."""


def read_run(run: str) -> dict[str, Any] | None:
    """``run.json`` of a run's folder; None where there is none.

    Raises
    ------
    DamagedRunError
        It is cut, or not a run's.
    UserError
        A newer version wrote it.
    """
    try:
        summary = parse(storage.read(storage.join(run, RUN_JSON)))
    except FileNotFoundError:
        return None
    damaged = DamagedRunError(
        f"{run}/{RUN_JSON} is damaged or not a run's; dhs run with the same experiment and --out writes it "
        "anew where the data set is that experiment's, else choose a new --out"
    )
    if summary is None or not {"identity", "document"} <= summary.keys():
        raise damaged
    check_schema(summary, RUN_SCHEMA, storage.join(run, RUN_JSON))
    if not is_whole(summary, RunDocument):
        raise damaged
    return summary


def read_experiment(run: str) -> dict[str, Any]:
    """``experiment.yaml`` of a run's folder, unchecked.

    Raises
    ------
    UserError
        It is not there, or no experiment.
    """
    try:
        found = yaml.safe_load(storage.read(storage.join(run, EXPERIMENT)))
    except FileNotFoundError:
        raise UserError(f"{run} holds no run (no {EXPERIMENT}); give the folder of a run") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{run}/{EXPERIMENT} is damaged; the same dhs run writes it anew")
    return found


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted keys whose values differ, old and new value beside each."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in sorted({*old, *new}):
            found += differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        return found
    return [] if old == new else [f"{path} ({_short(old)} -> {_short(new)})"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "…"
