"""Rows of the data set as a foreign table, and back.

Array axes are x right, y up. On the coadds of the Legacy Surveys x = -East and y = North
(:mod:`darkhaloscope.geometry`), so that an angle phi from +x toward +y is a position angle
``phi - 90 deg``, and a shear keeps gamma1 and changes the sign of gamma2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from darkhaloscope.errors import UserError
from darkhaloscope.lensing.psf import moffat_fwhm, moffat_nea_fwhm
from darkhaloscope.mapping.model import Mapping
from darkhaloscope.variables import (
    ALL_VARIABLES,
    BAND,
    BY_NAME,
    LENS_MODELS,
    OPTIONAL_KINDS,
    PSF_MODELS,
    Variable,
    numpy_dtype,
)

Floats = NDArray[np.float64]

SYNONYMS = {"training": "train", "validation": "val", "valid": "val", "testing": "test"}
"""Other people's words for splits."""

OF_THE_ARC = (
    *(v.name for v in ALL_VARIABLES if v.name.startswith(("lens_", "src_", "gamma"))),
    "psf_model", "psf_beta", "psf_fwhm_used", "psf_fwhm_drawn", "arc_snr", "magnification",
    "total_injected_flux", "arc_flux_total",
    *(v.name for v in OPTIONAL_KINDS["core_mask"]),
)  # fmt: skip
"""Variables that a control does not have; ``theta_e`` of a control is 0."""


def export_rows(rows: xr.Dataset, mapping: Mapping) -> pd.DataFrame:
    """Rows of a data set as a flat table in a mapping's names and conventions.

    Parameters
    ----------
    rows : Dataset
        Any rows, with the variables of docs/data-set.md; pixels are left out.
    mapping : Mapping

    Returns
    -------
    DataFrame
        One row a pair, one column a variable, or a variable and band (``psfsize_g``). Closed lists
        are text, but for ``psf_source``; what is converted is float64.

    Raises
    ------
    UserError
        Two variables would have one column, or the mapping's tables are cut by a column that is not
        there, or joined by one that is.
    """
    bands = [str(band) for band in rows["band"].values]
    made = _Columns()
    renamed = mapping.renamed
    for variable in ALL_VARIABLES:
        if variable.name not in rows or variable.sharded:
            continue
        if mapping.shear is not None and variable.name in ("gamma1", "gamma2"):
            continue
        values = rows[variable.name].values
        if variable.flags is not None and variable.name != "psf_source":
            values = np.array([variable.flags[code] for code in range(max(variable.flags) + 1)])[
                values
            ]
        elif variable.name in renamed and variable.dtype in ("f4", "f8"):
            values = _outward(mapping, variable.name, values.astype(float), rows)
        column = mapping.column_of(variable)
        if variable.dims == BAND:
            for b, band in enumerate(bands):
                made[column.format(band=band)] = values[:, b]
        else:
            made[column] = values
    if mapping.shear is not None:
        gamma1, gamma2 = (rows[name].values.astype(float) for name in ("gamma1", "gamma2"))
        made[mapping.shear.size] = np.hypot(gamma1, gamma2)
        made[mapping.shear.angle] = 0.5 * np.arctan2(-gamma2, gamma1) % np.pi
    if mapping.control is not None:
        made[mapping.control] = (rows["lens_model"].values == 0).astype(np.int64)
    tables = mapping.tables
    if tables is not None and tables.partition not in made:
        raise UserError(
            f"the mapping {mapping.name} cuts its tables by {tables.partition}, which is no column of "
            "theirs; name one that is (tables.partition)"
        )
    if tables is not None and tables.key in made:
        raise UserError(
            f"the mapping {mapping.name} joins its tables by {tables.key}, which another column is "
            "called; name one that no variable has (tables.key)"
        )
    return pd.DataFrame(dict(made))


class _Columns(dict[str, Any]):
    """Columns by name, of which none replaces another."""

    def __setitem__(self, name: str, values: Any) -> None:
        if name in self:
            raise UserError(
                f"a mapping gives the column {name} to two variables; each needs its own"
            )
        super().__setitem__(name, values)


