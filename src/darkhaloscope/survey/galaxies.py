"""Images of real galaxies as sources, and the catalogue they are chosen from.

The form is that of GalSim's ``RealGalaxyCatalog`` (Mandelbaum et al. 2012, MNRAS 420, 1518): a FITS
table with ``IDENT``, ``MAG``, ``GAL_FILENAME``, ``GAL_HDU`` and ``PIXEL_SCALE``, the images beside it.
Sizes are ``flux_radius``, half-light radii in pixels of the images: of the same table, or of the one
of fits beside it (``NAME_fits.fits``).
"""

from __future__ import annotations

import functools
import hashlib
import io
from typing import NamedTuple

import numpy as np
import pandas as pd
from astropy.io import fits
from numpy.typing import NDArray

from darkhaloscope import storage
from darkhaloscope.errors import UserError
from darkhaloscope.survey.targets import read_table

Range = tuple[float, float] | None

COLUMNS = ("IDENT", "MAG", "GAL_FILENAME", "GAL_HDU", "PIXEL_SCALE")


class Galaxies(NamedTuple):
    """Galaxies of a catalogue, by ``ident``; ``reff`` (arcsec) is NaN where no size is listed.

    ``mag`` is AB in the catalogue's own band, ``scale`` arcsec a pixel.
    """

    ident: NDArray[np.int64]
    mag: NDArray[np.float64]
    reff: NDArray[np.float64]
    scale: NDArray[np.float64]


@functools.lru_cache(maxsize=4)
def _catalogue(url: str) -> pd.DataFrame:
    """The whole catalogue by IDENT, with ``reff``."""
    table = read_table(url)
    if missing := [name for name in COLUMNS if name not in table]:
        raise UserError(
            f"{url} has no column {missing[0]}; a catalogue of galaxy images has "
            f"{', '.join(COLUMNS)}, as GalSim's"
        )
    if (double := table["IDENT"].duplicated()).any():
        raise UserError(f"{url} lists galaxy {table['IDENT'][double].iloc[0]} twice; remove one")
    beside = f"{url.removesuffix('.fits')}_fits.fits"
    if "flux_radius" not in table and storage.exists(beside):
        sizes = read_table(beside)
        if missing := [name for name in ("IDENT", "flux_radius") if name not in sizes]:
            raise UserError(f"{beside}, which should hold sizes, has no column {missing[0]}")
        sizes = sizes[["IDENT", "flux_radius"]].drop_duplicates("IDENT")
        table = table.merge(sizes, on="IDENT", how="left")
    if "flux_radius" not in table:
        table["flux_radius"] = np.nan
    table["reff"] = table["flux_radius"].to_numpy(float) * table["PIXEL_SCALE"].to_numpy(float)
    return table.set_index("IDENT").sort_index()


@functools.lru_cache(maxsize=4)
def select_galaxies(url: str, mag: Range = None, reff: Range = None) -> Galaxies:
    """Galaxies of a catalogue within bounds, by IDENT.

    Parameters
    ----------
    url : str
        The catalogue.
    mag : (low, high), optional
        Of ``MAG``.
    reff : (low, high), optional
        Of the half-light radius, arcsec.

    Raises
    ------
    UserError
        The catalogue cannot be read or lacks a column, or none of its galaxies lies within the bounds.
    """
    table = _catalogue(url)
    keep = np.ones(len(table), dtype=bool)
    for column, bounds in (("MAG", mag), ("reff", reff)):
        if bounds is not None:
            keep &= table[column].between(*bounds).to_numpy()
    chosen = table[keep]
    if chosen.empty:
        raise UserError(
            f"none of the {len(table)} galaxies of {url} has a magnitude within {mag or 'any bounds'} and "
            f"a half-light radius within {reff or 'any bounds'} arcsec; widen source.image_mag or "
            "source.image_reff"
        )
    return Galaxies(
        chosen.index.to_numpy(np.int64),
        *(chosen[name].to_numpy(float) for name in ("MAG", "reff", "PIXEL_SCALE")),
    )


@functools.lru_cache(maxsize=2)
def _images(url: str) -> fits.HDUList:
    try:
        return fits.open(io.BytesIO(storage.read(url)), memmap=False)
    except (FileNotFoundError, OSError) as error:
        raise UserError(
            f"{url}, which holds images of galaxies, cannot be read: {error}"
        ) from error


@functools.lru_cache(maxsize=1024)
def galaxy_image(url: str, ident: int) -> NDArray[np.float64]:
    """The image of one galaxy of a catalogue, (y, x), in its own unit.

    Raises
    ------
    UserError
        The catalogue has no such galaxy, or its image cannot be read.
    """
    table = _catalogue(url)
    found = np.flatnonzero(table.index.to_numpy(np.int64) == ident)
    if not len(found):
        raise UserError(
            f"{url} has no galaxy {ident}; use the catalogue that the data set was made with"
        )
    line = table.iloc[int(found[0])]
    place = storage.join(url.rsplit("/", 1)[0], str(line["GAL_FILENAME"]).strip())
    hdus, number = _images(place), int(line["GAL_HDU"])
    if not 0 <= number < len(hdus) or hdus[number].data is None:
        raise UserError(f"{place} has no image in HDU {number}, where {url} says galaxy {ident} is")
    image = np.array(hdus[number].data, dtype=float)
    image.setflags(write=False)
    return image


def galaxies_digest(url: str, galaxies: Galaxies) -> str:
    """sha256 of what decides arcs: identifiers, scales, sizes and the pixels of the chosen galaxies."""
    digest = hashlib.sha256(galaxies.ident.astype("<i8").tobytes())
    digest.update(galaxies.scale.astype("<f8").tobytes())
    digest.update(np.where(np.isnan(galaxies.reff), np.nan, galaxies.reff).astype("<f8").tobytes())
    for ident in galaxies.ident.tolist():
        image = galaxy_image(url, ident)
        digest.update(np.array(image.shape, dtype="<i8").tobytes())
        digest.update(image.astype("<f8").tobytes())
    return digest.hexdigest()
