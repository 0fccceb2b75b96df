"""Mask bits by name."""

from __future__ import annotations

import numpy as np
import pytest

from darkhaloscope.errors import UserError
from darkhaloscope.survey import maskbits as mb
from darkhaloscope.variables import default_bad_bits


def test_the_files_own_cards_win() -> None:
    header = {"SIMPLE": True, "MBIT_0": "NPRIMARY", "MBIT_3": " bright ", "MBITS": 1}
    assert mb.bits_of(header) == {"NPRIMARY": 0, "BRIGHT": 3}


def test_tables_of_releases() -> None:
    # https://www.legacysurvey.org/dr9/bitmasks/, in the order of the bits from 0.
    dr9 = [
        "NPRIMARY", "BRIGHT", "SATUR_G", "SATUR_R", "SATUR_Z", "ALLMASK_G", "ALLMASK_R", "ALLMASK_Z",
        "WISEM1", "WISEM2", "BAILOUT", "MEDIUM", "GALAXY", "CLUSTER",
    ]  # fmt: skip
    assert mb.bits_of({}, "dr9") == {name: bit for bit, name in enumerate(dr9)}
    dr10 = [*dr9, "SATUR_I", "ALLMASK_I", "SUB_BLOB"]
    assert mb.bits_of({}, "dr10") == {name: bit for bit, name in enumerate(dr10)}
    assert "SUB_BLOB" not in mb.bits_of({}, "dr9")
    for release in ("dr10", "DR11", None):
        assert mb.bits_of({}, release)["SUB_BLOB"] == 16


def test_default_bits_follow_the_bands() -> None:
    assert set(default_bad_bits(("g", "r", "i"))) == {
        "BRIGHT", "BAILOUT", "SATUR_G", "SATUR_R", "SATUR_I", "ALLMASK_G", "ALLMASK_R", "ALLMASK_I",
    }  # fmt: skip


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint16])
def test_bad_mask(dtype: type) -> None:
    mask = np.array([[0, 1 << 1, 1 << 5, 1 << 10, 1 << 12]], dtype=dtype)
    bad = mb.bad_mask(mask, ["BRIGHT", "bailout"], mb.DR9_BITS)
    assert bad.tolist() == [[False, True, False, True, False]]


def test_high_bits() -> None:
    mask = np.array([1 << 16, 1 << 15, 0], dtype=np.int32)
    assert mb.bad_mask(mask, ["SUB_BLOB"], mb.DR10_BITS).tolist() == [True, False, False]
    # DR9's int16 has no such bit, and -1 has every bit that it can have.
    assert not mb.bad_mask(np.array([0, 7], np.int16), ["SUB_BLOB"], mb.DR9_BITS).any()


def test_unknown_name() -> None:
    with pytest.raises(UserError, match=r"'BRIHGT'.*'BRIGHT'"):
        mb.bad_mask(np.zeros(3, np.int16), ["BRIHGT"], mb.DR9_BITS)
    assert mb.bad_mask(np.array([4]), ["NEW"], {"NEW": 2}).all()
