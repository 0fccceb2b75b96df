"""The renderers beside ours: lenstronomy, set up to be right and fast, and the naive way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import truth
from lenstronomy.Data.pixel_grid import PixelGrid
from lenstronomy.Data.psf import PSF
from lenstronomy.ImSim.image_model import ImageModel
from lenstronomy.LensModel.lens_model import LensModel
from lenstronomy.LightModel.light_model import LightModel
from lenstronomy.Util.param_util import phi_q2_ellipticity
from scipy.signal import fftconvolve
from truth import Draw, Floats

from darkhaloscope.geometry import PIXEL_SCALE, pixel_to_sky
from darkhaloscope.lensing import (
    Psf,
    epl,
    kernel,
    psf_profile,
    sersic_b,
    sersic_profile,
    shear,
    sie,
)

KERNEL_LOSS = 2.5e-4
_BYTES_PER_RAY = 150
"""What lenstronomy was seen to need for a ray: 121 with an SIE, 145 with an EPL."""


def sampled(draw: Draw, size: int, x: float, y: float) -> Floats:
    """Light at pixel centres times the pixel's area, no PSF: one ray a pixel."""
    axis = np.arange(size, dtype=float)
    east, north = pixel_to_sky(axis[None, :], axis[:, None], x, y)
    east, north = east - draw.lens_dx, north - draw.lens_dy
    if draw.slope == 2.0:
        pull = sie(east, north, draw.theta_e, draw.lens_q, draw.lens_pa)
    else:
        pull = epl(east, north, draw.theta_e, draw.lens_q, draw.lens_pa, draw.slope)
    push = shear(east, north, draw.gamma1, draw.gamma2)
    light = sersic_profile(
        east - pull[0] - push[0], north - pull[1] - push[1], truth.our_source(draw)
    )
    return light * PIXEL_SCALE**2


def naive(draw: Draw) -> Floats:
    """One ray a pixel, a stamp-sized kernel made to sum to 1, a transform without padding."""
    light = sampled(draw, draw.size, draw.x, draw.y)
    axis = np.fft.fftfreq(draw.size, 1.0 / draw.size) * PIXEL_SCALE
    blur = psf_profile(np.hypot(axis[None, :], axis[:, None]), truth.our_psf(draw))
    blur /= blur.sum()
    return np.fft.irfft2(np.fft.rfft2(light) * np.fft.rfft2(blur), s=light.shape)


def kernel_half_width(draw: Draw) -> int:
    """Pixels on each side of the smallest kernel that loses at most 2.5e-4 of the stamp's flux."""
    margin = draw.size - 1
    frame = draw.size + 2 * margin
    light = sampled(draw, frame, draw.x + margin, draw.y + margin)
    full = kernel(truth.our_psf(draw, "integrate"), margin)
    stamp = slice(margin, margin + draw.size)

    def flux(half: int) -> float:
        cut = full[margin - half : margin + half + 1, margin - half : margin + half + 1]
        return float(fftconvolve(light, cut, mode="same")[stamp, stamp].sum())

    wanted = (1.0 - KERNEL_LOSS) * flux(margin)
    low, high = 0, margin
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if flux(middle) >= wanted else (middle, high)
    return high


@dataclass
class Lenstronomy:
    """lenstronomy's image of one draw, on a frame of stamp + kernel - 1 pixels a side."""

    draw: Draw
    margin: int

    @property
    def frame(self) -> int:
        return self.draw.size + 2 * self.margin

    def gigabytes(self, factor: int) -> float:
        return (self.frame * factor) ** 2 * _BYTES_PER_RAY / 1e9

    def _fine_kernel(self, psf: Psf, factor: int, fine: bool) -> Floats:
        if fine:
            half, step = self.margin * factor, PIXEL_SCALE / factor
            axis = np.arange(-half, half + 1) * step
            return psf_profile(np.hypot(axis[:, None], axis[None, :]), psf) * step**2
        if factor > 1:  # the light is averaged over the pixel already
            return kernel(psf, self.margin)
        # One ray a pixel: the average over the pixel is left to the kernel, 8 samples a side.
        side = 2 * self.margin + 1
        axis = ((np.arange(8 * side) + 0.5) / 8 - side / 2) * PIXEL_SCALE
        dense = psf_profile(np.hypot(axis[:, None], axis[None, :]), psf) * PIXEL_SCALE**2
        return dense.reshape(side, 8, side, 8).mean(axis=(1, 3))

    def runner(self, factor: int, fine: bool) -> Callable[[], Floats]:
        """A function of nothing that draws the stamp."""
        draw, margin = self.draw, self.margin
        psf = truth.our_psf(draw, "integrate")
        grid = PixelGrid(
            nx=self.frame,
            ny=self.frame,
            transform_pix2angle=np.array([[-PIXEL_SCALE, 0.0], [0.0, PIXEL_SCALE]]),
            ra_at_xy_0=(draw.x + margin) * PIXEL_SCALE,
            dec_at_xy_0=-(draw.y + margin) * PIXEL_SCALE,
        )
        blur = PSF(
            psf_type="PIXEL",
            kernel_point_source=self._fine_kernel(psf, factor, fine),
            point_source_supersampling_factor=factor if fine else 1,
            kernel_point_source_normalisation=False,
        )
        # theta_E, e1, e2 are the same in both; EPL_NUMBA has the slope as gamma.
        lens_e1, lens_e2 = phi_q2_ellipticity(math.radians(90.0 - draw.lens_pa), draw.lens_q)
        lens: dict[str, float] = {
            "theta_E": draw.theta_e,
            "e1": lens_e1,
            "e2": lens_e2,
            "center_x": draw.lens_dx,
            "center_y": draw.lens_dy,
        }
        if draw.slope != 2.0:
            lens["gamma"] = draw.slope
        outer = {
            "gamma1": draw.gamma1,
            "gamma2": draw.gamma2,
            "ra_0": draw.lens_dx,
            "dec_0": draw.lens_dy,
        }
        # Its b is a line fitted to the exact one: the same profile has another radius there.
        b, b_line = float(sersic_b(draw.n)), 1.9992 * draw.n - 0.3271
        source = truth.our_source(draw)
        centre = float(sersic_profile(draw.source_dx, draw.source_dy, source))
        e1, e2 = phi_q2_ellipticity(math.radians(90.0 - draw.source_pa), draw.source_q)
        light = {
            "amp": centre * math.exp(-b_line),
            "R_sersic": draw.reff * (b_line / b) ** draw.n,
            "n_sersic": draw.n,
            "e1": e1,
            "e2": e2,
            "center_x": draw.lens_dx + draw.source_dx,
            "center_y": draw.lens_dy + draw.source_dy,
        }
        model = ImageModel(
            grid,
            blur,
            lens_model_class=LensModel(["SIE" if draw.slope == 2.0 else "EPL_NUMBA", "SHEAR"]),
            source_model_class=LightModel(["SERSIC_ELLIPSE"]),
            kwargs_numerics={
                "supersampling_factor": factor,
                "supersampling_convolution": fine,
                # by default only the central 5 pixels of the kernel are supersampled
                "supersampling_kernel_size": None,
            },
        )
        stamp = slice(margin, margin + draw.size)
        return lambda: model.image([lens, outer], [light])[stamp, stamp]
