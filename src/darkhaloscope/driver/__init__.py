"""The blocks of a run: a bounded window of them in flight, each placed on one worker, until all are whole.

Anything may die on the way. A block whose task was lost, or whose files were out of reach, is tried
again under another name; when the scheduler is lost, markers are listed and what has none is submitted
again. A block that killed its workers waits until nothing else runs and is then tried alone, so that
whatever dies then dies of it; it is bisected to the brick, and only a brick that alone killed fresh
workers whose nannies (and so machines) live on is set apart: its rows fail as ``quarantined``.

versions  what must be alike on every worker
workers   who is there, and how they are made ready
signs     signs of life, from the workers and for the run's folder
suspects  which bricks of a block kill their workers
window    the blocks in flight
"""

from darkhaloscope.driver import signs, suspects, versions, window, workers
from darkhaloscope.driver.window import WORKERS_PER_BRICK, BlockRun, Brake, run_blocks
from darkhaloscope.driver.workers import Warm

__all__ = [
    "WORKERS_PER_BRICK",
    "BlockRun",
    "Brake",
    "Warm",
    "run_blocks",
    "signs",
    "suspects",
    "versions",
    "window",
    "workers",
]
