"""Methods by name: what they declare, what is refused, and methods from outside of the package."""

import subprocess
import sys

import pytest

from longreach import installed
from longreach.compressors import registry
from longreach.compressors.mean_pool import MeanPool
from longreach.compressors.method import Method, Option, merge_options
from longreach.compressors.registry import find_method, make_compressor, methods, register
from longreach.errors import ModelError, UsageError
from tests.conftest import make_model, make_tokenizer


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})


class Halves(MeanPool):
    """Mean pooling under another name."""

    method = "halves"


HALVES = Method("halves", f"{__name__}:Halves", (Option("ratio", int, "Tokens per vector.", 2, least=1),))


def test_every_method_declares_the_class_that_has_its_name():
    for name, method in methods().items():
        assert method.name == name == method.compressor().method
        assert method.options


def test_declarations_need_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; from longreach.compressors.registry import methods; print(*methods())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mean-pool", "kvzip", "autocompressor", "weighted-pool"]


def test_defaults_are_those_of_the_class():
    for method in methods().values():
        if method.untrained:
            stated = {option.name: option.default for option in method.options if option.default is not None}
            described = method.compressor().untrained(make_model(), make_tokenizer()).describe()
            assert {name: described[name] for name in stated} == stated


def test_a_method_from_outside_is_made_by_its_name():
    register(HALVES)
    compressor = make_compressor("halves", make_model(), make_tokenizer(), ratio=3)
    assert isinstance(compressor, Halves) and compressor.ratio == 3
    register(HALVES)  # again is no harm
    with pytest.raises(UsageError, match="'halves' already"):
        register(Method("halves", "elsewhere:Halves"))
    with pytest.raises(UsageError, match="'mean-pool' already"):
        register(Method("mean-pool", "elsewhere:Pool"))


def test_an_installed_package_announces_its_method(monkeypatch):
    class Point:
        name = "halves"
        value = "halves:HALVES"

        def load(self):
            return HALVES

    class Broken(Point):
        def load(self):
            raise ImportError("no module of that name")

    for point in (Point, Broken):
        registry._announced.cache_clear()
        monkeypatch.setattr(installed, "entry_points", lambda group, point=point: [point()])
        if point is Point:
            assert methods()["halves"] is HALVES and find_method("halves") is HALVES
        else:
            with pytest.raises(ModelError, match="'halves' of an installed package cannot be loaded"):
                methods()
    monkeypatch.undo()
    registry._announced.cache_clear()


@pytest.mark.parametrize(
    "ref, settings, words",
    [
        ("mean-pool", {"mode": "replace"}, "'mean-pool' has no option mode: it has ratio, segment_tokens, layer"),
        ("mean-pool", {"ratio": 0}, "ratio is 0; it must be at least 1"),
        ("autocompressor", {"mode": "forward"}, "mode is 'forward'; it must be one of accumulate"),
        ("autocompressor", {"ratio": 4, "summary_tokens": 6}, "give one of them"),
        ("weighted-pool", {}, "no compressor 'weighted-pool': use one of mean-pool, kvzip, autocompressor"),
        ("runes", {}, "no compressor 'runes'"),
    ],
)
def test_wrong_names_and_options_get_a_sentence(ref, settings, words):
    with pytest.raises(UsageError, match=words):
        make_compressor(ref, make_model(), make_tokenizer(), **settings)


def test_an_untrained_autocompressor_takes_a_ratio():
    compressor = make_compressor("autocompressor", make_model(), make_tokenizer(), ratio=8, segment_tokens=64)
    assert compressor.summary_tokens == 8


def test_code_that_is_not_installed_gets_a_sentence():
    register(Method("far", "no_such_package.far:Far"))
    with pytest.raises(ModelError, match="no_such_package"):
        make_compressor("far", make_model(), make_tokenizer())


def test_options_of_one_name_are_merged_to_the_widest():
    small = Option("size", int, "Small.", 2, least=1, most=9)
    large = Option("size", float, "Large.", 3.5, least=0.5)
    (merged,) = merge_options({"a": [small], "b": [large]})
    assert (merged.option.type, merged.option.least, merged.option.most) == (float, 0.5, None)
    assert merged.help == "a: Small. b: Large. [default: a: 2; b: 3.5]"
    (alone,) = merge_options({"a": [small]})
    assert alone.help == "Small. [default: 2]"
