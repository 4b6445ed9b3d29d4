"""A package from outside that reads recipes (.recipe): a title, then the steps."""

from longreach.corpus.documents import Format

RECIPE = Format("recipes", (".recipe",), "tests.extension.format.recipe:convert")
