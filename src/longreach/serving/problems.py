"""What a client gets instead of an answer: OpenAI's error object, with a sentence that says what
to do."""

from typing import Any

from longreach.errors import (
    ContextError,
    CorpusBusy,
    CorpusDamaged,
    CorpusError,
    CorpusExists,
    CorpusNotFound,
    DocumentError,
    FingerprintMismatch,
    LongreachError,
    MissingDependency,
    ModelError,
    NothingFound,
    StorageError,
    UsageError,
    out_of_memory,
)

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


class Problem(Exception):
    """An error for a client.

    Args:
        status: Of HTTP.
        message: One sentence that says what to do.
        code: A word for programs.
        param: The parameter that it is about.
        retry_after: Seconds after which the same request may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def to_dict(self) -> dict[str, Any]:
        """Returns the body of the response."""
        kind = _TYPES.get(self.status)
        if kind is None:
            kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "code": self.code, "param": self.param}
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """Returns the headers that belong to it."""
        found = {}
        if self.retry_after is not None:
            # Whole seconds, and never 0: a client would ask again at once.
            found["Retry-After"] = str(max(1, round(self.retry_after)))
        if self.status == 401:
            found["WWW-Authenticate"] = "Bearer"
        return found


# The first class that fits decides, so that classes stand before those they are made of.
_STATUS: tuple[tuple[type[LongreachError], int, str], ...] = (
    (ContextError, 400, "context_length_exceeded"),
    (CorpusNotFound, 404, "not_found"),
    (CorpusExists, 409, "already_exists"),
    (CorpusBusy, 503, "corpus_busy"),
    (FingerprintMismatch, 503, "model_unavailable"),
    (CorpusDamaged, 500, "corpus_damaged"),
    (StorageError, 503, "storage_unavailable"),
    (CorpusError, 422, "corpus_empty"),
    (ModelError, 503, "model_unavailable"),
    (MissingDependency, 503, "not_installed"),
    (DocumentError, 422, "invalid_file"),
    (UsageError, 400, "invalid_value"),
)
_BUSY_SECONDS = 5.0


def explain(error: BaseException) -> Problem:
    """Returns what a client is told about an error."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, NothingFound):
        return Problem(
            422,
            "No passage has anything to do with the question: ask in other words, or name the"
            " document it is about (`longreach.document`).",
            code="nothing_found",
        )
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            retry = _BUSY_SECONDS if isinstance(error, CorpusBusy) else None
            return Problem(status, str(error), code=code, retry_after=retry)
    if out_of_memory(error):
        return Problem(
            503,
            "The server's memory is not enough for this now: try again, or ask for less at a time.",
            code="out_of_memory",
            retry_after=_BUSY_SECONDS,
        )
    return Problem(
        500,
        "Something went wrong inside the server: its log says where. Please report it.",
        code="internal_error",
    )


def no_such(what: str, name: str, param: str | None = None) -> Problem:
    """Returns the error for an object that does not exist."""
    code = "model_not_found" if what == "model" else "not_found"
    return Problem(
        404,
        f"There is no {what} '{name[:200]}': list those that exist with GET"
        f" /v1/{what.replace(' ', '_')}s.",
        code=code,
        param=param,
    )
