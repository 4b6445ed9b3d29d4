"""Prompts are as long as they can be, however well their pieces were counted beforehand."""

import pytest

from longreach.errors import ContextError
from longreach.evals.suites.draw import PromptParts, count_tokens, fit, piece_tokens


@pytest.mark.parametrize("piece, start", [(10, 0), (10, 500), (14, 0), (8, 0)])
@pytest.mark.parametrize("budget, count", [(1000, 98), (1009, 98), (1010, 99), (30, 1), (10_000, 200)])
def test_a_prompt_has_no_room_for_one_more_piece_as_it_was_counted(tokenizer, piece, start, budget, count):
    def assemble(pieces):
        return PromptParts("before 56 ", "nine more " * pieces, "after 678 ")

    assert count_tokens(tokenizer, "".join(assemble(98))) == 1000
    found = fit(tokenizer, assemble, lambda n: start + piece * n, budget, least=1, most=200, what="a task")
    assert found == count or (piece > 10 and found == count - 1 and budget - 10 * (found + 2) < piece)


def test_what_does_not_fit_is_said_with_how_much_is_missing(tokenizer):
    with pytest.raises(ContextError, match="The shortest prompt of vt at 90 tokens takes 10 tokens more"):
        fit(
            tokenizer,
            lambda n: PromptParts("", "ten more. " * n, ""),
            lambda n: 10 * n,
            90,
            least=10,
            most=20,
            what="vt at 90 tokens",
        )


def test_pieces_are_counted_without_what_surrounds_a_text(tokenizer):
    assert piece_tokens(tokenizer, []) == [] and piece_tokens(tokenizer, ["abc", "", "ä"]) == [3, 0, 2]
