"""The process in which files are converted, so that it alone runs out of time or memory.

It answers one request after the other. A request is a line of JSON and the bytes of a file; an
answer is a line of JSON and the bytes of a text (see `WorkerRequest` and `WorkerAnswer`). Nothing
is unpickled on either side.
"""

import json
import os
from dataclasses import asdict, dataclass
from typing import IO

import psutil

from longreach.corpus.documents.formats import Format
from longreach.corpus.documents.limits import Limits, apply_limits, explain_excess
from longreach.errors import DocumentError, LongreachError
from longreach.wording import counted

_SPARE_SECONDS = 5
# A worker that holds more than this part of its memory is not used again.
_KEPT_SHARE = 4
MOST_HEADER_BYTES = 16 << 20
OUT_OF_MEMORY = 86
"""The exit code of a worker that has no memory left to say so."""


@dataclass(frozen=True)
class WorkerRequest:
    """A file to convert: the line before its bytes.

    Attributes:
        name: The file as messages call it.
        format: Says which converter to use.
        size: Number of bytes that follow.
        limits: What it may cost.
    """

    name: str
    format: Format
    size: int
    limits: Limits

    def to_line(self) -> bytes:
        """Returns the request as it is sent."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> "WorkerRequest":
        """Reads what `to_line` returned."""
        values = json.loads(line)
        format = Format(**values["format"] | {"suffixes": tuple(values["format"]["suffixes"])})
        return cls(values["name"], format, values["size"], Limits(**values["limits"]))


@dataclass(frozen=True)
class WorkerAnswer:
    """What became of a file: the line before the bytes of its text.

    Attributes:
        error: The sentence that says why it cannot be read; then there is no text.
        notes: What could not be read of it.
        size: Number of bytes of the text, which is UTF-8 with surrogates let through.
        last: Whether this worker ends now.
    """

    error: str | None = None
    notes: tuple[str, ...] = ()
    size: int = 0
    last: bool = False

    def to_line(self) -> bytes:
        """Returns the answer as it is sent."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> "WorkerAnswer":
        """Reads what `to_line` returned, and trusts nothing in it.

        Raises:
            ValueError: It is no answer.
        """
        values = json.loads(line)
        if not isinstance(values, dict) or values.keys() != asdict(cls()).keys():
            raise ValueError("not the fields of an answer")
        error = values["error"]
        notes = values["notes"]
        size = values["size"]
        last = values["last"]
        if not isinstance(error, str | None) or not isinstance(last, bool):
            raise ValueError("not the error of an answer")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ValueError("not the size of an answer")
        if not isinstance(notes, list) or set(map(type, notes)) - {str}:
            raise ValueError("not the notes of an answer")
        return cls(error, tuple(notes), size, last)


def main() -> None:
    """Answers requests from standard input until it ends."""
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    # What a library prints must not end up between the answers.
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    _limit_cores()
    try:
        while line := requests.readline(MOST_HEADER_BYTES):
            if _answer(WorkerRequest.parse(line), requests, answers).last:
                break
    except MemoryError:
        os._exit(OUT_OF_MEMORY)


def _answer(request: WorkerRequest, requests: IO[bytes], answers: IO[bytes]) -> WorkerAnswer:
    _limit_process(request.limits)
    raw = requests.read(request.size)
    if len(raw) < request.size:
        # The process that asked is gone.
        return WorkerAnswer(last=True)
    answer, text = _convert(request, raw)
    answers.write(answer.to_line())
    answers.write(text)
    answers.flush()
    return answer


def _convert(request: WorkerRequest, raw: bytes) -> tuple[WorkerAnswer, bytes]:
    name, limits = request.name, request.limits
    try:
        with apply_limits(limits):
            text, notes = request.format.convert(raw, name)
        if len(text) > limits.text_characters:
            characters = counted(len(text), "character")
            raise explain_excess(name, f"has a text of {characters}", "text_characters", limits)
        encoded = text.encode("utf-8", "surrogatepass")
        return WorkerAnswer(None, notes, len(encoded), _is_worn(limits)), encoded
    except LongreachError as error:
        return WorkerAnswer(str(error), last=_is_worn(limits)), b""
    except MemoryError:
        return WorkerAnswer(str(explain_memory(name, limits)), last=True), b""


def explain_memory(name: str, limits: Limits) -> DocumentError:
    """Returns the error for a file whose conversion needs too much memory."""
    return explain_excess(name, "needs too much memory to be converted", "memory_bytes", limits)


def _limit_process(limits: Limits) -> None:
    """Bounds the memory of this process, and its time should nobody be there to end it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    spent = resource.getrusage(resource.RUSAGE_SELF)
    seconds = int(spent.ru_utime + spent.ru_stime) + limits.seconds + _SPARE_SECONDS
    for what, value in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, limits.memory_bytes)):
        _, most = resource.getrlimit(what)
        if most != resource.RLIM_INFINITY:
            value = min(value, most)
        try:
            resource.setrlimit(what, (value, most))
        except (OSError, ValueError):  # macOS refuses some values
            continue


def _limit_cores() -> None:
    """Crashes are expected here: they leave no core files behind."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        pass


def _is_worn(limits: Limits) -> bool:
    """Returns whether so much memory is held that the next file might not get its share."""
    # Not `ru_maxrss`: under Linux that is inherited from the process that asked.
    return psutil.Process().memory_info().rss * _KEPT_SHARE > limits.memory_bytes


if __name__ == "__main__":
    main()
