"""``dhs``: the terminal's face of :mod:`darkhaloscope.commands`.

app       the application, its streams, the options that many commands share
inputs    sky, targets, plan, cache
runs      run, audit, report, selftest, demo
studies   study, ablation, completeness
detect    train, score, evaluate, lenses
folders   status, verify, repair, export
"""

from __future__ import annotations

import signal
import sys
import traceback

from darkhaloscope import commands

# In the order of dhs --help.
# isort: off
from darkhaloscope.cli import inputs, runs, folders, studies, detect

# isort: on
from darkhaloscope.cli.app import app, brake, errors
from darkhaloscope.errors import Incomplete, UserError

__all__ = ["app", "detect", "folders", "inputs", "main", "runs", "studies"]


class _Interrupted(BaseException):
    """Ctrl-C or SIGTERM, under a name that the command-line library does not take for its own."""


def _interrupt(number: int, frame: object) -> None:
    """The first Ctrl-C or SIGTERM lets a run finish what is in flight; the next one stops it now."""
    if brake.listening and not brake.pulled:
        brake.pulled = True
        again = "Ctrl-C again" if number == signal.SIGINT else "once more"
        errors.print(f"dhs: told to stop, finishing the blocks in flight; {again} stops now")
        return
    raise _Interrupted


def main() -> None:
    """Entry point: a user's mistake is one sentence and exit code 2; what passes, or is not done, is 4.

    So are Ctrl-C and SIGTERM. An error of ours is a traceback and exit code 70, so that nobody takes it for
    a verdict.
    """
    # As the first process of a container nothing but a handler makes SIGTERM end us.
    before = {each: signal.signal(each, _interrupt) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        app()
    except UserError as error:
        store_is_away = error.passes and not isinstance(error, Incomplete)
        said = f"{error}; it may pass, then the same command goes on" if store_is_away else error
        errors.print(f"dhs: {said}", style="red", soft_wrap=True, markup=False, highlight=False)
        sys.exit(commands.EXIT_INCOMPLETE if error.passes else commands.EXIT_USER)
    except _Interrupted:
        errors.print("dhs: interrupted; the same command again resumes")
        sys.exit(commands.EXIT_INCOMPLETE)
    except Exception:  # noqa: BLE001 (the last line of defence: Python's own exit code is a verdict's)
        traceback.print_exc()
        errors.print("dhs: this is an error of darkhaloscope; please report it")
        sys.exit(commands.EXIT_OURS)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
