"""Files that hold arrays by name: Zarr, NetCDF, HDF5, NPZ. Read by rows, without pickle."""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal

import fsspec
import h5py
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from numpy.lib import format as npy
from numpy.typing import NDArray

from darkhaloscope.audit.sources.bands import words
from darkhaloscope.errors import UserError

Kind = Literal["zarr", "hdf5", "netcdf3", "npz"]
SUFFIXES: dict[str, Kind] = {
    ".zarr": "zarr", ".nc": "hdf5", ".nc4": "hdf5", ".h5": "hdf5", ".hdf5": "hdf5", ".hdf": "hdf5",
    ".npz": "npz",
}  # fmt: skip
HDF5_MAGIC, NETCDF3_MAGIC = b"\x89HDF\r\n\x1a\n", b"CDF"
SKIP_BYTES = 1 << 20
COLUMN_KINDS = "fiubSUOT"
"""Kinds of numbers and of text, as numpy calls them."""

Array = Any
"""What has a shape and a dtype and gives an ndarray for a slice of its first axis."""


@dataclass(frozen=True)
class Member:
    """One array of an ``.npz``; rows are read from inside the archive, none is held as a whole.

    An archive that is not deflated is sought in, so that each byte is read once; a deflated one has to
    be read from its member's beginning.
    """

    archive: zipfile.ZipFile
    file: IO[bytes]
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    header: int
    """Bytes before the first row."""

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        per_row = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        skip, wanted = self.header + start * per_row, max(stop - start, 0) * per_row
        entry = self.archive.getinfo(f"{self.name}.npy")
        if entry.compress_type == zipfile.ZIP_STORED:
            self.file.seek(entry.header_offset + 26)
            lengths = struct.unpack("<HH", self.file.read(4))  # of the name and of the extra field
            self.file.seek(entry.header_offset + 30 + sum(lengths) + skip)
            data = self.file.read(wanted)
        else:
            with self.archive.open(entry) as stream:
                while skip > 0:  # what a seek does, but in pieces of a bounded size
                    skip -= len(stream.read(min(skip, SKIP_BYTES)))
                data = stream.read(wanted)
        return np.frombuffer(data, self.dtype).reshape(-1, *self.shape[1:])


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(stream)


def _members(archive: zipfile.ZipFile, file: IO[bytes], url: str) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for entry in archive.namelist():
        with archive.open(entry) as stream:
            shape, fortran, dtype = _header(stream)
            header = stream.tell()
        name = entry.removesuffix(".npy")
        if dtype.hasobject:
            raise UserError(
                f"{name} in {url} holds Python objects, which are never unpickled; save numbers or text"
            )
        if fortran and len(shape) == 2:  # a column with bands: it fits in memory
            with archive.open(entry) as stream:
                found[name] = npy.read_array(stream, allow_pickle=False)
            continue
        if fortran and len(shape) > 2:
            raise UserError(f"{name} in {url} is in Fortran order; save np.ascontiguousarray of it")
        if shape:
            found[name] = Member(archive, file, name, shape, dtype, header)
    return found


def _with_rows(arrays: dict[str, Array]) -> dict[str, Array]:
    """Those that have a first axis: no scalar, as xarray's ``spatial_ref`` is one."""
    return {name: array for name, array in arrays.items() if array.shape}


@contextmanager
def opened(url: str, kind: Kind) -> Iterator[tuple[dict[str, Array], dict[str, Any]]]:
    """Arrays by name, and attributes, of a file or a Zarr group.

    Raises
    ------
    UserError
        It cannot be read as that kind.
    """
    try:
        if kind == "zarr":
            group = zarr.open_group(url, mode="r")
            yield _with_rows(dict(group.arrays())), dict(group.attrs)
            return
        with fsspec.open(url, "rb") as stream:
            if kind == "hdf5":
                with h5py.File(stream, "r") as file:
                    sets: dict[str, Array] = {}
                    file.visititems(
                        lambda name, item: (
                            sets.update({name: item}) if isinstance(item, h5py.Dataset) else None
                        )
                    )
                    yield _with_rows(sets), dict(file.attrs)
            elif kind == "npz":
                with zipfile.ZipFile(stream) as archive:
                    yield _members(archive, stream, url), {}
            else:
                with xr.open_dataset(
                    stream, engine="scipy", decode_times=False, mask_and_scale=False
                ) as dataset:
                    found = {str(k): v for k, v in dataset.variables.items()}
                    yield _with_rows(found), dataset.attrs
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{url} cannot be read as {kind} ({first}); check the file") from error


