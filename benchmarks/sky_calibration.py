"""The synthetic sky against a real DR9 brick: pixel histogram, noise correlation, PSF.

The real pixels are the window of brick 0591m305 that the tests carry. Draws
docs/images/sky-calibration.png and prints the numbers of docs/synthetic-sky.md:

    python benchmarks/sky_calibration.py [--psf dr9_0591m305_grz_copsf_63.fits]

``--psf`` is the coadd PSF of that window (HDU 0, 1, 2 = g, r, z), which the tests do not carry; without it
the third panel shows the synthetic PSF alone.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import matplotlib as mpl
import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, gaussian_filter

from darkhaloscope.geometry import PIXEL_SCALE, nea_pixels
from darkhaloscope.lensing import Psf, psf_profile
from darkhaloscope.survey import Survey, make_brick, sky_bricks
from darkhaloscope.survey.skyconditions import PSF_BETA

mpl.use("agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parents[1]
WINDOW = (slice(1880, 2136), slice(2540, 2796))
BANDS = ("g", "r", "z")
LAGS = ((1, 0), (0, 1), (2, 0), (0, 2), (3, 0), (0, 3), (1, 1), (2, 1), (2, 2))

Pixels = NDArray[np.float64]


def planes(survey: Survey, brick: str, window: tuple[slice, slice], band: str) -> list[Pixels]:
    """image, invvar and psfsize."""
    kinds = ("image", "invvar", "psfsize")
    return [fits.getdata(survey.url(k, brick, band))[window].astype(float) for k in kinds]


def empty_sky(scaled: Pixels, invvar: Pixels) -> NDArray[np.bool_]:
    """Pixels far from what a smoothed image shows."""
    smooth = gaussian_filter(scaled, 2.0)
    spread = 1.4826 * np.median(np.abs(smooth - np.median(smooth)))
    return np.asarray(~binary_dilation(smooth > 1.6 * spread, iterations=6) & (invvar > 0))


def lag(noise: Pixels, sky: NDArray[np.bool_], dx: int, dy: int) -> float:
    """Correlation coefficient of sky pixels (dx, dy) apart."""
    rows, columns = noise.shape
    both = sky[: rows - dy, : columns - dx] & sky[dy:, dx:]
    product = noise[: rows - dy, : columns - dx] * noise[dy:, dx:]
    return float(product[both].mean() / (noise[sky] ** 2).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--psf", type=Path, help="FITS of the real brick's coadd PSF")
    args = parser.parse_args()
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    real = Survey(str(HERE / "tests" / "data" / "dr9"), "south", release="dr9")
    with tempfile.TemporaryDirectory() as root:
        # As many LRGs as there are in the sky: the real window holds no cluster.
        name = sky_bricks(1)[0]
        made = make_brick(root, name, size=512, seed=1, lrgs=0.84, g_band="normal").survey
        whole = (slice(128, 384), slice(128, 384))
        for b, band in enumerate(BANDS):
            for style, survey, brick, window in (
                ("-", real, "0591m305", WINDOW),
                ("--", made, name, whole),
            ):
                image, invvar, width = planes(survey, brick, window, band)
                scaled = image * np.sqrt(invvar)
                sky = empty_sky(scaled, invvar)
                noise = scaled - np.median(scaled[sky])
                lags = [lag(noise, sky, *at) for at in LAGS]
                kind = "real" if style == "-" else "synthetic"
                print(
                    f"{band} {kind:9s} 1/sqrt(invvar) {1 / np.sqrt(np.median(invvar)):.4f} nMgy  scatter "
                    f"{noise[sky].std():.3f}  NEA width {np.median(width):.2f} arcsec  lags "
                    + " ".join(f"{at}:{value:+.3f}" for at, value in zip(LAGS, lags, strict=True))
                )
                colour = f"C{b}"
                bins = np.linspace(-5, 15, 81)
                values, _ = np.histogram(scaled[invvar > 0], bins, density=True)
                label = f"{band} {kind}"
                axes[0].stairs(values, bins, color=colour, ls=style, label=label)
                axes[1].plot(range(len(LAGS)), lags, "o-" if style == "-" else "x--", color=colour)
            _draw_psf(axes[2], band, f"C{b}", float(np.median(width)), args.psf, b)
    axes[0].set(xlabel="image sqrt(invvar)", ylabel="pixels (normalised)", yscale="log")
    axes[0].legend(fontsize=7)
    axes[1].set_xticks(range(len(LAGS)), [f"{x},{y}" for x, y in LAGS], rotation=60)
    axes[1].axhline(0, color="0.7", lw=0.8)
    axes[1].set(xlabel="lag (x, y) in pixels", ylabel="noise correlation")
    axes[2].set(xlabel="radius in arcsec", ylabel="PSF / peak", yscale="log", ylim=(3e-4, 1.2))
    axes[2].set_xlim(0, 6)
    place = HERE / "docs" / "images" / "sky-calibration.png"
    figure.savefig(place, dpi=110)
    print(f"drew {place.relative_to(HERE)}")


def _draw_psf(
    axis: plt.Axes, band: str, colour: str, width: float, real: Path | None, b: int
) -> None:
    """The Moffat that the sky uses at the real PSF's own noise-equivalent width, and the real one."""
    if real is not None:
        pixels = fits.getdata(real, b).astype(float)
        nea = pixels.sum() ** 2 / (pixels**2).sum()
        width *= float(np.sqrt(nea / nea_pixels(width)))
        y, x = np.indices(pixels.shape)
        centre = [(axis_ * pixels).sum() / pixels.sum() for axis_ in (x, y)]
        radius = np.hypot(x - centre[0], y - centre[1]) * PIXEL_SCALE
        axis.plot(
            radius.ravel(), pixels.ravel() / pixels.max(), ".", ms=1.5, color=colour, alpha=0.4
        )
    r = np.linspace(0, 6, 200)
    profile = psf_profile(r, Psf("moffat", nea_fwhm=width, beta=PSF_BETA))
    axis.plot(r, profile / profile[0], "--", color=colour, label=f"{band} {width:.2f} arcsec")
    axis.legend(fontsize=7)


if __name__ == "__main__":
    main()
