"""A run's folder: what claims it, and the markers that say which blocks are whole.

A writer hashes the encoded objects of its block, puts them, and last of all creates the block's marker
``blocks/k.json``. A block without a marker does not exist; one with a marker is whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
import yaml
from numpy.typing import NDArray

from darkhaloscope import storage
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.store.dataset import STAMPS, Layout, encode_block, metadata_objects

MARKER_SCHEMA = 2
RUN_SCHEMA = 2

_MARKERS_AT_ONCE = 256
_MARKER_NAME = re.compile(r"([0-9]{6,})\.json")


def encode_statistics(statistics: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as the bytes of an .npz file, without pickle, the same for the same arrays."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, value in sorted(statistics.items()):
            array = np.asarray(value)
            if array.dtype.hasobject:
                raise TypeError(f"statistics array {name} holds objects; it would need pickle")
            # A bare ZipInfo is dated 1980: no time gets into the bytes.
            member = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array, allow_pickle=False)
    return buffer.getvalue()


def decode_statistics(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of :func:`encode_statistics`."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def write_block(
    run: str,
    layout: Layout,
    block: int,
    cube: xr.Dataset,
    statistics: Mapping[str, NDArray[Any]],
    statistics_spec: str,
    notes: list[str],
    planned: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Write one block, the part of the plan that it was made from and, last, its marker.

    ``statistics_spec`` says what the statistics were measured with, for a later reader.

    A writer first claims the block with the digest of all it is going to write, so that of two writers
    with different contents the second is refused before it touches an object.

    Returns
    -------
    dict
        The marker: identity, checksums of every object (null: not stored, all fill), counts of every
        outcome, the sentences about files that were in the way. No time, host or worker, so that the
        same block written twice is the same marker.

    Raises
    ------
    UserError
        The folder cannot be written, or holds another data set's marker for this block.
    ClaimedError
        Another writer has other contents for this block and has not finished.
    """
    encoded = encode_block(layout, block, cube)
    npz = encode_statistics(statistics)
    part = None if planned is None else encode_plan(planned)
    marker: dict[str, Any] = {
        "schema": MARKER_SCHEMA,
        "block": block,
        "identity": layout.attributes["identity"],
        "objects": {key: _described(data) for key, data in encoded.items()},
        "plan": _described(part),
        "statistics": _sha256(npz),
        "statistics_spec": statistics_spec,
        "counts": count_outcomes(cube),
        "notes": sorted(set(notes)),
    }
    text = json.dumps(marker, indent=1, sort_keys=True).encode()
    _refuse_another(run, block, marker)
    claim = block_url(run, block, "claim")
    try:
        storage.create(claim, _sha256(text).encode())
    except FileExistsError:
        raise ClaimedError(
            f"block {block} of {run} is being written with other contents by another worker; wait for "
            "it, or run again when no other run writes there"
        ) from None
    try:
        _refuse_another(run, block, marker)  # one that was finished between the look and the claim
    except UserError:
        storage.remove(claim)
        raise
    stored = {key: data for key, data in encoded.items() if data is not None}
    storage.write_all(storage.join(run, STAMPS), stored)
    storage.write(block_url(run, block, "npz"), npz)
    if part is not None:
        storage.write(_plan_url(run, block), part)
    try:
        storage.create(block_url(run, block, "json"), text)
    except FileExistsError:
        raise _written_otherwise(run, block) from None
    storage.remove(claim)
    return marker


class ClaimedError(storage.StorageError):
    """A block has a writer with other contents, alive or dead."""


def release_claim(run: str, block: int) -> None:
    """Take away the claim of a writer that is not heard of any more."""
    storage.remove(block_url(run, block, "claim"))


