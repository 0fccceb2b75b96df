"""Targets chosen out of tractor or sweep catalogues: DESI's LRGs, or a plain cut."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath

import aiohttp
import botocore.exceptions
import fsspec
import numpy as np
import pandas as pd
import xxhash
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray

from darkhaloscope import storage
from darkhaloscope.errors import UserError
from darkhaloscope.survey import bricks as tiling
from darkhaloscope.survey.targets import (
    by_lower_name,
    flux_to_mag,
    integers,
    magnitude,
    normalise,
    numbers,
    read_table,
)
from darkhaloscope.variables import MAG_ZERO_POINT

# BRIGHT, GALAXY and CLUSTER: the bits that DESI's LRG selection leaves out.
_LRG_MASKBITS = 1 << 1 | 1 << 12 | 1 << 13

_FLAGS = {
    **dict.fromkeys(("true", "t", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "0", "0.0"), False),
}
"""What a catalogue may write for yes and no, in lower case."""

_Choice = Callable[[pd.DataFrame, str], NDArray[np.bool_]]

_CATALOGUES = tuple(
    (f"{side}{folder}", name)
    for name, folders in (
        (re.compile(r"tractor-[0-9]{4}[pm][0-9]{3}\.fits"), ("tractor/*/", "")),
        (re.compile(r"sweep-[0-9]{3}[pm][0-9]{3}-[0-9]{3}[pm][0-9]{3}\.fits"), ("sweep/*/", "")),
    )
    for folder in folders
    for side in ("", "south/", "north/")
)
"""Where the catalogues of a release lie below its root or one of its hemispheres, and their names: a
sweep has others beside it (``-pz``, ``-ex``) that list no fluxes."""

_NORTH_ALONE = (4000, 6000)
"""RELEASE of DR4 and DR6, whose numbers are even."""

_NORTH_DEC = 32.375
"""Declination in deg above which, north of the Galactic plane, the North's catalogues count where both
surveys observed (https://www.legacysurvey.org/dr9/description/)."""


def select_targets(
    sources: Iterable[str], *, cuts: str = "lrg", limits: Sequence[str] = ()
) -> pd.DataFrame:
    """Targets out of catalogues, or out of all tractor catalogues of a release.

    Parameters
    ----------
    sources : iterable of str
        Catalogue files (FITS, CSV, Parquet), or folders: roots of releases (``south/tractor/...``,
        else ``south/sweep/...``), or flat ones with ``tractor-*.fits`` or ``sweep-*.fits``.
    cuts : {'lrg', 'plain', 'all'}
        ``lrg``: :func:`select_lrg`. ``plain``: :func:`select_simple` with ``limits``. ``all``: every
        primary source.
    limits : sequence of str
        Least and greatest value of a magnitude or a colour, either may be left out: ``z=18:20.3``,
        ``g-r=0.5:``.

    Returns
    -------
    DataFrame
        The uniform table of :mod:`darkhaloscope.survey.targets`, possibly with no rows.

    Raises
    ------
    UserError
        For unknown cuts or limits, a folder without catalogues, or a catalogue that cannot be read.
    """
    if cuts not in ("lrg", "plain", "all"):
        raise UserError(f"cuts are 'lrg', 'plain' or 'all', not {cuts!r}.")
    if (cuts == "plain") != bool(limits):
        raise UserError(
            "limits like z=18:20.3 go with the cuts 'plain', and these need at least one."
        )
    ranges = dict(_limit(text) for text in limits)
    catalogues = [url for source in sources for url in _catalogues(source)]
    if cuts == "lrg":
        return select_lrg(catalogues)
    if cuts == "plain":
        return select_simple(catalogues, ranges)
    return select_simple(catalogues, {}, exclude_types=("DUP",))


def whole_bricks(targets: pd.DataFrame, most: int) -> pd.DataFrame:
    """The targets of whole bricks, as many as hold at most ``most`` of them together.

    Bricks are taken by the xxh64 of their names, so that fewer are always among more; rows keep their
    order.

    Raises
    ------
    UserError
        The first brick alone holds more.
    """
    names, count = np.unique(targets["brick"].to_numpy(str), return_counts=True)
    order = np.argsort([xxhash.xxh64_intdigest(n.encode()) for n in names.tolist()])
    kept = names[order][np.cumsum(count[order]) <= most]
    if not len(kept):
        raise UserError(
            f"a brick holds {count[order][0]} targets, more than --most {most}; ask for more"
        )
    return targets[np.isin(targets["brick"].to_numpy(str), kept)].reset_index(drop=True)


def _limit(text: str) -> tuple[str, tuple[float | None, float | None]]:
    """``z=18:20.3`` as a name and its range."""
    if match := re.fullmatch(r"([griz](?:-[griz])?)=([^:]*):([^:]*)", text.replace(" ", "")):
        with contextlib.suppress(ValueError):
            low, high = (float(end) if end else None for end in match.group(2, 3))
            return match[1], (low, high)
    raise UserError(f"{text!r} is no limit: write z=18:20.3, or g-r=0.5: for a colour.")


def _catalogues(source: str) -> list[str]:
    if PurePosixPath(source).suffix.lower() in (".fits", ".fit", ".gz", ".csv", ".parquet", ".pq"):
        return [source]
    storage.check_address(source)
    try:
        filesystem, path = fsspec.url_to_fs(source)
        found = [
            filesystem.unstrip_protocol(name)
            for folder, pattern in _CATALOGUES
            for name in filesystem.glob(f"{path.rstrip('/')}/{folder}*.fits")
            if pattern.fullmatch(PurePosixPath(name).name)
        ]
    except (
        OSError,
        ValueError,
        ImportError,
        aiohttp.ClientError,
        botocore.exceptions.BotoCoreError,
        botocore.exceptions.ClientError,
    ) as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{source} cannot be listed: {text}.") from error
    # Sweeps hold the same sources once more: they are read only where there is nothing else.
    tractor = [url for url in found if PurePosixPath(url).name.startswith("tractor-")]
    if not found:
        raise UserError(
            f"there are no tractor catalogues (south/tractor/*/tractor-*.fits) and no sweeps in {source}."
        )
    return sorted(set(tractor or found))


def select_lrg(
    sources: Iterable[str | pd.DataFrame], *, hemisphere: str | None = None
) -> pd.DataFrame:
    """DESI's LRG main sample out of tractor or sweep catalogues.

    Zhou et al. 2023 (AJ 165, 58), section 3: eqs. 1-4 for the South (DECam), eqs. 5-8 for the North
    (BASS and MzLS), on magnitudes corrected for extinction. The quality cuts there (observed in g,
    r and z, positive inverse variances in r, z and W1, no Gaia star brighter than G = 18, z
    fibertot magnitude above 17.5, none of the mask bits BRIGHT, GALAXY, CLUSTER) apply as far as
    the catalogue has the columns. Only rows with ``brick_primary`` are taken where it is there, so
    that a galaxy in the overlap of two bricks comes once.

    Parameters
    ----------
    sources : iterable of str or DataFrame
        Catalogues, or addresses of their FITS files.
    hemisphere : {'south', 'north'}, optional
        Whose cuts apply. Without it each row's RELEASE says (:func:`_is_north`).

    Returns
    -------
    DataFrame
        The uniform table, possibly with no rows.

    Raises
    ------
    UserError
        For a catalogue that cannot be read or lacks a column.
    """
    return _select(sources, lambda table, label: _is_lrg(table, label, hemisphere))


def lrg_cuts(
    g: NDArray[np.float64],
    r: NDArray[np.float64],
    z: NDArray[np.float64],
    w1: NDArray[np.float64],
    z_fibre: NDArray[np.float64],
    south: NDArray[np.bool_] | bool,
) -> NDArray[np.bool_]:
    """The colour and magnitude cuts of DESI's LRG main sample (Zhou et al. 2023, eqs. 1-8).

    AB magnitudes corrected for extinction; ``z_fibre`` is that of the flux in a fibre of 1.5
    arcsec. A missing (NaN) magnitude passes no cut that it enters.
    """
    with np.errstate(invalid="ignore"):
        keep = z - w1 > 0.8 * (r - z) - 0.6  # no stars
        keep &= z_fibre < np.where(south, 21.60, 21.61)  # faint limit
        keep &= (g - w1 > np.where(south, 2.9, 2.97)) | (r - w1 > 1.8)  # low redshifts
        slope, zero = np.where(south, 1.8, 1.83), np.where(south, 17.14, 17.13)
        sliding = (r - w1 > slope * (w1 - zero)) & (r - w1 > w1 - np.where(south, 16.33, 16.31))
        keep &= sliding | (r - w1 > np.where(south, 3.3, 3.4))  # luminosity, and high redshifts
    return keep


def select_simple(
    sources: Iterable[str | pd.DataFrame],
    cuts: Mapping[str, tuple[float | None, float | None]],
    *,
    exclude_types: tuple[str, ...] = ("PSF", "DUP"),
) -> pd.DataFrame:
    """A plain cut in magnitudes and colours, as observed (AB).

    Parameters
    ----------
    sources : iterable of str or DataFrame
        Catalogues, or addresses of their files.
    cuts : mapping
        From a band (``"z"``) or a colour (``"g-r"``) to its least and greatest value, either may be
        None: ``{"z": (18.0, 20.3), "r-z": (0.7, None)}``.
    exclude_types : tuple of str
        Tractor types that are left out; by default point sources and duplicates.

    Returns
    -------
    DataFrame
        The uniform table, possibly with no rows.

    Raises
    ------
    UserError
        For a catalogue that cannot be read, or a cut in a band that it does not have.
    """

    def chosen(table: pd.DataFrame, label: str) -> NDArray[np.bool_]:
        lower = by_lower_name(table)
        keep = _primary(table, lower, label)
        if "type" in lower:
            keep &= ~table[lower["type"]].astype(str).str.strip().isin(exclude_types).to_numpy()
        for name, (low, high) in cuts.items():
            mags = []
            for band in name.replace(" ", "").split("-"):
                mag = magnitude(table, lower, band)
                if mag is None:
                    raise UserError(f"{label} has neither mag_{band} nor flux_{band} to cut on.")
                mags.append(mag)
            value = mags[0] if len(mags) == 1 else mags[0] - mags[1]
            keep &= np.isfinite(value)
            keep &= (value >= (-np.inf if low is None else low)) & (
                value <= (np.inf if high is None else high)
            )
        return keep

    return _select(sources, chosen)


def _select(sources: Iterable[str | pd.DataFrame], chosen: _Choice) -> pd.DataFrame:
    parts = []
    listed: set[str] = set()
    columns: pd.DataFrame | None = None
    for number, source in enumerate(sources, start=1):
        label = source if isinstance(source, str) else f"catalogue {number}"
        table = read_table(source) if isinstance(source, str) else source
        if not len(table):  # A brick without any source is none of the user's mistakes.
            continue
        uniform = normalise(table, label)
        columns = uniform.iloc[:0]
        listed |= set(uniform["brick"])
        keep = chosen(table, label)
        parts.append(uniform[keep].assign(_north=_is_north(table)[keep]))
    if columns is None:
        raise UserError("none of the catalogues has a row to select from.")
    # A tractor catalogue and a sweep, or a file named twice, list the same source twice.
    whole = pd.concat(parts).drop_duplicates(["brick", "target_id", "ra", "dec"])
    # Catalogues without the flag brick_primary: a source of an overlap is the brick's whose primary
    # area holds it, where that brick is among the catalogues.
    home = tiling.brick_name(whole["ra"], whole["dec"])
    whole = whole[(home == whole["brick"].to_numpy(str)) | ~np.isin(home, sorted(listed))]
    north = whole.pop("_north").to_numpy(bool)
    if north.any() and not north.all():
        place = SkyCoord(whole["ra"], whole["dec"], unit="deg")
        whole = whole[north == ((place.dec.deg > _NORTH_DEC) & (place.galactic.b.deg > 0))]
    return whole.reset_index(drop=True)


def _primary(table: pd.DataFrame, lower: Mapping[str, str], label: str) -> NDArray[np.bool_]:
    """Rows that lie in their own brick's primary area, as far as the catalogue says: as booleans, 0 and 1,
    or text."""
    if "brick_primary" not in lower:
        return np.ones(len(table), dtype=bool)
    said = table[lower["brick_primary"]].astype(str).str.strip().str.lower()
    flag = said.map(_FLAGS)
    if flag.isna().any():
        row = int(np.flatnonzero(flag.isna())[0])
        raise UserError(
            f"in {label}, row {row + 1} (from 1) has the brick_primary {said.iloc[row]!r}; "
            "write T or F, true or false, 1 or 0."
        )
    return np.array(flag, dtype=bool)


def _is_north(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Rows of the North (BASS and MzLS): RELEASE is 4000 or 6000 (DR4 and DR6 were of the North alone), or
    odd from 8000 on (8001, 9001 to 9013), as in desitarget.io.releasedict."""
    lower = by_lower_name(table)
    if "release" not in lower:
        return np.zeros(len(table), dtype=bool)
    release = numbers(table[lower["release"]])
    north: NDArray[np.bool_] = np.isin(release, _NORTH_ALONE) | (release >= 8000) & (
        release % 2 == 1
    )
    return north


def _is_lrg(table: pd.DataFrame, label: str, hemisphere: str | None) -> NDArray[np.bool_]:
    lower = by_lower_name(table)
    needed = [f"{kind}_{b}" for b in ("g", "r", "z", "w1") for kind in ("flux", "mw_transmission")]
    if missing := [name for name in [*needed, "fiberflux_z"] if name not in lower]:
        raise UserError(f"{label} lacks the column {missing[0]}, which the LRG cuts need.")

    def column(name: str) -> NDArray[np.float64]:
        return numbers(table[lower[name]])

    def dereddened(kind: str, band: str) -> NDArray[np.float64]:
        return column(f"{kind}_{band}") / column(f"mw_transmission_{band}")

    if hemisphere is not None:
        south = np.full(len(table), hemisphere == "south")
    elif "release" in lower:
        south = ~_is_north(table)
    else:
        raise UserError(f"{label} has no column release: say whether it is north or south.")

    # A g flux of 0 or less is very red: the first of the low-z cuts is then passed, as in
    # desitarget.
    g = MAG_ZERO_POINT - 2.5 * np.log10(np.clip(dereddened("flux", "g"), 1e-7, None))
    r, z, w1 = (flux_to_mag(dereddened("flux", band)) for band in ("r", "z", "w1"))
    fibre = flux_to_mag(dereddened("fiberflux", "z"))
    keep = _primary(table, lower, label) & lrg_cuts(g, r, z, w1, fibre, south)
    for name in ("flux_ivar_r", "flux_ivar_z", "flux_ivar_w1", "nobs_g", "nobs_r", "nobs_z"):
        if name in lower:
            keep &= column(name) > 0
    if "gaia_phot_g_mean_mag" in lower:
        gaia = column("gaia_phot_g_mean_mag")
        keep &= ~((gaia != 0) & (gaia <= 18))
    if "fibertotflux_z" in lower:
        keep &= dereddened("fibertotflux", "z") < 10 ** (0.4 * (MAG_ZERO_POINT - 17.5))
    if "maskbits" in lower:
        keep &= (integers(table[lower["maskbits"]], label, "maskbits") & _LRG_MASKBITS) == 0
    return keep
