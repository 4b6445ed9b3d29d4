"""`rank_layers` on tiny models, and `convert` that reads what it wrote."""

import json
from itertools import product

import pytest
import torch

import longreach
from longreach.errors import UsageError
from longreach.layers.probes import make_probes
from longreach.layers.rank import RankSettings, rank_layers
from longreach.models.hybrid.families import FAMILIES
from longreach.models.hybrid.ranking import place_of, rounded_digest
from longreach.models.hybrid.sparse import plan_of
from tests.conftest import make_model, make_tokenizer

SETTINGS = RankSettings(length=1024, window=64, samples=1, kinds=("numbers", "prose"), most=3)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGREACH_CACHE", str(tmp_path / "cache"))


def make(family="llama", **shape):
    return make_model(family, num_hidden_layers=5, **shape)


def nll_of(model, full, settings=SETTINGS):
    """The reference: the loss of the answers under a model that `convert` has made."""
    hybrid = longreach.convert(model, settings.pattern, list(full), max_length=2048).eval()
    by_kind = []
    probes = make_probes(make_tokenizer(), settings.pattern, length=settings.length, samples=1, kinds=settings.kinds)
    for probe in probes:
        ids = torch.tensor([probe.ids])
        with torch.no_grad():
            losses = torch.nn.functional.cross_entropy(
                hybrid(ids, use_cache=False).logits[0, :-1], ids[0, 1:], reduction="none"
            )
        answers = [losses[[at - 1 for at in answer]].mean() for answer in probe.answers]
        by_kind.append(float(torch.stack(answers).mean()))
    return sum(by_kind) / len(by_kind)


@pytest.mark.parametrize("family", FAMILIES)
def test_reported_losses_are_those_of_the_converted_models(family, tmp_path):
    model = make(family)
    report = rank_layers(model, make_tokenizer(), SETTINGS, out=tmp_path / "r.json").to_json()
    assert [len(choice["full_layers"]) for choice in report["choices"]] == [0, 3, 5]
    for choice in report["choices"]:
        assert choice["nll"] == pytest.approx(nll_of(model, choice["full_layers"]), abs=2e-4)
    assert sorted(report["order"]) == [0, 1, 2, 3, 4] and report["heads"] is None
    written = json.loads((tmp_path / "r.json").read_text())
    assert report == written | {"file": str(tmp_path / "r.json")}
    assert [path.name for path in tmp_path.glob("r.json*")] == ["r.json"]


def test_the_bytes_are_those_of_the_plan(tmp_path):
    model = make()
    report = rank_layers(model, make_tokenizer(), SETTINGS, out=tmp_path / "r.json").to_json()
    # Keys and values of 2 heads of 8 numbers of 2 bytes, at 2,048 tokens in a full layer; a sparse one of the usual
    # pattern keeps the sink and the last 31 blocks before the next one.
    full, sparse = 2 * 2 * 8 * 2 * 2048, 2 * 2 * 8 * 2 * (64 + 30 * 64)
    assert [choice["kv_bytes"] for choice in report["choices"]] == [5 * sparse, 3 * full + 2 * sparse, 5 * full]


def test_a_killed_measurement_resumes_to_the_same_report(tmp_path):
    lines = []

    def stop(line):
        lines.append(line)
        if len(lines) == 5:
            raise KeyboardInterrupt

    out = tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        rank_layers(make(), make_tokenizer(), SETTINGS, out=out, say=stop)
    assert not out.exists()
    rest = []
    resumed = rank_layers(make(), make_tokenizer(), SETTINGS, out=out, say=rest.append).to_json()
    whole = []
    other = rank_layers(make(), make_tokenizer(), SETTINGS, out=tmp_path / "s.json", say=whole.append).to_json()
    assert len(rest) == len(whole) - 5
    for name in ("order", "costs", "choices"):
        assert resumed[name] == other[name]


def test_heads_are_a_report(tmp_path):
    settings = RankSettings(length=1024, window=64, samples=1, kinds=("numbers",), most=3, heads=True)
    report = rank_layers(make(), make_tokenizer(), settings, out=tmp_path / "r.json").to_json()
    heads = report["heads"]
    assert {(one["layer"], one["head"]) for one in heads} == set(product(range(5), range(2)))
    assert [one["cost"] for one in heads] == sorted((one["cost"] for one in heads), reverse=True)


