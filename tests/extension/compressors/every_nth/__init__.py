"""A package from outside with a compressor that needs no training."""

from longreach.compressors.registry import Method, Option

METHOD = Method(
    name="every-nth",
    home="tests.extension.compressors.every_nth.compressor:EveryNth",
    options=(
        Option("keep", int, "One token of so many is kept.", default=4, least=1),
        Option("segment_tokens", int, "Tokens per passage.", default=32, least=1),
    ),
)
