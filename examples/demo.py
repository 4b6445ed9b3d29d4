"""`make demo`: a novel into memory, three questions, and an honest table of what was read.

Takes two to four minutes on two CPU cores the first time, under one the second (the memory is kept
in `.demo/`).
"""

import resource
import shutil
import sys
import time
from pathlib import Path

import torch

import longreach as lr
from longreach.engine.rows import read_prefix
from longreach.errors import CorpusError, LongreachError
from longreach.models.decoder import window_of

HERE = Path(__file__).resolve().parent
BOOK = HERE / "alice.txt"
QUESTIONS = (
    "What did the label on the bottle that Alice found say?",
    "Which animal smokes a hookah on a mushroom?",
    "What is strange about the Hatter's watch?",
)
COMPRESSOR, RATIO = "smollm2-weighted-pool", 8
MEASURED_TOKENS = 3072
RAW_ONLY = lr.Policy(compressed="none")
VECTORS_ONLY = lr.Policy(raw=0)


def open_corpus(model, tokenizer):
    """The demo's corpus with the book in it, and the seconds that reading it took; 0 if that was
    done before."""
    compressor = lr.WeightedPool.from_pretrained(COMPRESSOR, model, tokenizer, ratio=RATIO)
    store = HERE.parent / ".demo"
    try:
        corpus = lr.Corpus.open(store, "alice", compressor)
    except CorpusError:  # not there yet, or of an earlier release
        shutil.rmtree(store, ignore_errors=True)
        corpus = lr.Corpus.create(
            store, "alice", compressor, model_ref="smollm2", compressor_ref=COMPRESSOR
        )
    report = corpus.add([lr.Document(BOOK.name, BOOK.read_text(encoding="utf-8"))], progress=True)
    return corpus, report.seconds if report.tokens else 0.0


def seconds_to_read(model, tokenizer, text, whole):
    """Seconds to read `whole` tokens raw: a measured prefill of 3,072, scaled by the number of
    operations."""
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:MEASURED_TOKENS]
    with torch.no_grad():
        embeds = model.get_input_embeddings()(torch.tensor(ids))
    read_prefix(model, embeds[:64])
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        read_prefix(model, embeds)
        seconds.append(time.perf_counter() - began)
    config = model.config
    matrices = sum(parameter.numel() for parameter in model.model.layers.parameters())

    def operations(tokens):
        attention = (
            2 * tokens * config.num_hidden_layers * config.num_attention_heads * config.head_dim
        )
        # Each token meets every weight and, on average, half the others.
        return tokens * (2 * matrices + attention)

    return min(seconds) * operations(whole) / operations(MEASURED_TOKENS)


def main():
    """Runs the demo."""
    began = time.perf_counter()
    print("Loading SmolLM2-135M-Instruct (converted once, then cached) ...", flush=True)
    model, tokenizer = lr.load("smollm2", device="cpu")
    corpus, ingest_seconds = open_corpus(model, tokenizer)
    (book,) = corpus.documents()
    took = f"in {ingest_seconds:.0f} s" if ingest_seconds else "earlier, and kept"
    print(f"Alice's Adventures in Wonderland: {book.tokens:,} tokens, read {took};")
    print(
        f"they are now {book.vectors:,} vectors of {corpus.settings.dim} numbers in {book.passages} passages.\n"
    )

    reader = lr.Reader(corpus, model, tokenizer)
    sampling = lr.Sampling(max_new_tokens=48)
    answers, same = [], 0
    for question in QUESTIONS:
        print(f"Q: {question}")
        print("A: ", end="", flush=True)
        stream = reader.stream(question, sampling=sampling)
        for piece in stream:
            print(piece, end="", flush=True)
        answers.append(stream.answer)
        raw = reader.ask(question, policy=RAW_ONLY, sampling=sampling).text
        vectors = reader.ask(question, policy=VECTORS_ONLY, sampling=sampling).text
        same += raw == answers[-1].text
        print(
            f"\n   raw text only: {raw or '(nothing)'}\n   vectors only:  {vectors or '(nothing)'}"
        )
        best = answers[-1].passages[0]
        print(f"   best passage:  characters {best.start:,}-{best.end:,}, read as {best.read_as}\n")

    print("Measuring how long the whole text would take ...", flush=True)
    whole = seconds_to_read(model, tokenizer, corpus.document_text(book.document), book.tokens)
    print_table(answers, book, whole, window_of(model))
    print(
        f"\nWhere the answers come from: {same} of {len(QUESTIONS)} are word for word the same with the raw passages "
        f"alone.\nThe compressor ({COMPRESSOR}, {RATIO} tokens a vector) and the adapter that reads it were trained\n"
        "on fairy tales, for two hours on one core; what its vectors carry is seen in the lines 'vectors only'."
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\nThe demo took {time.perf_counter() - began:.0f} s; peak memory {peak:.1f} GiB.")


def print_table(answers, book, whole, window):
    """Positions and seconds of each question against reading everything."""
    print(
        f"\n{'':<22}{'positions':>11}{'vectors':>9}{'raw':>7}{'ratio':>8}{'s to first token':>18}"
    )
    for number, answer in enumerate(answers, start=1):
        usage, seconds = answer.usage, answer.timings.first_token_seconds
        ratio = f"{book.tokens / usage.positions:.0f}x"
        counts = f"{usage.positions:>11,}{usage.vectors:>9,}{usage.raw_tokens:>7,}{ratio:>8}"
        print(f"{f'question {number}':<22}{counts}{seconds:>18.1f}")
    print(
        f"{'the whole text':<22}{book.tokens:>11,}{0:>9}{book.tokens:>7,}{'1x':>8}{whole:>17.0f}*"
    )
    print(f"* not measured: scaled up from {MEASURED_TOKENS:,} tokens by the number of operations.")
    print(f"  The text would not even fit the model's window of {window:,} tokens.")


if __name__ == "__main__":
    try:
        main()
    except LongreachError as error:
        sys.exit(f"demo: {error}")
