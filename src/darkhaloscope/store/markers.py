"""The markers of a run's blocks, ``blocks/k.json``, and the statistics beside them, ``blocks/k.npz``.

A block without a marker does not exist; one with a marker is whole.
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
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope import storage
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.store.dataset import STAMPS
from darkhaloscope.store.planned import PLAN, part_name

MARKER_SCHEMA = 2

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
    check_schema(marker, MARKER_SCHEMA, url)
    if marker["identity"] != identity:
        raise UserError(
            f"{url} belongs to another experiment (identity {marker['identity'][:12]}, "
            f"not {identity[:12]}); choose a new --out"
        )
    return marker


def check_schema(document: Mapping[str, Any], known: int, url: str) -> None:
    """See that a document is of the schema that is known; a UserError says what to do."""
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
    parts = storage.sizes(storage.join(run, PLAN))
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
        name = part_name(block)
        if marker["plan"] is not None and name in parts and parts[name] != marker["plan"]["bytes"]:
            raise UserError(
                f"{run}/{PLAN}/{name} was edited, but the plan follows from the experiment alone: "
                "delete it and run again to have it back, or change the experiment and choose a new --out"
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
    if sha256(data) != marker["statistics"]:
        raise UserError(
            f"{url} is missing or not what its marker says; delete "
            f"{block_url(run, marker['block'], 'json')} and run again"
        )
    return decode_statistics(data)


def finished_blocks(run: str) -> list[int]:
    """Numbers of the blocks that have a marker, from one listing."""
    found = storage.names(storage.join(run, "blocks"))
    return [int(match[1]) for name in found if (match := _MARKER_NAME.fullmatch(name))]


def sha256(data: bytes) -> str:
    """Checksum of an object, as markers hold it: hex digits."""
    return hashlib.sha256(data).hexdigest()
