"""Methods of other packages work everywhere: one that needs no training in two files, one that is trained in four."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import longreach as lr
from longreach.compressors.registry import make_compressor, register, unregister
from tests.cli.conftest import models, run, texts, wrong  # noqa: F401
from tests.conftest import make_model, make_tokenizer
from tests.extension.compressors import every_nth, scaled_mean

HERE = Path(__file__).parent
FEW = ("--segment-tokens", 48, "--steps", 3, "--accumulate", 1, "--learning-rate", 0.05, "--device", "cpu")


@pytest.fixture(autouse=True)
def registered():
    for package in (every_nth, scaled_mean):
        register(package.METHOD)
    yield
    for package in (every_nth, scaled_mean):
        unregister(package.METHOD.name)


@pytest.mark.parametrize("package, most", [(every_nth, 3), (scaled_mean, 4)])
def test_a_method_takes_few_files(package, most):
    assert len(list(Path(package.__file__).parent.glob("*.py"))) <= most


def check_corpus(run, name, texts, positions):  # noqa: F811
    shown = run("corpus", "show", name, "--json").json
    assert shown["vectors"] == positions and shown["passages"]
    answer = run("ask", name, "Who stole the tarts?", "--max-new-tokens", 4, "--compressed", "document", "--json")
    assert answer.code == 0 and answer.json["usage"]["vectors"] > 0
    assert run("corpus", "verify", name).code == 0
    again = run("ingest", texts, "--corpus", name, "--json")
    assert again.code == 0 and len(again.json["unchanged"]) == 2


def test_untrained_it_is_ingested_asked_and_verified(run, models, texts):  # noqa: F811
    made = run(
        "ingest", texts, "--corpus", "c", "--compressor", "every-nth", "--keep", 8, "--model", models / "one", "--json"
    )
    assert made.code == 0, made
    shown = run("corpus", "show", "c", "--json").json
    check_corpus(run, "c", texts, sum(-(-tokens // 8) for tokens in passages(shown, 32)))
    other = run("ingest", texts, "--corpus", "c", "--keep", 4)
    assert other.code == 2 and "made with keep 8" in other.sentence


def passages(shown, segment):
    """The tokens of each passage of a corpus."""
    for document in shown["documents"]:
        whole, rest = divmod(document["tokens"], segment)
        yield from [segment] * whole + [rest] * bool(rest)


def test_wrong_options_of_it_get_a_sentence(run, texts):  # noqa: F811
    ingest = ("ingest", texts, "--corpus", "c", "--compressor", "every-nth")
    other = run(*ingest, "--ratio", 8)
    assert other.code == 2 and "'every-nth' has no option --ratio: it has --keep, --segment-tokens." in other.sentence
    assert run(*ingest, "--keep", 0).code == 2
    unknown = run("ingest", texts, "--corpus", "c", "--compressor", "scaled-mean")
    assert unknown.code == 2 and "autocompressor, every-nth" in unknown.sentence


def test_python_makes_it_by_name(models, texts, tmp_path):  # noqa: F811
    compressor = make_compressor("every-nth", make_model(), make_tokenizer(), keep=3)
    (vectors,) = compressor.compress([[1, 2, 3, 4, 5, 6, 7]])
    assert torch.equal(vectors, compressor.embed([1, 4, 7]))
    with lr.open("c", store=tmp_path, model=str(models / "one"), compressor="every-nth", keep=8) as session:
        session.add([texts])
        assert session.corpus.compressor.describe()["keep"] == 8
        assert session.ask("Who stole the tarts?", sampling=lr.Sampling(4)).usage.positions
    with lr.open("c", store=tmp_path) as session:
        session.add(["One more text."])
        assert session.corpus.verify().ok


def test_trained_it_is_pretrained_resumed_ingested_asked_and_verified(run, models, texts, tmp_path):  # noqa: F811
    out = tmp_path / "trained"
    pretrain = ("pretrain", models / "one", texts, out, "--method", "scaled-mean", *FEW)
    trained = run(*pretrain, "--width", 6, "--json")
    assert trained.code == 0, trained
    assert (trained.json["steps"], trained.json["segment_tokens"]) == (3, 48)
    more = run(*pretrain, "--width", 6, "--steps", 5, "--json")
    assert more.code == 0 and more.json["resumed_at"] == 3
    other = run(*pretrain, "--width", 5, "--steps", 6)
    assert other.code == 2 and "width is 6 there and 5 here" in other.sentence
    weight = make_compressor(str(out), *lr.load(str(models / "one"))).weight
    assert (weight != 1).all()
    made = run("ingest", texts, "--corpus", "c", "--compressor", out, "--json")
    assert made.code == 0, made
    shown = run("corpus", "show", "c", "--json").json
    check_corpus(run, "c", texts, sum(-(-tokens // 6) for tokens in passages(shown, 48)))


def test_its_training_takes_its_own_options_only(wrong, models, texts, tmp_path):  # noqa: F811
    pretrain = ("pretrain", models / "one", texts, tmp_path / "out", "--method", "scaled-mean")
    wrong(2, ["'scaled-mean' has no option --substeps: it has --segment-tokens, --width"], *pretrain, "--substeps", 2)
    wrong(2, ["width is 99", "lower it"], *pretrain, "--width", 99)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_installed_package_is_known_to_the_command_line(models, texts, tmp_path):  # noqa: F811
    about = tmp_path / "site" / "every_nth-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: every-nth\nVersion: 1.0\n")
    point = "every-nth = tests.extension.compressors.every_nth:METHOD"
    (about / "entry_points.txt").write_text(f"[longreach.compressors]\n{point}\n")
    root = HERE.parents[2]
    paths = [str(path) for path in (tmp_path / "site", root, root / "src")]
    code = f"import sys; sys.path[:0] = {paths!r}; from longreach.cli import main; main(sys.argv[1:])"

    def call(*arguments):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert "--keep" in call("ingest", "--help").stdout
    store = ("--store", tmp_path / "store")
    made = call("ingest", texts, "--corpus", "c", "--compressor", "every-nth", "--model", models / "one", *store)
    assert made.returncode == 0, made.stderr
    assert call("corpus", "verify", "c", *store).returncode == 0
