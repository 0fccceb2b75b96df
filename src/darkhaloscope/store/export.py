"""A data set as Parquet tables in a mapping's names, streamed block by block.

``<to>/metrics/region_split=train/part-000000.parquet`` has every row of a block, failed ones too;
``<to>/stamps/…`` of the same name has the pixels of those that have some, as ``.npz`` blobs. Both have
the mapping's key column.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from darkhaloscope import storage
from darkhaloscope.errors import UserError
from darkhaloscope.mapping import Images, Mapping, Tables, encode_stamp, export_rows
from darkhaloscope.store.dataset import read_rows
from darkhaloscope.store.run import read_run
from darkhaloscope.store.whole import check_stored
from darkhaloscope.variables import ALL_VARIABLES


def export_tables(
    source: str,
    to: str,
    blocks: Sequence[slice],
    mapping: Mapping,
    *,
    stamps: bool = False,
    on_block: Callable[[slice], None] = lambda _: None,
) -> list[str]:
    """Write the tables of a data set, one block in memory at a time; gives their names below ``to``.

    Parameters
    ----------
    source : str
        A run's folder, or a Zarr group of pairs.
    to : str
        A folder that is empty or not there; a path or any fsspec URL.
    blocks : sequence of slice
        Rows of each block; the order is the order of the parts' numbers.
    mapping : Mapping
        It must say its tables, and its images where ``stamps`` are wanted.
    stamps : bool
        Whether pixels are written too.
    on_block : callable
        Told of each block that is written.

    Raises
    ------
    UserError
        The mapping lacks what is asked for, ``to`` is not empty, or a run's objects are not those of its
        markers.
    """
    tables = mapping.tables
    if tables is None or (stamps and mapping.images is None):
        lacks = "tables" if tables is None else "images"
        raise UserError(f"the mapping {mapping.name} has no {lacks}; add the section, or use seed")
    if found := storage.names(to):
        raise UserError(f"{to} is not empty (it has {found[0]}); choose another --to")
    used = ("ctrl", "arc", "extra") if stamps else ()
    left_out = [v.name for v in ALL_VARIABLES if v.sharded and v.name not in used]
    if read_run(source) is not None:
        check_stored(source, without=left_out)
    written = []
    for number, rows in enumerate(blocks):
        part = read_rows(source, rows, without=left_out)
        for folder, table in _tables_of(part, mapping, tables, mapping.images if stamps else None):
            name = f"{folder}/part-{number:06d}.parquet"
            buffer = io.BytesIO()
            table.to_parquet(buffer, index=False, compression="zstd")
            storage.write(storage.join(to, name), buffer.getvalue())
            written.append(name)
        on_block(rows)
    return written


def _tables_of(
    part: xr.Dataset, mapping: Mapping, tables: Tables, images: Images | None
) -> list[tuple[str, pd.DataFrame]]:
    """The tables that the rows of one block become, each with its folder."""
    flat = export_rows(part, mapping)
    slots = zip(part["brick"].values, part["slot"].values, strict=True)
    flat.insert(0, tables.key, [f"{brick}-{slot}" for brick, slot in slots])
    made = []
    for value, rows in flat.groupby(tables.partition, sort=True):
        place = f"{tables.partition}={value}"
        made.append((f"{tables.metrics}/{place}", rows.drop(columns=tables.partition)))
        ok = rows.index[part["cutout_ok"].values[rows.index]]
        if images is not None and len(ok):
            made.append(
                (f"{tables.stamps}/{place}", _blobs(part, flat, ok.to_numpy(), tables, images))
            )
    return made


def _blobs(
    part: xr.Dataset, flat: pd.DataFrame, rows: np.ndarray, tables: Tables, images: Images
) -> pd.DataFrame:
    """The key and the pixels of some rows."""
    bands = [str(band) for band in part["band"].values]
    ctrl, added = part["ctrl"].values, part["arc"].values
    if "extra" in part:
        added = added + part["extra"].values
    return pd.DataFrame(
        {
            tables.key: flat[tables.key].to_numpy()[rows],
            images.stamp: [encode_stamp(ctrl[i] + added[i], bands, images.member) for i in rows],
            images.ctrl: [encode_stamp(ctrl[i], bands, images.member) for i in rows],
        }
    )
