"""The processor seconds of the same public calls in two checkouts, in one run.

    git worktree add build/before COMMIT
    python benchmarks/releases.py build/before . --out releases.json

Both checkouts are measured in turn (A B A B ...), each in a process of its own; medians over the
pairs are reported. Seconds are those of the processor, so that neighbors on the machine weigh less.

- compress: a text of `--tokens` tokens by `MeanPool`, in segments of 512.
- ask: a question over a corpus of that text, its best passages read as text.
- decode: 64 tokens after the text's first 512, by `generate` of a hybrid.
- attention: ten times `sparse_attention` forward over 8,192 tokens of SmolLM2's heads.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

WAYS = ("compress", "ask", "decode", "attention")


def main() -> None:
    """Measures both checkouts, or one of them where it was started to do so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs="*", help="Two folders: before and after.")
    parser.add_argument("--model", default="smollm2", help="What `longreach.load` takes.")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.model, options.tokens)))
        return
    if len(options.checkouts) != 2:
        parser.error("give two checkouts: before and after")
    report = compare(*options.checkouts, options.model, options.tokens, options.rounds)
    text = json.dumps(report, indent=1)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


def compare(before: str, after: str, model: str, tokens: int, rounds: int) -> dict[str, object]:
    """Returns the medians of both checkouts and of the ratios of pairs, by way."""
    taken: dict[str, list[dict[str, float]]] = {"before": [], "after": []}
    for number in range(rounds):
        for name, checkout in (("before", before), ("after", after)):
            taken[name].append(start(checkout, model, tokens))
            print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
    ways = {}
    for way in WAYS:
        pairs = zip(taken["before"], taken["after"], strict=True)
        ratios = [two[way] / one[way] for one, two in pairs]
        ways[way] = {
            "before_seconds": statistics.median(one[way] for one in taken["before"]),
            "after_seconds": statistics.median(two[way] for two in taken["after"]),
            "after_over_before": statistics.median(ratios),
            "ratios": ratios,
        }
    return {
        "command": " ".join(["benchmarks/releases.py", *sys.argv[1:]]),
        "commits": [name_commit(before), name_commit(after)],
        "model": model,
        "torch": torch.__version__,
        "torch_threads": 1,
        "ways": ways,
    }


def name_commit(checkout: str) -> str:
    """Returns the commit that a checkout holds."""
    asked = ["git", "-C", checkout, "rev-parse", "HEAD"]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


def start(checkout: str, model: str, tokens: int) -> dict[str, float]:
    """Returns the processor seconds of each way with the package of a checkout."""
    command = [sys.executable, __file__, "--one", "--model", model, "--tokens", str(tokens)]
    env = os.environ | {"PYTHONPATH": str(Path(checkout).resolve() / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def measure(name: str, tokens: int) -> dict[str, float]:
    """Returns the processor seconds of each way, after one call that warms up."""
    import longreach as lr

    torch.set_num_threads(1)
    model, tokenizer = lr.load(name)
    text = " ".join(f"The {number}th of the letters lay unopened." for number in range(tokens))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][:tokens]
    text = tokenizer.decode(ids)
    compressor = lr.MeanPool(model, tokenizer, ratio=8, segment_tokens=512)
    pattern = lr.AttentionPattern(64, 1, 4, 0)
    q = torch.randn(1, 9, 8192, 64)
    k, v = torch.randn(2, 1, 3, 8192, 64).unbind()

    def attend(times: int) -> None:
        for _ in range(times):
            lr.sparse_attention(q, k, v, pattern, 0, impl="cpu")

    found = {}
    found["compress"] = time_call(lambda: compressor.compress([ids]))
    found["attention"] = time_call(lambda: attend(10))
    with tempfile.TemporaryDirectory() as folder:
        corpus = lr.Corpus.create(folder, "letters", compressor)
        corpus.add([lr.Document("letters.txt", text)])
        policy = lr.Policy(compressed="none")
        reader = lr.Reader(corpus, model, tokenizer, policy=policy)
        sampling = lr.Sampling(max_new_tokens=16)
        question = "Which of the letters lay unopened?"
        found["ask"] = time_call(lambda: reader.ask(question, sampling=sampling))
    hybrid = lr.convert(model, pattern, full_layers="middle-third")
    prompt = torch.tensor([ids[:512]])
    options = {"min_new_tokens": 64, "max_new_tokens": 64, "do_sample": False}
    found["decode"] = time_call(lambda: hybrid.generate(prompt, **options))
    return found


def time_call(call: Callable[[], object]) -> float:
    """Returns the processor seconds of the second of two calls."""
    call()
    began = time.process_time()
    call()
    return time.process_time() - began


if __name__ == "__main__":
    main()
