"""Many arcs in threads: the bytes of one after the other, outside Python's lock."""

import importlib
import pkgutil

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

import darkhaloscope.lensing as lensing
from darkhaloscope.errors import UserError
from darkhaloscope.lensing import (
    Components,
    Lens,
    PixelPsf,
    PixelSource,
    Point,
    Psf,
    Sersic,
    kernel,
    render,
    render_many,
)


def pairs(count):
    """Of every kind, each pair with widths of its own; a few without a lens or a band."""
    rng = np.random.default_rng(8)
    lenses, sources, psfs = [], [], []
    image = rng.uniform(0, 1, (20, 24)) ** 3
    for k in range(count):
        q, pa, dx = rng.uniform(0.5, 1.0), rng.uniform(0, 180), rng.uniform(0.1, 0.4)
        slope = 2.0 if k % 3 else rng.uniform(1.7, 2.3)
        lenses.append(None if k % 7 == 6 else Lens("EPL", 1.0, q=q, pa=pa, slope=slope))
        sersic = Sersic((1.0, 2.0), 0.2, n=rng.uniform(0.5, 4.0), dx=dx)
        point = Point((0.1, 0.2), dx=dx)
        pixels = PixelSource((1.0, 1.0), image, 0.03, dx=dx, rotation=pa)
        sources.append([sersic, point, Components([sersic, point]), pixels][k % 4])
        analytic = Psf("moffat", nea_fwhm=rng.uniform(1.0, 1.6))
        second = None if k % 5 == 4 else PixelPsf(kernel(Psf("gaussian", fwhm=1.1), 12))
        psfs.append([analytic, second])
    return lenses, sources, psfs, rng.uniform(15, 16, count), rng.uniform(15, 16, count)


def as_bytes(drawn):
    return [
        (one.arc.tobytes(), one.arc_flux_total.tobytes(), one.magnification, one.supersample)
        for one in drawn
    ]


def test_threads_draw_the_same_bytes():
    lenses, sources, psfs, x, y = pairs(28)
    truth = [
        render(*pair[:3], size=32, x=pair[3], y=pair[4])
        for pair in zip(lenses, sources, psfs, x, y, strict=True)
    ]
    for threads in (1, 2, 5):
        drawn = render_many(lenses, sources, psfs, size=32, x=x, y=y, threads=threads)
        assert as_bytes(drawn) == as_bytes(truth)
    back = [column[::-1] for column in (lenses, sources, psfs, x, y)]
    drawn = render_many(*back[:3], size=32, x=back[3], y=back[4], threads=2)
    assert as_bytes(drawn[::-1]) == as_bytes(truth)


def test_one_place_for_all():
    lenses, sources, psfs, _, _ = pairs(3)
    drawn = render_many(lenses, sources, psfs, size=32, x=15.5, y=15.0)
    assert np.array_equal(
        drawn[2].arc, render(lenses[2], sources[2], psfs[2], size=32, x=15.5, y=15.0).arc
    )
    assert render_many([], [], [], size=32, x=15.5, y=15.5) == []


def test_all_that_is_compiled_lets_other_threads_run():
    found = 0
    for module in pkgutil.iter_modules(lensing.__path__):
        for value in vars(importlib.import_module(f"{lensing.__name__}.{module.name}")).values():
            if isinstance(value, Dispatcher):
                assert value.targetoptions.get("nogil"), value
                found += 1
    assert found > 15


def test_bad_batches_are_refused():
    lenses, sources, psfs, x, y = pairs(4)
    with pytest.raises(UserError, match="sources has 3 entries; it must have one a lens, 4"):
        render_many(lenses, sources[:3], psfs, size=32, x=x, y=y)
    with pytest.raises(UserError, match=r"target x has shape \(3,\)"):
        render_many(lenses, sources, psfs, size=32, x=x[:3], y=y)
    with pytest.raises(UserError, match="threads is 0"):
        render_many(lenses, sources, psfs, size=32, x=x, y=y, threads=0)
    x[2] = np.nan
    for threads in (1, 2):
        with pytest.raises(UserError, match="pair 2: target x is nan"):
            render_many(lenses, sources, psfs, size=32, x=x, y=y, threads=threads)
