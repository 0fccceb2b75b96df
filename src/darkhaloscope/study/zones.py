"""Inside a mask, at its edge, and outside: where readers look, and what they are given there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from darkhaloscope.config import CoreMask
from darkhaloscope.fix import core_weight
from darkhaloscope.geometry import radius_map, stamp_centre

Floats = NDArray[np.float64]

INSIDE, EDGE, OUTSIDE, WHOLE = "inside", "edge", "outside", "whole"
ZONES = (WHOLE, INSIDE, EDGE, OUTSIDE)

EDGE_PX = 2.0
"""Pixels nearer than this to a mask's edge are at it: targets lie within half a pixel of the centre."""

REACH_PX = 16.0
"""Readers look no further out: 4.2 arcsec. The leak map looks at all of the stamp."""

BLOCK = 4
"""Outside the edge a linear reader sees means over blocks of so many pixels on a side."""


@dataclass(frozen=True)
class Zones:
    """Pixels of a stamp by their place about a mask.

    Parameters
    ----------
    mask : CoreMask
        An arm without one is read about the default circle of 5 pixels.
    size : int
    """

    mask: CoreMask
    size: int

    @cached_property
    def planes(self) -> dict[str, NDArray[np.bool_]]:
        """Mask (y, x) of each zone."""
        centre = stamp_centre(self.size)
        radius = radius_map(self.size, centre, centre)
        near = radius < min(REACH_PX, self.size / 2)
        hidden = core_weight(self.mask, self.size, centre, centre) < 0.5
        edge = (distance_transform_edt(hidden) <= EDGE_PX) & (
            distance_transform_edt(~hidden) <= EDGE_PX
        )
        return {
            WHOLE: near,
            INSIDE: near & hidden & ~edge,
            EDGE: near & edge,
            OUTSIDE: near & ~hidden & ~edge,
        }

    @cached_property
    def _blocks(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Pixels outside the edge, and the weights (pixel, block) of their means over blocks."""
        pixels = np.flatnonzero(self.planes[OUTSIDE])
        y, x = np.divmod(pixels, self.size)
        _, block = np.unique(y // BLOCK * self.size + x // BLOCK, return_inverse=True)
        member = block[:, None] == np.arange(block.max() + 1 if len(block) else 0)
        return pixels, member / np.maximum(member.sum(axis=0), 1)

    @cached_property
    def _rings(self) -> list[tuple[str, NDArray[np.bool_]]]:
        """Zone and mask of each ring of a pixel's width, cut at the zones' borders."""
        centre = stamp_centre(self.size)
        ring = radius_map(self.size, centre, centre).astype(int)
        return [
            (zone, member)
            for zone in (INSIDE, EDGE, OUTSIDE)
            for r in np.unique(ring[self.planes[zone]])
            if (member := (ring == r) & self.planes[zone]).any()
        ]

    def columns(self, zone: str, reader: str, bands: int) -> NDArray[np.int64]:
        """Which features of :meth:`linear` or :meth:`profile` belong to a zone."""
        if reader == "linear":
            counts = [int(self.planes[zone].sum()) for zone in (INSIDE, EDGE)]
            counts.append(self._blocks[1].shape[1])
        else:
            counts = [
                2 * sum(z == zone for z, _ in self._rings) for zone in (INSIDE, EDGE, OUTSIDE)
            ]
        of = np.repeat((INSIDE, EDGE, OUTSIDE), np.array(counts) * bands)
        return np.flatnonzero((of == zone) | (zone == WHOLE))

    def linear(self, images: Floats) -> NDArray[np.float32]:
        """Pixels inside and at the edge, block means outside: (pair, feature) of (pair, band, y, x)."""
        n = len(images)
        near = [images[..., self.planes[zone]].reshape(n, -1) for zone in (INSIDE, EDGE)]
        pixels, weights = self._blocks
        far = images.reshape(*images.shape[:2], -1)[..., pixels] @ weights
        return np.concatenate([*near, far.reshape(n, -1)], axis=1).astype(np.float32)

    def profile(self, images: Floats) -> NDArray[np.float32]:
        """Radial profile: mean and scatter of each ring and band, (pair, feature)."""
        parts = []
        for _, member in self._rings:
            pixels = images[..., member]
            parts += [pixels.mean(axis=-1), pixels.std(axis=-1)]
        return np.concatenate(parts, axis=1).astype(np.float32)


@lru_cache(maxsize=32)
def zones_of(mask: CoreMask, size: int) -> Zones:
    """The zones of a mask, made once in a process."""
    return Zones(mask, size)
