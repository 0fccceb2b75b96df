"""The data set: a Zarr v3 group that plain ``xarray.open_zarr`` reads, and one block's objects in it.

Block k owns rows [k B, (k + 1) B) of every array, so two tasks never touch one object. A block is
encoded in memory, so that what is hashed is what is put.
"""

from __future__ import annotations

import functools
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from darkhaloscope import storage
from darkhaloscope.errors import UserError
from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.variables import (
    ALL_VARIABLES,
    BY_NAME,
    SPLITS,
    VARIABLES,
    Variable,
    numpy_dtype,
    variables_of,
)

STAMPS = "stamps.zarr"
INNER_CHUNK = 32
"""Pairs of one inner chunk: what a training loader reads at once."""

MOST_PIECES = 16_384
"""Lazy pieces of an opened array: with one for each inner chunk, opening ten million rows takes a minute."""

_CODEC = BloscCodec(cname="zstd", clevel=5, shuffle="bitshuffle")


class Layout(NamedTuple):
    """What the arrays of a data set look like."""

    rows: int
    block: int
    bands: tuple[str, ...]
    size: int
    attributes: dict[str, Any]
    kinds: tuple[str, ...] = ()
    """Optional kinds that rows can have (``variables.OPTIONAL_KINDS``)."""

    @property
    def variables(self) -> tuple[Variable, ...]:
        """The variables of the data set."""
        return variables_of(self.kinds)

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
    for variable in layout.variables:
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
    rows: int, block: int, bands: tuple[str, ...], size: int, attrs: str, kinds: tuple[str, ...]
) -> dict[str, bytes]:
    store = MemoryStore()
    _make_group(store, Layout(rows, block, bands, size, json.loads(attrs), kinds))
    return _objects(store)


def metadata_objects(layout: Layout) -> dict[str, bytes]:
    """The objects that a new, empty data set consists of: all metadata and the band names."""
    attrs = json.dumps(layout.attributes, sort_keys=True)
    return dict(
        _metadata(layout.rows, layout.block, layout.bands, layout.size, attrs, layout.kinds)
    )


def block_keys(layout: Layout, block: int) -> dict[str, str]:
    """The key below ``stamps.zarr`` of every variable's object of a block, with the variable's name."""
    return {
        "/".join([v.name, "c", str(block), *["0"] * (len(v.dims) - 1)]): v.name
        for v in layout.variables
    }


def _group_in_memory(
    layout: Layout, objects: Mapping[str, bytes]
) -> tuple[MemoryStore, zarr.Group]:
    """A data set in memory that holds its metadata and some objects."""
    store = MemoryStore()
    prototype = default_buffer_prototype()
    metadata = {k: v for k, v in metadata_objects(layout).items() if k.endswith("zarr.json")}

    async def lay_out() -> None:
        for key, value in (metadata | dict(objects)).items():
            await store.set(key, prototype.buffer.from_bytes(value))

    sync(lay_out())
    return store, zarr.open_group(store, mode="r+", use_consolidated=False)


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def encode_block(layout: Layout, block: int, cube: xr.Dataset) -> dict[str, bytes | None]:
    """The objects of one block, encoded in memory.

    Returns
    -------
    dict
        Bytes by key below ``stamps.zarr``, for every variable; None where all values are the fill
        value, for which a Zarr store holds no object.
    """
    rows = layout.rows_of(block)
    store, group = _group_in_memory(layout, {})
    for variable in layout.variables:
        _array(group, variable.name)[rows] = cube[variable.name].values
    encoded = _objects(store)
    return {key: encoded.get(key) for key in block_keys(layout, block)}


def decode_block(layout: Layout, block: int, objects: Mapping[str, bytes | None]) -> xr.Dataset:
    """The rows of one block from its objects: the inverse of :func:`encode_block`."""
    stored = {key: data for key, data in objects.items() if data is not None}
    _, group = _group_in_memory(layout, stored)
    rows = layout.rows_of(block)
    columns = {}
    for variable in layout.variables:
        values = np.asarray(_array(group, variable.name)[rows])
        columns[variable.name] = (variable.dims, values.astype(numpy_dtype(variable), copy=False))
    return xr.Dataset(columns, coords={"band": np.array(layout.bands, dtype=object)})


