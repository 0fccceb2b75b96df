"""What can go wrong, in two kinds: a user's mistake, and a row that could not be made.

A user's mistake is a :class:`UserError`: one sentence, no traceback, exit code 2; or 4 where it passes.
A row that could not be made is a row: it carries one of the :class:`Reason` values.
"""

from __future__ import annotations

from enum import IntEnum


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one sentence that says what is wrong, where, and what to do.
    """

    @property
    def passes(self) -> bool:
        """Whether the same command again may go on with nothing mended."""
        return False


class Incomplete(UserError):  # noqa: N818 (a state, not a fault)
    """What was asked for needs a finished run, and this one is not; running again resumes it."""

    @property
    def passes(self) -> bool:
        return True


class Reason(IntEnum):
    """Why a row is as it is: the closed list behind the variable ``reason``.

    The numbers are stored, so they never change; new reasons are added at the end.
    ``NOT_WRITTEN`` is the fill value of the array: a row that still holds it was never reached.
    """

    NOT_WRITTEN = 0
    OK = 1
    NO_COVERAGE = 2
    MISSING_BAND = 3
    OUTSIDE_BRICK = 4
    CROSSES_EDGE = 5
    MISSING_FILE = 6
    CORRUPT_FILE = 7
    UNREADABLE = 8
    NAN_PIXELS = 9
    PSF_MISSING = 10
    RENDER_FAILED = 11
    QUARANTINED = 12
    EXCLUDED_BY_THETA_E_MIN = 13
    EXCLUDED_BY_MIN_THETA_E_OVER_PSF = 14

    @property
    def text(self) -> str:
        """The reason as it is stored in ``flag_meanings`` and printed, e.g. ``crosses_edge``."""
        return self.name.lower()

    @property
    def failed(self) -> bool:
        """Whether such a row lacks its pixels: it is neither ok nor excluded by a cut."""
        return self is not Reason.OK and not self.text.startswith("excluded_by_")

    @property
    def of_files(self) -> bool:
        """Whether files cause it: once they are mended or in reach, such a row may have its pixels."""
        return self in _OF_FILES


_OF_FILES = frozenset(
    {
        Reason.MISSING_BAND,
        Reason.MISSING_FILE,
        Reason.CORRUPT_FILE,
        Reason.UNREADABLE,
        Reason.NAN_PIXELS,
        Reason.PSF_MISSING,
    }
)
