"""RULER's two question tasks: the paragraphs of a question among those of others.

Paper: Hsieh et al. 2024, RULER (arXiv 2404.06654), after Rajpurkar et al. 2016, SQuAD (arXiv
1606.05250), and Yang et al. 2018, HotpotQA (arXiv 1809.09600); template of NVIDIA/RULER
(Apache-2.0).
"""

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from longreach.errors import UsageError
from longreach.evals.suites.draw import Drawn, Parts, count_tokens, fit, piece_tokens
from longreach.jsontext import parse_json
from longreach.wording import counted

_ORDER = (
    "Answer the question based on the given documents. Only give me the answer and do not output"
    " any other words."
)
_CHARACTERS_PER_TOKEN = 8  # more than any tokenizer reaches in the mean


class Asked(NamedTuple):
    """A question with the paragraphs that it is asked of, and others of the same article, which
    come next."""

    question: str
    answers: tuple[str, ...]
    gold: list[str]
    related: list[str]


def documents(
    path: str | Path, tokenizer: Any, budget: int, what: str, samples: int
) -> Callable[[str, int], Drawn]:
    """Makes the function that draws the prompt of the n-th question from a stream of chance.

    Args:
        path: questions in the JSON of SQuAD (1.1, 2.0 without what cannot be answered, XQuAD) or of
            HotpotQA.
        tokenizer: the model's.
        budget: tokens of a prompt at most.
        what: the task and its length, for what is said.
        samples: how many questions are wanted.

    Raises:
        UsageError: the file cannot be read, is of another form, or holds too few questions whose
            own paragraphs fit.
    """
    read = _read(Path(path))

    def least(asked: Asked) -> int:
        return count_tokens(tokenizer, "".join(_parts(asked.question, asked.gold)))

    asked = list(islice((question for question in read if least(question) <= budget), samples))
    if len(asked) < samples:
        raise UsageError(
            f"'{path}' holds {counted(len(asked), 'question')} whose own paragraphs fit {what}: "
            "ask for so many samples at most, or for a greater length."
        )
    pool = sorted({text for question in read for text in (*question.gold, *question.related)})

    known = dict[str, int]()  # tokens of paragraphs

    def draw(stream: str, index: int) -> Drawn:
        chance, (question, answers, gold, related) = random.Random(stream), asked[index]
        near = chance.sample(related, len(related))
        used = {*gold, *near}
        others = (text for text in chance.sample(pool, len(pool)) if text not in used)
        order, characters = list[str](), 0
        for text in chain(gold, near, others):
            order.append(text)
            characters += len(text)
            if characters > budget * _CHARACTERS_PER_TOKEN:
                break

        def assemble(count: int) -> Parts:
            shown = order[:count]
            random.Random(f"{stream} order").shuffle(shown)
            return _parts(question, shown)

        fresh = [text for text in order if text not in known]
        known.update(
            zip(
                fresh,
                piece_tokens(tokenizer, [_document(10, text) + "\n\n" for text in fresh]),
                strict=True,
            )
        )
        tokens = list(accumulate((known[text] for text in order), initial=0))
        count = fit(
            tokenizer,
            assemble,
            tokens.__getitem__,
            budget,
            least=len(gold),
            most=len(order),
            what=what,
        )
        if count == len(order):
            raise UsageError(
                f"The {count} paragraphs of '{path}' do not fill {what}: give more or a smaller"
                " length."
            )
        return Drawn(assemble(count), question, answers)

    return draw


def _document(number: int, text: str) -> str:
    return f"Document {number}:\n{text}"


def _parts(question: str, texts: Sequence[str]) -> Parts:
    context = "\n\n".join(_document(i, text) for i, text in enumerate(texts, 1))
    after = f"\n\n{_ORDER}\n\nQuestion: {question} Answer:"
    return Parts(f"{_ORDER}\n\nThe following are given documents.\n\n", context, after)


def _read(path: Path) -> list[Asked]:
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
        found = list(_squad(data["data"]) if isinstance(data, dict) else _hotpotqa(data))
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


def _squad(articles: list[dict[str, Any]]) -> Iterator[Asked]:
    for article in articles:
        texts = list(dict.fromkeys(paragraph["context"] for paragraph in article["paragraphs"]))
        for paragraph in article["paragraphs"]:
            related = [text for text in texts if text != paragraph["context"]]
            for asked in paragraph["qas"]:
                answers = tuple(answer["text"] for answer in asked["answers"])
                if answers and not asked.get("is_impossible"):
                    yield Asked(asked["question"], answers, [paragraph["context"]], related)


def _hotpotqa(items: list[dict[str, Any]]) -> Iterator[Asked]:
    for item in items:
        if "context" in item:
            paragraphs = item["context"]
        else:  # the form of NYU's sample of it: the two paragraphs that matter by themselves
            paragraphs = [(item[f"title_{k}"], item[f"para_{k}"]) for k in "ab"] + item[
                "distractors"
            ]
        texts = [f"{title}\n{''.join(sentences)}" for title, sentences, *_ in paragraphs]
        yield Asked(item["question"], (item["answer"],), texts, [])
