"""Fixtures that several tests share: the real brick, a real S3 server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import seaweed
from distributed import Client, LocalCluster
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from shared_work import shared

DATA = Path(__file__).parent / "data"

LONGEST = (
    "test_demo", "test_end_to_end", "test_audit_verdict", "test_defects", "test_report", "test_driver",
    "test_notebooks", "test_chaos", "test_audit_diagnostics", "test_cli", "test_survey_sky",
    "test_storage_trouble",
)  # fmt: skip
"""These files are begun first, so that no process waits for one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; the order within a file stays."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def real_root() -> str:
    """The release folder of the real brick 0591m305."""
    return str(DATA / "dr9")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A SeaweedFS S3 server on loopback; gives its endpoint and sets the AWS_* variables."""
    with seaweed.serve(tmp_path_factory.mktemp("weed")) as endpoint:
        settings = {"AWS_ENDPOINT_URL": endpoint, **seaweed.CREDENTIALS}
        before = {key: os.environ.get(key) for key in settings}
        os.environ.update(settings)
        try:
            fsspec.filesystem("s3").mkdir("dhs-test")
            yield endpoint
        finally:
            for key, value in before.items():
                os.environ.pop(key, None) if value is None else os.environ.update({key: value})


@pytest.fixture(scope="module")
def threads() -> Iterator[Client]:
    """Workers of this process, so that a test can reach into them."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def remembered() -> Iterator[None]:
    """Audits of much the same pairs, one after another, fit the same readers to the same numbers once."""
    with shared():
        yield


@pytest.fixture(scope="module")
def verdict_alone() -> Iterator[None]:
    """As ``remembered``, and what no cause and no gate reads is left out; ``test_defects.py`` sees to it
    that no verdict changes by that."""
    with shared(verdict_alone=True):
        yield


@pytest.fixture(scope="module")
def no_pictures() -> Iterator[None]:
    """Reports at which nobody looks have none: they are most of the time of a small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda *_, **__: None)
        patch.setattr(FigureCanvasSVG, "print_svg", lambda *_, **__: None)
        yield
