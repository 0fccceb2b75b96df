"""The pixels of the targets of one brick, out of its coadds.

A missing or broken file is never an exception here: it is a :class:`~darkhaloscope.errors.Reason`
on the rows that needed it, and a note. What the rules are:

- A band whose image and invvar are both absent has no coverage in that brick (the releases write no
  files where a band has no exposures): that is no failure, unless it is the reference band
  (``MISSING_BAND``) or no band has files at all (``MISSING_FILE``).
- Only one of the two there, or no maskbits where the release has them: ``MISSING_FILE``. No
  psfsize: 0 for that band, so that the next width of the chain is taken, and a note.
- Files whose headers speak of another brick, band or kind of map (:mod:`.identity`), that disagree in
  shape or WCS, are truncated or cannot be decoded: ``CORRUPT_FILE``. A tile
  that cannot be decoded costs only the rows whose stamps touch it.
- A non-finite pixel of image or invvar is set to 0 in both, so it counts as not observed, unless
  invvar says 0 there already. A row where this meets the target's own pixel, or more than half of
  the stamp's observed pixels, in any band, fails as ``NAN_PIXELS``: damage in the file, not a
  property of the sky.

Every rule looks at one row and at the brick, never at the other rows that are read with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from darkhaloscope.errors import Reason, UserError
from darkhaloscope.geometry import PIXEL_SCALE, stamp_corner
from darkhaloscope.storage import StorageError
from darkhaloscope.survey import maskbits as mb
from darkhaloscope.survey.cutouts import Cutouts
from darkhaloscope.survey.files import CoaddFile, Key, Opened, fetch_tiles, open_brick
from darkhaloscope.survey.grid import check_same_grid, sky_to_brick, tan_wcs
from darkhaloscope.survey.identity import check_identity
from darkhaloscope.survey.layout import Survey
from darkhaloscope.survey.reading import Reading
from darkhaloscope.survey.source import CorruptFileError
from darkhaloscope.survey.tiles import TiledImage
from darkhaloscope.variables import default_bad_bits, default_reference_band

# Which of several troubles of one brick a row reports: the one that a retry may mend comes first.
_SEVERITY = (Reason.UNREADABLE, Reason.CORRUPT_FILE, Reason.MISSING_FILE, Reason.MISSING_BAND)


def read_cutouts(
    survey: Survey,
    brick: str,
    ra: ArrayLike,
    dec: ArrayLike,
    size: int,
    *,
    bad_bits: tuple[str, ...] | None = None,
    reference_band: str | None = None,
    pixel_scale: float = PIXEL_SCALE,
    reading: Reading = Reading(),  # noqa: B008 (frozen)
) -> Cutouts:
    """Cut the stamps of some targets out of the coadds of one brick.

    Parameters
    ----------
    survey : Survey
        Where the files are.
    brick : str
        Name of the brick.
    ra, dec : array_like
        Targets in deg (J2000), shape (target,).
    size : int
        Pixels on a side of a stamp.
    bad_bits : tuple of str, optional
        Mask bits that make a pixel bad; :func:`~darkhaloscope.variables.default_bad_bits` of
        the survey's bands if not given.
    reference_band : str, optional
        The band that every row must have; r, else the first of z, g, i, if not given.
    pixel_scale : float
        Arcsec per pixel that the coadds must have.
    reading : Reading
        Byte ranges or whole files; the pixels are the same.

    Returns
    -------
    Cutouts
        One row a target, in the order given; failed ones carry their reason.

    Raises
    ------
    UserError
        For a mask bit or a reference band that does not exist. Never for a file.
    """
    ra = np.atleast_1d(np.asarray(ra, dtype=float))
    dec = np.atleast_1d(np.asarray(dec, dtype=float))
    reference = reference_band or default_reference_band(survey.bands)
    if reference not in survey.bands:
        raise UserError(
            f"reference band {reference!r} is not among the bands {list(survey.bands)}."
        )
    reader = _Reader(survey, brick, ra, dec, size, pixel_scale)
    names = bad_bits if bad_bits is not None else default_bad_bits(survey.bands)
    if len(ra):
        try:
            reader.open(reading)
            reader.read_bands(reference)
            reader.read_maskbits(names)
        except _GiveUpError:
            pass  # The trouble is recorded; the other files of this brick would fail alike.
    return reader.finish(reference)


class _GiveUpError(Exception):
    """No further file of this brick is worth a request."""


class _Reader:
    """What is known of one brick while its files are read one after the other."""

    def __init__(
        self,
        survey: Survey,
        brick: str,
        ra: NDArray[np.float64],
        dec: NDArray[np.float64],
        size: int,
        pixel_scale: float,
    ) -> None:
        count, bands = len(ra), len(survey.bands)
        self.survey, self.brick, self.size, self.pixel_scale = survey, brick, size, pixel_scale
        self.ra, self.dec = ra, dec
        self.files: dict[Key, Opened] = {}
        self.trouble: set[Reason] = set()
        self.grid: TiledImage | None = None
        self.rows = np.zeros(0, dtype=np.int64)  # rows whose stamps lie inside the coadd
        self.readable = np.ones(count, dtype=bool)
        self.broken_pixels = np.zeros(count, dtype=bool)
        self.own_pixel = np.zeros((count, bands), dtype=bool)
        self.out = Cutouts.blank(brick, survey.bands, count, size)

    # ---- files

    def note(self, kind: str, band: str | None, text: str, reason: Reason | None = None) -> None:
        url = self.survey.url(kind, self.brick, band)
        self.out.notes.append(f"brick {self.brick}: {url} {text}.")
        if reason is not None:
            self.trouble.add(reason)

    def open(self, reading: Reading) -> None:
        """Open all files, put the targets on the grid, and fetch the tiles that they need."""
        try:
            self.files = open_brick(self.survey, self.brick, reading, len(self.ra), self.size)
        except FileNotFoundError as error:
            self.out.notes.append(f"brick {self.brick}: {error}.")
            self.trouble.add(Reason.MISSING_FILE)
            raise _GiveUpError from error
        self.give_up_on(self.files.values())
        for key, found in self.files.items():
            try:
                for image in found.images if isinstance(found, CoaddFile) else ():
                    self.check_image(image, *key)
            except CorruptFileError as error:
                self.files[key] = error
        if self.grid is not None and len(self.rows):
            wanted = [
                (found, dict(enumerate(self.needed(image, kind) for image in found.images)))
                for (kind, _), found in self.files.items()
                if isinstance(found, CoaddFile)
            ]
            self.give_up_on(fetch_tiles(wanted).values())
        there = [found for found in self.files.values() if isinstance(found, CoaddFile)]
        self.out.requests = sum(found.requests for found in there)
        self.out.bytes = sum(found.bytes for found in there)
        self.out.whole = sum(found.is_whole for found in there)
        self.out.ranged = len(there) - self.out.whole

    def give_up_on(self, found: Iterable[object]) -> None:
        """Where one file is out of reach so is the brick: one note, and no further request."""
        for error in found:
            if isinstance(error, StorageError):
                self.out.notes.append(f"brick {self.brick}: {str(error).rstrip('.')}.")
                self.trouble.add(Reason.UNREADABLE)
                self.out.lasting = error.trouble == "lasting"
                raise _GiveUpError

    def needed(self, image: TiledImage, kind: str) -> NDArray[np.bool_]:
        """The tiles of an image that the rows' stamps, or for psfsize their own pixels, touch."""
        y, x = self.y0[self.rows], self.x0[self.rows]
        if kind != "psfsize":
            return image.needed(y, x, self.size, self.size)
        dy, dx = self.own_pixels()
        return image.needed(y + dy, x + dx, 1, 1)

    def fetch(self, kind: str, band: str | None) -> list[TiledImage] | CorruptFileError | None:
        """The images of one file, None where it is absent, the fault where it is broken."""
        found = self.files[kind, band]
        if isinstance(found, CorruptFileError):
            self.note(kind, band, f"is corrupt: {found}", Reason.CORRUPT_FILE)
            return found
        return found.images if isinstance(found, CoaddFile) else None

    def check_image(self, image: TiledImage, kind: str, band: str | None) -> None:
        """A file is what its name says; all of a brick are on one pixel grid, and the first image says
        which."""
        if image.name not in mb.WISE_BITS:
            check_identity(image.header, self.brick, kind, band)
        if self.grid is not None:
            check_same_grid(image, self.grid)
        elif kind == "image":
            self.place(image)

    def place(self, image: TiledImage) -> None:
        wcs = tan_wcs(image.header, self.pixel_scale)
        out, (ny, nx) = self.out, image.shape
        out.x, out.y = sky_to_brick(wcs, self.ra, self.dec)
        within = (out.x >= -0.5) & (out.x < nx - 0.5) & (out.y >= -0.5) & (out.y < ny - 0.5)
        self.x0 = stamp_corner(np.where(within, out.x, 0.0), self.size)
        self.y0 = stamp_corner(np.where(within, out.y, 0.0), self.size)
        fits_in = (self.x0 >= 0) & (self.x0 + self.size <= nx)
        fits_in &= (self.y0 >= 0) & (self.y0 + self.size <= ny)
        out.target_x = np.where(within, out.x - self.x0, np.nan)
        out.target_y = np.where(within, out.y - self.y0, np.nan)
        out.reason[~fits_in] = Reason.CROSSES_EDGE
        out.reason[~within] = Reason.OUTSIDE_BRICK
        self.rows = np.flatnonzero(within & fits_in)
        self.grid = image

    def stamps(self, image: TiledImage, kind: str, band: str | None) -> NDArray[Any]:
        """Stamps of ``self.rows``; rows with a tile that cannot be decoded are marked."""
        pixels, readable = image.windows(
            self.y0[self.rows], self.x0[self.rows], self.size, self.size
        )
        self.mark(readable, kind, band)
        return pixels

    def mark(self, readable: NDArray[np.bool_], kind: str, band: str | None) -> None:
        self.readable[self.rows] &= readable
        if not readable.all():
            self.note(kind, band, "is corrupt: some of its tiles cannot be decoded")

    def own_pixels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The pixel that holds each target of ``self.rows``, in the stamp: (y, x)."""
        out, rows = self.out, self.rows
        return (
            np.floor(out.target_y[rows] + 0.5).astype(np.int64),
            np.floor(out.target_x[rows] + 0.5).astype(np.int64),
        )

    # ---- kinds of files

    def read_bands(self, reference: str) -> None:
        absent = []
        for b, band in enumerate(self.survey.bands):
            image, invvar = self.fetch("image", band), self.fetch("invvar", band)
            if image is None and invvar is None:
                absent.append(band)
            elif image is None or invvar is None:
                kind = "image" if image is None else "invvar"
                self.note(kind, band, "is missing", Reason.MISSING_FILE)
            elif isinstance(image, list) and isinstance(invvar, list):
                self.take_band(b, band, image[0], invvar[0])
                self.take_psfsize(b, band)
        if len(absent) == len(self.survey.bands):
            self.note("image", absent[0], "and all other images are missing", Reason.MISSING_FILE)
            raise _GiveUpError
        if reference in absent:
            text = f"is missing, and {reference} is the reference band"
            self.note("image", reference, text, Reason.MISSING_BAND)

    def take_band(self, b: int, band: str, image: TiledImage, invvar: TiledImage) -> None:
        if self.grid is None or not len(self.rows):
            return
        rows = self.rows
        pixels = self.stamps(image, "image", band).astype(np.float32, copy=False)
        weight = self.stamps(invvar, "invvar", band).astype(np.float32, copy=False)
        # Where invvar is 0 nobody looked, and what the image holds there means nothing.
        empty = weight == 0
        broken = ~(np.isfinite(pixels) & np.isfinite(weight)) & ~empty
        observed = broken | (weight > 0)
        y, x = self.own_pixels()
        k = np.arange(len(rows))
        many = broken.sum(axis=(1, 2)) > 0.5 * observed.sum(axis=(1, 2))
        self.broken_pixels[rows] |= many | broken[k, y, x]
        good = (weight > 0) & ~broken
        # Without data the image may be finite (kept: it is what the release shows) or not.
        self.out.image[rows, b] = np.where(np.isfinite(pixels) & ~broken, pixels, 0.0)
        self.out.invvar[rows, b] = np.where(good, weight, 0.0)
        self.own_pixel[rows, b] = good[k, y, x]
        self.out.coverage[rows, b] = np.where(good[k, y, x], good.mean(axis=(1, 2)), 0.0)

    def take_psfsize(self, b: int, band: str) -> None:
        if "psfsize" in self.survey.absent:
            return
        found = self.fetch("psfsize", band)
        if found is None:
            self.note("psfsize", band, "is missing")
        elif isinstance(found, list) and self.grid is not None and len(self.rows):
            y, x = self.own_pixels()
            y, x = self.y0[self.rows] + y, self.x0[self.rows] + x
            pixels, readable = found[0].windows(y, x, 1, 1)
            self.mark(readable, "psfsize", band)
            value = pixels[:, 0, 0]
            self.out.psfsize[self.rows, b] = np.where(np.isfinite(value) & (value > 0), value, 0.0)

    def read_maskbits(self, names: tuple[str, ...]) -> None:
        if "maskbits" in self.survey.absent:
            return
        found = self.fetch("maskbits", None)
        if found is None:
            text = "is missing (survey.absent: [maskbits] reads a release that has none)"
            self.note("maskbits", None, text, Reason.MISSING_FILE)
        if not isinstance(found, list):
            return
        wise_maps = [image for image in found if image.name in mb.WISE_BITS]
        main = next((image for image in found if image.name not in mb.WISE_BITS), None)
        if main is None or main.bitpix < 0:
            self.note("maskbits", None, "is corrupt: it holds no map of bits", Reason.CORRUPT_FILE)
            return
        if self.grid is None or not len(self.rows):
            return
        bits = mb.bits_of(main.header, self.survey.release)
        pixels = self.stamps(main, "maskbits", None)
        wise = mb.bad_mask(pixels, mb.WISE_BITS, bits)
        for image in wise_maps:
            wise |= self.stamps(image, "maskbits", None) > 0
        self.out.bad_pixel_frac[self.rows] = mb.bad_mask(pixels, names, bits).mean(axis=(1, 2))
        self.out.wise_brightmask_frac[self.rows] = wise.mean(axis=(1, 2))

    # ---- verdict

    def finish(self, reference: str) -> Cutouts:
        out = self.out
        b = self.survey.bands.index(reference)
        still_ok = out.reason == Reason.OK
        for wrong, reason in (
            (~self.own_pixel[:, b], Reason.NO_COVERAGE),
            (self.broken_pixels, Reason.NAN_PIXELS),
            (~self.readable, Reason.CORRUPT_FILE),
        ):
            out.reason[still_ok & wrong] = reason
        for reason in _SEVERITY:
            if reason in self.trouble:
                out.reason[:] = reason
                break
        failed = ~out.ok
        for pixels in (out.image, out.invvar, out.coverage, out.psfsize):
            pixels[failed] = 0.0
        out.bad_pixel_frac[failed] = np.nan
        out.wise_brightmask_frac[failed] = np.nan
        return out
