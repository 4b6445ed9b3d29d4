"""A package from outside with a trained compressor."""

from longreach.compressors.registry import Method, Option

METHOD = Method(
    name="scaled-mean",
    home="tests.extension.compressors.scaled_mean.compressor:ScaledMean",
    options=(Option("ratio", int, "Tokens per vector.", least=1),),
    untrained=False,
    training="tests.extension.compressors.scaled_mean.recipe:ScaledMeanRecipe",
    training_options=(
        Option("segment_tokens", int, "Tokens compressed together.", default=48, least=2),
        Option("width", int, "Tokens that a vector is the mean of.", default=8, least=1),
    ),
)
