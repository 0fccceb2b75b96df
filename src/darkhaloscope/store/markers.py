"""The markers of a run's blocks, ``blocks/k.json``, and the statistics beside them, ``blocks/k.npz``.

A block without a marker does not exist; one with a marker is whole.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope import storage
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.store.dataset import STAMPS, Layout, block_keys
from darkhaloscope.store.documents import Marker, is_whole, parse
from darkhaloscope.store.planned import PLAN, part_name
from darkhaloscope.variables import Variable

MARKER_SCHEMA = 2

_AT_ONCE = 256
_LISTED_AT_ONCE = 5_000


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
    return _checked_marker(data, run, block, identity)


def read_markers(run: str, blocks: Iterable[int], identity: str) -> Iterator[dict[str, Any]]:
    """The markers of these blocks, those that are there, a bounded number read at once.

    Raises
    ------
    UserError
        As :func:`read_marker`.
    """
    left = list(blocks)
    folder = storage.join(run, "blocks")
    for start in range(0, len(left), _AT_ONCE):
        names = {f"{block:06d}.json": block for block in left[start : start + _AT_ONCE]}
        for name, data in storage.read_objects(folder, list(names)).items():
            if data is not None:
                yield _checked_marker(data, run, names[name], identity)


def _checked_marker(data: bytes, run: str, block: int, identity: str) -> dict[str, Any]:
    url = block_url(run, block, "json")
    damaged = UserError(f"{url} is damaged; {_repair(run)}")
    marker = parse(data)
    if marker is None or marker.get("block") != block:
        raise damaged
    check_schema(marker, MARKER_SCHEMA, url)
    if not is_whole(marker, Marker):
        raise damaged
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


def check_objects(
    run: str,
    layout: Layout,
    markers: Iterable[Mapping[str, Any]],
    *,
    without: Sequence[str] = (),
    plan: bool = True,
) -> None:
    """See that the objects and the statistics of finished blocks are there, in the size that their
    markers say, and that their parts of the plan were not edited.

    Sizes come from listings; parts of the plan, gigabytes of a survey, are read one after the other, or not
    at all without ``plan``. Arrays named in ``without`` are not looked at.

    Raises
    ------
    UserError
        One is missing, or is not what its marker says.
    """
    stored = _stored_bytes(run, layout, without)
    beside = storage.sizes(storage.join(run, "blocks"))
    parts: dict[str, str] = {}
    for marker in markers:
        block = marker["block"]
        keys = block_keys(layout, block)
        if set(marker["objects"]) != set(keys):
            raise _not_as_marked(run, block, "it lists other objects than a block has")
        for key, described in marker["objects"].items():
            wanted = -1 if described is None else described["bytes"]
            if keys[key] not in without:
                _check_size(run, block, key, int(stored[keys[key]][block]), wanted)
        name = f"{block:06d}.npz"
        size = beside.get(name, -1)
        wanted = marker.get("statistics_bytes", max(size, 0))
        _check_size(run, block, f"blocks/{name}", size, wanted)
        if plan and marker["plan"] is not None:
            parts[part_name(block)] = marker["plan"]["sha256"]
        if len(parts) == _AT_ONCE:
            _check_parts(run, parts)
            parts = {}
    _check_parts(run, parts)


def check_none_lost(run: str, layout: Layout, finished: Sequence[int]) -> None:
    """See that every object of finished blocks is there, be it whole or not.

    Of blocks that have an object of every array no marker is read.

    Raises
    ------
    UserError
        One is missing that a marker speaks of, or such a marker is damaged.
    """
    stored = _stored_bytes(run, layout, ())
    lacking = np.any([sizes < 0 for sizes in stored.values()], axis=0)
    suspects = [block for block in finished if lacking[block]]
    for marker in read_markers(run, suspects, layout.attributes["identity"]):
        block = marker["block"]
        for key, described in marker["objects"].items():
            sizes = stored.get(key.split("/")[0])
            if described is not None and (sizes is None or sizes[block] < 0):
                raise _not_as_marked(run, block, f"{key} is missing")


def _stored_bytes(run: str, layout: Layout, without: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Bytes of the object of every block of each variable, shape (block,); -1 where there is none."""
    variables = [v for v in layout.variables if v.name not in without]
    found = {}
    for variable, listed in zip(variables, _listings(run, layout, variables), strict=True):
        found[variable.name] = sizes = np.full(layout.blocks, -1, np.int64)
        rest = "/0" * (len(variable.dims) - 1)
        for name, size in listed.items():
            number = name.removesuffix(rest)
            if number.isdecimal() and int(number) < layout.blocks and name == f"{number}{rest}":
                sizes[int(number)] = size
    return found


def _listings(
    run: str, layout: Layout, variables: Sequence[Variable]
) -> Iterator[Mapping[str, int]]:
    """Bytes by name of each variable's objects: from one listing, or of a large run from one each, some at
    once. One of all objects of a survey would be 220 MB, and 260 answers of S3 that wait for each other."""
    stamps = storage.join(run, STAMPS)
    if layout.blocks * len(layout.variables) > _LISTED_AT_ONCE:
        yield from storage.sizes_of([storage.join(stamps, v.name, "c") for v in variables])
        return
    by_array: dict[str, dict[str, int]] = {}
    for key, size in storage.sizes(stamps).items():
        name, _, rest = key.partition("/c/")
        by_array.setdefault(name, {})[rest] = size
    yield from (by_array.get(variable.name, {}) for variable in variables)


def _check_size(run: str, block: int, where: str, size: int, wanted: int) -> None:
    if size != wanted:
        is_now = "is missing" if size < 0 else f"has {size} bytes"
        raise _not_as_marked(run, block, f"{where} {is_now}")


def _check_parts(run: str, wanted: Mapping[str, str]) -> None:
    """Parts of the plan, those that are there, against their checksums."""
    found = storage.digests([storage.join(run, PLAN, name) for name in wanted])
    for name, digest in zip(wanted, found, strict=True):
        if isinstance(digest, storage.StorageError):
            raise digest
        if not isinstance(digest, FileNotFoundError) and digest != wanted[name]:
            raise UserError(
                f"{run}/{PLAN}/{name} was edited, but the plan follows from the experiment alone: "
                "delete it and run again to have it back, or change the experiment and choose a new --out; "
                f"where it comes back and is refused again, another version of pyarrow writes it: delete "
                f"{block_url(run, int(name.partition('.')[0]), 'json')} as well, and the block is made again"
            )


def _not_as_marked(run: str, block: int, says: str) -> UserError:
    return UserError(f"block {block} of {run} is not what its marker says: {says}; {_repair(run)}")


def _repair(run: str) -> str:
    return (
        f"dhs repair {run} drops the block, and the same dhs run makes it anew (dhs verify names all that is "
        "wrong)"
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
        raise UserError(f"{url} is missing or not what its marker says; {_repair(run)}")
    return decode_statistics(data)


def finished_blocks(run: str) -> list[int]:
    """Numbers of the blocks that have a marker, from one listing."""
    return blocks_with(run, "json")


def blocks_with(run: str, kind: str) -> list[int]:
    """Numbers of the blocks that have a file of a kind (``json``, ``npz``, ``claim``), from one listing."""
    pattern = re.compile(rf"([0-9]{{6,}})\.{kind}")
    found = storage.names(storage.join(run, "blocks"))
    return [int(match[1]) for name in found if (match := pattern.fullmatch(name))]


def sha256(data: bytes) -> str:
    """Checksum of an object, as markers hold it: hex digits."""
    return hashlib.sha256(data).hexdigest()
