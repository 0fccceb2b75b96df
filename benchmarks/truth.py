"""The arcs that the renderer is measured on, and the truth of each.

A thousand draws of a wide prior, with a fixed seed, and for each what the independent integrator
(:mod:`darkhaloscope.audit.reference`, which shares no code with the renderer) makes of it at a
relative error of 1e-5 of the flux: magnification, flux in the stamp, centroid, peak, and the stamp
itself in steps of 1/2000 of its peak. ``python benchmarks/truth.py --out FILE`` makes the file that
the tests read, ``tests/data/render-truth.npz``: a few minutes.
"""

from __future__ import annotations

import argparse
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from darkhaloscope.audit.reference import ArcParameters, ReferenceArc, reference_arc
from darkhaloscope.geometry import PIXEL_SCALE, stamp_centre
from darkhaloscope.lensing import Lens, Psf, Rendered, Sersic, render
from darkhaloscope.lensing.render import SUPERSAMPLE

Floats = NDArray[np.float64]

SEED = 20240917
COUNT = 1000
TOLERANCE = 1e-5
LEVELS = 2000
"""Steps from 0 to the peak in which stamps are stored: a rounding error of 2.5e-4 of the peak."""

TRUTH = Path(__file__).parents[1] / "tests" / "data" / "render-truth.npz"


@dataclass(frozen=True)
class Draw:
    """One arc of the prior: lengths in arcsec, angles in degrees east of north, unit flux.

    ``slope`` is 2 for an SIE. ``nea_fwhm`` is the width that maps of survey PSFs hold, the FWHM of
    the Gaussian of the same noise-equivalent area; ``moffat_beta`` is 0 for a Gaussian PSF. ``x, y``
    is the target in stamp pixels.
    """

    theta_e: float
    slope: float
    lens_q: float
    lens_pa: float
    gamma1: float
    gamma2: float
    lens_dx: float
    lens_dy: float
    reff: float
    n: float
    source_q: float
    source_pa: float
    source_dx: float
    source_dy: float
    nea_fwhm: float
    moffat_beta: float
    size: int
    x: float
    y: float


def draw_one(rng: np.random.Generator) -> Draw:
    """A draw of the prior. Flat in each parameter, in the logarithm of the half-light radius, and
    over the disc of 1.5 theta_e that the source lies in."""
    u = rng.uniform
    theta_e = u(0.3, 3.0)
    shear, shear_angle = u(0.0, 0.1), u(0.0, 2.0 * math.pi)
    distance, angle = 1.5 * theta_e * math.sqrt(u()), u(0.0, 2.0 * math.pi)
    size = int(rng.choice([64, 96]))
    return Draw(
        theta_e=theta_e,
        slope=2.0 if u() < 0.5 else u(1.6, 2.4),
        lens_q=u(0.4, 1.0),
        lens_pa=u(0.0, 180.0),
        gamma1=shear * math.cos(shear_angle),
        gamma2=shear * math.sin(shear_angle),
        lens_dx=u(-0.2, 0.2),
        lens_dy=u(-0.2, 0.2),
        reff=math.exp(u(math.log(0.05), math.log(0.5))),
        n=u(0.5, 4.0),
        source_q=u(0.2, 1.0),
        source_pa=u(0.0, 180.0),
        source_dx=distance * math.cos(angle),
        source_dy=distance * math.sin(angle),
        nea_fwhm=u(0.6, 2.5),
        moffat_beta=0.0 if u() < 0.5 else u(2.5, 4.765),
        size=size,
        x=stamp_centre(size) + u(-0.5, 0.5),
        y=stamp_centre(size) + u(-0.5, 0.5),
    )


def draws(count: int = COUNT, seed: int = SEED) -> list[Draw]:
    """The first ``count`` draws."""
    rng = np.random.default_rng(seed)
    return [draw_one(rng) for _ in range(count)]


def truth_of(draw: Draw, *, pixel: str = "effective", tolerance: float = TOLERANCE) -> ReferenceArc:
    """The arc by the independent integrator."""
    parameters = ArcParameters(
        theta_e=draw.theta_e,
        lens_q=draw.lens_q,
        lens_pa=draw.lens_pa,
        gamma1=draw.gamma1,
        gamma2=draw.gamma2,
        lens_dx=draw.lens_dx,
        lens_dy=draw.lens_dy,
        src_reff=draw.reff,
        src_n=draw.n,
        src_q=draw.source_q,
        src_pa=draw.source_pa,
        src_dx=draw.source_dx,
        src_dy=draw.source_dy,
        src_flux=(1.0,),
        psf_model="moffat" if draw.moffat_beta else "gaussian",
        psf_beta=draw.moffat_beta,
        psf_nea_fwhm=(draw.nea_fwhm,),
        slope=draw.slope,
    )
    if pixel == "integrate":
        parameters = replace(parameters, pixel="integrate")
    return reference_arc(
        parameters,
        size=draw.size,
        target_x=draw.x,
        target_y=draw.y,
        pixel_scale=PIXEL_SCALE,
        tolerance=tolerance,
    )


