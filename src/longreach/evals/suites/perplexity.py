"""Perplexity on held-out texts, by the position of the token that is predicted: does a model use
what lies far back?

A text is read in one piece, each at the same number of tokens; logits exist a chunk at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from longreach.datasets.sources import find
from longreach.errors import ContextError, UsageError
from longreach.evals.run import folder as run
from longreach.evals.run.runner import Progress, check_names
from longreach.evals.suites.choice import PERPLEXITY
from longreach.evals.systems.models import ModelReader
from longreach.models.decoder import decoder_of, evaluating, window_of
from longreach.models.loss import IGNORED, chunked_losses, softcap_of
from longreach.models.perplexity import bucket_sums, buckets, perplexity
from longreach.models.sharing import encode
from longreach.training.common.frame import stderr
from longreach.wording import counted

_CHARACTERS_PER_TOKEN = 16


class Text(NamedTuple):
    """A held-out text: its name, and its first token ids, as many as every other's."""

    name: str
    ids: list[int]


def texts(
    given: Sequence[str | Path],
    tokenizer: Any,
    length: int,
    *,
    samples: int | None = None,
    say: Callable[[str], None] = stderr,
) -> list[Text]:
    """The first `length` tokens of texts; those that are shorter are left out aloud.

    Args:
        given: Files, folders and Hub data sets, as `extend` reads them.
        tokenizer: Of the models.
        length: Tokens of each.
        samples: So many texts at most, the first ones.
        say: Is told what is left out.

    Raises:
        UsageError: No text is as long, or length is below 2.
        DocumentError: Something cannot be read.
    """
    if length < 2:
        raise UsageError(f"The length is {length}; perplexity takes at least 2 tokens.")
    found, short = list[Text](), 0
    taken = list[str]()
    for source in map(find, given):
        name = Path(source.name).name
        taken.append(name if name not in taken else f"{name} ({len(taken) + 1})")
        for number, text in enumerate(source.texts(say)):
            if len(found) == samples:
                break
            ids = _first(tokenizer, text, length)
            short += len(ids) < length
            if len(ids) == length:
                found.append(Text(f"{taken[-1]}#{number}", ids))
    if not found:
        raise UsageError(
            f"None of the texts has {counted(length, 'token')}: give longer ones, or ask for"
            " smaller --lengths."
        )
    if short:
        say(f"Texts of fewer than {counted(length, 'token')} are left out: {short} of them.")
    return found


def _first(tokenizer: Any, text: str, length: int) -> list[int]:
    """The first token ids of a text, of which no more is tokenised than is surely enough."""
    for part in (text[: length * _CHARACTERS_PER_TOKEN], text):
        ids = list(encode(tokenizer, part, verbose=False)["input_ids"])
        # Where a part ends, its last token may be another one.
        if len(ids) > length or len(part) == len(text):
            break
    return ids[:length]


def measure(
    held_out: Sequence[Text],
    readers: Sequence[ModelReader],
    folder: str | Path,
    *,
    settings: Mapping[str, Any],
    seed: int = 0,
    arguments: Sequence[str] = (),
    say: Callable[[str], None] = stderr,
) -> dict[str, Any]:
    """Reads every text with every model; goes on where it was stopped, as `evaluate` does.

    Args:
        held_out: As `texts` gives them.
        readers: Models.
        folder: Of the run: a new one, or the same run's.
        settings: How the texts were chosen.
        seed: For the record.
        arguments: Of the command line, for the record.
        say: Is told how far it is.

    Returns:
        What is in scores.json: rows of reader, bucket, tokens and perplexity.

    Raises:
        UsageError: The folder is another run's, or two readers or texts share a name.
        ContextError: The texts are longer than a model's window, and it does not read beyond.
    """
    folder, length = Path(folder), len(held_out[0].ids)
    check_names("readers are called", [reader.name for reader in readers])
    check_names("texts are called", [text.name for text in held_out])
    for reader in readers:
        window = window_of(reader.model)
        if window is not None and length > window and reader.too_long != "read":
            raise ContextError(
                f"{counted(length, 'token')} are more than the model's window of {window:,}: ask"
                " for a smaller --lengths, or read on with --beyond-window."
            )
    digest = run.digest_of({"name": text.name, "ids": _digest(text.ids)} for text in held_out)
    known = {reader.name: reader.identity() for reader in readers}
    device = readers[0].model.device
    header = run.header(
        PERPLEXITY, settings, seed, (digest, len(held_out)), known, arguments, device
    )
    spans = buckets(length)
    with run.opened(folder, header) as predictions:
        keys = [
            (reader.name, f"{text.name}/{start}")
            for reader in readers
            for text in held_out
            for start, _ in spans
        ]
        missing = [
            (reader, text)
            for reader in readers
            for text in held_out
            if any(
                (reader.name, f"{text.name}/{start}") not in predictions.lines for start, _ in spans
            )
        ]
        progress = Progress([len(text.ids) for _, text in missing], say)
        for reader, text in missing:
            for line in _lines(reader, text, spans):
                if (reader.name, line["id"]) not in predictions.lines:
                    predictions.add(line)
            progress.done(f"{reader.name}, {text.name}")
        return run.write_scores(folder, list(bucket_rows([predictions.lines[key] for key in keys])))


@torch.no_grad()
def _lines(
    reader: ModelReader, text: Text, spans: Sequence[tuple[int, int]]
) -> Iterator[dict[str, Any]]:
    model = reader.model
    ids = torch.tensor([text.ids], device=model.device)
    with evaluating(model):
        hidden = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state
        labels = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=IGNORED)
        weight = model.get_output_embeddings().weight
        losses = chunked_losses(hidden, weight, labels, softcap=softcap_of(model))[0]
    for (start, stop), (nll, tokens) in zip(
        spans, bucket_sums(losses, spans).tolist(), strict=True
    ):
        line = {
            "reader": reader.name,
            "suite": PERPLEXITY,
            "task": text.name,
            "id": f"{text.name}/{start}",
        }
        yield line | {"bucket": [start, stop], "tokens": int(tokens), "nll": nll}


def bucket_rows(lines: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One a reader and bucket: all texts together, every token weighing the same."""
    sums: dict[tuple[str, int, int], list[float]] = {}
    for line in lines:
        total = sums.setdefault((line["reader"], *line["bucket"]), [0.0, 0.0])
        total[0] += line["nll"]
        total[1] += line["tokens"]
    for (reader, start, stop), (nll, tokens) in sums.items():
        if tokens:
            row = {
                "reader": reader,
                "task": PERPLEXITY,
                "bucket": [start, stop],
                "tokens": int(tokens),
            }
            yield row | {"perplexity": perplexity(nll, tokens)}


def _digest(ids: Sequence[int]) -> str:
    return hashlib.sha256(repr(list(ids)).encode()).hexdigest()
