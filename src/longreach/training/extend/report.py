"""The report of an extension: what was learned, how fast, and the tests before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from longreach.jsontext import JsonObject
from longreach.training.extend.data import Data
from longreach.training.extend.schedule import Schedule
from longreach.training.extend.settings import ExtendSettings


def make_report(
    data: Data,
    schedule: Schedule,
    settings: ExtendSettings,
    history: Sequence[Mapping[str, float]],
) -> JsonObject:
    """Returns what a run says of itself, from its data and what Trainer logged."""
    steps = [line for line in history if "loss" in line]
    tests = [line for line in history if "eval_loss" in line]
    asked = [line for line in history if "eval_reply_loss" in line]
    learned = sum(schedule.tokens(sample) for sample in range(schedule.count))
    slots = sum(schedule.slots(sample) for sample in range(schedule.count))
    sources = []
    for source, share in zip(data.sources, data.order.shares(), strict=True):
        sources.append({"name": source.source, "tokens": len(source.ids)} | share)
    tested = dict[str, dict[str, float]]()
    if tests:
        tested["before"] = _by_position(tests[0])
        tested["after"] = _by_position(tests[-1])
    replies = dict[str, dict[str, float]]()
    if asked:
        replies["before"] = _of_replies(asked[0])
        replies["after"] = _of_replies(asked[-1])
    return {
        "length": settings.length,
        "steps": len(steps),
        "tokens": learned,
        "padding_share": 1 - learned / slots,
        "epochs": schedule.epochs(),
        "tokens_per_second": steps[-1]["tokens_per_second"],
        "loss": {"first": steps[0]["loss"], "last": steps[-1]["loss"]},
        "perplexity": tested,
        "replies": replies,
        "held_out_documents": len(data.held_out),
        "sources": sources,
    }


def _of_replies(line: Mapping[str, float]) -> dict[str, float]:
    return {"loss": line["eval_reply_loss"], "right": line["eval_replies_right"]}


def _by_position(line: Mapping[str, float]) -> dict[str, float]:
    prefix = "eval_perplexity"
    found = dict[str, float]()
    for name, value in line.items():
        if name.startswith(prefix):
            found[name.removeprefix(prefix).lstrip("_") or "all"] = value
    return found
