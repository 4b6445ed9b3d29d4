"""How well questions are answered from vectors: token F1 against ratio, beside the controls that tell what it means.

    python benchmarks/reading.py STORIES QUESTIONS --compressor smollm2-autocompressor --ratio 4 8 15 30 --out FILE.json

STORIES is a folder of texts, QUESTIONS JSON lines about them, both as `recipes/fairytaleqa.py` writes them. Each
compressor reads every story at each ratio; each question is answered from its story's vectors and, as a control, from
those of another one. `--baselines` answers without context and from the full story too. Greedy, at most 32 tokens; what
the report has already is not measured again.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

import longreach as lr
from longreach.evals.scores import interval, token_f1
from longreach.models.machine import record
from longreach.training.questions import read_questions
from longreach.workspace import make_compressor

FULL = {"no context": lr.Policy(raw=0, compressed="none"), "full story": lr.Policy(raw="document", compressed="none")}


def measure(reader: lr.Reader, questions: list, policy: lr.Policy, documents: list[str], batch_size: int) -> dict:
    """Asks each question about a document."""
    began = time.perf_counter()
    answers = reader.ask_many(
        [question.question for question in questions],
        documents=documents,
        policy=policy,
        sampling=lr.Sampling(max_new_tokens=32),
        batch_size=batch_size,
    )
    scores = [token_f1(answer.text, question.answers) for answer, question in zip(answers, questions, strict=True)]
    mean, low, high = (round(100 * value, 2) for value in interval(scores))
    return {
        "f1": mean,
        "f1_low": low,
        "f1_high": high,
        "questions": len(questions),
        "positions": round(sum(answer.usage.positions for answer in answers) / len(answers), 1),
        "vectors": round(sum(answer.usage.vectors for answer in answers) / len(answers), 1),
        "seconds_a_question": round((time.perf_counter() - began) / len(questions), 3),
        "scores": [round(score, 4) for score in scores],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stories", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--compressor", nargs="*", default=[])
    parser.add_argument("--ratio", nargs="*", type=int, default=[4, 8, 15, 30])
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--baselines", action="store_true")
    parser.add_argument("--limit", type=int, help="so many of the questions, drawn by seed 0")
    parser.add_argument("--budget", type=int, default=8100)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    arguments = [word for word in sys.argv[1:] if word not in (str(given.stories), str(given.questions))]
    made = record(arguments, torch.device("cpu"))
    report = json.loads(given.out.read_text()) if given.out.is_file() else made | {"readings": {}}
    report["command"] = made["command"].replace("longreach", "python benchmarks/reading.py STORIES QUESTIONS", 1)
    wanted = [(name, ratio) for name in given.compressor for ratio in given.ratio]
    for name, ratio in ([("mean-pool", 1000)] if given.baselines else []) + wanted:
        label = f"{Path(name).name} {ratio}x"
        readings = FULL if ratio == 1000 else {label: None, f"{label}, another story": None}
        if all(reading in report["readings"] for reading in readings):
            continue
        model, tokenizer = lr.load(given.model, dtype=given.dtype)
        compressor = make_compressor(name, model, tokenizer, ratio=ratio)
        with tempfile.TemporaryDirectory() as folder:
            corpus = lr.Corpus.create(folder, "stories", compressor)
            corpus.add(given.stories, progress=True)
            names = [document.document for document in corpus.documents()]
            questions = read_questions(given.questions, names, "stories")
            if given.limit:
                questions = random.Random(0).sample(questions, given.limit)
            reader = lr.Reader(corpus, compressor.model, tokenizer, given.adapter)
            own = [question.document for question in questions]
            other = [names[(names.index(document) + 1) % len(names)] for document in own]
            for reading in readings:
                policy = FULL.get(reading) or lr.Policy(raw=0, compressed="document")
                policy = lr.Policy(raw=policy.raw, compressed=policy.compressed, budget=given.budget)
                documents = other if "another" in reading else own
                report["readings"][reading] = measure(reader, questions, policy, documents, given.batch_size)
                print(reading, {k: v for k, v in report["readings"][reading].items() if k != "scores"}, flush=True)
                given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
