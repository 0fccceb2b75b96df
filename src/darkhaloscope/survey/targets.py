"""Lists of targets: a user's table of any format and naming, made uniform.

The uniform table has these columns: ``brick`` (text), ``objid`` (int64), ``target_id`` (int64),
``ra``, ``dec`` (deg), ``mag_g``, ``mag_r``, ``mag_z``, and ``mag_i`` where there is one (AB, as
observed, not corrected for extinction: they belong to the pixels; NaN where missing),
``psfsize_{band}`` (arcsec) and ``type`` (Tractor's) where the table has them.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from numpy.typing import NDArray

from darkhaloscope import storage
from darkhaloscope.errors import UserError
from darkhaloscope.survey import bricks
from darkhaloscope.variables import MAG_ZERO_POINT

BANDS = ("g", "r", "i", "z")

_BRICK_NAME = re.compile(r"[0-9]{4}[pm][0-9]{3}")

ALIASES: dict[str, tuple[str, ...]] = {
    "ra": (
        "ra",
        "target_ra",
        "ra_deg",
        "radeg",
        "raj2000",
        "ra_j2000",
        "alpha_j2000",
        "alpha",
        "right_ascension",
    ),
    "dec": (
        "dec",
        "target_dec",
        "dec_deg",
        "decdeg",
        "decj2000",
        "dej2000",
        "dec_j2000",
        "delta_j2000",
        "delta",
        "decl",
        "declination",
        "de",
    ),
    "brick": ("brickname", "brick", "brick_name"),
    "objid": ("objid", "obj_id", "brick_objid"),
    "target_id": ("targetid", "target_id"),
    "release": ("release",),
    "brickid": ("brickid", "brick_id"),
    "type": ("type", "morphtype"),
}
"""Names, in lower case and by preference, under which a user's table may hold each column."""

ROW_GROUP = 65_536
"""Targets of one row group of a table that is written here."""

UNITS: dict[str, str] = {
    "ra": "deg",
    "dec": "deg",
    **{f"mag_{band}": "mag (AB)" for band in BANDS},
    **{f"psfsize_{band}": "arcsec" for band in BANDS},
}
"""Units of the uniform table; other columns have none."""


def read_table(url: str) -> pd.DataFrame:
    """Any CSV, FITS or Parquet table, with its own column names; vector columns are left out.

    Raises
    ------
    UserError
        Where there is no such object, it cannot be read or parsed, or is of another kind.
    """
    try:
        raw = storage.read(url)
    except FileNotFoundError as error:
        raise UserError(f"there is no table at {url}.") from error
    name = PurePosixPath(url).name.lower()
    try:
        if name.endswith((".csv", ".csv.gz")):
            packing: Any = "gzip" if name.endswith(".gz") else None
            return pd.read_csv(io.BytesIO(raw), compression=packing, comment="#")
        if name.endswith((".fits", ".fit", ".fits.gz")):
            return _fits_table(gzip.decompress(raw) if name.endswith(".gz") else raw)
        if name.endswith((".parquet", ".pq")):
            return pd.read_parquet(io.BytesIO(raw))
    except (ValueError, OSError, TypeError, EOFError, zlib.error, pa.ArrowException) as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{url} cannot be parsed as a table: {text}.") from error
    raise UserError(f"{url} is not named .csv, .fits or .parquet, so its format is unknown.")


def _fits_table(raw: bytes) -> pd.DataFrame:
    with fits.open(io.BytesIO(raw), memmap=False) as hdus:
        kinds = fits.BinTableHDU | fits.TableHDU
        table = next((hdu for hdu in hdus if isinstance(hdu, kinds)), None)
        if table is None:
            raise ValueError("it holds no table")
        columns = {}
        for name in table.columns.names:
            values = np.asarray(table.data[name])
            if values.ndim != 1 or values.dtype.kind not in "biufSU":
                continue
            if values.dtype.kind in "SU":
                columns[name] = np.char.strip(values.astype(str))
            else:  # pandas works on native byte order only; FITS is big-endian.
                columns[name] = values.astype(values.dtype.newbyteorder("="))
    return pd.DataFrame(columns)


