"""How much each key may ask in a minute."""

import math
import threading
import time
from collections.abc import Callable

from longreach.serving.problems import Problem
from longreach.serving.security.keys import ApiKey

_MINUTE = 60.0


class Bucket:
    """An allowance that fills up evenly, to a minute's worth at most.

    Args:
        per_minute: The allowance of a minute.
        clock: Seconds from some start.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._left = float(per_minute)
        self._at = clock()
        self._lock = threading.Lock()

    def wait_seconds(self, amount: float) -> float:
        """Returns the seconds until `amount` is there; 0 where it is there now."""
        with self._lock:
            self._fill()
            missing = min(amount, self._per_minute) - self._left
        return max(0.0, missing / self._per_minute * _MINUTE)

    def take(self, amount: float) -> None:
        """Takes an amount, below zero where more was used than was there."""
        with self._lock:
            self._fill()
            self._left -= amount

    def _fill(self) -> None:
        now = self._clock()
        gained = (now - self._at) / _MINUTE * self._per_minute
        self._left = min(float(self._per_minute), self._left + gained)
        self._at = now


class Limits:
    """The allowances of all keys."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._lock = threading.Lock()

    def check(self, key: ApiKey) -> None:
        """Counts a request.

        Raises:
            Problem: 429, with the seconds after which it would pass.
        """
        requests = self._bucket(key, "requests", key.requests_per_minute)
        tokens = self._bucket(key, "tokens", key.tokens_per_minute)
        waits = []
        for bucket in (requests, tokens):
            if bucket is not None:
                waits.append(bucket.wait_seconds(1))
        if any(waits):
            wait = math.ceil(max(waits))
            raise Problem(
                429,
                f"The key '{key.name}' has used up its limit: try again in {wait} s.",
                code="rate_limit_exceeded",
                retry_after=wait,
            )
        if requests is not None:
            requests.take(1)

    def count_tokens(self, key: ApiKey | None, tokens: int) -> None:
        """Counts what an answer has read and written; the next ones wait for it."""
        if key is None:
            return
        bucket = self._bucket(key, "tokens", key.tokens_per_minute)
        if bucket is not None:
            bucket.take(tokens)

    def _bucket(self, key: ApiKey, kind: str, per_minute: int | None) -> Bucket | None:
        if per_minute is None:
            return None
        with self._lock:
            return self._buckets.setdefault((key.name, kind), Bucket(per_minute))
