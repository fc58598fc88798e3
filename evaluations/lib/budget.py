"""A limit of time: what fits into it, what doesn't and why, and an end that isn't overrun."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

MARGIN = 1.25
"""How often as long as it took before a step may take."""


class OutOfTimeError(Exception):
    """What was begun is stopped, since there is no time for more of it. What is finished is kept."""


@dataclass
class Budget:
    """Seconds to spend on steps whose durations are measured, those of earlier calls included.

    Attributes:
        seconds: From ``began`` on, to the end of all.
        reserve: Of them those that are left for the end, for which no step is begun.
        times: Seconds that a step took last, by its name. A step that is measured changes them.
        clock: Tells the seconds.
        began: When it began, as the clock tells it; now, if absent.
        skipped: What was left out, and why.
    """

    seconds: float
    reserve: float = 0.0
    times: MutableMapping[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    began: float | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = self.clock() if self.began is None else self.began
        self.end()

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self.clock() - self._began

    @property
    def left(self) -> float:
        """Seconds for steps; below 0 where they are used up."""
        return self.seconds - self.reserve - self.elapsed

    def expected(self, step: str, guess: float = 0.0) -> float:
        """Return the seconds to reckon with for a step: as long as last time and a quarter, or else the guess."""
        return MARGIN * self.times[step] if step in self.times else guess

    def fits(self, step: str, guess: float = 0.0, *, beside: float = 0.0) -> bool:
        """Return whether a step can be begun.

        Args:
            step: Its name.
            guess: Seconds, if it was never measured.
            beside: Seconds that have to remain for others.
        """
        return max(self.expected(step, guess), 0.0) + beside < self.left

    def begin(self, step: str, what: str, guess: float = 0.0, *, beside: float = 0.0) -> bool:
        """Return whether a step can be begun; if not, note that ``what`` is left out, and why."""
        if self.fits(step, guess, beside=beside):
            self._doing = (step, what, self.clock())
            return True
        kept = f", and {beside:.0f} s are kept for what follows" if beside else ""
        took = "it is reckoned with" if step in self.times else "it may take"
        expected = self.expected(step, guess)
        self.skip(what, f"{took} {expected:.3g} s, but {max(0.0, self.left):.3g} s are left{kept}")
        return False

    def skip(self, what: str, why: str) -> None:
        """Note that something is left out."""
        self.skipped.append((what, why))
        print(f"left out: {what}: {why}", flush=True)

    def end(self) -> None:
        """Note that the step begun last has ended."""
        self._doing = ("", "what was being done", self.clock())

    def give_up(self, why: str, *, too_long: bool = False) -> None:
        """Note that the step begun last is left unfinished; if it took too long, let the next call reckon with that."""
        step, what, began = self._doing
        if step and too_long:
            self.times[step] = max(self.times.get(step, 0.0), self.clock() - began)
        self.skip(what, why)

    @contextmanager
    def measured(self, step: str) -> Iterator[None]:
        """Measure a step; of one that fails nothing is noted."""
        began = self.clock()
        yield
        self.times[step] = self.clock() - began
        self.end()


def began_at() -> float:
    """Return when this process began, as ``time.monotonic`` tells it; now, where the system doesn't say."""
    stat, now = Path("/proc/self/stat"), time.monotonic()
    if not stat.is_file():
        return now
    ticks = float(stat.read_text().rpartition(")")[2].split()[19])  # since the machine was started
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return now - max(0.0, age)


@contextmanager
def ended_by(seconds: float, end: Callable[[], None]) -> Iterator[None]:
    """Call a function in another thread if the block takes longer than this: it is to end the process."""
    timer = threading.Timer(max(seconds, 0.0), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
