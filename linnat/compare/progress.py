"""What does one see while it runs? A line that is redrawn, with loss, rate and time left; a line for each end."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import TextIO

from linnat.compare.plan import Plan
from linnat.compare.pool import Event, Job

REDRAW = 0.2  # seconds
BAR = 20


class Progress:
    """How far all runs are.

    Parameters
    ----------
    plan : Plan
    stream : text file
    width : callable() or None
        Columns of the terminal; None where lines are not redrawn.
    clock : callable()
        Seconds.

    Examples
    --------
    >>> from linnat.compare.plan import Plan
    >>> Progress(Plan("digits", "", "digits", ("sgd", "kfac"), 100, None, 3, 4, 50, None)).count
    14
    """

    def __init__(
        self,
        plan: Plan,
        stream: TextIO = sys.stderr,
        width: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stream, self.width, self.clock = stream, width, clock
        self.trial = _share_of_trial(plan)
        methods = len(plan.optimisers)
        self.count = methods * (plan.trials + plan.seeds)
        self.whole = methods * (plan.trials * self.trial + plan.seeds)
        self.shares: dict[str, float] = {}
        self.there = 0.0  # what other sittings have done
        self.ended = 0
        self.last: dict[str, Event] = {}  # of each run on its way
        self.begin, self.drawn = clock(), -math.inf

    def __call__(self, job: Job, event: Event) -> None:
        """Take note of an event."""
        weight = self.trial if job.task.validation else 1.0
        share = 1.0 if event.ended else event.share
        if event.ended and event.status == "there":
            self.there += weight
        elif job.name not in self.shares:
            self.there += weight * event.share  # where its checkpoint stood, or nearly
        self.shares[job.name] = weight * share
        if event.ended:
            self.ended += 1
            if event.status != "there":
                self._say(job, event)
        self._draw(job, event)

    def close(self) -> None:
        """Leave the line clean."""
        if self.width is not None:
            print("\r\033[K", end="", file=self.stream, flush=True)

    def left(self) -> float | None:
        """Return the seconds that are left at this sitting's pace, None before there is one."""
        done = sum(self.shares.values())
        gained = done - self.there
        if gained <= 0 or self.whole <= 0:
            return None
        return (self.clock() - self.begin) * (self.whole - done) / gained

    def _say(self, job: Job, event: Event) -> None:
        self.close()
        facts = [f"{job.name}: {event.status}"]
        known = self.last.get(job.name) if event.train_loss is None else event
        if event.message:
            facts.append(event.message)
        elif known is not None and known.train_loss is not None:
            facts += [
                f"training loss {known.train_loss:.4g}",
                f"{known.update:,} updates",
                f"{known.seconds:.1f} s",
            ]
        print(", ".join(facts), file=self.stream, flush=True)

    def _draw(self, job: Job, event: Event) -> None:
        if event.status == "running":
            self.last[job.name] = event
        if self.width is None or self.clock() - self.drawn < REDRAW:
            return
        self.drawn = self.clock()
        done = min(1.0, sum(self.shares.values()) / self.whole) if self.whole else 1.0
        parts = [f"{self.ended}/{self.count} runs", job.name]
        if event.loss is not None:
            parts.append(f"loss {event.loss:.4g}")
        if event.seconds > 0:
            parts.append(f"{event.update / event.seconds:,.0f} updates/s")
        left = self.left()
        parts.append(f"{duration(left)} left" if left is not None else "")
        filled = round(BAR * done)
        line = f" {'█' * filled}{'░' * (BAR - filled)} {100 * done:3.0f} %  " + "  ".join(filter(None, parts))
        print("\r" + line[: self.width() - 1] + "\033[K", end="", file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """Return a length of time in words.

    Examples
    --------
    >>> duration(4.2), duration(90), duration(3700)
    ('4 s', '1 min 30 s', '1 h 01 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _share_of_trial(plan: Plan) -> float:
    """Return a trial's part of a run's budget; trials in updates are taken for as long as runs in updates."""
    if not plan.trials:
        return 0.0
    if plan.updates is not None and plan.trial_updates is not None:
        return plan.trial_updates / plan.updates
    if plan.seconds is not None and plan.trial_seconds is not None:
        return plan.trial_seconds / plan.seconds
    return 0.2  # two units: no pace can be foretold
