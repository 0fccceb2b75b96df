"""The grid that rays are convolved on: how large it is, and what it leaves out."""

import numpy as np
import pytest

from darkhaloscope.geometry import PIXEL_SCALE
from darkhaloscope.lensing import Psf, psf_profile
from darkhaloscope.lensing.convolve import _extent, _grid_pixels


def test_the_convolved_square_leaves_out_a_hundred_thousandth():
    """Of what is in the frame, 33 pixels from the centre here; what is outside does not count."""
    x, y = 20.0 + np.array([0.0, -10.2, 30.0, 31.5, 0.0]), 20.0 + np.array([3.0, 0, 0, 0, 40.0])
    flux = np.array([1.0, 1e-3, 6e-6, 3e-6, 5.0])
    assert _extent(x, y, flux, 20.0, 33.0) == 11.0
    flux[3] = 5e-6
    assert _extent(x, y, flux, 20.0, 33.0) == 31.0
    flux[3] = 2e-5
    assert _extent(x, y, flux, 20.0, 33.0) == 32.0


@pytest.mark.parametrize("extent", [5.0, 30.0, 63.5])
def test_the_grid_holds_the_furthest_distance_twice(extent):
    """Or, where the PSF ends, that distance and the PSF's reach; never less than the stamp."""
    furthest = extent + 31.5
    for psf in (Psf("moffat", fwhm=1.2), Psf("gaussian", fwhm=1.2)):
        pixels = _grid_pixels([psf], extent, 64, PIXEL_SCALE)
        assert pixels % 2 == 0
        assert pixels >= 64
        if psf.model == "moffat":
            assert pixels >= 2 * furthest
        else:
            light = psf_profile(np.array([(pixels - furthest) * PIXEL_SCALE, 0.0]), psf)
            assert light[0] < 1e-7 * light[1] or pixels >= 2 * furthest
    both = _grid_pixels([Psf("gaussian", fwhm=1.2), Psf("moffat", fwhm=1.2)], extent, 64, 0.262)
    assert both == _grid_pixels([Psf("moffat", fwhm=1.2)], extent, 64, 0.262)
