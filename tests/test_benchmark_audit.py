"""The audit's benchmark keeps its names, and counts each stored byte once. No time is asserted."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark() -> ModuleType:
    place = importlib.util.spec_from_file_location("audit_benchmark", BENCHMARKS / "audit.py")
    assert place is not None
    assert place.loader is not None
    module = importlib.util.module_from_spec(place)
    sys.modules["audit_benchmark"] = module
    place.loader.exec_module(module)
    return module


@pytest.mark.long
def test_the_figures_and_their_names(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["audit.py", "--quick", "--json", str(out)])
    benchmark.main()
    figures = json.loads(out.read_text())
    assert set(figures) == {"fused", "alone", "memory_ratio", "drawn_again", "judged"}
    assert 0 < figures["fused"]["share"] < 1
    (judged,) = figures["judged"]
    assert judged["rows"] == 200
    assert judged["cpu_s"] > 0
    small, large = figures["alone"]
    assert large["pairs"] == 4 * small["pairs"]
    for one in (small, large):
        # Every chunk once; 1 % are the metadata, read again for each block.
        assert 1.0 <= one["read_over_stored"] < 1.02
    assert figures["memory_ratio"] < 1.2
