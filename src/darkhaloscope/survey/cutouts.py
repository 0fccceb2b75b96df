"""The stamps of the targets of one brick, as they were read."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.errors import Reason


@dataclass
class Cutouts:
    """Stamps of the targets of one brick; axes (target, band, y, x).

    Attributes
    ----------
    brick : str
    bands : tuple of str
    image : float32 (target, band, y, x)
        nMgy; 0 where the band has no coverage and on failed rows.
    invvar : float32 (target, band, y, x)
        1/nMgy^2; 0 where there is no data and on failed rows.
    coverage : float32 (target, band)
        Fraction of the stamp's pixels with invvar > 0; 0 where the target's own pixel has none.
    psfsize : float32 (target, band)
        Arcsec, the map at the target's own pixel; 0 where it has none.
    bad_pixel_frac : float32 (target)
        Fraction of pixels with a bad bit; NaN where there is no map.
    wise_brightmask_frac : float32 (target)
        Fraction of pixels under WISE's bright-star masks; NaN where there is no map.
    x, y : float64 (target)
        The target in pixels of the coadd, centres at integers from 0; NaN where no coadd was read.
    target_x, target_y : float64 (target)
        The target in pixels of its stamp.
    reason : uint8 (target)
        Codes of :class:`~darkhaloscope.errors.Reason`; OK where the stamp is good.
    notes : list of str
        One sentence for every file that is missing or broken.
    requests, bytes : int
        What reading the brick took: requests to the store, and bytes of files.
    whole, ranged : int
        Files that were read whole, and by ranges.
    lasting : bool
        Rows are unreadable, and waiting does not help: the store refuses.
    """

    brick: str
    bands: tuple[str, ...]
    image: NDArray[np.float32]
    invvar: NDArray[np.float32]
    coverage: NDArray[np.float32]
    psfsize: NDArray[np.float32]
    bad_pixel_frac: NDArray[np.float32]
    wise_brightmask_frac: NDArray[np.float32]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    target_x: NDArray[np.float64]
    target_y: NDArray[np.float64]
    reason: NDArray[np.uint8]
    notes: list[str] = field(default_factory=list)
    requests: int = 0
    bytes: int = 0
    whole: int = 0
    ranged: int = 0
    lasting: bool = False

    @classmethod
    def blank(cls, brick: str, bands: tuple[str, ...], count: int, size: int) -> Cutouts:
        """Rows of which nothing was read yet: pixels 0, positions and fractions missing, OK."""
        cube = (count, len(bands), size, size)
        return cls(
            brick=brick,
            bands=bands,
            image=np.zeros(cube, np.float32),
            invvar=np.zeros(cube, np.float32),
            coverage=np.zeros(cube[:2], np.float32),
            psfsize=np.zeros(cube[:2], np.float32),
            bad_pixel_frac=np.full(count, np.nan, np.float32),
            wise_brightmask_frac=np.full(count, np.nan, np.float32),
            x=np.full(count, np.nan),
            y=np.full(count, np.nan),
            target_x=np.full(count, np.nan),
            target_y=np.full(count, np.nan),
            reason=np.full(count, Reason.OK, np.uint8),
        )

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Rows whose stamp is good."""
        return self.reason == Reason.OK

    @property
    def cost(self) -> str:
        """What reading took, in words."""
        return (
            f"{self.bytes / 1e6:.1f} MB in {self.requests} requests, {self.whole} files whole and "
            f"{self.ranged} by ranges"
        )
