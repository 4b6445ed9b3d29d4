"""Calls by names that a library is about to take away fail: see filterwarnings in pyproject.toml."""

import ast
import inspect
import warnings
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedModel

from longreach.models.cached import CACHE
from tests.conftest import make_model

ROOT = Path(__file__).resolve().parents[1]
# The filter lets these pass, because PEFT uses them.
HIDDEN = {"is_gradient_checkpointing"}


def test_a_deprecated_call_fails_the_test():
    with pytest.raises(FutureWarning, match="going"):
        warnings.warn("`this` is going", FutureWarning, stacklevel=1)


@pytest.mark.skipif(
    not hasattr(PreTrainedModel, "activation_checkpointing_disable"), reason="the old name is the only one here"
)
def test_a_deprecated_method_of_a_model_fails_the_test():
    with pytest.raises(FutureWarning, match="gradient_checkpointing_disable"):
        make_model().gradient_checkpointing_disable()


@pytest.mark.skipif(CACHE == "past_key_values", reason="the old name is the only one here")
def test_the_old_name_of_the_cache_fails_the_test():
    assert "past_key_values" not in inspect.signature(LlamaForCausalLM.forward).parameters
    with pytest.raises(FutureWarning, match="past_key_values"):
        make_model()(input_ids=torch.arange(5)[None], past_key_values=None)


def names_in(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_nothing_of_ours_uses_what_the_filter_lets_pass():
    found = []
    for folder in ("src", "tests", "benchmarks", "recipes", "examples"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            said = path != Path(__file__) and any(name in source for name in HIDDEN)
            if said and HIDDEN & set(names_in(source)):
                found.append(path.relative_to(ROOT).as_posix())
    assert not found
