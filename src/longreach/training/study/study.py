"""`study`: a corpus and questions about it to an adapter that answers from its memory.

Paper: Tan et al. 2024, LLoCO (arXiv 2404.07979).

<corpus>/adapter/            the result, with the name of the model it is for; replaced whole
         study/questions.jsonl   what the model or a teacher asked and answered (see selfstudy)
               runs/<name>/      one run: run.json, checkpoints/ while it lasts, adapter/,
               training.json once done
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers import set_seed

from longreach.corpus.faults import explain_disk_faults
from longreach.corpus.schema import READER
from longreach.datasets.questions import Question
from longreach.errors import FingerprintMismatch, ModelError, UsageError
from longreach.jsontext import JsonObject
from longreach.models.decoder import LAID, note_base, switch_off, window_of
from longreach.models.fingerprint import base_fingerprint
from longreach.models.loading.quiet import quiet
from longreach.models.loss import checkpointing
from longreach.models.sharing import exclusive
from longreach.training.common import run
from longreach.training.common.adapter import add_lora, load_trainable_adapter
from longreach.training.common.arguments import make_arguments
from longreach.training.common.checkpoints import drop_all, drop_torn, last_checkpoint, step_of
from longreach.training.common.faults import explain_full
from longreach.training.common.progress import Progress
from longreach.training.common.trackers import check_trackers
from longreach.training.extend.data import only
from longreach.training.study.data import StudyData
from longreach.training.study.folder import publish, working
from longreach.training.study.settings import StudySettings
from longreach.training.study.trainer import ADAPTER_NAME, StudyObjective, StudyTrainer
from longreach.wording import say_on_stderr

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from longreach.corpus.store import Corpus

_LEFT_FOR_ANSWERS = 128  # positions of the window, at least


class StudyReport(NamedTuple):
    """What a run did.

    Attributes:
        adapter: Folder of the adapter.
        questions: The number of questions that were learned.
        steps: The number of steps of the whole run.
        resumed_at: The step that this process began at; 0 where it began the run.
        first_loss: In nats for each token of an answer.
        last_loss: The same at the end.
        tokens: Positions that this process learned from.
        seconds: How long this process took.
    """

    adapter: Path
    questions: int
    steps: int
    resumed_at: int
    first_loss: float
    last_loss: float
    tokens: int
    seconds: float


def study(
    corpus: Corpus,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    settings: StudySettings | None = None,
    *,
    say: Callable[[str], None] | None = None,
) -> StudyReport:
    """Trains a LoRA on questions about a corpus, read as its memory, and stores it in the corpus.

    Stopped anywhere, the same call resumes at the last checkpoint; other settings or questions
    are another run. The scorecard of the adapter that is replaced goes with it.

    Args:
        corpus: The corpus; its vectors must have been made for this model.
        model: A causal language model without adapters but those of readers, on the device where it
            is trained; it comes back as it was. Readers in other threads may share it meanwhile,
            between two steps.
        tokenizer: Its tokenizer.
        questions: What is learned.
        settings: How.
        say: Is told how it goes, a line at a time; None for stderr.

    Raises:
        FingerprintMismatch: The corpus was made for another model.
        UsageError: No questions, a model that LoRA cannot be laid over, or no such tracker.
        MissingDependency: A tracker is not installed.
        ModelError: The model carries adapters, its head is unusual, or a checkpoint is damaged.
        ContextError: A question does not fit the budget.
        CorpusBusy: Another process trains for this corpus.
        TrainingError: Memory or the disk was full, or a loss was not finite; the last good
            checkpoint stays.
    """
    settings = settings or StudySettings()
    tell = say or say_on_stderr
    check_trackers(settings.report_to)
    if not questions:
        raise UsageError("There are no questions to learn from: give some with --questions.")
    _require_bare(model)
    # Trainer works on the first of the visible GPUs, whatever device the model is on.
    if model.device.index:
        raise UsageError(
            f"The model is on {model.device}: choose among several GPUs with CUDA_VISIBLE_DEVICES."
        )
    fingerprint = base_fingerprint(model, tokenizer)
    if fingerprint != corpus.settings.model_fingerprint:
        raise FingerprintMismatch(
            f"The vectors of corpus '{corpus.name}' were made for another model: load that one."
        )
    with working(corpus) as work:
        others = _identity(corpus, questions)
        identity = settings.identity() | others
        # The folder is named by all that decides the result: the same call finds its own run again,
        # and another one never mixes with it.
        out = _run_folder(work, identity)
        _take_over(_run_folder(work, settings.earlier_identity() | others), out, identity)
        run.claim(out, identity)
        report = run.report_of(out)
        if report is None:
            report = _train(corpus, model, tokenizer, questions, settings, out, say)
            note_base(out / run.ADAPTER, fingerprint, corpus.settings.model_ref)
            run.write_json(out / run.REPORT, report)
            # Checkpoints serve resuming only, and a run that has its report is never resumed.
            drop_all(out)
        else:
            tell("These questions were learned with these settings before.")
        figures: Any = report
        return StudyReport(publish(corpus, out / run.ADAPTER), len(questions), **figures)


def _identity(corpus: Corpus, questions: Sequence[Question]) -> JsonObject:
    """Returns all but the settings that decides the result."""
    asked = json.dumps([asdict(question) for question in questions])
    identity: JsonObject = {
        "questions": hashlib.sha256(asked.encode()).hexdigest(),
        "model": corpus.settings.model_fingerprint,
        "compressor": corpus.settings.fingerprint,
        "documents": sorted(document.revision for document in corpus.documents()),
    }
    start = _start(corpus)
    if start is not None:
        # Two releases of a compressor may bring different adapters to start from.
        identity["start"] = _digest(start)
    return identity


def _run_folder(work: Path, identity: JsonObject) -> Path:
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    return work / "runs" / name


def _take_over(earlier: Path, out: Path, identity: JsonObject) -> None:
    """Makes the folder of a run that an earlier release began, under other names, this run's."""
    if earlier.is_dir() and not out.exists():
        run.write_json(earlier / run.RUN, identity)
        earlier.rename(out)


