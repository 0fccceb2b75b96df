"""The data set: a Zarr v3 group that plain ``xarray.open_zarr`` reads.

Block k owns rows [k B, (k + 1) B) of every array, so two tasks never touch one object. A writer
encodes its block in memory, hashes what it encoded, puts the objects, and last of all creates the
block's marker ``blocks/k.json``. A block without a marker does not exist; one with a marker is whole.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import yaml
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from darkhaloscope import storage
from darkhaloscope.errors import Reason, UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.variables import BY_NAME, VARIABLES, Variable

STAMPS = "stamps.zarr"
INNER_CHUNK = 32
"""Pairs of one inner chunk: what a training loader reads at once."""

MARKER_SCHEMA = 1

_MARKER_NAME = re.compile(r"([0-9]{6,})\.json")

_CODEC = BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")


class Layout(NamedTuple):
    """What the arrays of a data set look like."""

    rows: int
    block: int
    bands: tuple[str, ...]
    size: int
    attributes: dict[str, Any]

    @property
    def blocks(self) -> int:
        """How many blocks hold the rows."""
        return -(-self.rows // self.block)

    def rows_of(self, block: int) -> slice:
        """Rows of the data set that a block owns."""
        return slice(block * self.block, min((block + 1) * self.block, self.rows))


def attributes(identity: str, seed: int, splits: Mapping[str, float]) -> dict[str, Any]:
    """The data set's own attributes: its identity and its units, and nothing that may change."""
    return {
        "identity": identity,
        "seed": seed,
        "pixel_scale_arcsec": PIXEL_SCALE,
        "flux_unit": "nanomaggy (AB zero point 22.5)",
        "region_split_fractions": dict(splits),
        "schema": 1,
    }


# --- metadata ---------------------------------------------------------------------------------


def _array_options(variable: Variable, layout: Layout) -> dict[str, Any]:
    sizes = {"pair": layout.rows, "band": len(layout.bands), "y": layout.size, "x": layout.size}
    shape = tuple(sizes[dim] for dim in variable.dims)
    whole = (layout.block, *shape[1:])
    inner = (INNER_CHUNK, *shape[1:])
    attrs: dict[str, Any] = {"long_name": variable.meaning}
    if variable.unit:
        attrs["units"] = variable.unit
    if variable.flags is not None:
        attrs["flag_values"] = list(variable.flags)
        attrs["flag_meanings"] = " ".join(variable.flags.values())
    return {
        "name": variable.name,
        "shape": shape,
        "chunks": inner if variable.sharded else whole,
        "shards": whole if variable.sharded else None,
        "dtype": "string" if variable.dtype == "str" else np.dtype(variable.dtype),
        "fill_value": variable.fill,
        "compressors": _CODEC,
        "dimension_names": variable.dims,
        "attributes": attrs,
    }


def _make_group(store: MemoryStore, layout: Layout) -> zarr.Group:
    group = zarr.create_group(store, zarr_format=3, attributes=layout.attributes)
    for variable in VARIABLES:
        group.create_array(**_array_options(variable, layout))
    band = group.create_array(
        name="band",
        shape=(len(layout.bands),),
        chunks=(len(layout.bands),),
        dtype="string",
        fill_value="",
        compressors=None,
        dimension_names=("band",),
    )
    band[:] = np.array(layout.bands, dtype=object)
    with warnings.catch_warnings():
        # Consolidated metadata is an extension of Zarr v3 that xarray writes and reads as well.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(store)
    return zarr.open_group(store, mode="r+", use_consolidated=False)


def _objects(store: MemoryStore) -> dict[str, bytes]:
    """Every object of a store in memory, by key."""

    async def collect() -> dict[str, bytes]:
        prototype = default_buffer_prototype()
        found = {}
        async for key in store.list():
            value = await store.get(key, prototype)
            assert value is not None
            found[key] = value.to_bytes()
        return found

    return sync(collect())


@functools.lru_cache(maxsize=4)
def _metadata(
    rows: int, block: int, bands: tuple[str, ...], size: int, attrs: str
) -> dict[str, bytes]:
    store = MemoryStore()
    _make_group(store, Layout(rows, block, bands, size, json.loads(attrs)))
    return _objects(store)


def metadata_objects(layout: Layout) -> dict[str, bytes]:
    """The objects that a new, empty data set consists of: all metadata and the band names."""
    attrs = json.dumps(layout.attributes, sort_keys=True)
    return dict(_metadata(layout.rows, layout.block, layout.bands, layout.size, attrs))


# --- a block ----------------------------------------------------------------------------------


def encode_block(layout: Layout, block: int, cube: xr.Dataset) -> dict[str, bytes | None]:
    """The objects of one block, encoded in memory.

    Returns
    -------
    dict
        Bytes by key below ``stamps.zarr``, for every variable; None where all values are the fill
        value, for which a Zarr store holds no object.
    """
    rows = layout.rows_of(block)
    store = MemoryStore()
    template = metadata_objects(layout)
    prototype = default_buffer_prototype()

    async def lay_out() -> None:
        for key, value in template.items():
            if key.endswith("zarr.json"):
                await store.set(key, prototype.buffer.from_bytes(value))

    sync(lay_out())
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    expected: dict[str, bytes | None] = {}
    for variable in VARIABLES:
        array = group[variable.name]
        assert isinstance(array, zarr.Array)
        array[rows] = cube[variable.name].values
        place = "/".join(["c", str(block), *["0"] * (len(variable.dims) - 1)])
        expected[f"{variable.name}/{place}"] = None
    encoded = _objects(store)
    return {key: encoded.get(key) for key in expected}


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
) -> dict[str, Any]:
    """Write one block and, last, its marker.

    ``statistics_spec`` says what the statistics were measured with, for a later reader.

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
    """
    encoded = encode_block(layout, block, cube)
    npz = encode_statistics(statistics)
    marker: dict[str, Any] = {
        "schema": MARKER_SCHEMA,
        "block": block,
        "identity": layout.attributes["identity"],
        "objects": {key: None if data is None else _sha256(data) for key, data in encoded.items()},
        "statistics": _sha256(npz),
        "statistics_spec": statistics_spec,
        "counts": _counts(cube),
        "notes": sorted(set(notes)),
    }
    # A finished block is never written over by another one, not even until the marker refuses.
    before = read_marker(run, block, marker["identity"])
    if before is not None and before != marker:
        raise _written_otherwise(run, block)
    stored = {key: data for key, data in encoded.items() if data is not None}
    storage.write_all(storage.join(run, STAMPS), stored)
    storage.write(_block_url(run, block, "npz"), npz)
    text = json.dumps(marker, indent=1, sort_keys=True).encode()
    try:
        storage.create(_block_url(run, block, "json"), text)
    except FileExistsError:
        raise _written_otherwise(run, block) from None
    return marker


