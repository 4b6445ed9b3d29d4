"""Chat templates from anywhere, rendered within bounds of time and memory.

A template is a program: transformers runs it in a sandbox that keeps it from the machine, and lets
it loop and grow without end. One that visibly can do neither is rendered right here; every other
one in a process of its own, once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from jinja2 import nodes
from transformers import PreTrainedTokenizerBase

from longreach.errors import ModelError

_WORKER = Path(__file__).with_name("chat_worker.py")
_MEMORY_BYTES = 1 << 30
_CPU_SECONDS = 10
_WALL_SECONDS = 60.0  # of a busy machine
_CHARACTERS = 1 << 20
_LONGEST_TAME = 1 << 16
# Without assignments, macros, calls and nested loops a template says no more than its text times
# the messages.
_TAME = (
    nodes.Template,
    nodes.Output,
    nodes.TemplateData,
    nodes.If,
    nodes.CondExpr,
    nodes.Compare,
    nodes.Operand,
    nodes.Name,
    nodes.Const,
    nodes.Getattr,
    nodes.Getitem,
    nodes.Add,
    nodes.Concat,
    nodes.And,
    nodes.Or,
    nodes.Not,
    nodes.Test,
    nodes.For,
    nodes.Filter,
    nodes.Call,
)
_TAME_FILTERS = frozenset({"trim", "string", "lower", "upper", "length", "tojson"})
_TAME_CALLS = frozenset({"raise_exception"})
_ADVICE = "use a model with another template"


def render_chat(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], **variables: Any
) -> str:
    """Returns the text of a conversation in the tokenizer's chat template.

    It is the text that `apply_chat_template(tokenize=False)` gives.

    Args:
        tokenizer: With a chat template.
        messages: Of the conversation.
        **variables: What the template knows beside them, such as add_generation_prompt.

    Raises:
        ModelError: There are several templates and no default, or it fails, refuses these messages,
            or does not end.
    """
    said = [dict(message) for message in messages]
    own = getattr(type(tokenizer), "apply_chat_template", None)
    if own is not PreTrainedTokenizerBase.apply_chat_template:  # no template of Jinja
        return str(tokenizer.apply_chat_template(said, tokenize=False, **variables))
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:
        names = (
            ", ".join(tokenizer.chat_template)
            if isinstance(tokenizer.chat_template, dict)
            else "none"
        )
        raise ModelError(
            f"The model has several chat templates ({names}) and none is the default: {_ADVICE}."
        ) from error
    if not isinstance(template, str):
        raise ModelError(
            f"The model's chat template is a {type(template).__name__} and no text: {_ADVICE}."
        )
    if _is_tame(template):
        try:
            return str(tokenizer.apply_chat_template(said, tokenize=False, **variables))
        except Exception as error:
            raise _failed(f"{type(error).__name__}: {error}") from error
    # As in `apply_chat_template`: templates name special tokens.
    known = {**tokenizer.special_tokens_map, **variables}
    known.setdefault("add_generation_prompt", False)
    # JSON is hashable, as the arguments of a cached function have to be.
    return _render_apart(
        template,
        json.dumps({**known, "messages": list(messages), "tools": None, "documents": None}),
    )


@lru_cache(maxsize=256)
def _render_apart(template: str, variables: str) -> str:
    """Renders in a process that ends when it takes too much."""
    asked = {
        "template": template,
        "variables": json.loads(variables),
        "memory_bytes": _MEMORY_BYTES,
        "seconds": _CPU_SECONDS,
        "characters": _CHARACTERS,
    }
    endless = ModelError(f"The model's chat template takes too much time or memory: {_ADVICE}.")
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(_WORKER)],  # its folder is not where to look for modules
            input=json.dumps(asked).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_WALL_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise endless from error
    try:
        said = json.loads(done.stdout)
    except ValueError as error:  # ended by a limit before it could say anything
        raise endless from error
    if "large" in said:
        raise endless
    if "error" in said:
        raise _failed(said["error"])
    return str(said["text"])


def _failed(reason: str) -> ModelError:
    shown = " ".join(reason.split())[:200].rstrip(".")
    return ModelError(
        f"The model's chat template cannot be used for a user's words alone ({shown}): {_ADVICE}."
    )


@lru_cache(maxsize=256)
def _is_tame(template: str) -> bool:
    """Whether a template can visibly neither loop nor grow without end."""
    # To parse it here would take long by itself.
    if len(template) > _LONGEST_TAME:
        return False
    try:
        tree = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).parse(template)
        return all(isinstance(node, _TAME) and _is_tame_node(node) for node in _all_of(tree))
    except (jinja2.TemplateError, RecursionError, ValueError, OverflowError):
        return False  # the process of its own says what is wrong


def _all_of(tree: nodes.Node) -> Sequence[nodes.Node]:
    found = [tree]
    # The list grows while it is walked, so that deep templates need no recursion here.
    for node in found:
        found.extend(node.iter_child_nodes())
    return found


def _is_tame_node(node: nodes.Node) -> bool:
    if isinstance(node, nodes.For):
        loops = (
            isinstance(node.iter, nodes.Name)
            and node.iter.name == "messages"
            and not node.recursive
        )
        return loops and node.find(nodes.For) is None
    if isinstance(node, nodes.Filter):
        return node.name in _TAME_FILTERS and not node.args and not node.kwargs
    if isinstance(node, nodes.Call):
        return isinstance(node.node, nodes.Name) and node.node.name in _TAME_CALLS
    return True
