"""Arcs as careless renderers draw them: one sample a pixel, no PSF, light that comes round.

One sample a pixel is not a parameter, so that :mod:`.rerender` cannot draw it; the lens and the source
are those of the independent integrator.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.fft

from darkhaloscope.audit.core_gate import match
from darkhaloscope.audit.fit import Transfer
from darkhaloscope.audit.measure import Arrays
from darkhaloscope.audit.reference_lens import ray_coefficients, ray_line
from darkhaloscope.audit.reference_parameters import ArcParameters, Floats
from darkhaloscope.audit.reference_rays import sersic_numbers
from darkhaloscope.audit.rerender import CORE_TOLERANCE, Redraw, arc_parts, predicted_width
from darkhaloscope.audit.spec import AuditSpec
from darkhaloscope.compiled import compiled


def one_sample(rows: Arrays, spec: AuditSpec, side: int = 1, blurred: bool = True) -> Floats:
    """Arcs (row, band, y, x) in nMgy from ``side`` x ``side`` samples a pixel; NaN where they cannot be.

    The brightness at each sample stands for its share of the pixel; the PSF is that of the row, or none.
    """
    n, n_band = len(rows["hash"]), len(spec.bands)
    out = np.full((n, n_band, spec.size, spec.size), np.nan)
    for i in range(n):
        try:
            parts = arc_parts(rows, i)
        except ValueError:
            continue
        if any(p.src_model != "sersic" for p in parts):
            continue
        x, y = float(rows["target_x"][i]), float(rows["target_y"][i])
        out[i] = np.sum(
            [np.asarray(p.src_flux)[:, None, None] * _sampled(p, x, y, spec, side) for p in parts],
            axis=0,
        )
    return np.asarray(_blurred(out, rows, spec) if blurred else out)


def wrapped(rows: Arrays, spec: AuditSpec, redraw: Redraw) -> Floats:
    """Arcs (row, band, y, x) whose light comes in again on the other side of the stamp.

    Drawn on stamps of twice the side, whose margins are then laid on the other side.
    """
    size, margin = spec.size, spec.size // 2
    wide = {
        **rows,
        "target_x": rows["target_x"] + margin,
        "target_y": rows["target_y"] + margin,
        "nodata": np.zeros((len(rows["hash"]), 2 * size, 2 * size), np.uint8),
    }
    drawn = redraw(wide, replace(spec, size=2 * size), CORE_TOLERANCE)
    whole = drawn["whole"][match(rows["hash"], drawn["whole_hash"])]
    folded = whole.reshape(*whole.shape[:2], 2, size, 2, size).sum(axis=(2, 4))
    return np.roll(folded, (-margin, -margin), axis=(2, 3))


def _sampled(p: ArcParameters, x: float, y: float, spec: AuditSpec, side: int) -> Floats:
    """Unit intrinsic flux before the PSF, (y, x)."""
    scale, size = spec.pixel_scale, spec.size
    step = (np.arange(side * size) + 0.5) / side - 0.5
    east = -scale * (step - x) - p.lens_dx
    north = scale * (step - y) - p.lens_dy
    light = _brightness(east, north, ray_coefficients(p), sersic_numbers(p))
    return np.asarray(light.reshape(size, side, size, side).sum(axis=(1, 3)) * (scale / side) ** 2)


def _blurred(light: Floats, rows: Arrays, spec: AuditSpec) -> Floats:
    """Convolved with each row's predicted PSF, on a box of twice the stamp."""
    box = scipy.fft.next_fast_len(2 * spec.size, real=True)
    kx = 2.0 * np.pi * scipy.fft.rfftfreq(box)
    ky = 2.0 * np.pi * scipy.fft.fftfreq(box)
    k = np.hypot(kx[None, :], ky[:, None])
    width = predicted_width(
        rows["psf_source"], rows["psf_fwhm_used"], rows["psfsize"], rows["coverage"]
    )
    model = rows["psf_model"].astype(np.int64)
    beta = np.where(model == 2, rows["psf_beta"].astype(float), 3.5)
    out = np.full_like(light, np.nan)
    for b in range(light.shape[1]):
        use = np.flatnonzero(width[:, b] > 0)
        transfer = Transfer(model[use], beta[use], width[use, b] / spec.pixel_scale, k.ravel())
        gain = transfer(np.ones(len(use)))[0].reshape(-1, *k.shape)
        spectrum = scipy.fft.rfft2(light[use, b], s=(box, box)) * gain
        out[use, b] = scipy.fft.irfft2(spectrum, s=(box, box))[:, : spec.size, : spec.size]
    return out


@compiled
def _brightness(east: Floats, north: Floats, c: Floats, profile: Floats) -> Floats:
    """Sersic brightness (north, east) per square arcsec where each ray lands."""
    out = np.empty((len(north), len(east)))
    for j in range(len(north)):
        for i in range(len(east)):
            r = np.hypot(east[i], north[j])
            ax, dx, bx, ay, dy, by = ray_line(np.arctan2(north[j], east[i]), c)
            power = r ** c[15]
            u, v = r * ax + power * dx + bx, r * ay + power * dy + by
            t = ((u * u + v * v) / profile[2]) ** profile[3]
            out[j, i] = profile[0] * np.exp(-profile[1] * t)
    return out
