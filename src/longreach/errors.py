"""Every error Longreach raises on purpose.

LongreachError                 everything below; its text is one sentence that says what to do next
├── UsageError                 a wrong call: a value or name that cannot be (exit code 2)
├── MissingDependency          an optional package is not installed; the text says how to install it
├── ModelError                 a model cannot be found, read or used here
├── TrainingError              training stopped: memory was not enough, or a loss was not finite
├── DocumentError              a file cannot be read as text: missing, empty, binary, badly encoded
│   └── DataError              a line of a user's JSON lines cannot be used; also a UsageError
├── CorpusError                a corpus cannot be used
│   ├── CorpusNotFound         there is no corpus of that name
│   ├── CorpusExists           there is already a corpus of that name
│   ├── CorpusBusy             another process is writing to it
│   ├── FingerprintMismatch    made by another compressor or for another model
│   ├── CorpusDamaged          stored bytes are not those that were written
│   └── StorageError           the disk refused a write: full, read-only, not permitted
├── NothingFound               no passage has anything to do with a question
└── ContextError               a question and its context do not fit the window or the budget

The command line exits with `exit_code`: 2 for a wrong call, 1 for work that failed.
"""


class LongreachError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UsageError(LongreachError, ValueError):
    """The call itself is wrong.

    It is a ValueError too, so that plain Python code can catch it as one.
    """

    exit_code = 2


class MissingDependency(LongreachError, ImportError):
    """An optional package is not installed."""


class ModelError(LongreachError):
    """A model cannot be found, read or used here."""


class TrainingError(LongreachError):
    """Training stopped: memory was not enough, or a loss was not finite."""


class DocumentError(LongreachError):
    """A file cannot be read as text."""


class DataError(DocumentError, UsageError):
    """A file of JSON lines, or a record of a data set, cannot be used; the text names its place."""


class CorpusError(LongreachError):
    """A corpus cannot be used."""


class CorpusNotFound(CorpusError):
    """There is no corpus of that name."""

    exit_code = 2


class CorpusExists(CorpusError):
    """There is already a corpus of that name."""

    exit_code = 2


class CorpusBusy(CorpusError):
    """Another process is writing to the corpus."""


class FingerprintMismatch(CorpusError):
    """The corpus was made by another compressor or for another model."""


class CorpusDamaged(CorpusError):
    """Stored bytes are not those that were written."""


class StorageError(CorpusError):
    """The disk refused a write."""


class NothingFound(LongreachError):
    """No passage has anything to do with a question."""


class ContextError(LongreachError, ValueError):
    """A question and its context do not fit the window or the budget."""

    exit_code = 2


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, the machine's or a GPU's, was not enough."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "can't allocate memory" in str(error)


def reason_of(error: BaseException) -> str:
    """Returns what a library said as one short line, for the brackets of a sentence of ours."""
    return " ".join(str(error).split())[:200].rstrip(" .:") or type(error).__name__