def open_dataset(
    url: str, chunks: dict[str, int] | None = None, *, cache: bool = True
) -> xr.Dataset:
    """A run's data set (or a bare ``stamps.zarr``) as a lazy Dataset, without the pixels in memory.

    Parameters
    ----------
    url : str
        A path or any fsspec URL.
    chunks : dict, optional
        Of Dask arrays; without them variables are read when they are asked for.
    cache : bool
        Whether a variable that was read stays in memory: 2.6 GiB for all columns of ten million rows.

    Raises
    ------
    UserError
        There is no Zarr group, or its metadata are damaged.
    """
    inside = storage.join(url, STAMPS)
    place = inside if storage.exists(storage.join(inside, "zarr.json")) else url
    try:
        return xr.open_dataset(
            place, engine="zarr", chunks=chunks, decode_times=False, cache=cache and chunks is None
        )
    except (FileNotFoundError, KeyError):
        raise UserError(
            f"{url} holds no Zarr data set; give a run's folder or a Zarr group"
        ) from None
    except (ValueError, TypeError, AttributeError) as error:  # no JSON, or another one
        raise UserError(
            f"the metadata of {place} are damaged ({_first_line(error)}); of a run, dhs repair writes them "
            "again"
        ) from None


def read_rows(url: str, rows: slice, *, without: Sequence[str] = ()) -> xr.Dataset:
    """Some rows of a data set, in memory; text as Python strings, as a block holds them.

    Variables named in ``without`` are not read, be they there or not.

    Raises
    ------
    UserError
        An object of these rows is damaged.
    """
    try:
        part = open_dataset(url).drop_vars(without, errors="ignore").isel(pair=rows).load()
    except (ValueError, RuntimeError, OSError) as error:
        raise UserError(
            f"rows {rows.start} to {rows.stop} of {url} cannot be decoded "
            f"({type(error).__name__}: {_first_line(error)}); an object there is damaged: of a run, "
            "dhs repair drops its block, and the same dhs run makes it anew"
        ) from error
    text = [name for name, variable in part.data_vars.items() if variable.dtype.kind == "T"]
    return part.assign({name: part[name].astype(object) for name in text})


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def open_run(
    url: str | os.PathLike[str],
    *,
    split: str | Sequence[str] | None = None,
    drop_failed: bool = False,
) -> xr.Dataset:
    """A data set as people want it: lazy pixels, lazy ``stamp = ctrl + arc``
    (``+ extra`` where a fix adds light to controls), closed lists as text.

    Parameters
    ----------
    url : str or path
        A run's folder, or its ``stamps.zarr``; a path or any fsspec URL.
    split : str or sequence of str, optional
        ``train``, ``val``, ``test``, ``guard``, or several of them; default all rows.
    drop_failed : bool
        Leave out the rows that have no pixels.

    Raises
    ------
    UserError
        There is no Zarr group of ours, or no split of that name.
    """
    place = os.fspath(url)
    wanted = _splits(split)
    plain, dataset = open_dataset(place), open_dataset(place, chunks={})
    if lacking := [v.name for v in VARIABLES if v.name not in plain]:
        raise UserError(
            f"{place} is no data set of ours: it lacks {', '.join(lacking[:5])}"
            f"{' and others' if len(lacking) > 5 else ''}; open it with xarray.open_zarr"
        )
    piece = _lazy_rows(plain.sizes["pair"])
    pixels = [v.name for v in ALL_VARIABLES if v.sharded and v.name in plain]
    dataset = dataset.assign({name: plain[name].chunk(pair=piece) for name in pixels})
    if split is not None or drop_failed:
        codes = [SPLITS.index(name) for name in wanted]
        keep = np.isin(plain["region_split"].values, codes)
        if drop_failed:
            keep &= plain["cutout_ok"].values
        dataset = dataset.isel(pair=np.flatnonzero(keep))
    named = {
        name: xr.apply_ufunc(
            _lookup(flags).__getitem__, variable, dask="parallelized", output_dtypes=[object]
        )
        for name, variable in dataset.data_vars.items()
        if str(name) in BY_NAME and (flags := BY_NAME[str(name)].flags) is not None
    }
    stamp = dataset["ctrl"] + dataset["arc"]
    if "extra" in dataset:
        stamp = stamp + dataset["extra"]
    return dataset.assign(named).assign(stamp=stamp)


def _splits(split: str | Sequence[str] | None) -> set[str]:
    """The names of the splits that are asked for."""
    if split is None:
        return set(SPLITS)
    named = list(split) if isinstance(split, Iterable) and not isinstance(split, str) else [split]
    for name in named:
        if name not in SPLITS:
            raise UserError(f"there is no split {name!r}; the splits are {', '.join(SPLITS)}")
    return set(named)


def _lazy_rows(rows: int) -> int:
    """Rows of one lazy piece: an inner chunk, or as many as keep the pieces of all rows few."""
    pieces = -(-rows // (INNER_CHUNK * MOST_PIECES))
    return INNER_CHUNK << max(pieces - 1, 0).bit_length()


def _lookup(flags: Mapping[int, str]) -> NDArray[np.object_]:
    """Text of every code of a closed list, ``?`` where it has none."""
    return np.array([flags.get(code, "?") for code in range(256)], dtype=object)
