"""The targets of a run in their order, brick by brick: in memory, or read out of a Parquet file.

Ordered by brick name, then by OBJID. The table that ``dhs targets`` writes is in that order and is
read a row group at a time, so that a driver never holds the targets of a whole survey; any other
table is read whole and sorted.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from darkhaloscope import storage
from darkhaloscope.errors import UserError

_BRICK_NAME = re.compile(r"[0-9]{4}[pm][0-9]{3}")
_NEEDED = frozenset({"brick", "objid", "target_id", "ra", "dec"})
_WANTED = ("mag_", "psfsize_")


class TargetList(Protocol):
    """Targets in the order of the plan.

    Attributes
    ----------
    bricks : (brick,) text
        Names, ascending.
    first : (brick + 1,) int64
        Place of each brick's first target, and the number of all.
    columns : frozenset of str
    """

    bricks: NDArray[np.str_]
    first: NDArray[np.int64]
    columns: frozenset[str]

    def rows(self, start: int, stop: int) -> pd.DataFrame:
        """Targets ``start`` to ``stop``."""

    def chunks(self) -> Iterator[pd.DataFrame]:
        """All targets in order, in tables of whole bricks."""


class MemoryTargets:
    """A uniform table of targets (:mod:`darkhaloscope.survey.targets`) in memory, in any order."""

    def __init__(self, table: pd.DataFrame) -> None:
        self._table = table.sort_values(["brick", "objid"], kind="stable").reset_index(drop=True)
        names = self._table["brick"].to_numpy(str)
        self.bricks, first = np.unique(names, return_index=True)
        self.first = np.append(first, len(names)).astype(np.int64)
        self.columns = frozenset(map(str, table.columns))

    def rows(self, start: int, stop: int) -> pd.DataFrame:
        return self._table.iloc[start:stop].reset_index(drop=True)

    def chunks(self) -> Iterator[pd.DataFrame]:
        yield self._table


class ParquetTargets:
    """A table that ``dhs targets`` wrote, read a row group at a time.

    Parameters
    ----------
    url : str

    Raises
    ------
    OutOfOrderError
        It is no such table, or its rows are not in order: read it whole.
    UserError
        It cannot be opened, or holds what is no target.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            fs, path = fsspec.url_to_fs(url)
            with fs.open(path) as file:
                schema = pq.read_schema(file)
            self._read = [n for n in schema.names if n in _NEEDED or n.startswith(_WANTED)]
            self.columns = frozenset(self._read)
            if b"units" not in (schema.metadata or {}) or not self.columns >= _NEEDED:
                raise OutOfOrderError(url)
            self._file = pq.ParquetFile(fs.open(path), read_dictionary=["brick"])
        except (OSError, ValueError, pa.ArrowException) as error:
            raise OutOfOrderError(url) from error
        groups = range(self._file.num_row_groups)
        sizes = [self._file.metadata.row_group(i).num_rows for i in groups]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._group = functools.lru_cache(maxsize=2)(self._read_group)
        self.bricks, self.first = self._index()

    def _read_group(self, number: int) -> pd.DataFrame:
        group = self._file.read_row_group(number, columns=self._read, use_threads=False).to_pandas()
        return group.assign(brick=group["brick"].astype(object))

    def _index(self) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
        """Names of the bricks and places of their first targets, from one pass; checks the order."""
        names: list[str] = []
        first: list[int] = []
        last = -1
        for number in range(len(self._starts) - 1):
            columns = ["brick", "objid", "ra", "dec"]
            group = self._file.read_row_group(number, columns=columns, use_threads=False)
            if not group.num_rows:
                continue
            brick = group["brick"].combine_chunks()
            code = np.asarray(brick.indices)
            objid, ra, dec = (group[name].to_numpy() for name in columns[1:])
            if not ((ra >= 0) & (ra < 360) & (np.abs(dec) <= 90)).all():
                raise UserError(f"{self._url} has a target that is not on the sky; mend ra and dec")
            edges = np.flatnonzero(code[1:] != code[:-1]) + 1
            begins = np.concatenate([[0], edges])
            rising = objid[1:] > objid[:-1]
            rising[edges - 1] = True
            here = [str(brick.dictionary[int(code[i])]) for i in begins]
            goes_on = bool(names) and here[0] == names[-1]
            if not rising.all() or (goes_on and objid[0] <= last):
                raise OutOfOrderError(self._url)
            last = int(objid[-1])
            for name, start in zip(here[goes_on:], begins[goes_on:], strict=True):
                if not _BRICK_NAME.fullmatch(name) or (names and name <= names[-1]):
                    raise OutOfOrderError(self._url)
                names.append(name)
                first.append(int(self._starts[number] + start))
        return np.array(names, str), np.array([*first, self._starts[-1]], np.int64)

    def rows(self, start: int, stop: int) -> pd.DataFrame:
        groups = range(
            int(np.searchsorted(self._starts, start, side="right")) - 1,
            int(np.searchsorted(self._starts, stop, side="left")),
        )
        parts = []
        for number in groups:
            low, high = int(self._starts[number]), int(self._starts[number + 1])
            parts.append(self._group(number).iloc[max(start, low) - low : min(stop, high) - low])
        if len(parts) > 1:
            return pd.concat(parts, ignore_index=True)
        return parts[0].reset_index(drop=True)

    def chunks(self) -> Iterator[pd.DataFrame]:
        start = 0
        for stop in self._starts[1:]:
            # The first edge of a brick at or before the end of the row group.
            edge = int(self.first[np.searchsorted(self.first, stop, side="right") - 1])
            if edge > start:
                yield self.rows(start, edge)
                start = edge


