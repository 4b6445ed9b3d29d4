"""Training on long texts at the target length, which teaches a model its longer window.

Papers: LongGen, "A Little Goes a Long Way: Efficient Long Context Training and Inference with
Partial Contexts" (light training of a converted model at the target length); LongLoRA, arXiv
2309.12307 (LoRA reaches long contexts once norms and embeddings are trained with it); Fu et al.
2024 (data mix, learning rate).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    set_seed,
)

from longreach.errors import UsageError
from longreach.jsontext import JsonObject
from longreach.models.device import check_device, default_device
from longreach.models.fingerprint import base_fingerprint
from longreach.models.hybrid.convert import lengthen
from longreach.models.hybrid.sparse import pattern_of
from longreach.models.hybrid.switched import with_window
from longreach.models.loading.quiet import quiet
from longreach.models.loss import checkpointing
from longreach.training.common import run
from longreach.training.common.arguments import make_arguments
from longreach.training.common.checkpoints import drop_torn, last_checkpoint, step_of
from longreach.training.common.faults import explain_full
from longreach.training.common.progress import Progress, say_nothing
from longreach.training.common.trackers import check_trackers
from longreach.training.extend import adapter
from longreach.training.extend.data import Data
from longreach.training.extend.objective import Trained, chunked_loss, put_together
from longreach.training.extend.order import Order
from longreach.training.extend.report import make_report
from longreach.training.extend.schedule import Reach, Schedule, ScheduledSamples
from longreach.training.extend.settings import EARLIER_NAMES, SCHEDULES, ExtendSettings
from longreach.training.extend.trainer import LongTrainer
from longreach.wording import counted, say_on_stderr


def extend(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Sequence[str | Path],
    out: str | Path,
    settings: ExtendSettings,
    *,
    evaluation: Sequence[str | Path] = (),
    device: str | None = None,
    cache: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> JsonObject:
    """Trains a model on long texts; stopped anywhere, the same call resumes.

    Under `accelerate launch` or torchrun each process takes its share of every step; a step learns
    the same tokens however many there are.

    Args:
        model: A causal language model, hybrid or full. It is changed: its window, its rotary
            embedding where that has to reach further, its weights. Without LoRA these become
            float32.
        tokenizer: Its tokenizer.
        data: Files, folders and Hub data sets; each is a source of its own in the mix.
        out: The folder of the run: checkpoints, and at last a model that `longreach.load` reads.
        settings: How.
        evaluation: Sources to test on; none of `data` is held out then.
        device: "cpu" or "cuda"; None for the GPU where there is one.
        cache: Where token files are kept.
        say: Is told how it goes, a line at a time; None for stderr, where a terminal gets a bar.

    Returns:
        The report, JSON values: losses and perplexities before and after, tokens a second, peak
            memory, the data.

    Raises:
        UsageError: Values that do not fit each other or the model; `out` belongs to something else.
        DocumentError: The data cannot be read, or are empty.
        MissingDependency: `datasets` is not installed and a Hub data set is given, or a tracker is
            not installed.
        TrainingError: Memory was not enough, or a loss was not finite. The last checkpoint stays.
    """
    out = Path(out)
    device = device or default_device()
    _check(model, settings, device)
    check_trackers(settings.report_to)
    run.refuse_foreign(out)
    dtype = settings.computed_in(device)
    with quiet():
        # Knows the processes, on whose number a step depends.
        probe = _arguments(settings, out, device, dtype)
        ranks = probe.world_size // _sequence_ranks()
        first = probe.process_index == 0
        if settings.asks and ranks < probe.world_size:
            raise UsageError(
                "Rows that ask are short, and a process that shares a row may have no reply of it:"
                " train with --asks without sequence parallelism."
            )
        # One process speaks for all.
        if not first:
            say = say_nothing
        tell = say or say_on_stderr
        # The first process tokenizes; the others find the files in the cache.
        with probe.main_process_first(local=False):
            loaded = Data.make(
                data,
                tokenizer,
                settings.mix,
                held_out=settings.held_out,
                evaluation=evaluation,
                cache=cache,
                note=tell,
            )
        length = _length(settings, loaded.order, ranks)
        identity = settings.identity() | {
            "model": base_fingerprint(model, tokenizer),
            **loaded.keys,
            # A resumed run has to learn the same samples in each step, on however many processes.
            "samples_per_step": length.samples_per_step,
            "steps": length.steps,
        }
        with probe.main_process_first(local=False):
            run.claim(out, identity, earlier=EARLIER_NAMES)
            if first:
                drop_torn(out)
        report = run.report_of(out)
        if report:
            tell(f"{out} is done already.")
            return report
        reach = Reach.of(model.config)
        schedule = Schedule(loaded, settings, tokenizer, reach, length.samples)
        tests = schedule.test_rows()
        tested = bool(loaded.held_out or tests)
        checkpoint = last_checkpoint(out)
        if checkpoint:
            tell(f"Resuming from {checkpoint.name}.")
        # Rounded up, so that the shortest run still has an interval of one step.
        tenth = -(-length.steps // 10)
        args = _arguments(
            settings,
            out,
            device,
            dtype,
            max_steps=length.steps,
            gradient_accumulation_steps=length.samples_per_step // ranks,
            warmup_steps=round(settings.warmup * length.steps),
            save_steps=settings.save_every or tenth,
            eval_strategy="steps" if tested else "no",
            eval_steps=settings.eval_every or tenth,
            # A run that is resumed was tested before its first step already.
            eval_on_start=tested and checkpoint is None,
        )
        with (
            explain_full(_lower(settings)),
            _prepared(model, settings, dtype) as trained,
            chunked_loss(trained),
        ):
            # With fewer ranks than processes several share a row, and ask for its positions.
            samples = ScheduledSamples(schedule, positions=ranks < probe.world_size)
            progress = Progress(say, partial(_tokens_of_step, schedule, length))
            trainer = LongTrainer(
                trained,
                args,
                samples,
                loaded.held_out,
                settings.length,
                progress,
                tests=tests,
                teacher_weight=settings.teacher_weight,
                alike=settings.asks > 0,
            )
            began = time.perf_counter()
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            seconds = time.perf_counter() - began
            history = trainer.state.log_history
            # The last step is no multiple of `eval_steps`, or a kill came before its test.
            if tested and not _is_tested(history, length.steps):
                trainer.evaluate()
            report = make_report(loaded, schedule, settings, history) | {
                "folder": str(out),
                "model_type": model.config.model_type,
                "trained_parameters": _count_trained(trained),
                "resumed_from_step": step_of(checkpoint) if checkpoint else None,
                "seconds": seconds,
                "peak_memory_bytes": _peak_bytes(trainer),
            }
        # Each process has a part of every weight.
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            whole = trainer.accelerator.get_state_dict(trainer.model_wrapped)
            if first:
                put_together(trained, whole)
        if first:
            if isinstance(trained, PeftModel):
                trained = adapter.merge(trained, out / run.ADAPTER)
            run.finish(out, trained, tokenizer, history, report)
        # No process ends before the result is written: a launcher may stop the others with it.
        trainer.accelerator.wait_for_everyone()
    return report


def _check(model: PreTrainedModel, settings: ExtendSettings, device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise UsageError(
            f"The device is {device!r}; give cpu or cuda, and CUDA_VISIBLE_DEVICES to choose among"
            " several."
        )
    check_device(device)
    if settings.train_layers == "full":
        adapter.full_layers(model)
    if not getattr(model.config, "sparse_attention", None):
        if settings.windows:
            raise UsageError(
                "windows are those of sparse layers, and the model has none: convert it first, or"
                " omit --windows."
            )
        return
    pattern = pattern_of(model.config)
    for window in settings.windows:
        with_window(pattern, window)  # it has to be whole blocks
    shortest = min([settings.length, *(stage.length for stage in settings.lengths)])
    if settings.windows:
        if 2 * max(settings.windows) > shortest:
            raise UsageError(
                f"A window of {max(settings.windows)} tokens leaves nothing to look for in rows of"
                f" {shortest}: give windows of at most half the shortest row."
            )
        return
    if settings.length < pattern.window_tokens:
        raise UsageError(
            f"The target length is {counted(settings.length, 'token')} and the pattern's local"
            f" window {pattern.window_tokens} ({counted(pattern.local_blocks, 'block')} of"
            f" {pattern.block_size}): sparse layers would see everything; give a greater length or"
            " a smaller pattern."
        )


def _arguments(
    settings: ExtendSettings, out: Path, device: str, dtype: torch.dtype, **more: Any
) -> TrainingArguments:
    return make_arguments(
        out,
        device,
        per_device_train_batch_size=1,  # a sample is a whole batch
        learning_rate=settings.highest_rate,
        lr_scheduler_type=SCHEDULES[settings.schedule],
        weight_decay=settings.weight_decay,
        adam_beta2=0.95,
        bf16=dtype == torch.bfloat16,
        report_to=list(settings.report_to) or "none",
        seed=settings.seed,
        **more,
    )


def _sequence_ranks() -> int:
    """Returns how many processes share each row, as `accelerate launch` says it."""
    return int(os.environ.get("PARALLELISM_CONFIG_SP_SIZE", "1"))


class _Length(NamedTuple):
    """How long a run is: its steps, and the samples of a step, all processes together."""

    steps: int
    samples_per_step: int

    @property
    def samples(self) -> int:
        """Samples of the whole run."""
        return self.steps * self.samples_per_step


def _length(settings: ExtendSettings, order: Order, ranks: int) -> _Length:
    # Rounded up to whole samples, and as many for each process.
    per_step = -(-settings.step_tokens // (settings.capacity * ranks)) * ranks
    if settings.steps:
        return _Length(settings.steps, per_step)
    if not settings.tokens:
        return _Length(-(-order.rectangles() // per_step), per_step)
    if settings.asks or settings.lengths:
        # Which rows come depends on the steps, which therefore cannot depend on the rows.
        return _Length(-(-settings.tokens // (per_step * settings.capacity)), per_step)
    length = _Length(0, per_step)
    tokens = 0
    # Rectangles differ in tokens, so steps are counted one by one.
    while tokens < settings.tokens:
        length = _Length(length.steps + 1, per_step)
        tokens += _tokens_of_step(order, length, length.steps)
    return length


def _tokens_of_step(order: Order | Schedule, length: _Length, step: int) -> int:
    """Returns the tokens that a step learns; steps count from 1."""
    last = step * length.samples_per_step
    return sum(order.tokens(sample) for sample in range(last - length.samples_per_step, last))


def _is_tested(history: Sequence[Mapping[str, object]], step: int) -> bool:
    names = {"eval_loss", "eval_reply_loss"}
    return any(names & line.keys() and line["step"] == step for line in history)


def _count_trained(model: torch.nn.Module) -> int:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return sum(parameter.numel() for parameter in trained)


@contextmanager
def _prepared(
    model: PreTrainedModel, settings: ExtendSettings, dtype: torch.dtype
) -> Iterator[Trained]:
    """Gives the model as it is trained; its config and its mode come back."""
    lengthen(model, settings.length)
    use_cache = model.config.use_cache  # Trainer switches it off, and it would be saved so
    set_seed(settings.seed)
    checkpointing(model, settings.checkpointing)
    try:
        if settings.lora_rank:
            yield adapter.attach(model, settings, dtype)
        else:
            model.float().requires_grad_(True)
            if settings.train_layers == "full":
                adapter.train_full_layers(model)
            yield model
    finally:
        checkpointing(model, False)
        model.config.use_cache = use_cache
        model.eval()


def _lower(settings: ExtendSettings) -> str:
    """Returns the options that take less memory, as part of a sentence."""
    length = f"--length (it is {settings.length})"
    if settings.batch_size > 1:
        return f"--batch-size (it is {settings.batch_size})"
    if not settings.checkpointing:
        return "memory by omitting --no-checkpointing"
    return length if settings.lora_rank else f"what is trained with --lora-rank 16, or {length}"


def _peak_bytes(trainer: LongTrainer) -> int | None:
    """Returns the most GPU memory that any process had allocated; None on a CPU."""
    if trainer.args.device.type != "cuda":
        return None
    peak = torch.tensor(torch.cuda.max_memory_allocated(), device=trainer.args.device)
    return int(trainer.accelerator.gather(peak).max())