def encode_plan(planned: pd.DataFrame) -> bytes:
    """Planned rows as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    planned.to_parquet(buffer, index=False)
    return buffer.getvalue()


def write_plan(run: str, block: int, planned: pd.DataFrame) -> None:
    """Write the part of the plan that one block is made from."""
    storage.write(_plan_url(run, block), encode_plan(planned))


def drop_plan(run: str, blocks: int) -> None:
    """Remove parts of an earlier plan from block number ``blocks`` on."""
    kept = {_plan_url("", block).rsplit("/", 1)[1] for block in range(blocks)}
    for name in set(storage.names(storage.join(run, "plan"))) - kept:
        storage.remove(storage.join(run, "plan", name))


def _plan_url(run: str, block: int) -> str:
    return storage.join(run, "plan", f"{block:06d}.parquet")


def _refuse_another(run: str, block: int, marker: Mapping[str, Any]) -> None:
    """A finished block is never written over by another one, not even until the marker refuses."""
    before = read_marker(run, block, marker["identity"])
    if before is not None and before != marker:
        raise _written_otherwise(run, block)


def _written_otherwise(run: str, block: int) -> UserError:
    return UserError(
        f"block {block} of {run} is already written with other contents: another version wrote "
        f"there, or a file was out of reach for one of two writers; delete {block_url(run, block, 'json')} "
        "and run again, or choose a new --out"
    )


def _described(data: bytes | None) -> dict[str, Any] | None:
    """Checksum and size of an object; null for one that a Zarr store does not hold (all fill)."""
    return None if data is None else {"sha256": _sha256(data), "bytes": len(data)}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def block_url(run: str, block: int, kind: str) -> str:
    """Where a block's marker (``json``) or statistics (``npz``) are."""
    return storage.join(run, "blocks", f"{block:06d}.{kind}")


def count_outcomes(cube: xr.Dataset) -> dict[str, dict[str, int]]:
    """Rows by class and reason."""
    control = cube["lens_model"].values == 0
    reason = cube["reason"].values
    return {
        name: {
            Reason(int(code)).text: int((reason[rows] == code).sum())
            for code in np.unique(reason[rows])
        }
        for name, rows in (("injection", ~control), ("control", control))
    }


def read_marker(run: str, block: int, identity: str) -> dict[str, Any] | None:
    """The marker of a finished block; None where there is none.

    Raises
    ------
    UserError
        It is another experiment's, of a newer version, or no JSON.
    """
    url = block_url(run, block, "json")
    try:
        data = storage.read(url)
    except FileNotFoundError:
        return None
    return _checked_marker(data, url, block, identity)


def read_markers(run: str, blocks: Iterable[int], identity: str) -> Iterator[dict[str, Any]]:
    """The markers of these blocks, those that are there, a bounded number read at once.

    Raises
    ------
    UserError
        As :func:`read_marker`.
    """
    left = list(blocks)
    folder = storage.join(run, "blocks")
    for start in range(0, len(left), _MARKERS_AT_ONCE):
        names = {f"{block:06d}.json": block for block in left[start : start + _MARKERS_AT_ONCE]}
        for name, data in storage.read_objects(folder, list(names)).items():
            if data is not None:
                yield _checked_marker(data, storage.join(folder, name), names[name], identity)


def _checked_marker(data: bytes, url: str, block: int, identity: str) -> dict[str, Any]:
    try:
        marker = json.loads(data)
    except ValueError:  # no JSON, or no text
        marker = None
    if not isinstance(marker, dict) or marker.get("block") != block:
        raise UserError(f"{url} is damaged; delete it and run again, the block is made anew")
    _check_schema(marker, MARKER_SCHEMA, url)
    if marker["identity"] != identity:
        raise UserError(
            f"{url} belongs to another experiment (identity {marker['identity'][:12]}, "
            f"not {identity[:12]}); choose a new --out"
        )
    return marker


def _check_schema(document: Mapping[str, Any], known: int, url: str) -> None:
    found = document.get("schema")
    if found == known:
        return
    newer = isinstance(found, int) and found > known
    raise UserError(
        f"{url} was written by {'a newer' if newer else 'another'} version of darkhaloscope (schema "
        f"{found}, this version knows {known}); "
        f"{'upgrade to that version' if newer else 'use that version'}, or choose a new --out"
    )


def check_objects(run: str, markers: Iterable[Mapping[str, Any]]) -> None:
    """See that the objects of finished blocks are there, in the size that their markers say, and that
    their parts of the plan were not edited.

    Raises
    ------
    UserError
        One is missing or of another size.
    """
    stored = storage.sizes(storage.join(run, STAMPS))
    parts = storage.sizes(storage.join(run, "plan"))
    for marker in markers:
        block = marker["block"]
        for key, described in marker["objects"].items():
            wanted = None if described is None else described["bytes"]
            if stored.get(key) != wanted:
                is_now = f"has {stored[key]} bytes" if key in stored else "is missing"
                raise UserError(
                    f"block {block} of {run} is not what its marker says: {key} {is_now}; "
                    f"delete {block_url(run, block, 'json')} and run again, "
                    "the block is made anew"
                )
        if marker["plan"] is not None:
            name = _plan_url("", block).rsplit("/", 1)[1]
            if parts.get(name) != marker["plan"]["bytes"]:
                raise UserError(
                    f"{_plan_url(run, block)} was edited or is gone, but the plan follows from the "
                    f"experiment alone: delete {block_url(run, block, 'json')} and run again to have "
                    "it back, or change the experiment and choose a new --out"
                )