def read_targets(url: str) -> pd.DataFrame:
    """A user's table of targets, as the uniform table (see the module), in its own order.

    Parameters
    ----------
    url : str
        CSV, FITS or Parquet with at least ra and dec in deg. Names are matched regardless of case,
        and by :data:`ALIASES`. Magnitudes come from ``mag_{band}`` (AB) or ``flux_{band}`` (nMgy).

    Returns
    -------
    DataFrame
        ``brick`` as given, else by the tiling; ``objid`` as given, else the order of appearance in
        the brick, from 0; ``target_id`` in DESI's bits where release, brickid and objid are there,
        else as given, else the row number, from 0.

    Raises
    ------
    UserError
        Where it cannot be read, has no rows, lacks ra or dec, or has rows that are not on the sky.
    """
    return normalise(read_table(url), url)


def normalise(table: pd.DataFrame, label: str = "the table of targets") -> pd.DataFrame:
    """The uniform table of any table of targets; ``label`` names it in errors.

    See :func:`read_targets` for the rules and the errors.
    """
    if not len(table):
        raise UserError(f"{label} lists no targets.")
    lower = by_lower_name(table)
    found = {
        name: table[lower[alias]]
        for name, aliases in ALIASES.items()
        if (alias := next((a for a in aliases if a in lower), None)) is not None
    }
    if missing := [name for name in ("ra", "dec") if name not in found]:
        raise UserError(
            f"{label} has no column {' and no column '.join(missing)}; "
            f"its columns are {', '.join(map(str, table.columns))}."
        )
    ra, dec = numbers(found["ra"]), numbers(found["dec"])
    _check_rows((ra >= 0) & (ra <= 360), label, "an ra that is not a number within 0..360 deg")
    _check_rows(np.abs(dec) <= 90, label, "a dec that is not a number within -90..90 deg")
    ra = ra % 360.0

    brick = bricks.brick_name(ra, dec).astype(object)
    if "brick" in found:
        given = found["brick"].fillna("").astype(str).str.strip().to_numpy(object)
        brick = np.where(given == "", brick, given)
        # A name goes into addresses: only what a brick can be called.
        good = np.array([bool(_BRICK_NAME.fullmatch(name)) for name in brick.tolist()])
        _check_rows(good, label, "a brick name that is not like 0591m305")
    if "objid" in found:
        objid = integers(found["objid"], label, "objid")
    else:
        objid = np.asarray(pd.Series(brick).groupby(brick).cumcount(), dtype=np.int64)
    out = pd.DataFrame({"brick": brick.astype(str), "objid": objid})
    if {"release", "brickid", "objid"} <= found.keys():
        out["target_id"] = bricks.target_id(
            integers(found["release"], label, "release"),
            integers(found["brickid"], label, "brickid"),
            objid,
        )
    elif "target_id" in found:
        out["target_id"] = integers(found["target_id"], label, "target_id")
    else:
        out["target_id"] = np.arange(len(table), dtype=np.int64)
    out["ra"], out["dec"] = ra, dec
    for band in BANDS:
        mag = magnitude(table, lower, band)
        if mag is not None or band != "i":
            out[f"mag_{band}"] = np.full(len(table), np.nan) if mag is None else mag
    for band in BANDS:
        if (name := f"psfsize_{band}") in lower:
            out[name] = numbers(table[lower[name]])
    if "type" in found:
        out["type"] = found["type"].astype(str).str.strip().to_numpy(object)
    return out


def by_lower_name(table: pd.DataFrame) -> dict[str, str]:
    """Column names of a table by their lower case; the first of several wins."""
    lower: dict[str, str] = {}
    for name in table.columns:
        lower.setdefault(str(name).strip().lower(), name)
    return lower


def numbers(column: pd.Series) -> NDArray[np.float64]:
    """A column as float64, NaN where it is missing or no number."""
    values: NDArray[np.float64] = pd.to_numeric(column, errors="coerce").to_numpy(
        dtype=float, na_value=np.nan
    )
    return values