def our_lens(draw: Draw) -> Lens:
    """The lens as the renderer takes it."""
    return Lens(
        "SIE" if draw.slope == 2.0 else "EPL",
        draw.theta_e,
        q=draw.lens_q,
        pa=draw.lens_pa,
        gamma1=draw.gamma1,
        gamma2=draw.gamma2,
        dx=draw.lens_dx,
        dy=draw.lens_dy,
        slope=draw.slope,
    )


def our_source(draw: Draw) -> Sersic:
    """The source as the renderer takes it, of unit flux."""
    return Sersic(
        (1.0,),
        draw.reff,
        n=draw.n,
        q=draw.source_q,
        pa=draw.source_pa,
        dx=draw.source_dx,
        dy=draw.source_dy,
    )


def our_psf(draw: Draw, pixel: str = "effective") -> Psf:
    """The PSF as the renderer takes it."""
    response = "integrate" if pixel == "integrate" else "effective"
    if draw.moffat_beta:
        return Psf("moffat", nea_fwhm=draw.nea_fwhm, beta=draw.moffat_beta, pixel=response)
    return Psf("gaussian", nea_fwhm=draw.nea_fwhm, pixel=response)


def ours(draw: Draw, pixel: str = "effective", supersample: int = SUPERSAMPLE) -> Rendered:
    """The arc by the renderer."""
    return render(
        our_lens(draw),
        our_source(draw),
        [our_psf(draw, pixel)],
        size=draw.size,
        x=draw.x,
        y=draw.y,
        supersample=supersample,
    )


def centroid(image: Floats) -> Floats:
    """Flux-weighted mean (x, y) in pixels."""
    axis = np.arange(image.shape[-1])
    return np.array([(image * axis).sum(), (image.T * axis).sum()]) / image.sum()


def make(path: Path, count: int, seed: int, threads: int) -> None:
    """Compute the truth of every draw and store it with the draws' parameters."""
    chosen = draws(count, seed)
    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        arcs = list(pool.map(truth_of, chosen))
    images = [arc.arc[0] for arc in arcs]
    columns = {
        name: np.array([asdict(draw)[name] for draw in chosen]) for name in asdict(chosen[0])
    }
    columns["magnification"] = np.array([arc.magnification for arc in arcs])
    columns["error_estimate"] = np.array([arc.error_estimate for arc in arcs])
    columns["flux"] = np.array([image.sum() for image in images])
    columns["centroid"] = np.array([centroid(image) for image in images])
    columns["peak"] = np.array([image.max() for image in images])
    # Differences along x of whole steps: smooth stamps of few distinct numbers compress well.
    steps = [np.rint(image * (LEVELS / image.max())).astype(np.int16) for image in images]
    columns["steps"] = np.concatenate(
        [np.diff(stamp, axis=1, prepend=np.int16(0)).ravel() for stamp in steps]
    )
    np.savez_compressed(path, **columns)
    print(
        f"{path}: {count} draws, seed {seed}, {path.stat().st_size / 1e6:.2f} MB, "
        f"{time.perf_counter() - start:.0f} s; worst estimated relative error of the flux "
        f"{columns['error_estimate'].max():.1e}"
    )


@dataclass(frozen=True)
class StoredTruth:
    """What :func:`load` returns; arrays are by draw.

    ``flux`` is that in the stamp, ``centroid`` (x, y) in pixels, ``images`` the stamps, rounded to
    1/2000 of their ``peak``.
    """

    draws: list[Draw]
    magnification: Floats
    error_estimate: Floats
    flux: Floats
    centroid: Floats
    peak: Floats
    images: list[Floats]


def load(path: Path = TRUTH) -> StoredTruth:
    """The stored truth."""
    with np.load(path, allow_pickle=False) as stored:
        columns = {name: stored[name] for name in stored.files}
    names = list(Draw.__dataclass_fields__)
    rows = zip(*(columns[name].tolist() for name in names), strict=True)
    chosen = [Draw(*row) for row in rows]
    images, first = [], 0
    for draw, peak in zip(chosen, columns["peak"], strict=True):
        last = first + draw.size**2
        steps = columns["steps"][first:last].reshape(draw.size, draw.size).astype(float)
        images.append(np.cumsum(steps, axis=1) * (peak / LEVELS))
        first = last
    return StoredTruth(
        chosen,
        columns["magnification"],
        columns["error_estimate"],
        columns["flux"],
        columns["centroid"],
        columns["peak"],
        images,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the .npz to write")
    parser.add_argument("--count", type=int, default=COUNT, help="draws")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    make(arguments.out, arguments.count, arguments.seed, arguments.threads)


if __name__ == "__main__":
    main()
