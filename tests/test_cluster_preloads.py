"""What runs beside Dask in the pods: an idle scheduler's guard."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from darkhaloscope.cluster import guard


@pytest.mark.parametrize(
    ("idle_s", "limit", "idle"),
    [(600, None, False), (None, 60, False), (600, 60, True), (0, 600, False)],
)
def test_only_an_idle_scheduler_takes_its_cluster_away(
    idle_s: float | None, limit: float | None, idle: bool
) -> None:
    since = None if idle_s is None else time.time() - idle_s
    scheduler: Any = SimpleNamespace(idle_since=since, idle_timeout=limit)
    assert guard.is_idle(scheduler) is idle
