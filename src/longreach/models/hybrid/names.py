"""Which families of models have a hybrid form, and how a config names it. Imports no torch."""

FAMILY_NAMES = ("llama", "mistral", "qwen2", "qwen3")
"""The `model_type` of each family in transformers, without a pattern."""
PREFIX = "longreach_"
"""What stands before it in the config of a hybrid model."""


def family_of(model_type: str) -> str | None:
    """Returns the family of a stock or hybrid `model_type`; None where it is not supported."""
    family = model_type.removeprefix(PREFIX)
    return family if family in FAMILY_NAMES else None


def is_hybrid(model_type: str) -> bool:
    """Returns whether a `model_type` is that of a hybrid model."""
    return model_type.startswith(PREFIX)
