"""Perplexity on held-out texts, by the position of the token that is predicted.

It says whether a model uses what lies far back. A text is read in one piece, each at the same
number of tokens; logits exist a chunk at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from longreach.errors import ContextError
from longreach.evals.run import folder as run
from longreach.evals.run.predictions import Line
from longreach.evals.run.progress import RunProgress
from longreach.evals.run.rows import JsonObject
from longreach.evals.run.runner import check_names, identify
from longreach.evals.suites.perplexity.rows import SUITE, bucket_rows
from longreach.evals.suites.perplexity.texts import HeldOutText
from longreach.evals.systems.models import ModelSystem
from longreach.models.decoder import decoder_of, evaluating, window_of
from longreach.models.loss import IGNORED, chunked_losses, softcap_of
from longreach.models.perplexity import bucket_sums, buckets
from longreach.wording import counted, say_on_stderr

Span = tuple[int, int]
"""Positions from the first of them up to the last, exclusive."""


def measure(
    held_out: Sequence[HeldOutText],
    systems: Sequence[ModelSystem],
    folder: str | Path,
    *,
    settings: Mapping[str, object],
    seed: int = 0,
    arguments: Sequence[str] = (),
    say: Callable[[str], None] = say_on_stderr,
) -> JsonObject:
    """Reads every text with every system, or resumes that.

    Args:
        held_out: As `texts.read_texts` gives them.
        systems: Models.
        folder: Of the run: a new one, or the same run's.
        settings: How the texts were chosen.
        seed: For the record.
        arguments: Of the command line, for the record.
        say: Is told how far it is.

    Returns:
        What is in scores.json: rows of system, bucket, tokens and perplexity.

    Raises:
        UsageError: The folder is another run's, or two systems or texts share a name.
        ContextError: The texts are longer than a model's window, and it does not read beyond.
    """
    folder = Path(folder)
    length = len(held_out[0].ids)
    known = identify(systems)
    check_names("texts are called", [text.name for text in held_out])
    # Before the folder is made, and before hours of reading.
    for system in systems:
        _check_window(system, length)
    asked = [{"name": text.name, "ids": _digest(text.ids)} for text in held_out]
    header = run.make_header(
        SUITE,
        settings,
        seed,
        run.digest_of(asked),
        len(held_out),
        known,
        arguments,
        systems[0].model.device,
    )
    spans = buckets(length)
    with run.opened(folder, header) as predictions:
        keys = []
        missing = []
        weights = []
        for system in systems:
            for text in held_out:
                own = [(system.name, _identifier(text, span)) for span in spans]
                keys += own
                # A text is read at once: where a line is missing all of it is read again.
                if not predictions.lines.keys() >= set(own):
                    missing.append((system, text))
                    weights.append(len(text.ids))
        progress = RunProgress(weights, say)
        for system, text in missing:
            for line in _read(system, text, spans):
                # An interrupted reading may have left some lines of this text.
                if not predictions.has(system.name, line["id"]):
                    predictions.add(line)
            progress.done(f"{system.name}, {text.name}")
        return run.write_scores(folder, bucket_rows(predictions.lines[key] for key in keys))


def _check_window(system: ModelSystem, length: int) -> None:
    window = window_of(system.model)
    if window is not None and length > window and system.too_long != "read":
        raise ContextError(
            f"{counted(length, 'token')} are more than the model's window of {window:,}: ask"
            " for a smaller --lengths, or read on with --beyond-window."
        )


def _identifier(text: HeldOutText, span: Span) -> str:
    return f"{text.name}/{span[0]}"


@torch.no_grad()
def _read(system: ModelSystem, text: HeldOutText, spans: Sequence[Span]) -> Iterator[Line]:
    """Reads a text and yields a line for each span of positions."""
    model = system.model
    ids = torch.tensor([text.ids], device=model.device)  # [1, T]
    with evaluating(model):
        hidden = decoder_of(model)(input_ids=ids, use_cache=False).last_hidden_state  # [1, T, D]
        # The last token predicts nothing.
        labels = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=IGNORED)
        weight = model.get_output_embeddings().weight
        losses = chunked_losses(hidden, weight, labels, softcap=softcap_of(model))[0]
    sums = bucket_sums(losses, spans).tolist()
    for span, (nll, tokens) in zip(spans, sums, strict=True):
        yield {
            "reader": system.name,
            "suite": SUITE,
            "task": text.name,
            "id": _identifier(text, span),
            "bucket": list(span),
            "tokens": int(tokens),
            "nll": nll,
        }


def _digest(ids: Sequence[int]) -> str:
    return hashlib.sha256(repr(list(ids)).encode()).hexdigest()
