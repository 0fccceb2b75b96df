"""Whether a release can be read at all: said before a run, and noticed during one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from darkhaloscope.errors import Incomplete, Reason, UserError
from darkhaloscope.survey.cutouts import Cutouts

_OF_THE_PLACE = {Reason.UNREADABLE, Reason.MISSING_FILE, Reason.CORRUPT_FILE, Reason.MISSING_BAND}
"""Reasons that say something of the files, not of the sky or the targets."""


def check_readable(first: Cutouts) -> None:
    """Look at the first brick that was read, before anything is made.

    Raises
    ------
    UserError
        It is out of reach: wrong credentials, no permission.
    Incomplete
        It is for now: no connection, no answer.
    """
    if len(first.reason) and (first.reason == Reason.UNREADABLE).all():
        raise (UserError if first.lasting else Incomplete)(
            f"the first brick cannot be read: {first.notes[0].rstrip('.')} "
            "(AWS_* variables and FSSPEC_S3_ANON say who asks; see docs/reading.md)"
        )


def shared_trouble(cutouts: Cutouts) -> Reason:
    """The reason of the files that all rows of a brick share; OK where there is none."""
    shared = set(map(Reason, cutouts.reason.tolist()))
    only = shared.pop() if len(shared) == 1 else Reason.OK
    return only if only in _OF_THE_PLACE else Reason.OK


def check_not_all_fail(tried: Sequence[Cutouts]) -> None:
    """Look at several bricks from all over a plan, before anything is made; one alone may be bad luck.

    Raises
    ------
    UserError
        All rows of all of them fail alike for their files' sake.
    Incomplete
        They do so because nothing answers now.
    """
    reasons = {shared_trouble(cutouts) for cutouts in tried}
    if len(tried) > 1 and len(reasons) == 1 and Reason.OK not in reasons:
        names = ", ".join(cutouts.brick for cutouts in tried)
        passes = reasons == {Reason.UNREADABLE} and not any(cutouts.lasting for cutouts in tried)
        raise (Incomplete if passes else UserError)(
            f"all rows of {len(tried)} bricks from all over the plan ({names}) fail alike "
            f"({reasons.pop().text}), and nothing was written; the last one says: "
            f"{tried[-1].notes[0].rstrip('.')}; mend it, or set read.stop_after: 0 where they have to "
            "fail"
        )


@dataclass
class Streak:
    """Bricks in a row, in the order in which they come, whose rows all fail for the same reason."""

    limit: int
    """So many are no bad luck; 0: any number is."""
    length: int = 0
    reason: Reason = Reason.OK
    last: str = ""

    def add(self, brick: str, reasons: Sequence[Reason], note: str = "") -> None:
        """Count one brick; two parts of one, one after the other, are one.

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
        Incomplete
            It is, and files are out of reach: a run that is called again sees whether for good.
        """
        counts = Counter(reasons)
        same = next(iter(counts)) if len(counts) == 1 else Reason.OK
        if same not in _OF_THE_PLACE:
            self.length, self.reason, self.last = 0, Reason.OK, ""
            return
        if same is not self.reason:
            self.length, self.last = 0, ""
        self.length += brick != self.last
        self.reason, self.last = same, brick
        if self.limit and self.length >= self.limit:
            said = f"; the last one says: {note.rstrip('.')}" if note else ""
            raise (Incomplete if same is Reason.UNREADABLE else UserError)(
                f"{self.length} bricks in a row failed alike ({same.text}), the last one {brick}"
                f"{said}; mend it and call the same command again, it resumes, or set read.stop_after: 0 "
                "where they have to fail"
            )


class Watch:
    """Follows the bricks of a run in the plan's order while blocks come in any order.

    Parameters
    ----------
    limit : int
        Of the :class:`Streak`.
    """

    def __init__(self, limit: int) -> None:
        self.trouble: UserError | None = None
        self._streak = Streak(limit)
        self._first = self._next = 0
        self._waiting: dict[int, tuple[Sequence[tuple[str, int]], Sequence[str]]] = {}
        self._failed: dict[int, set[int]] = {}

    def add(
        self, block: int, bricks: Sequence[tuple[str, int]] = (), notes: Sequence[str] = ()
    ) -> None:
        """Take one block; ``trouble`` is set where a streak is too long.

        Parameters
        ----------
        block : int
        bricks : sequence of (str, int)
            Its bricks in order, each with the reason that all its rows share, or 0; none of a block that
            was whole before, which ends a streak.
        notes : sequence of str
            Its sentences about files.
        """
        self._failed[block] = {code for _, code in bricks} & _OF_THE_PLACE
        self._waiting[block] = (bricks, notes)
        while self.trouble is None and self._next in self._waiting:
            self._follow(*self._waiting.pop(self._next))
            self._next += 1

    def _follow(self, bricks: Sequence[tuple[str, int]], notes: Sequence[str]) -> None:
        for brick, code in bricks or [("", Reason.OK)]:
            if not self._streak.length or code != self._streak.reason:
                self._first = self._next
            note = next((note for note in notes if brick in note), "")
            try:
                self._streak.add(brick, [Reason(code)], note)
            except UserError as error:
                self.trouble = error
                return

    def alike(self) -> list[int]:
        """Blocks from the streak's first on that hold bricks which failed as it did."""
        reason = self._streak.reason
        return [b for b, found in self._failed.items() if b >= self._first and reason in found]