def read_statistics(run: str, marker: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The statistics of a finished block, checked against its marker.

    Raises
    ------
    UserError
        The file is missing or is not what the marker says.
    """
    url = block_url(run, marker["block"], "npz")
    try:
        data = storage.read(url)
    except FileNotFoundError:
        data = b""
    if _sha256(data) != marker["statistics"]:
        raise UserError(
            f"{url} is missing or not what its marker says; delete "
            f"{block_url(run, marker['block'], 'json')} and run again"
        )
    return decode_statistics(data)


def finished_blocks(run: str) -> list[int]:
    """Numbers of the blocks that have a marker, from one listing."""
    found = storage.names(storage.join(run, "blocks"))
    return [int(match[1]) for name in found if (match := _MARKER_NAME.fullmatch(name))]


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
        The folder holds another experiment, or something that is no run.
    """
    identity = layout.attributes["identity"]
    before = read_run(run)
    if before is None and (found := [n for n in storage.names(run) if n != "plan"]):
        raise UserError(
            f"{run} is not empty and holds no run (it has {found[0]}); choose a new --out"
        )
    if before is not None and before["identity"] != identity:
        changed = ", ".join(_differences(before["document"], document)) or "the data set's identity"
        raise UserError(
            f"{run} belongs to another experiment: {changed} changed; "
            "choose a new --out, or take the change back"
        )
    summary = {
        "schema": RUN_SCHEMA,
        "identity": identity,
        "rows": layout.rows,
        "block": layout.block,
        "blocks": layout.blocks,
        "kinds": list(layout.kinds),
        "version": version,
        "document": dict(document),
    }
    if before is not None:
        _check_metadata(run, layout)
        storage.sweep(run)
    else:
        drop_plan(run, layout.blocks)
    # run.json first: it claims the folder, so that a run killed right here is resumed, not refused.
    # The data set's metadata are always the same bytes, and are written again by every resume.
    storage.write(
        storage.join(run, "run.json"), json.dumps(summary, indent=1, sort_keys=True).encode()
    )
    storage.write(storage.join(run, "experiment.yaml"), experiment_yaml.encode())
    storage.write_all(storage.join(run, STAMPS), metadata_objects(layout))
    return before is not None


def _check_metadata(run: str, layout: Layout) -> None:
    """A data set whose arrays this version would make otherwise is not resumed: it would be a mix.

    Raises
    ------
    UserError
        The stored metadata are not the ones that this version writes.
    """
    try:
        stored = storage.read(storage.join(run, STAMPS, "zarr.json"))
    except FileNotFoundError:
        return  # killed before the data set was made: it is made now
    if stored != metadata_objects(layout)["zarr.json"]:
        raise UserError(
            f"the arrays of {run} are not those that this version of darkhaloscope makes; "
            "resume it with the version in its run.json, or choose a new --out"
        )


def read_run(run: str) -> dict[str, Any] | None:
    """``run.json`` of a run's folder; None where there is none."""
    try:
        summary = json.loads(storage.read(storage.join(run, "run.json")))
    except FileNotFoundError:
        return None
    except ValueError:  # no JSON, or no text
        summary = None
    if not isinstance(summary, dict) or not {"identity", "document"} <= summary.keys():
        raise UserError(f"{run}/run.json is damaged or not a run's; choose a new --out")
    _check_schema(summary, RUN_SCHEMA, storage.join(run, "run.json"))
    return summary


def read_experiment(run: str) -> dict[str, Any]:
    """``experiment.yaml`` of a run's folder, unchecked."""
    try:
        return dict(yaml.safe_load(storage.read(storage.join(run, "experiment.yaml"))))
    except FileNotFoundError:
        raise UserError(
            f"{run} holds no run (no experiment.yaml); give the folder of a run"
        ) from None


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted keys whose values differ, old and new value beside each."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in sorted({*old, *new}):
            found += _differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        return found
    return [] if old == new else [f"{path} ({_short(old)} -> {_short(new)})"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:12] + "…"
