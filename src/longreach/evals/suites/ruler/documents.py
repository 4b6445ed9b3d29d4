"""RULER's two question tasks: the paragraphs of a question among those of others.

Paper: Hsieh et al. 2024, RULER (arXiv 2404.06654), after Rajpurkar et al. 2016, SQuAD (arXiv
1606.05250), and Yang et al. 2018, HotpotQA (arXiv 1809.09600); template of NVIDIA/RULER
(Apache-2.0).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice, starmap
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from longreach.errors import UsageError
from longreach.evals.suites.draw import Drawn, PromptParts, count_tokens, fit, piece_tokens
from longreach.jsontext import JsonObject, parse_json, read_field
from longreach.wording import counted

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ORDER = (
    "Answer the question based on the given documents. Only give me the answer and do not output"
    " any other words."
)
_CHARACTERS_PER_TOKEN = 8  # more than any tokenizer reaches in the mean


class Paragraphs(NamedTuple):
    """A question with its paragraphs, and others of the same article, which come next."""

    question: str
    answers: tuple[str, ...]
    gold: list[str]
    related: list[str]


def documents(
    path: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    budget: int,
    what: str,
    samples: int,
) -> Callable[[str, int], Drawn]:
    """Returns the function that draws the prompt of the n-th question from a stream of chance.

    Args:
        path: Questions in the JSON of SQuAD (1.1, 2.0 without what cannot be answered, XQuAD) or of
            HotpotQA.
        tokenizer: The model's.
        budget: Tokens of a prompt at most.
        what: The task and its length, for what is said.
        samples: How many questions are wanted.

    Raises:
        UsageError: The file cannot be read, is of another form, or holds too few questions whose
            own paragraphs fit.
    """
    read = read_paragraphs(Path(path))

    def fits(one: Paragraphs) -> bool:
        prompt = "".join(_parts(one.question, one.gold))
        return count_tokens(tokenizer, prompt) <= budget

    asked = list(islice(filter(fits, read), samples))
    if len(asked) < samples:
        raise UsageError(
            f"'{path}' holds {counted(len(asked), 'question')} whose own paragraphs fit {what}: "
            "ask for at most that many samples, or a greater length."
        )
    every = set[str]()
    for one in read:
        every.update(one.gold, one.related)
    # Sorted: a set has another order in every process.
    pool = sorted(every)
    known = dict[str, int]()  # tokens of paragraphs

    def draw(stream: str, index: int) -> Drawn:
        one = asked[index]
        order = _order_texts(one, pool, random.Random(stream), budget * _CHARACTERS_PER_TOKEN)

        def assemble(count: int) -> PromptParts:
            shown = order[:count]
            # `fit` assembles the same count more than once, and has to see the same order each
            # time.
            random.Random(f"{stream} order").shuffle(shown)
            return _parts(one.question, shown)

        fresh = []
        shown = []
        for text in order:
            # Questions share most paragraphs, so the tokens of each are counted once.
            if text not in known:
                fresh.append(text)
                # A number of two digits stands for all.
                shown.append(f"{_number(10, text)}\n\n")
        known.update(zip(fresh, piece_tokens(tokenizer, shown), strict=True))
        taken = list(accumulate(map(known.__getitem__, order), initial=0))
        count = fit(
            tokenizer,
            assemble,
            taken.__getitem__,
            budget,
            least=len(one.gold),
            most=len(order),
            what=what,
        )
        # Where every paragraph fits, the length is not reached.
        if count == len(order):
            raise UsageError(
                f"The {count} paragraphs of '{path}' do not fill {what}: give more or a smaller"
                " length."
            )
        return Drawn(assemble(count), one.question, one.answers)

    return draw


def _order_texts(
    asked: Paragraphs, pool: Sequence[str], chance: random.Random, characters: int
) -> list[str]:
    """Returns the paragraphs of a prompt, those that matter first, until they surely fill it."""
    near = chance.sample(asked.related, len(asked.related))
    used = {*asked.gold, *near}
    far = chance.sample(pool, len(pool))
    order = list[str]()
    left = characters
    for text in [*asked.gold, *near, *(text for text in far if text not in used)]:
        order.append(text)
        left -= len(text)
        if left < 0:
            break
    return order


def _number(number: int, text: str) -> str:
    return f"Document {number}:\n{text}"


def _parts(question: str, texts: Sequence[str]) -> PromptParts:
    context = "\n\n".join(starmap(_number, enumerate(texts, 1)))
    after = f"\n\n{_ORDER}\n\nQuestion: {question} Answer:"
    return PromptParts(f"{_ORDER}\n\nThe following are given documents.\n\n", context, after)


def read_paragraphs(path: Path) -> list[Paragraphs]:
    """Returns the questions of a file with their paragraphs.

    Raises:
        UsageError: It cannot be read, or is of another form.
    """
    try:
        data = parse_json(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"The questions in '{path}' cannot be read ({error.strerror}): check the path."
        ) from error
    except ValueError as error:
        raise UsageError(
            f"'{path}' is not JSON ({error}): give SQuAD's or HotpotQA's own file."
        ) from error
    try:
        if isinstance(data, dict):
            found = list(_squad(data["data"]))
        elif isinstance(data, list):
            found = list(_hotpotqa(data))
        else:
            raise TypeError("it is neither an object nor a list")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"lacks {error}" if isinstance(error, KeyError) else "holds something else"
        raise UsageError(
            f"'{path}' {problem}: give questions in the JSON of SQuAD or HotpotQA."
        ) from error
    if not found:
        raise UsageError(
            f"'{path}' holds no question that can be answered: give SQuAD's or HotpotQA's own file."
        )
    return found


def _squad(articles: list[JsonObject]) -> Iterator[Paragraphs]:
    for article in articles:
        paragraphs = read_field(article, "paragraphs", list)
        texts = list(dict.fromkeys(paragraph["context"] for paragraph in paragraphs))
        for paragraph in paragraphs:
            own = paragraph["context"]
            related = [text for text in texts if text != own]
            for asked in paragraph["qas"]:
                answers = tuple(answer["text"] for answer in asked["answers"])
                # SQuAD 2.0 holds questions that nothing answers.
                if answers and not asked.get("is_impossible"):
                    yield Paragraphs(asked["question"], answers, [own], related)


def _hotpotqa(items: list[JsonObject]) -> Iterator[Paragraphs]:
    for item in items:
        if "context" in item:
            pages = read_field(item, "context", list)
        else:
            # The form of NYU's sample of it: the two paragraphs that matter by themselves.
            pages = [(item[f"title_{letter}"], item[f"para_{letter}"]) for letter in "ab"]
            pages += read_field(item, "distractors", list)
        texts = []
        for title, sentences, *_ in pages:
            texts.append(f"{title}\n{''.join(sentences)}")
        answers = (read_field(item, "answer", str),)
        yield Paragraphs(read_field(item, "question", str), answers, texts, [])