def kind_of(url: str) -> Kind | None:
    """What a file is, by its first bytes, or by its name for a Zarr group; None for neither."""
    fs, path = fsspec.url_to_fs(url)
    if any(fs.exists(f"{path.rstrip('/')}/{name}") for name in ("zarr.json", ".zgroup")):
        return "zarr"
    if not fs.isfile(path):
        return None
    with fs.open(path, "rb") as stream:
        first = stream.read(8)
    if first == HDF5_MAGIC:
        return "hdf5"
    if first[:3] == NETCDF3_MAGIC:
        return "netcdf3"
    return "npz" if first[:2] == b"PK" else None


@dataclass(frozen=True)
class ArrayFile:
    """A file of arrays as rows of images and columns."""

    url: str
    kind: Kind

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every numeric array with three or four axes: what can be a stack of images."""
        with opened(self.url, self.kind) as (arrays, _):
            return {name: tuple(a.shape) for name, a in arrays.items() if not _no_stack(a)}

    def no_stacks(self) -> dict[str, str]:
        """Type, shape, and why it is none, of every other array."""
        with opened(self.url, self.kind) as (arrays, _):
            return {
                name: f"{np.dtype(a.dtype)} {tuple(a.shape)}, {why}"
                for name, a in arrays.items()
                if (why := _no_stack(a))
            }

    def bands(self) -> tuple[str, ...]:
        """Names in the array ``band`` or the attribute ``bands`` (:func:`words`), text before numbers; empty
        where there is neither."""
        with opened(self.url, self.kind) as (arrays, attributes):
            axes = [arrays[n] for n in ("band", "bands") if n in arrays and _is_axis(arrays[n])]
            named = [_text(np.asarray(a[:])).tolist() for a in axes]
        for names in named:
            if all(isinstance(name, str) for name in names):
                return tuple(names)
        said = words(" ".join(_words(attributes.get("bands", ()))))
        return said or tuple(f"{number:g}" for numbers in named[:1] for number in numbers)

    def images(self, name: str, rows: slice) -> NDArray[Any]:
        """Rows of one stack; stored integers that stand for other numbers as these (CF conventions)."""
        with opened(self.url, self.kind) as (arrays, _):
            return _values(arrays[name], rows)

    def step(self, name: str) -> tuple[np.dtype[Any], float]:
        """In what a stack is stored: its type, and what one of its integers is worth."""
        with opened(self.url, self.kind) as (arrays, _):
            return np.dtype(arrays[name].dtype), _said(arrays[name], "scale_factor", 1.0)

    def table(self, rows: slice, length: int, bands: tuple[str, ...]) -> pd.DataFrame:
        """Columns of that length: arrays (row) by name, (row, band) as ``name_band``.

        Of an array in a group of an HDF5 file the name is that behind the last slash; the fields of an
        array of records are columns by their own names.
        """
        made: dict[str, Any] = {}
        with opened(self.url, self.kind) as (arrays, _):
            for path, array in arrays.items():
                name = path.rsplit("/", 1)[-1]
                shape = tuple(array.shape)
                if shape[0] != length or len(shape) > 2:
                    continue
                if np.dtype(array.dtype).names and len(shape) == 1:
                    records = _values(array, rows)
                    for field in np.dtype(array.dtype).names or ():
                        made |= _columns(field, records[field], bands)
                elif len(shape) == 1 or shape[1] == len(bands):
                    made |= _columns(name, _values(array, rows), bands)
        return pd.DataFrame(made, index=range(*rows.indices(length)))

    def columns(self) -> dict[str, tuple[int, ...]]:
        """Shape of every array with one or two axes, by its name: what can be a column."""
        with opened(self.url, self.kind) as (arrays, _):
            return {
                path.rsplit("/", 1)[-1]: tuple(array.shape)
                for path, array in arrays.items()
                if len(array.shape) in (1, 2)
            }

    def units(self) -> dict[str, str]:
        """What the attribute ``units`` or ``unit`` of each stack and column says; for all bands alike."""
        with opened(self.url, self.kind) as (arrays, _):
            found = {}
            for path, array in arrays.items():
                attributes = getattr(array, "attrs", {})
                name = next((k for k in attributes if k.lower() in ("units", "unit")), "")
                said = sorted({*_words(attributes[name] if name else ())})
                column = len(array.shape) in (1, 2)
                found[path.rsplit("/", 1)[-1] if column else path] = ", ".join(said)
            return found

    def rows_at_once(self, names: tuple[str, ...]) -> int:
        """Rows in which these stacks are stored: reading fewer decodes a chunk more than once."""
        with opened(self.url, self.kind) as (arrays, _):
            stored = (
                getattr(arrays[n], "shards", None) or getattr(arrays[n], "chunks", None)
                for n in names
            )
            return math.lcm(*(int(chunk[0]) for chunk in stored if chunk))


def _no_stack(array: Array) -> str:
    """Why an array is no stack of images; empty where it can be one."""
    if np.dtype(array.dtype).kind not in "fiu":
        return "which are no real numbers"
    axes = len(array.shape)
    return "" if axes in (3, 4) else f"{axes} axes and not (row, [band,] y, x)"


def _values(array: Array, rows: slice) -> NDArray[Any]:
    """Rows of an array by the CF conventions: ``_FillValue``, ``scale_factor`` and ``add_offset``."""
    values = np.asarray(array[rows])
    if values.dtype.kind not in "fiu":
        return values
    missing = values == _said(array, "_FillValue", np.nan)
    scale, offset = _said(array, "scale_factor", 1.0), _said(array, "add_offset", 0.0)
    if (scale, offset) != (1.0, 0.0):
        values = values * scale + offset
    return np.where(missing, np.nan, values) if missing.any() else values


def _said(array: Array, attribute: str, otherwise: float) -> float:
    """A number among an array's attributes."""
    found = np.ravel(getattr(array, "attrs", {}).get(attribute, otherwise))
    return float(found[0]) if found.size == 1 and found.dtype.kind in "fiu" else otherwise