class WithBrickWidths:
    """Targets whose ``psfsize_{band}`` is their brick's where they have none > 0 of their own.

    Parameters
    ----------
    targets : TargetList
    widths : DataFrame
        By brick name, arcsec, NaN where none is known
        (:func:`darkhaloscope.survey.bricktable.brick_widths`).
    """

    def __init__(self, targets: TargetList, widths: pd.DataFrame) -> None:
        self._targets = targets
        self.widths = widths.reindex(targets.bricks)
        self.bricks, self.first = targets.bricks, targets.first
        self.columns = targets.columns | frozenset(map(str, widths.columns))

    def rows(self, start: int, stop: int) -> pd.DataFrame:
        return self._with_widths(self._targets.rows(start, stop))

    def chunks(self) -> Iterator[pd.DataFrame]:
        return map(self._with_widths, self._targets.chunks())

    def _with_widths(self, chunk: pd.DataFrame) -> pd.DataFrame:
        of_brick = self.widths.loc[chunk["brick"]]
        made = {}
        for name in map(str, self.widths.columns):
            own = target_column(chunk, name)
            made[name] = np.where(own > 0, own, of_brick[name].to_numpy())
        return chunk.assign(**made)


class OutOfOrderError(Exception):
    """A table that cannot be read a piece at a time."""


def open_targets(url: str) -> TargetList | None:
    """A table to be read a row group at a time; None where it has to be read whole."""
    if not url.lower().endswith((".parquet", ".pq")) or not storage.exists(url):
        return None
    try:
        return ParquetTargets(url)
    except OutOfOrderError:
        return None


def contents_digest(targets: TargetList, bands: Sequence[str]) -> str:
    """sha256 of what decides rows, brick by brick: the same whatever file the targets come from."""
    digest = hashlib.sha256()
    for chunk in targets.chunks():
        columns = [chunk[name].to_numpy() for name in ("objid", "target_id", "ra", "dec")]
        columns += [
            target_column(chunk, f"{stem}_{b}") for stem in ("mag", "psfsize") for b in bands
        ]
        canonical = [canonical_numbers(values) for values in columns]
        names = chunk["brick"].to_numpy(object)
        begins = np.concatenate([[0], np.flatnonzero(names[1:] != names[:-1]) + 1, [len(names)]])
        for start, stop in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
            parts = [values[start:stop].tobytes() for values in canonical]
            digest.update(b"".join([f"{names[start]}\0".encode(), *parts]))
    return digest.hexdigest()


def joint_digest(joint: pd.DataFrame) -> str:
    """sha256 of the contents of a joint table, whatever the order of its columns."""
    digest = hashlib.sha256()
    for name in sorted(joint.columns):
        digest.update(f"{name}\0".encode())
        digest.update(canonical_numbers(joint[name].to_numpy(float)).tobytes())
    return digest.hexdigest()


def canonical_numbers(values: NDArray[Any]) -> NDArray[Any]:
    """Little-endian int64 or float64, with one bit pattern for a missing value."""
    if values.dtype.kind in "iu":
        return values.astype("<i8")
    number = values.astype(float)
    return np.where(np.isnan(number), np.nan, number).astype("<f8")


def target_column(targets: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """A column of a target table, NaN where the table has none."""
    if name in targets:
        return targets[name].to_numpy(float)
    return np.full(len(targets), np.nan)