def _written_otherwise(run: str, block: int) -> UserError:
    return UserError(
        f"block {block} of {run} is already written with other contents; "
        "another experiment or another version wrote there, choose a new --out"
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _block_url(run: str, block: int, kind: str) -> str:
    return storage.join(run, "blocks", f"{block:06d}.{kind}")


def _counts(cube: xr.Dataset) -> dict[str, dict[str, int]]:
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
    url = _block_url(run, block, "json")
    try:
        marker = json.loads(storage.read(url))
    except FileNotFoundError:
        return None
    except ValueError:  # no JSON, or no text
        marker = None
    if not isinstance(marker, dict) or marker.get("block") != block:
        raise UserError(f"{url} is damaged; delete it and run again, the block is made anew")
    if marker.get("schema") != MARKER_SCHEMA:
        raise UserError(f"{url} was written by another version of darkhaloscope; use that version")
    if marker["identity"] != identity:
        raise UserError(
            f"{url} belongs to another experiment (identity {marker['identity'][:12]}, "
            f"not {identity[:12]}); choose a new --out"
        )
    return marker


def read_statistics(run: str, marker: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """The statistics of a finished block, checked against its marker.

    Raises
    ------
    UserError
        The file is missing or is not what the marker says.
    """
    url = _block_url(run, marker["block"], "npz")
    try:
        data = storage.read(url)
    except FileNotFoundError:
        data = b""
    if _sha256(data) != marker["statistics"]:
        raise UserError(
            f"{url} is missing or not what its marker says; delete "
            f"{_block_url(run, marker['block'], 'json')} and run again"
        )
    return decode_statistics(data)


def finished_blocks(run: str) -> list[int]:
    """Numbers of the blocks that have a marker, from one listing."""
    found = storage.names(storage.join(run, "blocks"))
    return [int(match[1]) for name in found if (match := _MARKER_NAME.fullmatch(name))]


# --- a run's folder ---------------------------------------------------------------------------


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
        "schema": 1,
        "identity": identity,
        "rows": layout.rows,
        "block": layout.block,
        "blocks": layout.blocks,
        "version": version,
        "document": dict(document),
    }
    if before is not None:
        storage.sweep(run)
    # run.json first: it claims the folder, so that a run killed right here is resumed, not refused.
    # The data set's metadata are always the same bytes, and are written again by every resume.
    storage.write(
        storage.join(run, "run.json"), json.dumps(summary, indent=1, sort_keys=True).encode()
    )
    storage.write(storage.join(run, "experiment.yaml"), experiment_yaml.encode())
    storage.write_all(storage.join(run, STAMPS), metadata_objects(layout))
    return before is not None


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


def open_dataset(url: str) -> xr.Dataset:
    """A run's data set (or a bare ``stamps.zarr``) as a lazy Dataset, without the pixels in memory.

    Raises
    ------
    UserError
        There is no Zarr group.
    """
    inside = storage.join(url, STAMPS)
    place = inside if storage.exists(storage.join(inside, "zarr.json")) else url
    try:
        return xr.open_zarr(place, chunks=None, decode_times=False)
    except (FileNotFoundError, KeyError):
        raise UserError(
            f"{url} holds no Zarr data set; give a run's folder or a Zarr group"
        ) from None


def read_rows(url: str, rows: slice) -> xr.Dataset:
    """Some rows of a data set, in memory; text as Python strings, as a block holds them."""
    part = open_dataset(url).isel(pair=rows).load()
    text = [name for name, variable in part.data_vars.items() if variable.dtype.kind == "T"]
    return part.assign({name: part[name].astype(object) for name in text})


def open_run(url: str) -> xr.Dataset:
    """A data set as people want it: lazy pixels, lazy ``stamp = ctrl + arc``, closed lists as text.

    Parameters
    ----------
    url : str
        A run's folder, or its ``stamps.zarr``; a path or any fsspec URL.

    Raises
    ------
    UserError
        There is no Zarr group.
    """
    dataset = _as_text(open_dataset(url).chunk({"pair": INNER_CHUNK}))
    return dataset.assign(stamp=dataset["ctrl"] + dataset["arc"])


def _as_text(dataset: xr.Dataset) -> xr.Dataset:
    """The same Dataset with the closed lists as text instead of integers."""
    changed = {}
    for name, variable in dataset.data_vars.items():
        flags = BY_NAME[str(name)].flags if str(name) in BY_NAME else None
        if flags is not None:
            lookup = np.array([flags.get(i, "?") for i in range(256)], dtype=object)
            changed[name] = (variable.dims, lookup[variable.values.astype(int)])
    return dataset.assign(changed)
