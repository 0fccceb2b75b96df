"""The study of planted defects: it counts right, and goes on where it was stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import defects
import numpy as np
import pytest
from audit_pairs import clean, measure, rerendered, spec_of


def test_counts_are_those_of_the_audits() -> None:
    done = [
        {"defect": "nothing", "verdict": "physics", "causes": []},
        {"defect": "nothing", "verdict": "bug", "causes": ["shift"]},
        {"defect": "zero point", "verdict": "bug", "causes": ["flux_scale", "shift"]},
        {"defect": "zero point", "verdict": "bug", "causes": ["blur", "flux_scale"]},
        {"defect": "zero point", "verdict": "undecided", "causes": []},
    ]
    nothing, flux = defects.confusion(done)
    assert (nothing["plants"], nothing["alarms"], nothing["named"]) == (2, 1, 1)
    assert (flux["plants"], flux["alarms"], flux["named"]) == (3, 2, 1)
    assert flux["called"] == {"flux_scale": 1, "blur": 1, "undecided": 1}


def test_a_study_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def audit(ds: object, truth: object, defect: str) -> dict[str, Any]:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(defect)
        return {"verdict": "bug", "causes": ["flux_scale"], "least_p": 1.0}

    monkeypatch.setattr(defects, "audit", audit)
    monkeypatch.setattr(defects, "base", lambda *_: (None, {}))
    with pytest.raises(KeyboardInterrupt):
        defects.study(tmp_path, 10, 1, ["flux doubled", "pedestal"])
    assert asked == ["nothing", "flux doubled"]
    asked.clear()
    done = defects.study(tmp_path, 10, 1, ["flux doubled", "pedestal"])
    assert asked == ["pedestal"]
    assert [d["defect"] for d in done] == ["nothing", "flux doubled", "pedestal"]


def test_a_base_comes_back_as_it_was(tmp_path: Path) -> None:
    first, truth = defects.base(tmp_path, 12, 3)
    again, kept = defects.base(tmp_path, 12, 3)
    assert first.equals(again)
    assert set(truth) == set(kept)
    fresh = clean(12, seed=3)
    spec = spec_of(fresh)
    np.testing.assert_array_equal(
        kept["core"], rerendered(fresh, measure(fresh, spec), spec)["core"]
    )
