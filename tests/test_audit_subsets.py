"""Audit rows by the quality of their sky: who is in which subset."""

from __future__ import annotations

import numpy as np

from darkhaloscope.audit import AuditSpec
from darkhaloscope.audit.subsets import subsets

SPEC = AuditSpec(1, ("g", "r"), "r", 64, 0.262, 4, (4, 0, 0, 0, 0, 0))


def _stats() -> dict[str, np.ndarray]:
    """Four rows: sound; small, shallow, without a width of its own; masked; beyond every edge."""
    five_sigma = 10 ** (0.4 * (22.5 - np.array([23.2, 22.0, 23.7, 25.0])))
    psfdepth = (5.0 / five_sigma) ** 2
    return {
        "row_lens_model": np.full(4, 2, np.uint8),
        "row_theta_e": np.array([0.5, 0.3, 0.84, 2.4], np.float32),
        "row_psf_fwhm_used": np.tile([[9.0, 1.2]], (4, 1)).astype(np.float32),
        "row_arc_snr": np.full(4, 9.0, np.float32),
        "row_coverage": np.ones((4, 2), np.float32),
        "row_psf_source": np.array([[0, 0], [0, 2], [0, 0], [0, 0]], np.uint8),
        "row_bad_pixel_frac": np.array([0.0, 0.0, 0.3, np.nan], np.float32),
        "row_wise_brightmask_frac": np.array([0.0, 0.0, 0.1, 0.9], np.float32),
        "row_psfdepth": np.stack([psfdepth * 100, psfdepth], axis=1),
    }


def _members(use: np.ndarray) -> dict[tuple[str, str], list[int]]:
    return {(f, name): m.tolist() for f, name, _, _, m in subsets(_stats(), use, SPEC)}


def test_every_row_is_where_its_numbers_put_it() -> None:
    found = _members(np.arange(4))
    assert found["quality set", "all"] == [0, 1, 2, 3]
    assert found["quality set", "clean"] == [0, 1, 3]
    assert found["quality set", "no_psf_fallback"] == [0, 2, 3]
    assert found["theta_e_over_psf", "< 0.4"] == [1]  # 0.25, in the reference band
    assert found["theta_e_over_psf", "0.4-0.6"] == [0]
    assert found["theta_e_over_psf", "0.6-0.8"] == [2]
    assert found["theta_e_over_psf", ">= 1"] == [3]
    assert ("theta_e_over_psf", "0.8-1") not in found
    assert [found["depth", name] for name in ("< 23", "23-23.5", "23.5-24", ">= 24")] == [
        [1], [0], [2], [3],
    ]  # fmt: skip
    assert found["bad_pixel_frac", "< 0.01"] == [0, 1]  # missing is in none
    assert found["wise_brightmask_frac", "0.01-0.2"] == [2]


def test_members_count_among_the_rows_that_were_scored() -> None:
    assert _members(np.array([2, 1]))["quality set", "clean"] == [1]
