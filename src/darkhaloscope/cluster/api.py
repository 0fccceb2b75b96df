"""Asking the API server of Kubernetes: kr8s, and patience with what passes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from darkhaloscope.cluster.pods import Json
from darkhaloscope.errors import Incomplete, UserError

logger = logging.getLogger(__name__)

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Between tries to ask an API server that is away or overburdened."""

T = TypeVar("T")


def dask_object(kind: str) -> Any:
    """kr8s' class of a kind of the Dask operator: DaskCluster, DaskAutoscaler."""
    from kr8s.objects import new_class

    return new_class(kind, "kubernetes.dask.org/v1", asyncio=False)


def installed_kr8s() -> Any:
    """The client of the API server, which comes with the extra ``kubernetes``.

    Raises
    ------
    UserError
        It is not installed.
    """
    try:
        import kr8s
    except ImportError:
        raise UserError(
            "cluster.kind is kubernetes, which needs `pip install 'darkhaloscope[kubernetes]'`"
        ) from None
    return kr8s


def status_of(error: Exception) -> int | None:
    """The HTTP status of an API server's answer; none where there was no answer."""
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def asked(ask: Callable[[], T], *, known: tuple[int, ...] = ()) -> T:
    """What the API server answers; it is asked again for a minute where it is away or overburdened.

    Parameters
    ----------
    ask : callable
        A call of kr8s.
    known : tuple of int
        Statuses that the caller understands: their error is raised as it is.

    Raises
    ------
    UserError
        It refuses (4xx but 429): asked again it would say the same.
    Incomplete
        It does not come to itself.
    """
    kr8s = installed_kr8s()
    import httpx

    pauses = iter(PAUSES_S)
    while True:
        try:
            return ask()
        except (kr8s.ServerError, kr8s.APITimeoutError, httpx.TransportError) as error:
            status = status_of(error)
            if status in known:
                raise
            if status is not None and status < 500 and status != 429:
                raise UserError(f"the Kubernetes API server refused: {error}") from error
            if (pause := next(pauses, None)) is None:
                raise Incomplete(
                    f"the Kubernetes API server does not answer: {error}; the same command again "
                    "resumes"
                ) from error
            logger.warning("asking the Kubernetes API server again in %.0f s: %s", pause, error)
        time.sleep(pause)


def listed(kind: str, cluster: Any) -> list[Json]:
    """The objects of a kind (Pod, Deployment) that belong to a DaskCluster, as the API server gives them."""
    from kr8s import objects

    found: Iterable[Any] = getattr(objects, kind).list(
        namespace=cluster.namespace, label_selector={"dask.org/cluster-name": cluster.name}
    )
    return [item.raw for item in found]