def import_rows(table: pd.DataFrame, mapping: Mapping, bands: Sequence[str]) -> xr.Dataset:
    """The data set's variables that a foreign table holds, in the data set's conventions and dtypes.

    Parameters
    ----------
    table : DataFrame
        One row a pair. Columns that are neither in the mapping nor named like a variable are left out.
    mapping : Mapping
    bands : sequence of str
        In the order that the variables are to have.

    Returns
    -------
    Dataset
        Dims (pair) or (pair, band), closed lists as codes. A variable without a column is not there;
        one with columns for some bands only is missing (its fill value) in the others. On controls
        ``theta_e`` is 0 and what only an arc has is missing.

    Raises
    ------
    UserError
        A column holds what its variable cannot: text for a number, a name that no closed list has.
    """
    made: dict[str, tuple[tuple[str, ...], NDArray[Any]]] = {}
    for variable in ALL_VARIABLES:
        column = mapping.column_of(variable)
        if variable.sharded:
            continue
        if variable.dims == BAND:
            columns = [column.format(band=band) for band in bands]
            if not any(name in table for name in columns):
                continue
            parts = [_column(table, name, variable) for name in columns]
            made[variable.name] = (variable.dims, np.stack(parts, axis=1))
        elif column in table:
            made[variable.name] = (variable.dims, _column(table, column, variable))
    found = xr.Dataset(made, coords={"band": np.array(list(bands), dtype=object)})
    found = _inward(found, table, mapping)
    return _without_arc_on_controls(found, table, mapping)


def _outward(mapping: Mapping, name: str, values: Floats, rows: xr.Dataset) -> Floats:
    """A variable's values in its column's convention."""
    if name in mapping.west:
        return -values
    if name in mapping.ellipticity:
        return (1.0 - values) / (1.0 + values)
    if name in mapping.array_angle:
        return np.deg2rad(values + 90.0)
    if name in mapping.semi_major:
        return np.asarray(values / _root_q(rows["src_q"].values.astype(float)))
    if name in mapping.fwhm:
        return values / _nea_of_fwhm(rows, mapping)[:, None]
    return values


def _root_q(q: Floats) -> Floats:
    """sqrt(b / a) of sources; 1 where none is known, as of images, which have no axis ratio."""
    return np.asarray(np.sqrt(np.where(np.isnan(q), 1.0, q)))


def _inward(found: xr.Dataset, table: pd.DataFrame, mapping: Mapping) -> xr.Dataset:
    """Columns as they were read, turned into the variables' conventions."""
    made: dict[str, Floats] = {}
    for name in (*mapping.west, *mapping.ellipticity, *mapping.array_angle, *mapping.semi_major):
        if name not in found:
            continue
        values = _numbers(table, mapping.renamed[name])
        if name in mapping.west:
            made[name] = -values
        elif name in mapping.ellipticity:
            made[name] = (1.0 - values) / (1.0 + values)
        elif name in mapping.array_angle:
            made[name] = np.rad2deg(values) - 90.0
        elif "src_q" in found:  # after the axis ratio: groups are taken in this order
            made[name] = values * _root_q(made.get("src_q", found["src_q"].values.astype(float)))
        else:
            found = found.drop_vars(name)  # sqrt(a b) is not known from a alone
    for name in mapping.fwhm:
        if name in found:
            values = found[name].values.astype(float)
            made[name] = values * _nea_of_fwhm(found, mapping)[:, None]
    if mapping.shear is not None and {mapping.shear.size, mapping.shear.angle} <= set(table):
        size, angle = (_numbers(table, c) for c in (mapping.shear.size, mapping.shear.angle))
        made["gamma1"] = size * np.cos(2 * angle)
        made["gamma2"] = -size * np.sin(2 * angle)
    return found.assign(
        {
            name: (BY_NAME[name].dims, values.astype(BY_NAME[name].dtype))
            for name, values in made.items()
        }
    )


def _nea_of_fwhm(rows: xr.Dataset, mapping: Mapping) -> Floats:
    """Noise-equivalent width of each row's PSF profile in units of its FWHM.

    Where all injections have one profile it is that of controls too, which have no arc to say it.
    """
    names = ("psf_model", "psf_beta")
    said = {n: rows[n].values.astype(float) for n in names if n in rows}
    for name in names:
        if name not in said and name in mapping.constants:
            value = float(_constant(BY_NAME[name], mapping.constants[name]))
            said[name] = np.full(rows.sizes["pair"], value)
    if "psf_model" not in said:
        raise UserError(
            f"the mapping {mapping.name} gives {', '.join(mapping.fwhm)} as a FWHM, and neither it nor the "
            "data say of which profile; say psf_model: GAUSSIAN or MOFFAT (with psf_beta) under constants"
        )
    beta = said.get("psf_beta", np.full(rows.sizes["pair"], np.nan))
    ratio = np.full(len(beta), np.nan)
    ratio[said["psf_model"] == PSF_MODELS.index("GAUSSIAN")] = 1.0
    for value in np.unique(beta[beta > 1.0]).tolist():
        use = (said["psf_model"] == PSF_MODELS.index("MOFFAT")) & (beta == value)
        ratio[use] = moffat_nea_fwhm(1.0, value) / moffat_fwhm(1.0, value)
    known = np.unique(ratio[np.isfinite(ratio)])
    if len(known) == 1:
        ratio[said["psf_model"] == PSF_MODELS.index("NONE")] = known[0]
    return ratio