def _is_axis(array: Array) -> bool:
    """Whether an array names what lies along an axis: netCDF writes zeros for one without names."""
    said = " ".join(_words(getattr(array, "attrs", {}).get("NAME", "")))
    known = np.dtype(array.dtype).kind in COLUMN_KINDS and len(array.shape) == 1
    return known and not said.startswith("This is a netCDF dimension but not")


def _words(said: Any) -> list[str]:
    """An attribute's texts, as one or as several, in whatever bytes they are stored; numbers as text."""
    if isinstance(said, h5py.Empty):
        return []
    # Zeros at the end of bytes, as C writes them, are left out by numpy; blanks, as Fortran does, are not.
    return [str(word).strip() for word in _text(np.ravel(said)).tolist()]


def _columns(name: str, values: NDArray[Any], bands: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The columns that values (row) or (row, band) are; none where they are no numbers and no text."""
    if values.dtype.kind not in COLUMN_KINDS:
        return {}
    if values.ndim == 1:
        return {name: _text(values)}
    if values.shape[1:] == (len(bands),):
        return {f"{name}_{band}": values[:, b] for b, band in enumerate(bands)}
    return {}


def _text(values: NDArray[Any]) -> NDArray[Any]:
    """Text of any kind as Python strings; numbers as they are."""
    if values.dtype.kind == "S":
        return np.array([v.decode(errors="replace") for v in values.tolist()], dtype=object)
    if values.dtype.kind in "OTU":
        return np.array(
            [
                v.decode(errors="replace") if isinstance(v, bytes) else str(v)
                for v in values.tolist()
            ],
            dtype=object,
        )
    return values
