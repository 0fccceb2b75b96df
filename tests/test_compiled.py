"""Machine code on disk is not older than the sources that it comes from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core import config

from darkhaloscope.compiled import compiled

CALLEE = (
    "from darkhaloscope.compiled import compiled\n@compiled\ndef inner(x):\n    return {} * x\n"
)
CALLER = (
    "from callee import inner\nfrom {module} import {name}\n{decorator}\n"
    "def outer(x):\n    return inner(x)\nprint(outer(1.0))\n"
)


def run(folder: Path, callee: str, caller: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "callee.py").write_text(callee)
    if not (folder / "caller.py").exists():
        (folder / "caller.py").write_text(caller)
    done = subprocess.run(
        [sys.executable, "-B", "-c", "import caller"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_a_changed_callee_in_another_file_is_seen(tmp_path: Path) -> None:
    ours = CALLER.format(module="darkhaloscope.compiled", name="compiled", decorator="@compiled")
    assert run(tmp_path, CALLEE.format("2.0"), ours) == "2.0"
    assert run(tmp_path, CALLEE.format("3.0"), ours) == "3.0"


def test_numba_alone_does_not_see_it(tmp_path: Path) -> None:
    """The defect that the decorator is there for; should this fail, the decorator can go."""
    plain = CALLER.format(module="numba", name="njit", decorator="@njit(cache=True)")
    assert run(tmp_path, CALLEE.format("2.0"), plain) == "2.0"
    assert run(tmp_path, CALLEE.format("3.0"), plain) == "2.0"


def test_other_packages_keep_their_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "CACHE_DIR", "theirs")

    @compiled
    def one() -> int:
        return 1

    assert one() == 1
    assert config.CACHE_DIR == "theirs"
