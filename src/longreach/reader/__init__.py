"""Floor 5: answers from a corpus. Retrieve, choose, assemble, generate, stream, cite."""

from longreach.reader.answer import Answer, AnswerStream, Citation, Timings, Usage
from longreach.reader.policy import Policy
from longreach.reader.reader import Reader
from longreach.reader.scorecard import Row, Scorecard

__all__ = ["Answer", "AnswerStream", "Citation", "Policy", "Reader", "Row", "Scorecard", "Timings", "Usage"]
