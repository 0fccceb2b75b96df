"""Prometheus metrics of one run, from its driver: ``dhs run --metrics-port 8791``.

Numbers are of the whole run, also of what an earlier call has made; rates and ``fresh`` are of this call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from darkhaloscope.errors import Reason, UserError

Progress = Mapping[str, Any]
"""What a driver says of itself now and then: ``driver.signs.Progress``."""

PREFIX = "darkhaloscope"


STAGES = ("plan", "workers", "blocks", "audit", "report")
"""Of a call of ``dhs run``, in order: the plan is read and tried, workers are waited for, blocks are made,
the audit judges, the report is drawn."""


@contextlib.contextmanager
def served(port: int | None) -> Iterator[Collector]:
    """Serve what the collector is told, on all addresses of this machine, for the time of a command.

    Parameters
    ----------
    port : int or None
        Where ``/metrics`` is; with None nothing is served.

    Raises
    ------
    UserError
        prometheus-client is not installed, or the port is taken.
    """
    collector = Collector()
    if port is None:
        yield collector
        return
    try:
        import prometheus_client
    except ImportError:
        raise UserError(
            "--metrics-port needs `pip install 'darkhaloscope[kubernetes]'` (prometheus-client)"
        ) from None
    registry = prometheus_client.CollectorRegistry(auto_describe=False)
    registry.register(collector)
    try:
        server, thread = prometheus_client.start_http_server(port, registry=registry)
    except OSError as error:
        raise UserError(
            f"cannot serve metrics on port {port}: {error.strerror}; choose another --metrics-port"
        ) from None
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Collector:
    """What a run told of itself last, as Prometheus reads it.

    Attributes
    ----------
    stage : str
        Of ``STAGES``.
    planned : mapping of str to int
        Rows and blocks of the run; empty until they are known.
    """

    def __init__(self) -> None:
        self.stage = STAGES[0]
        self.planned: Mapping[str, int] = {}
        self._said: Progress | None = None

    def hear(self, progress: Progress) -> None:
        """Take a driver's progress."""
        self._said = progress

    def collect(self) -> Iterator[Any]:
        """The families of metrics; called at each scrape."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        def gauge(name: str, says: str, value: float) -> Any:
            return GaugeMetricFamily(f"{PREFIX}_{name}", says, value=value)

        stages = GaugeMetricFamily(f"{PREFIX}_stage", "1 for what is done now.", labels=["stage"])
        for stage in STAGES:
            stages.add_metric([stage], stage == self.stage)
        yield stages
        for what, number in self.planned.items():
            yield gauge(f"{what}_planned", f"{what.capitalize()} of the run.", number)
        said = self._said
        if said is None:
            return
        rows = CounterMetricFamily(
            f"{PREFIX}_rows", "Finished rows by what became of them.", labels=["reason"]
        )
        reasons: Mapping[str, int] = {Reason.OK.text: 0, **said["rows_by_reason"]}
        for reason, number in sorted(reasons.items()):
            rows.add_metric([reason], number)
        yield rows
        yield CounterMetricFamily(
            f"{PREFIX}_bytes", "Bytes of the finished blocks in the data set.", value=said["bytes"]
        )
        yield CounterMetricFamily(
            f"{PREFIX}_tries_again", "Blocks that were submitted once more.", value=said["again"]
        )
        yield gauge("blocks_whole", "Blocks that are written.", said["blocks_whole"])
        if self.stage != "blocks":  # what follows is of now
            return
        spent = max(said["written"] - said["started"], 1e-9)
        yield gauge("rows_per_second", "Of this call of dhs run.", said["rows_fresh"] / spent)
        yield gauge("bytes_per_second", "Of this call of dhs run.", said["bytes_fresh"] / spent)
        running = said["running"]
        bricks, done = (sum(one[name] for one in running) for name in ("bricks", "bricks_done"))
        yield gauge("blocks_in_flight", "Blocks that workers are at.", len(running))
        yield gauge("bricks_in_flight", "Bricks of those blocks.", bricks)
        yield gauge("bricks_in_flight_injected", "Bricks of those that are injected.", done)
        yield gauge("workers", "Workers of the cluster.", said["workers"])
        yield gauge("last_sign_timestamp_seconds", "When the driver said this.", said["written"])
