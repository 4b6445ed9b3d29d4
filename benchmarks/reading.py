"""How well questions are answered from vectors: token F1 against ratio, beside the controls that
tell what it means.

    python benchmarks/reading.py STORIES QUESTIONS --compressor smollm2-autocompressor --ratio 4 8
    15 30 --out FILE.json

STORIES is a folder of texts, QUESTIONS JSON lines about them, both as `recipes/fairytaleqa.py`
writes them. Each compressor reads every story at each ratio; each question is answered from its
story's vectors and, as a control, from those of another one. `--within N` reads the vectors of the
passages that BM25 finds best, in one N-th of the positions that the full story takes, question and
template counted in both (one passage at least), and beside them as much raw text. `--baselines`
answers without context and from the full story, adapter off. Greedy, at most 32 tokens. What the
report has already is not measured again; each reading says which command measured it.
"""

import argparse
import json
import random
import re
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

import longreach as lr
from longreach.compressors.registry import make_compressor
from longreach.datasets.questions import read_questions
from longreach.engine.prompt import PromptBuilder
from longreach.evals.scores.intervals import interval
from longreach.evals.scores.overlap import token_f1
from longreach.models.machine import record

FULL = {
    "no context": lr.Policy(raw=0, compressed="none", adapter=False),
    "full story": lr.Policy(raw="document", compressed="none", adapter=False),
}

WHOLE = lr.Policy(raw=0, compressed="document")
PASSAGES = lr.Policy(k=99, raw=0, compressed="passages")
RAW = lr.Policy(k=20, raw=20, compressed="none", cut=True)


def measure(
    reader: lr.Reader, questions: list, policies: list[lr.Policy], documents: list[str]
) -> dict:
    """Asks each question about a document: one by one, as a context that was read is hot for the
    next question."""
    began, few = time.perf_counter(), lr.Sampling(max_new_tokens=32)
    if policies[0].nothing:
        texts = [one.question for one in questions]
        answers = reader.ask_many(
            texts, documents=documents, policy=policies, sampling=few, batch_size=16
        )
    else:
        asked = zip(questions, documents, policies, strict=True)
        answers = [
            reader.ask(one.question, document=name, policy=policy, sampling=few)
            for one, name, policy in asked
        ]
    scores = [
        token_f1(answer.text, question.answers)
        for answer, question in zip(answers, questions, strict=True)
    ]
    mean, low, high = (
        None if value is None else round(100 * value, 2) for value in interval(scores)
    )
    return {
        "f1": mean,
        "f1_low": low,
        "f1_high": high,
        "questions": len(questions),
        "positions": round(sum(answer.usage.positions for answer in answers) / len(answers), 1),
        "vectors": round(sum(answer.usage.vectors for answer in answers) / len(answers), 1),
        "source_tokens": round(
            sum(answer.usage.source_tokens for answer in answers) / len(answers), 1
        ),
        "seconds_a_question": round((time.perf_counter() - began) / len(questions), 3),
        "scores": [round(score, 4) for score in scores],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stories", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--compressor", nargs="*", default=[])
    parser.add_argument("--ratio", nargs="*", type=int, default=[4, 8, 15, 30])
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--baselines", action="store_true")
    parser.add_argument("--limit", type=int, help="so many of the questions, drawn by seed 0")
    parser.add_argument("--budget", type=int, default=8100)
    parser.add_argument(
        "--within", nargs="*", type=int, default=[], help="read passages within 1/N of a story"
    )
    parser.add_argument("--only", default="", metavar="REGEX", help="readings whose names have it")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    arguments = [
        word for word in sys.argv[1:] if word not in (str(given.stories), str(given.questions))
    ]
    made = record(arguments, torch.device("cpu"))
    command = made.pop("command").replace(
        "longreach", "python benchmarks/reading.py STORIES QUESTIONS", 1
    )
    settings = {name: getattr(given, name) for name in ("model", "dtype", "limit", "budget")}
    report = (
        json.loads(given.out.read_text())
        if given.out.is_file()
        else made | settings | {"readings": {}}
    )
    if any(report.get(name) != value for name, value in settings.items()):
        parser.error(
            f"{given.out} holds readings of other settings than {settings}: give another file."
        )
    wanted = [(name, ratio) for name in given.compressor for ratio in given.ratio]
    for name, ratio in ([("mean-pool", 1000)] if given.baselines else []) + wanted:
        label = f"{Path(name).name} {ratio}x"
        readings = (
            {name: (policy, None) for name, policy in FULL.items()}
            if ratio == 1000
            else ways(label, given.within)
        )
        readings = {
            name: way
            for name, way in readings.items()
            if name not in report["readings"] and re.search(given.only, name)
        }
        if not readings:
            continue
        model, tokenizer = lr.load(given.model, dtype=given.dtype)
        compressor = make_compressor(name, model, tokenizer, ratio=ratio)
        with tempfile.TemporaryDirectory() as folder:
            corpus = lr.Corpus.create(folder, "stories", compressor)
            corpus.add(given.stories, progress=True)
            tokens = {document.document: document.tokens for document in corpus.documents()}
            names = list(tokens)
            questions = read_questions(given.questions, names, "stories")
            if given.limit:
                questions = random.Random(0).sample(questions, given.limit)
            questions = sorted(questions, key=lambda question: names.index(str(question.document)))
            reader = lr.Reader(corpus, compressor.model, tokenizer, given.adapter)
            prompts = PromptBuilder(compressor.model, tokenizer)
            own = [str(question.document) for question in questions]
            other = [names[(names.index(document) + 1) % len(names)] for document in own]
            for reading, (policy, within) in readings.items():
                fixed = [prompts.fixed(question.question) for question in questions]
                # Of the shortest stories one passage is read, though it takes a little more.
                least = prompts.vectors_cost(compressor.vectors_in(compressor.segment_tokens))
                budgets = [
                    max((tokens[document] + taken) // within, least + taken)
                    if within
                    else given.budget
                    for document, taken in zip(own, fixed, strict=True)
                ]
                policies = [replace(policy, budget=budget) for budget in budgets]
                documents = other if "another" in reading else own
                found = report["readings"][reading] = {
                    **measure(reader, questions, policies, documents),
                    "command": command,
                }
                print(
                    reading,
                    {key: value for key, value in found.items() if key != "scores"},
                    flush=True,
                )
                given.out.write_text(json.dumps(report, indent=1) + "\n")


def ways(label: str, within: list[int]) -> dict[str, tuple[lr.Policy, int | None]]:
    """The ways of reading from one compressor's vectors, and what part of a story's positions each
    may take."""
    found = {label: (WHOLE, None), f"{label}, another story": (WHOLE, None)}
    for part in within:
        found[f"{label}, passages within 1/{part}"] = (PASSAGES, part)
        found[f"{label}, passages within 1/{part}, another story"] = (PASSAGES, part)
        found[f"{label}, raw passages within 1/{part}"] = (RAW, part)
        found[f"{label}, raw passages within 1/{part}, adapter off"] = (
            replace(RAW, adapter=False),
            part,
        )
    return found


if __name__ == "__main__":
    main()
