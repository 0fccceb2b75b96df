"""One stored arc against one re-rendered arc: scale, shift, PSF width and core constant, per band.

Arcs are noiseless, so that small defects can be measured exactly, if the model holds them exactly. It
is fitted in Fourier space, where a shift is a phase and a wrong PSF width a ratio of two transfer
functions:

    arc(k) = F exp(-i k d) again(k) T(w lambda k) / T(w k) + c box(k)

``T`` is the transfer function of the recorded PSF model, ``w`` its predicted width, lambda the factor
on it (1.23 where psfsize was taken for the FWHM of a Moffat of beta 3.5), ``box`` the core's.
Modes are weighted with T(w k), which makes a width of 0 as tame as any. The mode k = 0 is left out:
a constant over the stamp moves nothing here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.special import gamma, kv

from darkhaloscope.audit.intervals import Floats
from darkhaloscope.compiled import compiled
from darkhaloscope.geometry import CORE_SIZE, FWHM_PER_SIGMA, core_slice

Modes = NDArray[np.complex128]

ITERATIONS = 12
FAINTEST_MODE = 0.03
"""Modes whose transfer is smaller are not fitted: there is nothing but rounding."""

WIDTH_RANGE = (0.05, 4.0)
CONVERGED = 1e-6
NARROWER = 0.97
"""Widths below this fraction of the predicted one are compared after blurring."""

_TABLE_END, _TABLE_NODES = 40.0, 40_001


def moffat_scale(nea_fwhm: Floats, beta: Floats) -> Floats:
    """alpha of a Moffat of this noise-equivalent width: NEA = pi alpha^2 (2 beta - 1) / (beta - 1)^2."""
    return nea_fwhm * (beta - 1.0) / np.sqrt(2.0 * np.log(2.0) * (2.0 * beta - 1.0))


def moffat_width_ratio(beta: Floats) -> Floats:
    """Noise-equivalent width of a Moffat in units of its FWHM: 1.23 for beta 3.5.

    The factor by which a PSF is too wide if that width is taken for the FWHM.
    """
    fwhm = 2.0 * moffat_scale(np.ones_like(beta), beta) * np.sqrt(2.0 ** (1.0 / beta) - 1.0)
    return 1.0 / fwhm


@lru_cache(maxsize=8)
def _transfer_table(beta: float) -> tuple[Floats, Floats]:
    """Transfer function of a Moffat and its derivative against k alpha: the Matern function.

    ``T(x) = 2^(2 - beta) / Gamma(beta - 1) x^(beta - 1) K_{beta-1}(x)``.
    """
    x = np.linspace(0.0, _TABLE_END, _TABLE_NODES)[1:]
    nu = beta - 1.0
    scale = 2.0 ** (1.0 - nu) / gamma(nu)
    value = np.concatenate([[1.0], scale * x**nu * kv(nu, x)])
    slope = np.concatenate([[0.0], -scale * x**nu * kv(nu - 1.0, x)])
    return value, slope


@compiled
def _looked_up(
    k: Floats, scale: Floats, factor: Floats, table: Floats, derivative: Floats
) -> tuple[Floats, Floats]:
    """T and dT / dfactor at ``k scale factor``, (image, mode): linear interpolation, 0 beyond the end."""
    value, slope = np.empty((scale.size, k.size)), np.empty((scale.size, k.size))
    for i in range(scale.size):
        for j in range(k.size):
            place = k[j] * scale[i] * factor[i] * ((_TABLE_NODES - 1) / _TABLE_END)
            place = min(_TABLE_NODES - 1.000001, place)  # in this order NaN is beyond the end
            node = int(place)
            part = place - node
            value[i, j] = table[node] + part * (table[node + 1] - table[node])
            steep = derivative[node] + part * (derivative[node + 1] - derivative[node])
            slope[i, j] = steep * k[j] * scale[i]
    return value, slope


class Transfer:
    """Transfer functions of the recorded PSFs of many images on a set of wavenumbers.

    Parameters
    ----------
    model : ndarray (image,)
        1 Gaussian, 2 Moffat.
    beta : ndarray (image,)
    width : ndarray (image,)
        Noise-equivalent width in pixels.
    k : ndarray (mode,)
        Wavenumber in radians a pixel.
    """

    def __init__(self, model: NDArray[np.integer], beta: Floats, width: Floats, k: Floats) -> None:
        self._k = k
        self._sigma = width / FWHM_PER_SIGMA
        self._alpha = moffat_scale(width, beta)
        self._moffat = [
            (np.flatnonzero((model == 2) & (beta == value)), _transfer_table(float(value)))
            for value in np.unique(beta[model == 2])
        ]
        self._gauss = np.flatnonzero(model != 2)

    def __call__(self, factor: Floats) -> tuple[Floats, Floats]:
        """T and dT / dfactor, (image, mode), of PSFs whose widths are multiplied by ``factor``."""
        value = np.empty((len(factor), len(self._k)))
        slope = np.empty_like(value)
        g = self._gauss
        x = self._k[None, :] * self._sigma[g, None]
        value[g] = np.exp(-0.5 * (x * factor[g, None]) ** 2)
        slope[g] = -(x**2) * factor[g, None] * value[g]
        for members, (table, derivative) in self._moffat:
            value[members], slope[members] = _looked_up(
                self._k, self._alpha[members], factor[members], table, derivative
            )
        return value, slope


@dataclass(frozen=True)
class ArcFit:
    """What was fitted to each image, and the re-rendered arc so changed.

    ``flux`` F, ``dx``, ``dy`` in pixels, ``width`` lambda; ``seen`` and ``model`` (image, y, x) are what
    to compare: the stored arc and the changed one. Where the stored arc is narrower than predicted
    both have been blurred by the predicted PSF, since no change can bring back what it erased.
    """

    flux: Floats
    dx: Floats
    dy: Floats
    width: Floats
    seen: Floats
    model: Floats


def fit_arcs(
    arc: Floats,
    again: Floats,
    psf_model: NDArray[np.integer],
    psf_beta: Floats,
    psf_width: Floats,
) -> ArcFit:
    """Fit each stored arc with its re-rendered one; parameters as those of :class:`Fitter`."""
    return Fitter(again, psf_model, psf_beta, psf_width)(arc)


class Fitter:
    """Re-rendered arcs, ready to be fitted to stored ones.

    Parameters
    ----------
    again : ndarray (image, y, x)
        In the unit of the arcs that are fitted. It must hold light.
    psf_model, psf_beta, psf_width : ndarray (image,)
        1 Gaussian or 2 Moffat; beta; noise-equivalent width in pixels, as predicted.
    """

    def __init__(
        self,
        again: Floats,
        psf_model: NDArray[np.integer],
        psf_beta: Floats,
        psf_width: Floats,
    ) -> None:
        n, size = len(again), again.shape[-1]
        self._ky, self._kx = (
            2.0 * np.pi * scipy.fft.fftfreq(size),
            2.0 * np.pi * scipy.fft.rfftfreq(size),
        )
        k = np.hypot(self._ky[:, None], self._kx[None, :]).ravel()
        self._all_modes = Transfer(psf_model, psf_beta, psf_width, k)
        unit = np.ones(n)
        self._predicted = self._all_modes(unit)[0]
        self._used = np.flatnonzero((self._predicted.max(axis=0) > FAINTEST_MODE) & (k > 0))
        # Half of the modes stand for their conjugates too.
        twice = self._kx[self._used % len(self._kx)] > 0
        self._transfer = Transfer(psf_model, psf_beta, psf_width, k[self._used])
        base, _ = self._transfer(unit)
        self._weight = np.where(base > FAINTEST_MODE, base, 0.0) * np.sqrt(1.0 + twice)
        # Units of the arc's own flux, so that the normal equations are well scaled.
        self._scale = again.sum(axis=(1, 2))[:, None]
        self._spectrum = scipy.fft.rfft2(again)
        self._shape = self._modes(self._spectrum) / np.maximum(base, FAINTEST_MODE)
        box = np.zeros((size, size))
        core = core_slice(size)
        box[core, core] = 1.0 / CORE_SIZE**2
        self._box = scipy.fft.rfft2(box).ravel()[self._used]

    def _modes(self, spectrum: Modes) -> Modes:
        """The modes that are fitted, (image, mode)."""
        return spectrum.reshape(len(spectrum), -1)[:, self._used] / self._scale

    def __call__(self, arc: Floats) -> ArcFit:
        """Fit stored arcs, (image, y, x).

        Arcs that are not those that were drawn again at all may not have converged after the last iteration:
        rounding then has a say in where they end, far outside every limit.
        """
        n = len(arc)
        spectrum = scipy.fft.rfft2(arc)
        seen = self._modes(spectrum)
        flux, factor, constant = np.ones(n), np.ones(n), np.zeros(n)
        dx, dy = _coarse_shift(spectrum, self._spectrum)
        damping = np.full(n, 1e-3)
        best = np.full(n, np.inf)
        kept = np.stack([flux, dx, dy, factor, constant])
        trial = kept.copy()
        normal = np.zeros((n, 5, 5))
        gradient = np.zeros((n, 5))
        idle = 0
        for _ in range(ITERATIONS):
            cost, new, pull = _equations(
                seen, self._shape, self._box, self._weight, self._kx, self._ky, self._used,
                *self._transfer(trial[3]), trial,
            )  # fmt: skip
            better = cost < best
            idle = 0 if (cost < best * (1.0 - CONVERGED)).any() else idle + 1
            if idle > 2:
                break
            kept[:, better] = trial[:, better]
            best = np.where(better, cost, best)
            damping = np.clip(np.where(better, damping * 0.1, damping * 10.0), 1e-12, 1e6)
            normal[better] = new[better]
            gradient[better] = pull[better]
            diagonal = np.einsum("nii->ni", normal) * damping[:, None] + 1e-30
            step = np.linalg.solve(normal + diagonal[:, :, None] * np.eye(5), gradient[..., None])
            trial = kept + step[..., 0].T
            trial[3] = np.clip(trial[3], *WIDTH_RANGE)
        flux, dx, dy, factor, _ = kept
        return ArcFit(flux, dx, dy, factor, *self._compared(arc, spectrum, kept))

    def _compared(self, arc: Floats, spectrum: Modes, fit: Floats) -> tuple[Floats, Floats]:
        """The stored arc, and the re-rendered one scaled, shifted and given the fitted PSF width."""
        shape, sides = spectrum.shape, arc.shape[1:]
        flux, dx, dy, factor = (v[:, None, None] for v in fit[:4])
        base, transfer = self._predicted, self._all_modes(fit[3])[0]
        blurred = (factor < NARROWER).ravel()
        gain = np.where(blurred[:, None], transfer, transfer / np.maximum(base, 1e-12))
        # Beyond these modes a wider PSF leaves nothing.
        gain = np.where((base < 1e-6) & ~blurred[:, None], np.minimum(gain, 1.0), gain)
        phase = np.exp(-1j * dx * self._kx[None, None, :]) * np.exp(
            -1j * dy * self._ky[None, :, None]
        )
        changed = self._spectrum * phase * gain.reshape(shape) * flux
        model = np.asarray(scipy.fft.irfft2(changed, s=sides))
        seen = arc.copy()
        if blurred.any():
            wide = spectrum[blurred] * base[blurred].reshape(-1, *shape[1:])
            seen[blurred] = scipy.fft.irfft2(wide, s=sides)
        return seen, model


@compiled
def _equations(
    seen: Modes,
    shape: Modes,
    box: Modes,
    weight: Floats,
    kx: Floats,
    ky: Floats,
    used: NDArray[np.int64],
    value: Floats,
    slope: Floats,
    trial: Floats,
) -> tuple[Floats, Floats, Floats]:
    """Cost (image,), normal matrix (image, 5, 5) and gradient (image, 5) of F, dx, dy, lambda and constant.

    ``shape`` (image, mode) is the re-rendered arc without its PSF; ``trial`` (5, image); ``used`` says
    which of the (ky, kx) each mode is. What a shift does to a mode is at a right angle to what scale
    and width do to it: their products are 0.
    """
    n = seen.shape[0]
    cost, normal, gradient = np.zeros(n), np.zeros((n, 5, 5)), np.zeros((n, 5))
    for i in range(n):
        flux, constant = trial[0, i], trial[4, i]
        turn_x, turn_y = np.exp(-1j * trial[1, i] * kx), np.exp(-1j * trial[2, i] * ky)
        left = g0 = g1 = g2 = g3 = g4 = 0.0
        n00 = n11 = n21 = n22 = n30 = n33 = n40 = n41 = n42 = n43 = n44 = 0.0
        for j in range(seen.shape[1]):
            row, column = used[j] // kx.size, used[j] % kx.size
            x, y, w = kx[column], ky[row], weight[i, j]
            v, s = value[i, j], flux * slope[i, j]
            light = w * shape[i, j] * (turn_x[column] * turn_y[row])
            c = w * box[j]
            rest = w * seen[i, j] - constant * c - (flux * v) * light
            left += rest.real**2 + rest.imag**2
            power = light.real**2 + light.imag**2
            along = light.real * rest.real + light.imag * rest.imag
            across = flux * v * (light.imag * rest.real - light.real * rest.imag)
            g0 += v * along
            g1 += x * across
            g2 += y * across
            g3 += s * along
            g4 += c.real * rest.real + c.imag * rest.imag
            turned = (flux * v) ** 2 * power
            n00 += v * v * power
            n11 += x * x * turned
            n21 += x * y * turned
            n22 += y * y * turned
            n30 += s * v * power
            n33 += s * s * power
            along = light.real * c.real + light.imag * c.imag
            across = flux * v * (light.imag * c.real - light.real * c.imag)
            n40 += v * along
            n41 += x * across
            n42 += y * across
            n43 += s * along
            n44 += c.real**2 + c.imag**2
        cost[i] = left
        for a, g in enumerate((g0, g1, g2, g3, g4)):
            gradient[i, a] = g
        for a, diagonal in enumerate((n00, n11, n22, n33, n44)):
            normal[i, a, a] = diagonal
        normal[i, 1, 2] = normal[i, 2, 1] = n21
        normal[i, 0, 3] = normal[i, 3, 0] = n30
        for a, beside in enumerate((n40, n41, n42, n43)):
            normal[i, a, 4] = normal[i, 4, a] = beside
    return cost, normal, gradient


def _coarse_shift(arc: Modes, again: Modes) -> tuple[Floats, Floats]:
    """Whole-pixel shift at the peak of the cross-correlation of two spectra, as a start; (dx, dy)."""
    size = arc.shape[1]
    correlation = scipy.fft.irfft2(arc * again.conj(), s=(size, size)).reshape(len(arc), -1)
    peak = np.argmax(correlation, axis=1)
    wrapped = [
        ((v + size // 2) % size - size // 2).astype(float) for v in (peak % size, peak // size)
    ]
    return wrapped[0], wrapped[1]
