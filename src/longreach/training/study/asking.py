"""The kinds of questions that are asked about a passage. Imports no torch.

Paper: Eyuboglu et al. 2025, Cartridges (arXiv 2506.06266): five kinds of questions cover a text
better than one.
"""

from longreach.errors import UsageError

KINDS = {
    "structure": (
        "Write one question about how the text above is arranged: what comes first, what follows,"
        " which part deals with what."
    ),
    "summary": (
        "Write one question that asks for a short summary of one thing the text above is about."
    ),
    "fact": (
        "Write one question about one particular fact in the text above: a name, a number, a place,"
        " a reason."
    ),
    "use": (
        "Write one question that somebody would ask who has a task to do and needs what the text"
        " above says for it."
    ),
    "creative": (
        "Write one unusual question that the text above lets one answer: a comparison, a what-if, a"
        " view."
    ),
}


def check_per_passage(number: int) -> None:
    """Raises UsageError where so many questions cannot be asked about one passage."""
    if not 1 <= number <= len(KINDS):
        raise UsageError(
            f"per_passage is {number}; give 1 to {len(KINDS)}, a question of each kind at most."
        )
