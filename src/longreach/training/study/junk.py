"""What is wrong with questions and answers that a model wrote and nobody should learn from.

Small models repeat what they were told, copy the text, or answer from memory. All texts are
compared as scores compare them: see `longreach.plain`.
"""

from collections.abc import Sequence

from longreach.plain import words

NO_QUESTION = "no question"
COPIED_REQUEST = "copy of the request"
COPIED_PASSAGE = "copy of the passage"
REPEATED = "asked before"
NO_ANSWER = "no answer"
NOT_IN_PASSAGE = "answer not in the passage"

_SHARED_WITH_REQUEST = 6  # words in a row that nobody writes by chance
_SHORTEST_COPY = 4  # words; shorter questions may stand in a text and be asked all the same
_FEW = 2  # words of an answer that all have to be in the passage; of more, half
# Words that any text holds, so that they say nothing about where an answer comes from.
_COMMON_WORDS = """
i you he she it we they him her them his its their our your my me us this that these those there here who whom which
what when where why how is are was were be been being am do does did done has have had having will would can could shall
should may might must not no nor and or but if then than so as at by for from in into of off on onto out over to under
up with without about after before because while during between both each some any all also just only very more most
such own same other s t
"""
_COMMON = frozenset(_COMMON_WORDS.split())


def fault_of_question(question: str, request: str, passage: str) -> str | None:
    """Returns what is wrong with a question, one of the names above; None where nothing is.

    Args:
        question: What was taken for a question; empty where nothing was.
        request: What the model was told.
        passage: What it was to ask about.
    """
    asked = words(question, articles=True)
    if not asked:
        return NO_QUESTION
    told = words(request, articles=True)
    if _within(asked, told) or _shares(asked, told, _SHARED_WITH_REQUEST):
        return COPIED_REQUEST
    if len(asked) >= _SHORTEST_COPY and _within(asked, words(passage, articles=True)):
        return COPIED_PASSAGE
    return None


def fault_of_answer(answer: str, question: str, passage: str) -> str | None:
    """Returns what is wrong with an answer, one of the names above; None where nothing is.

    What it says are its words without those of the question and those of any text; numbers all have
    to be there.
    """
    said = words(answer)
    if not said:
        return NO_ANSWER
    there = set(words(passage, articles=True))
    told = set(said) - set(words(question)) - _COMMON
    # An answer of nothing but common words and those of the question is compared whole.
    told = told or set(said)
    found = told & there
    # A wrong number makes an answer wrong, however many of its other words are there.
    numbers = {word for word in told if _holds_digit(word)}
    enough: float = len(told)
    if len(told) > _FEW:
        enough = len(told) / 2
    if len(found) >= enough and numbers <= found:
        return None
    return NOT_IN_PASSAGE


def _holds_digit(word: str) -> bool:
    return any(character.isdigit() for character in word)


def _within(part: Sequence[str], whole: Sequence[str]) -> bool:
    """Returns whether words stand in a row in others."""
    # Spaces at both ends, so that no word matches a part of a longer one.
    return f" {' '.join(part)} " in f" {' '.join(whole)} "


def _shares(one: Sequence[str], other: Sequence[str], length: int) -> bool:
    """Returns whether two texts share a number of words in a row."""
    runs = {tuple(other[at : at + length]) for at in range(len(other) - length + 1)}
    return any(tuple(one[at : at + length]) in runs for at in range(len(one) - length + 1))
