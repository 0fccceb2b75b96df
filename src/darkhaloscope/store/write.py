"""Write a block: its objects, its part of the plan, its statistics and, last of all, its marker."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope import storage
from darkhaloscope.errors import UserError
from darkhaloscope.store.dataset import STAMPS, Layout, encode_block
from darkhaloscope.store.markers import (
    MARKER_SCHEMA,
    block_url,
    blocks_with,
    count_outcomes,
    encode_statistics,
    read_marker,
    sha256,
)
from darkhaloscope.store.planned import check_part, encode_plan, part_url


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
        The folder cannot be written, holds another data set's marker for this block, or a part of the plan
        with other rows.
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
        "statistics": sha256(npz),
        "statistics_bytes": len(npz),
        "statistics_spec": statistics_spec,
        "counts": count_outcomes(cube),
        "notes": sorted(set(notes)),
    }
    text = json.dumps(marker, indent=1, sort_keys=True).encode()
    _refuse_another(run, block, marker)
    if part is not None:
        check_part(run, block, part)
    claim = block_url(run, block, "claim")
    try:
        storage.create(claim, sha256(text).encode())
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
    if not _is_claimed_by(claim, text):
        if _refuse_another(run, block, marker):
            return marker  # a twin with the same contents has finished
        raise ClaimedError(
            f"block {block} of {run} was taken over by another writer while this one did not move; run again"
        )
    storage.write_all(storage.join(run, STAMPS), stored)
    storage.write(block_url(run, block, "npz"), npz)
    if part is not None:
        storage.write(part_url(run, block), part)
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


def release_finished(run: str, finished: Collection[int]) -> None:
    """Take away claims of blocks that have their markers: of writers that were killed right after those."""
    for block in blocks_with(run, "claim"):
        if block in finished:
            release_claim(run, block)


def _is_claimed_by(claim: str, text: bytes) -> bool:
    """Whether a block is still this writer's: a frozen machine may wake when it counts as dead long since,
    and its block has another writer, or is whole."""
    try:
        return storage.read(claim) == sha256(text).encode()
    except FileNotFoundError:
        return False


def _refuse_another(run: str, block: int, marker: Mapping[str, Any]) -> bool:
    """A finished block is never written over by another one, not even until the marker refuses; whether it is
    finished with these contents."""
    before = read_marker(run, block, marker["identity"])
    if before is not None and before != marker:
        raise _written_otherwise(run, block)
    return before is not None


def _written_otherwise(run: str, block: int) -> UserError:
    return UserError(
        f"block {block} of {run} is already written with other contents: another version wrote "
        f"there, or a file was out of reach for one of two writers; delete {block_url(run, block, 'json')} "
        "and run again, or choose a new --out"
    )


def _described(data: bytes | None) -> dict[str, Any] | None:
    """Checksum and size of an object; null for one that a Zarr store does not hold (all fill)."""
    return None if data is None else {"sha256": sha256(data), "bytes": len(data)}
