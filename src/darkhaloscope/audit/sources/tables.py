"""Parquet with a stamp and its control as ``.npz`` blobs; folders cut by a partition, metrics joined."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from numpy.typing import NDArray

from darkhaloscope.audit.sources.bands import by_wavelength
from darkhaloscope.errors import UserError
from darkhaloscope.mapping import Images, Mapping, decode_stamp
from darkhaloscope.mapping.images import UNREADABLE

IMAGES = Images(stamp="stamp_npz", ctrl="ctrl_stamp_npz", member="image_{band}")
"""What blobs are called where no mapping says otherwise."""

TRIED = 1024
"""Blobs of a column of which one has to be whole, for the column to hold stamps."""

_DIFFER = "the stamps of {} differ in shape; cut them to one size"


@dataclass(frozen=True)
class BlobTable:
    """Parquet files as rows of images and columns; rows are in the order of the files' names.

    ``pieces`` are (file, row group, rows), found once on the driver.
    """

    url: str
    mapping: Mapping
    pieces: tuple[tuple[str, int, int], ...]

    @classmethod
    def find(cls, url: str, mapping: Mapping) -> BlobTable | None:
        """The table at ``url``; None where there is no Parquet file.

        Raises
        ------
        UserError
            The files are no Parquet, or have no column of stamps, or none that joins them.
        """
        data = _dataset(_stamps(url, mapping))
        if data is None:
            if mapping.tables is not None and _dataset(url) is not None:
                raise UserError(
                    f"{url} is Parquet without a folder {mapping.tables.stamps}, where the mapping "
                    f"{mapping.name} looks for stamps; take tables out of the mapping"
                )
            return None
        images = mapping.images or IMAGES
        for column in (images.stamp, images.ctrl):
            if column not in data.schema.names:
                apart = mapping.tables is None and _dataset(f"{url}/stamps") is not None
                how = (
                    "its stamps lie apart from its metrics, as the seed experiment's: --mapping seed"
                    if apart
                    else "say with --mapping which columns hold the stamps (images: stamp, ctrl, member)"
                )
                raise UserError(f"{url} has no column {column}; {how}")
        tables = mapping.tables
        beside = _dataset(f"{url}/{tables.metrics}") if tables is not None else None
        for part in (data, beside):
            if tables is not None and part is not None and tables.key not in part.schema.names:
                folder = tables.stamps if part is data else tables.metrics
                raise UserError(
                    f"{url}/{folder} has no column {tables.key}, which joins it (a mapping's tables.key)"
                )
        pieces = [
            (str(f.path), group.id, int(group.num_rows))
            for f in sorted(data.get_fragments(), key=lambda f: str(f.path))
            for group in f.row_groups
        ]
        return cls(url, mapping, tuple(pieces))

    @property
    def rows(self) -> int:
        return sum(n for _, _, n in self.pieces)

    def bands(self) -> tuple[str, ...]:
        """Bands of the first stamp that can be read, by the names of its members, in order of wavelength.

        Raises
        ------
        UserError
            Of the first :data:`TRIED` stamps none is an ``.npz`` with a band.
        """
        images = self.mapping.images or IMAGES
        head, _, tail = images.member.partition("{band}")
        for blob in self._first(images.stamp):
            try:
                with np.load(io.BytesIO(blob), allow_pickle=False) as archive:
                    names = [
                        n[len(head) : len(n) - len(tail)]
                        for n in archive.files
                        if n.startswith(head) and n.endswith(tail)
                    ]
            except UNREADABLE:
                continue
            if names:
                return by_wavelength(names)
        raise UserError(
            f"the first stamps of {self.url} are no .npz with {images.member}; check the mapping"
        )

    def shape(self, bands: tuple[str, ...]) -> tuple[int, ...]:
        """Shape (row, band, y, x) of the stamps, by the first of either column that can be read.

        Raises
        ------
        UserError
            Of the first :data:`TRIED` of a column none can be decoded, or the two differ in shape.
        """
        images = self.mapping.images or IMAGES
        shapes = []
        for column in (images.stamp, images.ctrl):
            failure: UserError | None = None
            for blob in self._first(column):
                try:
                    shapes.append(decode_stamp(blob or b"", bands, images.member).shape)
                    break
                except UserError as error:
                    failure = failure or error
            else:
                raise failure or UserError(f"{self.url} holds no rows; there is nothing to audit")
        if shapes[0] != shapes[1]:
            raise UserError(_DIFFER.format(self.url))
        return (self.rows, *shapes[0])

    def _first(self, column: str) -> Iterator[Any]:
        """The first blobs of a column, row group by row group."""
        start = 0
        for _, _, n in self.pieces:
            if start >= TRIED:
                return
            yield from self._read(slice(start, start + min(n, TRIED - start)), [column])[column]
            start += n

    def table(self, rows: slice) -> pd.DataFrame:
        """Columns of these rows but the blobs, the metrics joined to them."""
        images = self.mapping.images or IMAGES
        data = _dataset(_stamps(self.url, self.mapping))
        assert data is not None
        table = self._read(
            rows, [n for n in data.schema.names if n not in (images.stamp, images.ctrl)]
        )
        tables = self.mapping.tables
        beside = _dataset(f"{self.url}/{tables.metrics}") if tables is not None else None
        if tables is None or beside is None:
            return table
        more = _rows_of(beside, tables.key, pa.array(table[tables.key])).to_pandas()
        new = [c for c in more if c not in table or c == tables.key]
        more = more[new].drop_duplicates(tables.key).set_index(tables.key)
        return table.join(more, on=tables.key)

    def images(
        self, name: str, rows: slice, bands: tuple[str, ...], size: int
    ) -> NDArray[np.float32]:
        """Stamps (row, band, y, x): ``stamp`` or ``ctrl``; NaN where one is damaged.

        Which blobs are whole is no matter of the others that are read with them.

        Raises
        ------
        UserError
            One is of another shape.
        """
        images = self.mapping.images or IMAGES
        column = images.stamp if name == "stamp" else images.ctrl
        blobs = self._read(rows, [column])[column]
        out = np.full((len(blobs), len(bands), size, size), np.nan, dtype=np.float32)
        for i, blob in enumerate(blobs):
            try:
                image = decode_stamp(blob or b"", bands, images.member)
            except UserError:
                continue
            if image.shape != out.shape[1:]:
                raise UserError(_DIFFER.format(self.url))
            out[i] = image
        return out

    def blocks(self, wanted: int) -> list[slice]:
        """Slices that end where row groups do, so that each is read once."""
        out: list[slice] = []
        start = 0
        for end in accumulate(n for _, _, n in self.pieces):
            if end - start >= wanted:
                out.append(slice(start, end))
                start = end
        return [*out, slice(start, self.rows)] if start < self.rows else out

    def _read(self, rows: slice, columns: list[str]) -> pd.DataFrame:
        data = _dataset(_stamps(self.url, self.mapping))
        assert data is not None
        start, stop, _ = rows.indices(self.rows)
        fragments = {str(f.path): f for f in data.get_fragments()}
        parts, first = [], 0
        for path, group, n in self.pieces:
            if first < stop and first + n > start:
                part = fragments[path].subset(row_group_ids=[group])
                table = part.to_table(schema=data.schema, columns=columns)
                lo = max(start - first, 0)
                parts.append(table.slice(lo, min(stop - first, n) - lo))
            first += n
        frame = pa.concat_tables(parts).to_pandas() if parts else pd.DataFrame(columns=columns)
        return frame.set_axis(range(start, start + len(frame)))


def _rows_of(data: Any, key: str, wanted: pa.Array) -> pa.Table:
    """Rows with one of these keys; of row groups without any no more than the key is read."""
    parts = [data.schema.empty_table()]
    for fragment in data.get_fragments():
        for group in fragment.row_groups:
            part = fragment.subset(row_group_ids=[group.id])
            keys = part.to_table(schema=data.schema, columns=[key])[key]
            here = pc.is_in(keys, value_set=wanted.cast(keys.type))
            if pc.any(here).as_py():
                parts.append(part.to_table(schema=data.schema).filter(here))
    return pa.concat_tables(parts)


def _stamps(url: str, mapping: Mapping) -> str:
    return f"{url}/{mapping.tables.stamps}" if mapping.tables is not None else url


def _dataset(url: str) -> Any:
    """A Parquet file or hive-partitioned folder; None where there is none."""
    fs, path = fsspec.url_to_fs(url)
    if not fs.exists(path):
        return None
    if fs.isdir(path):
        files = sorted(f for f in fs.find(path) if f.endswith(".parquet"))
    else:
        files = [path] if path.endswith(".parquet") else []
    if not files:
        return None
    try:
        return pads.dataset(
            files, filesystem=fs, format="parquet", partitioning="hive", partition_base_dir=path
        )
    except (pa.ArrowInvalid, OSError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{url} cannot be read as Parquet ({first}); check the files") from None
