"""Columns that a set is asked for by their names, and has not."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from darkhaloscope.errors import UserError
from darkhaloscope.mapping import Mapping
from darkhaloscope.variables import ALL_VARIABLES

Notes = tuple[str, ...]


def unfound(
    columns: Sequence[str], mapping: Mapping, bands: Sequence[str], url: str, notes: Notes = ()
) -> Notes:
    """A note on the columns that a mapping names and a set has not, where the mapping lets it lack them.

    Of a column with a band one band is enough: the others count as missing.

    Parameters
    ----------
    columns : sequence of str
        What the set has.
    notes : tuple of str
        Why it may seem not to have one.

    Raises
    ------
    UserError
        It lacks one, and the mapping does not say that it may: what is not found is a name spelt wrongly.
    """
    missing = {
        key: column
        for key, column in mapping.named.items()
        if not {column.format(band=band) for band in bands} & set(columns)
    }
    if not missing:
        return ()
    if mapping.optional:
        return (f"mapping {mapping.name}: the set has no {', '.join(missing.values())}",)
    key, column = next(iter(missing.items()))
    near = difflib.get_close_matches(column, columns, n=1, cutoff=0.4)
    if why := next((note for note in notes if note.startswith(f"{column}: ")), ""):
        hint = why
    elif near:
        hint = f"did you mean {near[0]}?"
    else:
        hint = f"it has {', '.join(columns[:8]) or 'no columns'}{' ...' if columns[8:] else ''}"
    raise UserError(
        f"the mapping {mapping.name} names the column {column} ({key}), which {url} has not; {hint}"
    )


def misshapen(
    shapes: dict[str, tuple[int, ...]],
    columns: Sequence[str],
    mapping: Mapping,
    bands: Sequence[str],
    rows: int,
) -> Notes:
    """Arrays that are named like a column that is asked for, and are none by their shape.

    Parameters
    ----------
    shapes : dict
        Of all arrays with one or two axes.
    columns : sequence of str
        Those that are columns.
    """
    asked = [mapping.column_of(v) for v in ALL_VARIABLES if not v.sharded]
    asked += mapping.named.values()
    names = {c.format(band=band) for c in asked for band in bands}
    names |= {c.removesuffix("_{band}") for c in asked}
    taken = {*columns, *(c.removesuffix(f"_{band}") for c in columns for band in bands)}
    return tuple(
        f"{name}: left out, its shape {shape} is not that of {rows} rows"
        for name, shape in shapes.items()
        if name in names and name not in taken
    )


def not_used(mapping: Mapping, parquet: bool) -> Notes:
    """A note on sections of a mapping for which a file, Parquet or of arrays, has no use."""
    others, kind = (("stacks",), "arrays") if parquet else (("tables", "images"), "Parquet files")
    said = [name for name in others if getattr(mapping, name) is not None]
    if not said:
        return ()
    return (f"mapping {mapping.name}: {' and '.join(said)} not used, which are for {kind}",)