def test_convert_takes_the_layers_of_a_ranking(tmp_path):
    model = make()
    with pytest.raises(UsageError, match="longreach layers MODEL"):
        longreach.convert(model, full_layers="measured")
    report = rank_layers(model, make_tokenizer(), SETTINGS).to_json()
    assert report["file"] == str(place_of(model))
    best = report["choices"][1]["full_layers"]
    # 5 / 3 rounds to 2, of which there is no choice, so that the order counts.
    assert plan_of(longreach.convert(model, full_layers="measured").config).full == tuple(sorted(report["order"][:2]))
    hybrid = longreach.convert(model, full_layers="measured:3")
    assert plan_of(hybrid.config).full == tuple(best)
    # The same weights, hybrid already or in another dtype.
    assert plan_of(longreach.convert(hybrid, full_layers="measured:5").config).full == (0, 1, 2, 3, 4)
    assert rounded_digest(make().bfloat16()) == rounded_digest(model)
    given = longreach.convert(make().bfloat16(), full_layers="measured:3", ranking=report["file"])
    assert plan_of(given.config).full == tuple(best)
    # Nothing ships for this model, so the default stays.
    assert plan_of(longreach.convert(model).config).full == (1, 2)


def test_a_ranking_that_ships_is_the_default(tmp_path, monkeypatch):
    from longreach.models.hybrid import ranking

    monkeypatch.setattr(ranking, "_SHIPPED", tmp_path)
    report = rank_layers(make(), make_tokenizer(), SETTINGS, out=tmp_path / "tiny.json").to_json()
    assert plan_of(longreach.convert(make()).config).full == tuple(sorted(report["order"][:2]))
    assert plan_of(longreach.convert(make(), full_layers="middle-third").config).full == (1, 2)
    # Other weights of the same shape are another model.
    assert plan_of(longreach.convert(make(seed=1)).config).full == (1, 2)


def test_a_ranking_of_another_model_is_refused(tmp_path):
    out = tmp_path / "r.json"
    rank_layers(make(), make_tokenizer(), SETTINGS, out=out)
    for other in (make(seed=1), make_model(), make("qwen2")):
        with pytest.raises(UsageError, match="another model"):
            longreach.convert(other, full_layers="measured", ranking=out)
    with pytest.raises(UsageError, match="0 to 5"):
        longreach.convert(make(), full_layers="measured:6", ranking=out)
    with pytest.raises(UsageError, match="'measured' or 'measured:N'"):
        longreach.convert(make(), full_layers=2, ranking=out)


@pytest.mark.parametrize("word", ["measured:", "measured:x", "measured:-1", "measured:99"])
def test_wrong_words_are_one_sentence(word):
    with pytest.raises(UsageError, match="measured:N with N from 0"):
        longreach.convert(make(), full_layers=word)


def test_damaged_rankings_are_refused(tmp_path):
    out = tmp_path / "r.json"
    rank_layers(make(), make_tokenizer(), SETTINGS, out=out)
    good = json.loads(out.read_text())
    for change in (
        {"order": [0, 1, 2, 3]},
        {"order": [0, 1, 2, 3, 3]},
        {"choices": [{"full_layers": [7]}]},
        {"choices": [{}]},
        {"choices": [{"full_layers": [True]}]},
        {"format": "other"},
        {"sizes": {}},
        {"weights": 3},
    ):
        out.write_text(json.dumps(good | change))
        with pytest.raises(UsageError, match="is no ranking"):
            longreach.convert(make(), full_layers="measured", ranking=out)
    out.write_text("no JSON")
    with pytest.raises(UsageError, match="is no ranking"):
        longreach.convert(make(), full_layers="measured", ranking=out)
    with pytest.raises(UsageError, match="cannot be read"):
        longreach.convert(make(), full_layers="measured", ranking=tmp_path / "nowhere.json")


def test_unsupported_families_and_settings_are_refused_before_work():
    with pytest.raises(UsageError, match="cannot become hybrid"):
        rank_layers(make("gemma"), make_tokenizer(), SETTINGS)
    with pytest.raises(UsageError, match="cannot become hybrid"):
        longreach.convert(make("gemma"), full_layers="measured")
    with pytest.raises(UsageError, match="1 to 5"):
        rank_layers(make(), make_tokenizer(), RankSettings(most=6))
    with pytest.raises(UsageError, match="reads 2,048 tokens"):
        rank_layers(make(), make_tokenizer(), RankSettings(length=4096))
    for wrong in ({"window": 100}, {"window": 0}, {"window": 1024}):
        with pytest.raises(UsageError, match="window"):
            RankSettings(**wrong)


@pytest.mark.real
@pytest.mark.slow
def test_the_ranking_of_smollm2_ships_and_is_its_default(smollm2):
    model, _ = smollm2
    full = plan_of(longreach.convert(model).config).full
    assert len(full) == 10 and {7, 18, 23} <= set(full)
    assert plan_of(longreach.convert(model, full_layers="measured:5").config).full == (7, 8, 17, 18, 23)
    assert plan_of(longreach.convert(model, full_layers="middle-third").config).full == tuple(range(10, 20))
