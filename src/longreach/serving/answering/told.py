"""The field `longreach` of an answer: what a corpus was read for it, and how."""

from longreach.jsontext import JsonObject
from longreach.serving.answering.writing import Outcome


def tell_reading(outcome: Outcome) -> JsonObject:
    """Returns the field with its name; {} for the answer of a model alone."""
    answer = outcome.answer
    if answer is None:
        return {}
    told: JsonObject = {
        "policy": answer.policy,
        "citations": [quote.to_passage() for quote in outcome.quotes],
        "files_in_progress": outcome.waiting,
        "source_tokens": answer.usage.source_tokens,
        "memory_positions": answer.usage.vectors,
        "text_positions": answer.usage.raw_tokens,
        "first_token_seconds": outcome.first_token_seconds,
        "seconds": outcome.seconds,
    }
    return {"longreach": told}
