"""``python -m darkhaloscope.cluster.retire``: before its pod goes, a worker hands on what it holds.

Called by the pod's preStop hook: a node that is drained or taken back then costs no finished task.
"""

from __future__ import annotations

import os

from distributed import Client

TIMEOUT = "20s"


def retire(scheduler: str, worker: str) -> None:
    """Retire one worker by its name; without a scheduler there is nobody to hand anything to."""
    try:
        client = Client(scheduler, timeout=TIMEOUT, set_as_default=False)
    except OSError:
        return
    with client:
        client.retire_workers(names=[worker], close_workers=True)


if __name__ == "__main__":
    retire(os.environ["DASK_SCHEDULER_ADDRESS"], os.environ["DASK_WORKER_NAME"])
