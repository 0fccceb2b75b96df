"""The CPU baseline that makes bytes the same on any x86-64 machine is really in force."""

from __future__ import annotations

import os
import platform

import numba
import numpy as np
import pytest

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or "NUMBA_CPU_NAME" not in os.environ,
    reason="no CPU baseline is set: `make test` sets one on x86-64",
)


def test_numba_compiles_for_the_baseline() -> None:
    assert numba.config.CPU_NAME == "x86-64-v3"
    assert numba.config.CPU_FEATURES == ""

    @numba.njit
    def exponentials(x: np.ndarray) -> np.ndarray:
        return np.exp(x) * 2.0

    exponentials(np.ones(64))
    (assembly,) = exponentials.inspect_asm().values()
    assert "zmm" not in assembly, "AVX-512 although the baseline has none"


def test_numpy_uses_no_avx512() -> None:
    found = np.show_config(mode="dicts")["SIMD Extensions"]["found"]
    wide = {"X86_V4", "AVX512F", "AVX512_SKX", "AVX512_ICL", "AVX512_SPR"}
    assert not wide & set(found), f"numpy dispatches to {found}"