def _digest(adapter: Path) -> str:
    return hashlib.sha256((adapter / "adapter_model.safetensors").read_bytes()).hexdigest()


def _train(
    corpus: Corpus,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    settings: StudySettings,
    out: Path,
    say: Callable[[str], None] | None,
) -> JsonObject:
    """Trains into `out`/adapter; returns the figures of a `StudyReport`."""
    tell = say or say_on_stderr
    drop_torn(out)
    checkpoint = last_checkpoint(out)
    if checkpoint:
        tell(f"Resuming from {checkpoint.name}.")
    window = window_of(model)
    device = str(model.device)
    budget = settings.budget
    # The answer is learned behind the prompt, so both have to fit the window.
    if window:
        budget = min(budget, window - _LEFT_FOR_ANSWERS)
    with (
        quiet(),
        explain_full(_lower(settings)),
        explain_disk_faults(corpus.path),
        _adapted(model, settings, _start(corpus)) as objective,
    ):
        data = StudyData(
            corpus,
            model,
            tokenizer,
            questions,
            batch=settings.step_questions,
            accumulate=settings.accumulate,
            epochs=settings.epochs,
            budget=budget,
            window=window,
            seed=settings.seed,
            teacher=objective.expect if settings.loss == "distill" else None,
        )
        if data.unmatched:
            share = f"{data.unmatched} of {len(questions)} questions"
            tell(f"Not learned, because no passage shares a word with them: {share}.")
        args = make_arguments(
            out,
            "cpu" if device == "cpu" else "cuda",
            # A sample is a whole batch.
            per_device_train_batch_size=1,
            gradient_accumulation_steps=data.accumulate,
            max_steps=data.steps,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=round(settings.warmup * data.steps),
            save_steps=settings.save_every or -(-data.steps // 10),
            seed=settings.seed,
            report_to=list(settings.report_to) or "none",
            # Samples are made on the device.
            dataloader_pin_memory=False,
        )
        progress = Progress(say, data.tokens_of_step)
        trainer = StudyTrainer(objective, args, data, only, progress)
        began = time.perf_counter()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        seconds = time.perf_counter() - began
        objective.adapted.save_pretrained(str(out / run.ADAPTER), selected_adapters=[ADAPTER_NAME])
        # PEFT writes an empty form.
        (out / run.ADAPTER / "README.md").unlink(missing_ok=True)
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {
        "steps": data.steps,
        "resumed_at": step_of(checkpoint) if checkpoint else 0,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "tokens": progress.tokens,
        "seconds": seconds,
    }


def _lower(settings: StudySettings) -> str:
    """Returns the options that take less memory, as part of a sentence."""
    lower = f"--budget (it is {settings.budget}) or --batch-size (it is {settings.batch_size})"
    if settings.checkpointing:
        return lower
    return f"{lower}, or give --checkpointing"


def _start(corpus: Corpus) -> Path | None:
    """Returns the adapter that the corpus' compressor came with; None without any."""
    return corpus.artefacts.get(READER)


def _require_bare(model: PreTrainedModel) -> None:
    """Raises ModelError where a model carries other adapters than those of readers."""
    if not all(name.startswith(LAID) for name in getattr(model, "peft_config", None) or ()):
        raise ModelError("The model carries PEFT adapters: load it anew to train another.")


@contextmanager
def _adapted(
    model: PreTrainedModel, settings: StudySettings, start: Path | None
) -> Iterator[StudyObjective]:
    """Yields the model under an adapter that is trained; afterwards the model is as it was.

    Args:
        model: The model.
        settings: How the adapter is trained.
        start: Folder of an adapter whose copy is trained; None trains a new one.
    """
    with exclusive(model):
        # A study of another corpus may have begun in another thread while this one prepared.
        _require_bare(model)
        use_cache = model.config.use_cache
        # PEFT freezes all weights; afterwards exactly these are frozen again, as the caller had
        # them.
        fixed = [parameter for parameter in model.parameters() if not parameter.requires_grad]
        # LoRA starts at random, and the same run has to start from the same weights.
        set_seed(settings.seed)
        checkpointing(model, settings.checkpointing)
        if start:
            adapted = load_trainable_adapter(model, start)
        else:
            adapted = add_lora(
                model,
                settings.lora_rank,
                alpha=settings.lora_alpha,
                dropout=settings.lora_dropout,
            )
        # Readers in other threads use the model between two steps, and must not see the new
        # adapter.
        switch_off(model)
    try:
        yield StudyObjective(adapted)
    finally:
        with exclusive(model):
            _take_off(adapted, model)
            checkpointing(model, False)
            model.config.use_cache = use_cache
            model.requires_grad_(True).eval()
            for parameter in fixed:
                parameter.requires_grad_(False)


def _take_off(adapted: PeftModel, model: PreTrainedModel) -> None:
    """Takes the trained adapter off the model; those of readers stay, switched off as they were."""
    if set(model.peft_config) > {ADAPTER_NAME}:
        with warnings.catch_warnings():
            # That another one takes its place: it is switched off.
            warnings.simplefilter("ignore", UserWarning)
            model.delete_adapter(ADAPTER_NAME)
        switch_off(model)
        return
    # No reader's adapter is on the model, so PEFT's layers can go altogether.
    adapted.unload()
    if hasattr(model, "peft_config"):
        # A model that has this attribute counts as one that carries adapters.
        del model.peft_config
