"""PSF widths of whole bricks, from the release's ``survey-bricks-*.fits.gz``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from darkhaloscope.errors import UserError
from darkhaloscope.survey.targets import by_lower_name, numbers, read_table


def brick_widths(url: str, bands: Sequence[str]) -> pd.DataFrame:
    """``psfsize_{band}`` (arcsec) by brick name; NaN where the table has none that is > 0.

    Parameters
    ----------
    url : str
        FITS (also ``.gz``), CSV or Parquet with ``brickname`` and ``psfsize_{band}``, in any case.
    bands : sequence of str
        A band without a column has no value.

    Raises
    ------
    UserError
        It cannot be read, has no column of names, or of no band a width.
    """
    table = read_table(url)
    lower = by_lower_name(table)
    columns = {b: lower[f"psfsize_{b}"] for b in bands if f"psfsize_{b}" in lower}
    if "brickname" not in lower or not columns:
        raise UserError(
            f"{url} is no table of bricks with PSF widths: it needs the columns brickname and "
            f"psfsize_{bands[0]}, its columns are {', '.join(map(str, table.columns))}"
        )
    names = table[lower["brickname"]].astype(str).str.strip()
    widths = pd.DataFrame(np.nan, index=names, columns=[f"psfsize_{b}" for b in bands])
    for band, column in columns.items():
        width = numbers(table[column])
        widths[f"psfsize_{band}"] = np.where(width > 0, width, np.nan)
    return widths[~widths.index.duplicated()]
