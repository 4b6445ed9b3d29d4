"""Readers with adapters, streams and ingests that share one model in threads give what each gives alone."""

import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model

from longreach import Document, MeanPool, Reader, Sampling
from longreach.corpus.store import Corpus
from longreach.models.decoder import note_base
from longreach.models.fingerprint import base_fingerprint
from tests.conftest import make_model, make_tokenizer
from tests.fuzz.tally import Clock, Tally

_SAMPLING = Sampling(max_new_tokens=6)
_TEXT = "The Knave of Hearts stole the tarts, and the Queen was angry number {}. "


def run(count: int, seed: int, folder: Path) -> Tally:
    """Does `count` things in four threads on one model, and compares each with what it gives alone."""
    tally, chance = Tally("answers and ingests in threads"), random.Random(seed)
    model, tokenizer = make_model(), make_tokenizer()
    corpus = Corpus.create(folder, "c", MeanPool(model, tokenizer, 4, segment_tokens=24))
    corpus.add([Document(f"d{number}", _TEXT.format(number) * 4) for number in range(6)])
    adapters = [None, *(_adapter(folder / f"adapter-{number}", tokenizer, number) for number in range(2))]
    readers = [Reader(corpus, model, tokenizer, adapter) for adapter in adapters]
    jobs = [_job(chance, readers, folder, number) for number in range(count)]
    alone = [work("alone") for work in jobs]
    turns, lock = iter(range(count)), threading.Lock()

    def take() -> None:
        while True:
            with lock:
                number = next(turns, None)
            if number is None:
                return
            try:
                same = jobs[number]("together") == alone[number]
                why = "another result"
            except Exception as error:
                same, why = False, f"{type(error).__name__}: {error}"
            with lock:
                if same:
                    tally.count("the same")
                else:
                    tally.fail(f"seed {seed}, job {number}: {why}")

    with Clock(tally):
        workers = [threading.Thread(target=take) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return tally


def _job(chance: random.Random, readers: list[Reader], folder: Path, number: int) -> Callable[[str], Any]:
    """One thing to do, the same whenever it is done: ask, ask many, stream, or ingest."""
    reader = chance.choice(readers)
    question = f"Who stole number {chance.randrange(6)}?"
    kind = chance.choice(["ask", "ask", "many", "stream", "ingest"])
    if kind == "ask":
        return lambda when: reader.ask(question, sampling=_SAMPLING).text
    if kind == "many":
        return lambda when: [
            answer.text for answer in reader.ask_many([question, "Was she angry?"], sampling=_SAMPLING)
        ]
    if kind == "stream":
        return lambda when: "".join(reader.stream(question, sampling=_SAMPLING))

    def ingest(when: str) -> list[Any]:
        own = MeanPool(reader.model, reader.tokenizer, 4, segment_tokens=24)
        corpus = Corpus.create(folder / f"{when}-{number}", "c", own)
        corpus.add(Document("d", _TEXT.format(number) * 3))
        return [rows.tolist() for rows in corpus.vectors(corpus.documents()[0].revision)]

    return ingest


def _adapter(folder: Path, tokenizer: Any, seed: int) -> Path:
    """A PEFT folder whose weights change every answer."""
    base = make_model()
    fingerprint = base_fingerprint(base, tokenizer)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    adapted.save_pretrained(folder)
    note_base(folder, fingerprint, "")
    return folder
