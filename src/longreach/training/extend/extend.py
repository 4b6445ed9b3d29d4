"""Training on long texts at the target length: what teaches a hybrid model, or a full one, its
longer window.

Papers: LongGen, "A Little Goes a Long Way: Efficient Long Context Training and Inference with
Partial Contexts" (light training of a converted model at the target length); LongLoRA, arXiv
2309.12307 (LoRA reaches long contexts once norms and embeddings are trained with it); Fu et al.
2024 (data mix, learning rate).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, set_seed

from longreach.errors import UsageError
from longreach.models.device import check_device, default_device
from longreach.models.fingerprint import base_fingerprint
from longreach.models.hybrid.convert import lengthen
from longreach.models.hybrid.sparse import pattern_of
from longreach.models.loading.load import quiet
from longreach.models.loss import checkpointing
from longreach.training.common import run
from longreach.training.common.frame import arguments, full_said, silent, stderr
from longreach.training.common.trackers import check_trackers
from longreach.training.common.trainer import LongTrainer, Progress
from longreach.training.extend import adapter
from longreach.training.extend.data import Data, Samples
from longreach.training.extend.objective import chunked_loss, put_together
from longreach.training.extend.order import Order
from longreach.training.extend.settings import EARLIER_NAMES, SCHEDULES, ExtendSettings
from longreach.wording import counted


def extend(
    model: Any,
    tokenizer: Any,
    data: Sequence[str | Path],
    out: str | Path,
    settings: ExtendSettings,
    *,
    evaluation: Sequence[str | Path] = (),
    device: str | None = None,
    cache: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Trains a model on long texts; called again after it was stopped, it goes on from the last
    checkpoint.

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
        say: Is told how it goes, a line at a time; None for stderr.

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
    out, say, device = Path(out), say or stderr, device or default_device()
    _check(model, settings, device)
    check_trackers(settings.report_to)
    run.refuse_foreign(out)
    dtype = settings.computed_in(device)
    with quiet():
        # Knows the processes, on whose number a step depends.
        probe = _arguments(settings, out, device, dtype)
        ranks, first = probe.world_size // _sequence_ranks(), probe.process_index == 0
        tell = say if first else silent
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
        per_step = -(-settings.step_tokens // (settings.capacity * ranks)) * ranks
        steps = _steps(settings, loaded.order, per_step)
        identity = settings.identity() | {
            "model": base_fingerprint(model, tokenizer),
            **loaded.keys,
            "samples_per_step": per_step,
            "steps": steps,
        }
        with probe.main_process_first(local=False):
            run.claim(out, identity, earlier=EARLIER_NAMES)
            if first:
                run.drop_torn(out)
        report, checkpoint = run.report_of(out), run.last_checkpoint(out)
        if report:
            tell(f"{out} is done already.")
            return report
        if checkpoint:
            tell(f"Going on from {checkpoint.name}.")
        args = _arguments(
            settings,
            out,
            device,
            dtype,
            max_steps=steps,
            gradient_accumulation_steps=per_step // ranks,
            warmup_steps=round(settings.warmup * steps),
            save_steps=settings.save_every or -(-steps // 10),
            eval_strategy="steps" if loaded.held_out else "no",
            eval_steps=settings.eval_every or -(-steps // 10),
            eval_on_start=bool(loaded.held_out) and checkpoint is None,
        )
        with (
            full_said(_lower(settings)),
            _prepared(model, settings, dtype) as trained,
            chunked_loss(trained),
        ):
            samples = Samples(loaded, steps * per_step, positions=ranks < probe.world_size)
            progress = Progress(tell, loaded.order, per_step)
            trainer = LongTrainer(
                trained, args, samples, loaded.held_out, settings.length, progress
            )
            began = time.perf_counter()
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            seconds = time.perf_counter() - began
            history = trainer.state.log_history
            if loaded.held_out and not any(
                "eval_loss" in line and line["step"] == steps for line in history
            ):
                trainer.evaluate()
            report = _report(loaded, settings, history, steps * per_step) | {
                "folder": str(out),
                "model_type": model.config.model_type,
                "trained_parameters": sum(
                    p.numel() for p in trained.parameters() if p.requires_grad
                ),
                "resumed_from_step": int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else None,
                "seconds": seconds,
                "peak_memory_bytes": _peak_bytes(trainer),
            }
        # Each process has a part of every weight.
        if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
            whole = trainer.accelerator.get_state_dict(trainer.model_wrapped)
            if first:
                put_together(trained, whole)
        if first:
            result = adapter.merge(trained, out / run.ADAPTER) if settings.lora_rank else trained
            run.finish(out, result, tokenizer, history, report)
        trainer.accelerator.wait_for_everyone()
    return report


def _check(model: Any, settings: ExtendSettings, device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise UsageError(
            f"The device is {device!r}; give cpu or cuda, and CUDA_VISIBLE_DEVICES to choose among"
            " several."
        )
    check_device(device)
    if not getattr(model.config, "sparse_attention", None):
        return
    pattern = pattern_of(model.config)
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
    return arguments(
        out / run.CHECKPOINTS,
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
    """Processes that share each row, as `accelerate launch` says it."""
    return int(os.environ.get("PARALLELISM_CONFIG_SP_SIZE", "1"))


def _steps(settings: ExtendSettings, order: Order, per_step: int) -> int:
    if settings.steps:
        return settings.steps
    if not settings.tokens:
        return -(-order.rectangles() // per_step)
    steps = tokens = 0
    while tokens < settings.tokens:
        tokens += sum(order.tokens(steps * per_step + sample) for sample in range(per_step))
        steps += 1
    return steps


@contextmanager
def _prepared(model: Any, settings: ExtendSettings, dtype: torch.dtype) -> Iterator[Any]:
    """The model as it is trained; its config and its mode come back."""
    lengthen(model, settings.length)
    use_cache = model.config.use_cache  # Trainer switches it off, and it would be saved so
    set_seed(settings.seed)
    checkpointing(model, settings.checkpointing)
    try:
        if settings.lora_rank:
            yield adapter.attach(model, settings, dtype)
        else:
            yield model.float().requires_grad_(True)
    finally:
        checkpointing(model, False)
        model.config.use_cache = use_cache
        model.eval()


def _lower(settings: ExtendSettings) -> str:
    """What takes less memory."""
    length = f"--length (it is {settings.length})"
    if settings.batch_size > 1:
        return f"--batch-size (it is {settings.batch_size})"
    if not settings.checkpointing:
        return "memory by leaving --no-checkpointing away"
    return length if settings.lora_rank else f"what is trained with --lora-rank 16, or {length}"


def _report(
    data: Data, settings: ExtendSettings, history: list[dict[str, Any]], samples: int
) -> dict[str, Any]:
    losses = [line["loss"] for line in history if "loss" in line]
    tests = [line for line in history if "eval_loss" in line]
    learned = sum(data.order.tokens(sample) for sample in range(samples))
    slots = sum(data.order.slots(sample) for sample in range(samples))
    shares = zip(data.sources, data.order.shares(), strict=True)
    return {
        "length": settings.length,
        "steps": len(losses),
        "tokens": learned,
        "padding_share": 1 - learned / slots,
        "epochs": data.order.epoch_of(samples),
        "tokens_per_second": [line["tokens_per_second"] for line in history if "loss" in line][-1],
        "loss": {"first": losses[0], "last": losses[-1]},
        "perplexity": {
            when: _by_position(tests[at]) for when, at in (("before", 0), ("after", -1)) if tests
        },
        "held_out_documents": len(data.held_out),
        "sources": [
            {"name": source.source, "tokens": len(source.ids)} | share for source, share in shares
        ],
    }


def _by_position(line: dict[str, Any]) -> dict[str, float]:
    prefix = "eval_perplexity"
    return {
        key.removeprefix(prefix).lstrip("_") or "all": line[key]
        for key in line
        if key.startswith(prefix)
    }


def _peak_bytes(trainer: LongTrainer) -> int | None:
    """Most GPU memory that any process had allocated; None on a CPU."""
    if trainer.args.device.type != "cuda":
        return None
    peak = torch.tensor(torch.cuda.max_memory_allocated(), device=trainer.args.device)
    return int(trainer.accelerator.gather(peak).max())
