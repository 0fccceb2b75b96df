"""``dask scheduler --preload darkhaloscope.cluster.guard``: an idle scheduler takes its cluster away.

Where the Dask operator looks after idle clusters this is not needed. It asks over plain tcp, so that it
cannot look after one that speaks TLS. Dask itself counts the idle time, from the start or the last task
(``distributed.scheduler.idle-timeout``), and closes the scheduler; its pod would only be started again.
"""

from __future__ import annotations

import logging
import os
import time

from distributed import Scheduler

logger = logging.getLogger("distributed.scheduler")


def is_idle(scheduler: Scheduler) -> bool:
    """Whether a scheduler closes because it has done nothing for its idle time-out."""
    since, limit = scheduler.idle_since, scheduler.idle_timeout
    return bool(since and limit and time.time() > since + limit)


async def dask_teardown(scheduler: Scheduler) -> None:
    """Called by Dask when the scheduler closes; deletes its DaskCluster if it was idle.

    What goes wrong here is logged by Dask; the scheduler that comes back will try again.
    """
    if not is_idle(scheduler):
        return
    from kr8s.asyncio.objects import new_class

    name, namespace = os.environ["DHS_CLUSTER"], os.environ["DHS_NAMESPACE"]
    logger.info("nobody works here: deleting the Dask cluster %s", name)
    dask_cluster = new_class("DaskCluster", "kubernetes.dask.org/v1")
    await (await dask_cluster.get(name, namespace=namespace)).delete()
