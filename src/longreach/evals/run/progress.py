"""How much of a run is done, and how long the rest takes."""

import time
from collections.abc import Callable, Sequence

from longreach.wording import format_clock


class RunProgress:
    """Says how much is done and how long the rest takes.

    Args:
        weights: Of each piece of work, in order, such as the characters that are read.
        say: Is told a line at a time.
    """

    def __init__(self, weights: Sequence[int], say: Callable[[str], None]) -> None:
        self._weights = list(weights)
        self._say = say
        self._done = 0
        self._began = time.perf_counter()
        self._spoke = self._began

    def done(self, what: str, every_seconds: float = 5.0) -> None:
        """Counts one more, and says so now and then, and at the end."""
        self._done += 1
        now = time.perf_counter()
        whole = self._done == len(self._weights)
        # One line every few seconds is enough, and the last one always comes.
        if now - self._spoke < every_seconds and not whole:
            return
        self._spoke = now
        weight = sum(self._weights[: self._done])
        left = sum(self._weights) - weight
        # Pieces of work differ in size: their weights tell how much of the time is over.
        seconds = (now - self._began) * left / weight
        self._say(f"{self._done}/{len(self._weights)}  {what}  {format_clock(seconds)} left")
