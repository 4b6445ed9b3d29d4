"""What a fuzzer counts, and the promises that every one of them checks."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from longreach.errors import LongreachError

_MOST_FAILURES = 20


@dataclass
class Tally:
    """The outcomes of one fuzzer: how many inputs were tried, what became of them, and each broken promise."""

    what: str
    tried: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, outcome: str) -> None:
        """Notes what became of one input."""
        self.tried += 1
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def fail(self, why: str) -> None:
        """Notes a broken promise."""
        self.count("FAILED")
        if len(self.failures) < _MOST_FAILURES:
            self.failures.append(why)

    def attempt(self, name: str, work: Callable[[], str]) -> None:
        """Does one thing to an input: `work` returns an outcome; anything but an error of ours is a failure."""
        try:
            outcome = work()
        except LongreachError as error:
            problem = sentence_problem(str(error))
            if problem:
                self.fail(f"{name}: the message {problem}: {error!s:.300}")
            else:
                self.count("refused")
        except Exception as error:
            self.fail(f"{name}: {type(error).__name__}: {error!s:.300}")
        else:
            if outcome.startswith("FAILED"):
                self.fail(f"{name}: {outcome.removeprefix('FAILED ')}")
            else:
                self.count(outcome)


def sentence_problem(message: str) -> str | None:
    """Returns what keeps a message from being one clear line, or None."""
    if "\n" in message or "\x1b" in message:
        return "is more than one line, or holds control characters"
    if not message.strip() or not re.search(r"[.)]$", message.strip()):
        return "is no whole sentence"
    if "Traceback" in message:
        return "shows a traceback"
    return None


class Clock:
    """Measures a fuzzer: `with Clock(tally): ...`."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *raised: object) -> None:
        self.tally.seconds = round(time.monotonic() - self._began, 1)
