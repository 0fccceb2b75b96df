"""Whether a release can be read at all: said before a run, and noticed during one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from darkhaloscope.errors import Reason, UserError
from darkhaloscope.survey.cutouts import Cutouts

SAME_IN_A_ROW = 20
"""So many bricks one after the other that fail alike are no bad luck."""

_OF_THE_PLACE = {Reason.UNREADABLE, Reason.MISSING_FILE, Reason.CORRUPT_FILE, Reason.MISSING_BAND}
"""Reasons that say something of the files, not of the sky or the targets."""


def check_readable(first: Cutouts) -> None:
    """Look at the first brick that was read, before anything is made.

    Raises
    ------
    UserError
        It is out of reach: wrong credentials, no permission, no connection.
    """
    if len(first.reason) and (first.reason == Reason.UNREADABLE).all():
        raise UserError(
            f"the first brick cannot be read: {first.notes[0].rstrip('.')} "
            "(AWS_* variables and FSSPEC_S3_ANON say who asks; see docs/reading.md)"
        )


@dataclass
class Streak:
    """Bricks in a row, in the order in which they come, whose rows all fail for the same reason."""

    limit: int = SAME_IN_A_ROW
    length: int = 0
    reason: Reason = Reason.OK

    def add(self, brick: str, reasons: Sequence[Reason], note: str = "") -> None:
        """Count one brick.

        Parameters
        ----------
        brick : str
        reasons : sequence of Reason
            Of its rows.
        note : str
            What its first note says.

        Raises
        ------
        UserError
            It is the ``limit``-th in a row that failed like the one before.
        """
        counts = Counter(reasons)
        same = next(iter(counts)) if len(counts) == 1 else Reason.OK
        if same not in _OF_THE_PLACE:
            self.length, self.reason = 0, Reason.OK
            return
        self.length = self.length + 1 if same is self.reason else 1
        self.reason = same
        if self.length >= self.limit:
            said = f"; the last one says: {note.rstrip('.')}" if note else ""
            raise UserError(
                f"{self.length} bricks in a row failed alike ({same.text}), the last one {brick}"
                f"{said}; mend it and call the same command again, it resumes"
            )