def _without_arc_on_controls(
    found: xr.Dataset, table: pd.DataFrame, mapping: Mapping
) -> xr.Dataset:
    """Constants on injections, and nothing but ``theta_e = 0`` of an arc on controls."""
    if "lens_model" in found:
        control = found["lens_model"].values == 0
    elif mapping.control is not None and mapping.control in table:
        control = _numbers(table, mapping.control) > 0
        model = LENS_MODELS.index("SIE" if "lens_q" in found else "SIS")
        found["lens_model"] = ("pair", np.where(control, 0, model).astype(np.uint8))
    else:
        control = np.zeros(len(table), bool)
    for name, value in mapping.constants.items():
        if name not in found:
            variable = BY_NAME[name]
            shape = tuple(
                found.sizes[dim] if dim == "band" else len(table) for dim in variable.dims
            )
            found[name] = (
                variable.dims,
                np.full(shape, _constant(variable, value), numpy_dtype(variable)),
            )
    for name in OF_THE_ARC:
        if name in found and name != "lens_model":
            found[name].values[control] = 0 if BY_NAME[name].flags else np.nan
    if "theta_e" in found:
        found["theta_e"].values[control] = 0.0
    return found


def _column(table: pd.DataFrame, name: str, variable: Variable) -> NDArray[Any]:
    """A column in its variable's dtype; the fill value where it, or a value in it, is missing."""
    if name not in table:
        return np.full(len(table), variable.fill, numpy_dtype(variable))
    if variable.dtype == "str":
        return table[name].astype(object).where(table[name].notna(), "").map(str).to_numpy(object)
    if variable.flags is not None and not pd.api.types.is_numeric_dtype(table[name]):
        codes = {
            text: _code(variable, text, f"the column {name}")
            for text in table[name].dropna().astype(str).unique()
        }
        coded = table[name].astype(object).map(codes, na_action="ignore")
        return coded.fillna(variable.fill).to_numpy(np.uint8)
    if variable.dtype == "i8" and pd.api.types.is_integer_dtype(table[name]):
        return table[name].to_numpy(np.int64, na_value=variable.fill)
    values = _numbers(table, name)
    if variable.dtype in ("f4", "f8"):
        return values.astype(variable.dtype)
    return np.where(np.isfinite(values), values, float(variable.fill)).astype(variable.dtype)


def _numbers(table: pd.DataFrame, name: str) -> Floats:
    try:
        return _as_numbers(table[name])
    except (ValueError, TypeError):
        row, value = next((r, v) for r, v in table[name].items() if not _is_number(v))
        raise UserError(
            f"the column {name} holds {str(value)[:40]!r} in row {row} (counted from 0), which is no number; "
            "mend the table"
        ) from None


def _as_numbers(values: pd.Series[Any]) -> Floats:
    return pd.to_numeric(values).to_numpy(float, na_value=np.nan)


def _is_number(value: Any) -> bool:
    """Whether a value is a number, says one, or is missing."""
    try:
        _as_numbers(pd.Series([value], dtype=object))
    except (ValueError, TypeError):
        return False
    return True


def _constant(variable: Variable, value: float | str) -> float | str:
    """A mapping's constant as its variable is stored."""
    said = f"the mapping's constant {variable.name}"
    if variable.flags is not None:
        return _code(variable, str(value), said)
    if variable.dtype == "str":
        return str(value)
    try:
        return float(value)
    except ValueError:
        raise UserError(f"{said} is {value!r}, which is no number; correct it") from None


def _code(variable: Variable, text: str, where: str) -> int:
    assert variable.flags is not None
    said = SYNONYMS.get(text.lower(), text.lower())
    for code, known in variable.flags.items():
        if said == known.lower():
            return code
    raise UserError(
        f"{where} holds {text!r}, which is none of {', '.join(variable.flags.values())}"
    )
