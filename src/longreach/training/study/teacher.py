"""Questions and answers from a model behind an OpenAI-compatible endpoint, such as vLLM."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

import httpx2

from longreach.errors import TrainingError, UsageError
from longreach.training.study.selfstudy import AuthorRequest

_KEYS = ("LONGREACH_TEACHER_KEY", "OPENAI_API_KEY")
# HTTP statuses that may pass: timeouts, conflicts, rate limits and overloaded servers.
_PASSING = {408, 409, 429, 500, 502, 503, 504, 529}
_TRIES = 5


class Endpoint:
    """A teacher that answers `POST <url>/chat/completions`.

    The key, where it takes one, is in $LONGREACH_TEACHER_KEY, else in $OPENAI_API_KEY.

    Args:
        url: Its address, with or without "/v1" and "/chat/completions" at the end.
        model: Name of the model there.
        parallel: Requests under way at a time.
        wait_seconds: How long to wait before the second try; twice as long before each further
            one, five tries in all.

    Raises:
        UsageError: The address cannot be one, or the model has no name.
    """

    def __init__(
        self, url: str, model: str | None, *, parallel: int = 4, wait_seconds: float = 1.0
    ) -> None:
        try:
            whole = httpx2.URL(url)
        except httpx2.InvalidURL:
            whole = httpx2.URL()
        if whole.scheme not in ("http", "https") or not whole.host:
            raise UsageError(
                f"'{url}' is not the address of a teacher: give one such as"
                " http://localhost:8000/v1."
            )
        if not model:
            raise UsageError("The teacher's model has no name: give it with --teacher-model.")
        # Users paste the address in any of the forms that other clients of this API ask for.
        base = url.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
        self.url = f"{base}/v1/chat/completions"
        self.name = self.model = model
        self._parallel = parallel
        self._wait_seconds = wait_seconds

    def write(self, requests: Sequence[AuthorRequest]) -> Iterator[tuple[int, str]]:
        """See `selfstudy.Author`.

        Raises:
            TrainingError: The teacher cannot be reached, or refuses; what it wrote until then was
                yielded.
        """
        key = os.environ.get(_KEYS[0]) or os.environ.get(_KEYS[1])
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        failed: TrainingError | None = None
        with (
            httpx2.Client(headers=headers, timeout=120) as client,
            ThreadPoolExecutor(self._parallel) as pool,
        ):
            under_way = {}
            for number, request in enumerate(requests):
                under_way[pool.submit(self._ask, client, request)] = number
            try:
                for future in as_completed(under_way):
                    if future.cancelled():
                        continue
                    try:
                        text = future.result()
                    except TrainingError as error:
                        # The first error is reported at the end: requests under way may still bring
                        # texts, which are paid for and worth keeping.
                        failed = failed or error
                        for other in under_way:
                            other.cancel()
                        continue
                    yield under_way[future], text
            finally:
                # The caller may stop reading early, and requests that still wait must not be sent
                # then.
                pool.shutdown(wait=False, cancel_futures=True)
        if failed:
            raise failed

    def _ask(self, client: httpx2.Client, request: AuthorRequest) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": f"{request.text}\n\n{request.request}"}],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
        }
        reason = ""
        for attempt in range(_TRIES):
            if attempt:
                # A little chance keeps parallel requests from all coming back at the same moment.
                time.sleep(self._wait_seconds * 2 ** (attempt - 1) * random.uniform(1, 1.25))
            try:
                response = client.post(self.url, json=body)
            except httpx2.HTTPError as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if response.status_code == 200:
                return _content(response, self.url)
            reason = f"HTTP {response.status_code}: {' '.join(response.text.split())[:120]}"
            # A wrong key, name or address does not get better by waiting.
            if response.status_code not in _PASSING:
                raise TrainingError(
                    f"The teacher at {self.url} refuses ({reason}): check --teacher,"
                    f" --teacher-model and the key in ${_KEYS[0]}."
                )
        raise TrainingError(
            f"The teacher at {self.url} does not answer ({reason}): what it wrote so far is kept,"
            " so start it and run the same command again."
        )


def _content(response: httpx2.Response, url: str) -> str:
    try:
        # A model that wrote nothing may come as null.
        return str(response.json()["choices"][0]["message"]["content"] or "")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise TrainingError(
            f"What answers at {url} is no OpenAI-compatible endpoint: check --teacher."
        ) from error
