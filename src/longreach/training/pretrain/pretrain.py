"""`pretrain`: data in, a compressor out; stopped anywhere, it resumes at its last checkpoint.

<out>/compressor.json and what lies beside it   the result, which the compressor loads
      checkpoints/                              the last two
      run.json                                  what this run is: settings, base model, data
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import transformers

from longreach.compressors.adapters import ADAPTER_WEIGHTS, adapter_folder
from longreach.compressors.method import load_object
from longreach.compressors.objective import CompressorObjective
from longreach.compressors.recipe import Recipe
from longreach.compressors.registry import DEFAULT_TRAINED, find_trained
from longreach.compressors.shipped import SETTINGS_FILE
from longreach.corpus.documents import Document
from longreach.datasets.texts import read_texts
from longreach.errors import ModelError, UsageError
from longreach.jsontext import JsonObject
from longreach.models.device import check_device, default_device, default_dtype
from longreach.models.loading.load import load
from longreach.models.loading.quiet import quiet
from longreach.models.loss import checkpointing
from longreach.training.common import run
from longreach.training.common.arguments import make_arguments
from longreach.training.common.checkpoints import (
    STATE,
    adopt_earlier,
    drop_torn,
    last_checkpoint,
    step_of,
)
from longreach.training.common.faults import explain_full
from longreach.training.common.progress import Progress, say_nothing
from longreach.training.common.trackers import check_trackers
from longreach.training.pretrain.rows import TokenRows
from longreach.training.pretrain.schedule import EARLIER_NAMES, Schedule
from longreach.training.pretrain.trainer import (
    CompressorTrainer,
    begin_with,
    load_compressor,
)
from longreach.wording import say_on_stderr

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


# May differ when a run is resumed.
_FREE = ("steps", "save_every", "log_every", "checkpointing", "report_to")


class PretrainReport(NamedTuple):
    """What a run did.

    Attributes:
        folder: The folder of the result.
        steps: Steps that the compressor has learned.
        resumed_at: The step that the run was resumed at; 0 where it is new.
        tokens: Tokens learned since.
        seconds: Seconds since, of this process.
        first_loss: The first loss that was logged, in nats a token.
        last_loss: The last one.
    """

    folder: Path
    steps: int
    resumed_at: int
    tokens: int
    seconds: float
    first_loss: float
    last_loss: float


def pretrain(
    model: str | Path,
    data: Sequence[str | Path | Document],
    out: str | Path,
    recipe: Recipe | None = None,
    schedule: Schedule | None = None,
    *,
    start: str | Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    cache: Path | None = None,
    progress: bool = False,
    say: Callable[[str], None] | None = None,
) -> PretrainReport:
    """Trains a compressor.

    A run that was stopped, or is to take more steps, is resumed from its last checkpoint.

    Args:
        model: The base model, as `longreach.load` takes it.
        data: Files, folders, Hub data sets, documents; where the recipe learns from
            questions, JSON lines as `datasets.texts` reads them.
        out: Folder of the result; new, empty, or of this very run.
        recipe: What is trained; None for the default method with its defaults.
        schedule: How long and how fast.
        start: Folder of a compressor of the same shape to start from; None starts from the base
            model.
        device: cpu or cuda; None takes the GPU where there is one.
        dtype: Of the base model; None takes bfloat16 on a GPU and float32 on a CPU.
        cache: Where token files are kept.
        progress: Say how far it is.
        say: Is told how it goes, a line at a time; None for stderr, where a terminal gets a bar.

    Raises:
        UsageError: Settings out of range, too little text, or a folder that holds something else.
        DocumentError: The data cannot be read, or hold no text.
        MissingDependency: `datasets` is not installed and a Hub data set is given, or a tracker is
            not installed.
        ModelError: The model cannot be trained so, or a checkpoint is damaged.
        TrainingError: Memory or the disk was full, or a loss was not finite; the last good
            checkpoint stays.
    """
    recipe = recipe or load_object(find_trained(DEFAULT_TRAINED).training)()
    assert recipe is not None
    schedule = schedule or Schedule()
    folder = Path(out)
    # The folder of something else is refused before a model is loaded for nothing.
    run.refuse_foreign(folder)
    check_trackers(schedule.report_to)
    check_device(device)
    if device not in (None, "cpu", "cuda"):
        raise UsageError(
            f"The device is '{device}': use cpu or cuda, and choose cards with"
            " CUDA_VISIBLE_DEVICES."
        )
    place = device or default_device()
    on_cpu = place == "cpu"
    base, tokenizer = load(model, device="cpu", dtype=dtype or default_dtype(place))
    quick = base.dtype == torch.bfloat16
    short = recipe.segment_tokens <= 512
    if quick and on_cpu and short and base.config._attn_implementation == "sdpa":
        base.set_attn_implementation("eager")  # 4x faster there than torch's flash kernel for CPUs
    with quiet():
        args = _arguments(folder, schedule, on_cpu, bf16=quick)
    torch.manual_seed(schedule.seed)  # LoRA starts at random
    if args.process_index != 0:
        say = say_nothing
    tell = say or say_on_stderr
    objective, learned = _subject(base, tokenizer, recipe, data, args, cache, tell)
    settings = recipe.settings()
    for key, value in asdict(schedule).items():
        if key not in _FREE:
            settings[key] = value
    settings |= {
        "base_fingerprint": objective.base_fingerprint,
        "data": learned.digest,
        "start": _named(start),
    }
    done = _claim(folder, settings, schedule.steps, args)
    # A checkpoint already holds what became of the start.
    if start is not None and done is None:
        begin_with(objective, recipe, Path(start))
    if schedule.checkpointing:
        checkpointing(base, True)
    model_ref = str(Path(model).resolve()) if Path(model).exists() else str(model)
    step_tokens = schedule.batch_size * schedule.accumulate * args.world_size * learned.row_tokens
    with quiet(), explain_full(_lower(recipe, schedule)):
        shown = Progress(say if progress else say_nothing, lambda step: step_tokens)
        trainer = CompressorTrainer(
            objective,
            args,
            learned.rows,
            learned.collate,
            shown,
            model_ref=model_ref,
            own_rate=schedule.summary_learning_rate or schedule.learning_rate,
        )
        began = time.perf_counter()
        # Killed between the last checkpoint and the result.
        if done and step_of(done) >= schedule.steps:
            load_compressor(objective, done)
            trainer.state = transformers.TrainerState.load_from_json(str(done / STATE))
        else:
            trainer.train(resume_from_checkpoint=str(done) if done else None)
        seconds = time.perf_counter() - began
        if trainer.is_world_process_zero():
            # Of fewer steps: it says that a result is whole.
            (folder / SETTINGS_FILE).unlink(missing_ok=True)
            objective.save(folder, model_ref)
    resumed_at = step_of(done) if done else 0
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    steps = trainer.state.global_step
    return PretrainReport(
        folder=folder,
        steps=steps,
        resumed_at=resumed_at,
        tokens=(steps - resumed_at) * step_tokens,
        seconds=seconds,
        first_loss=losses[0] if losses else math.nan,
        last_loss=losses[-1] if losses else math.nan,
    )


class _Learned(NamedTuple):
    """What a run learns from.

    Attributes:
        rows: Its samples.
        collate: Makes a batch of samples.
        row_tokens: Tokens of a sample, on average.
        digest: A name for all of them.
    """

    rows: TokenRows | list[dict[str, object]]
    collate: Callable[..., dict[str, object]]
    row_tokens: int
    digest: str


def _subject(
    base: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    recipe: Recipe,
    data: Sequence[str | Path | Document],
    args: transformers.TrainingArguments,
    cache: Path | None,
    note: Callable[[str], None],
) -> tuple[CompressorObjective, _Learned]:
    kind = load_object(recipe.objective)
    if not recipe.from_questions:
        objective = kind(base, tokenizer, recipe)
        with args.main_process_first(local=False):
            # The first process makes the token files, and the others find them.
            read = TokenRows.make(data, tokenizer, recipe.row_tokens, cache=cache, note=note)
        return objective, _Learned(read, _stack, recipe.row_tokens, read.digest)
    for item in data:
        if isinstance(item, Document):
            raise UsageError(
                f"'{item.name}' is a document; answers are learned from JSON lines files: name"
                " these."
            )
    texts = read_texts([str(item) for item in data])
    if recipe.needs_questions:
        texts = [text for text in texts if text.questions]
    if not any(text.questions for text in texts):
        raise UsageError("None of the texts has questions: give some, or omit --questions.")
    asking = kind(base, tokenizer, recipe, texts)
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    rows: list[dict[str, object]] = []
    for ids, text in zip(asking.rows, texts, strict=True):
        rows.append({"texts": torch.tensor(ids), "questions": text.questions})
    mean = round(sum(map(len, asking.rows)) / len(rows))
    return asking, _Learned(rows, _gather, mean, digest)


def _gather(rows: list[dict[str, object]]) -> dict[str, object]:
    gathered: dict[str, object] = {}
    for key in rows[0]:
        gathered[key] = [row[key] for row in rows]
    return gathered


def _stack(rows: list[dict[str, torch.Tensor]]) -> dict[str, object]:
    return {"ids": torch.stack([row["ids"] for row in rows])}


def _arguments(
    folder: Path, schedule: Schedule, on_cpu: bool, bf16: bool
) -> transformers.TrainingArguments:
    return make_arguments(
        folder,
        "cpu" if on_cpu else "cuda",
        max_steps=schedule.steps,
        per_device_train_batch_size=schedule.batch_size,
        gradient_accumulation_steps=schedule.accumulate,
        learning_rate=schedule.learning_rate,
        adam_beta2=0.98,
        lr_scheduler_type="cosine",
        warmup_steps=round(schedule.warmup * schedule.steps),
        seed=schedule.seed,
        data_seed=schedule.seed,
        save_steps=schedule.save_every,
        logging_steps=schedule.log_every,
        report_to=list(schedule.report_to) or "none",
        label_names=[],
        bf16=bf16,  # what is trained stays in float32, and is multiplied in bfloat16
    )


def _lower(recipe: Recipe, schedule: Schedule) -> str:
    """Returns the options that take less memory, as part of a sentence."""
    if schedule.batch_size > 1:
        return f"--batch-size (it is {schedule.batch_size})"
    if not schedule.checkpointing:
        return "memory by giving --checkpointing"
    return recipe.lighter


def _named(start: str | Path | None) -> str | None:
    """Returns a name for what a compressor's folder holds; None for none."""
    if start is None:
        return None
    # The second is of a method that has weights beside its adapter.
    files = (adapter_folder(Path(start)) / ADAPTER_WEIGHTS, Path(start) / "compressor.safetensors")
    there = [path for path in files if path.is_file()]
    if not there:
        raise ModelError(f"'{start}' holds no compressor to start from: give the folder of one.")
    digest = hashlib.sha256()
    for path in there:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _claim(
    folder: Path, settings: JsonObject, steps: int, args: transformers.TrainingArguments
) -> Path | None:
    """Makes the folder this run's; returns the checkpoint to resume from, None for a new run."""
    with args.main_process_first(local=False):
        # Another start will do where nothing came of the first, or where an earlier release did not
        # note it.
        if args.process_index == 0:
            adopt_earlier(folder)
        fixed = last_checkpoint(folder) is not None and "start" in run.settings_of(folder)
        renew = () if fixed else ("start",)
        run.claim(folder, settings, renew=renew, earlier=EARLIER_NAMES)
        if args.process_index == 0:
            drop_torn(folder)
    done = last_checkpoint(folder)
    finished = done is not None and step_of(done) >= steps and (folder / SETTINGS_FILE).is_file()
    if done and finished and args.process_index == 0:
        raise UsageError(
            f"'{folder}' is trained to step {step_of(done)} already: give more steps, or another"
            " folder."
        )
    return done
