"""What a server tells Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from longreach.engine.engine import engine_of

if TYPE_CHECKING:
    from longreach.serving.answering.writing import Outcome
    from longreach.serving.ingesting import Ingesting
    from longreach.serving.pool import Pool

_FIRST_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
_TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "longreach_requests",
            "Requests by endpoint and status.",
            ("endpoint", "status"),
            registry=self.registry,
        )
        self._tokens = Counter(
            "longreach_tokens",
            "Tokens by kind: prompt, cached (of the prompt) and completion.",
            ("kind",),
            registry=self.registry,
        )
        self._first = Histogram(
            "longreach_first_token_seconds",
            "Seconds to the first token.",
            buckets=_FIRST_SECONDS,
            registry=self.registry,
        )
        self._each = Histogram(
            "longreach_token_seconds",
            "Seconds for each token after the first.",
            buckets=_TOKEN_SECONDS,
            registry=self.registry,
        )
        self._hits = Counter(
            "longreach_cache_hits",
            "Answers whose prompt had been read before, in part.",
            registry=self.registry,
        )
        self._cancelled = Counter(
            "longreach_answers_cancelled",
            "Answers whose client went away.",
            registry=self.registry,
        )
        self._joined = Histogram(
            "longreach_batch_rows",
            "Answers at work when one ended, itself included.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )

    def watch(self, pool: Pool, ingesting: Ingesting) -> None:
        """Adds what is only looked up when Prometheus asks."""
        self.registry.register(_State(pool, ingesting))

    def count_request(self, endpoint: str, status: int) -> None:
        """Counts a request."""
        self._requests.labels(endpoint, str(status)).inc()

    def count_answer(self, outcome: Outcome, at_work: int) -> None:
        """Counts an answer that has come to its end."""
        self._tokens.labels("prompt").inc(outcome.prompt_tokens)
        self._tokens.labels("cached").inc(outcome.cached_tokens)
        self._tokens.labels("completion").inc(outcome.completion_tokens)
        self._first.observe(outcome.first_token_seconds)
        if outcome.completion_tokens > 1:
            writing = outcome.seconds - outcome.first_token_seconds
            self._each.observe(writing / (outcome.completion_tokens - 1))
        if outcome.cached_tokens:
            self._hits.inc()
        self._joined.observe(max(at_work, 1))

    def count_cancelled(self) -> None:
        """Counts an answer that nobody waits for any more."""
        self._cancelled.inc()


class _State(Collector):
    """Gauges of what there is at the moment."""

    def __init__(self, pool: Pool, ingesting: Ingesting) -> None:
        self._pool = pool
        self._ingesting = ingesting

    def collect(self) -> Iterator[Metric]:
        """Yields the gauges."""
        working = 0
        waiting = 0
        models = self._pool.models()
        for model in models:
            engine = engine_of(model)
            working += engine.working
            waiting += engine.waiting
        gauges = {
            "longreach_rows": ("Answers that the engines work on.", working),
            "longreach_rows_waiting": ("Answers that wait for a row.", waiting),
            "longreach_kv_cache_bytes": (
                "Bytes of the KV caches kept for later questions.",
                self._pool.hot_bytes(),
            ),
            "longreach_models": ("Models that are loaded.", len(models)),
            "longreach_ingest_queue": ("Files that are not read yet.", self._ingesting.waiting()),
        }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=value)
