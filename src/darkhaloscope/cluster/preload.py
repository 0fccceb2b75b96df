"""``dask worker --preload darkhaloscope.cluster.preload``: a worker that is ready before it is known.

It then has the renderer compiled and its logs structured, whichever scheduler it finds.
"""

from __future__ import annotations

import os

from distributed import Worker

from darkhaloscope import lensing, logs


def dask_setup(worker: Worker) -> None:
    """Called by Dask in a worker's process before the worker starts."""
    if logs.are_json():
        logs.to_json(worker=os.environ.get("DASK_WORKER_NAME", str(worker.name)))
    lensing.warm()