def integers(column: pd.Series, label: str, name: str) -> NDArray[np.int64]:
    """A column as int64. Raises UserError, naming the rows, where it holds no whole numbers."""
    if pd.api.types.is_integer_dtype(column.dtype) and not column.isna().any():
        if pd.api.types.is_unsigned_integer_dtype(column.dtype):
            small = column.to_numpy(np.uint64) <= np.iinfo(np.int64).max
            _check_rows(small, label, f"a {name} of 2^63 or more")
        return column.to_numpy(np.int64)  # Not through float: a TARGETID has 58 bits.
    values = numbers(column)
    _check_rows(np.isfinite(values) & (values == np.round(values)), label, f"no whole {name}")
    return values.astype(np.int64)


def _check_rows(good: NDArray[np.bool_], label: str, what: str) -> None:
    wrong = np.flatnonzero(~good) + 1
    if len(wrong):
        shown = ", ".join(map(str, wrong[:5])) + (" ..." if len(wrong) > 5 else "")
        rows = "row" if len(wrong) == 1 else "rows"
        have = "has" if len(wrong) == 1 else "have"
        raise UserError(f"in {label}, {rows} {shown} (from 1) {have} {what}.")


def magnitude(
    table: pd.DataFrame, lower: Mapping[str, str], band: str
) -> NDArray[np.float64] | None:
    """AB magnitude as observed; NaN for missing ones, among them 99 and the like."""
    if f"mag_{band}" in lower:
        mag = numbers(table[lower[f"mag_{band}"]])
        return np.where((mag > 0) & (mag < 50), mag, np.nan)
    if f"flux_{band}" in lower:
        return flux_to_mag(numbers(table[lower[f"flux_{band}"]]))
    return None


def flux_to_mag(flux: NDArray[Any]) -> NDArray[np.float64]:
    """AB magnitude of a flux in nMgy; NaN where it is not positive."""
    flux = np.asarray(flux, dtype=float)
    with np.errstate(invalid="ignore"):
        return MAG_ZERO_POINT - 2.5 * np.log10(np.where(flux > 0, flux, np.nan))


def position_targets(
    positions: Iterable[tuple[float, float]], beside: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Bare sky positions (ra, dec in deg) as the uniform table: no magnitudes.

    Parameters
    ----------
    positions : iterable of (float, float)
    beside : DataFrame, optional
        A uniform table that they will be appended to: their ``objid`` go on after the greatest of their
        brick there, their ``target_id`` are the row numbers that follow, leaving out what is taken.

    Raises
    ------
    UserError
        For no positions, or one that is not on the sky.
    """
    out = normalise(pd.DataFrame(list(positions), columns=["ra", "dec"]), "the list of positions")
    if beside is not None and len(beside):
        first = beside.groupby("brick")["objid"].max() + 1
        out["objid"] += out["brick"].map(first).fillna(0).astype(np.int64)
        taken = set(beside["target_id"].tolist())
        free = (k for k in itertools.count(len(beside)) if k not in taken)
        out["target_id"] = np.array(list(itertools.islice(free, len(out))), dtype=np.int64)
    return out


def write_targets(frame: pd.DataFrame, url: str) -> None:
    """Write a uniform table as Parquet, units in the metadata of each field (``unit``) and, as
    JSON, of the schema (``units``).

    By brick, then OBJID, which is the order of a plan, and in row groups: a run of a whole survey reads
    the table a group at a time.

    Raises
    ------
    UserError
        Where it cannot be written.
    """
    in_order = frame.sort_values(["brick", "objid"], kind="stable")
    table = pa.Table.from_pandas(in_order, preserve_index=False)
    units = {name: UNITS[name] for name in table.column_names if name in UNITS}
    for i, name in enumerate(table.column_names):
        if name in units:
            unit = table.schema.field(i).with_metadata({"unit": units[name]})
            table = table.cast(table.schema.set(i, unit))
    metadata = {**(table.schema.metadata or {}), b"units": json.dumps(units).encode()}
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(metadata), sink, row_group_size=ROW_GROUP)
    storage.write(url, sink.getvalue())
