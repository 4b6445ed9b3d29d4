"""A weighted pool that is learned with its reader; and questions that share one reading of their text."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from longreach import AutoCompressor, WeightedPool
from longreach.compressors import answering
from longreach.compressors.autocompressor.instruct import InstructObjective
from longreach.compressors.weighted_pool.objective import PoolObjective
from longreach.compressors.weighted_pool.recipe import WeightedPoolRecipe
from longreach.datasets.texts import Text
from longreach.engine.prompt import PromptBuilder
from longreach.errors import ModelError, TrainingError, UsageError
from longreach.models.decoder import add_adapter, only_adapter
from longreach.training.common.checkpoints import whole_checkpoints
from longreach.training.pretrain.pretrain import pretrain
from tests.conftest import make_model, make_tokenizer
from tests.training.test_instruct import LINES, SCHEDULE
from tests.training.test_instruct import RECIPE as SUMMARY

RECIPE = WeightedPoolRecipe(
    segment_tokens=12,
    summary_tokens=4,
    min_summary_tokens=2,
    questions=2,
    reconstruction=1.0,
    reading=2,
    lora_rank=2,
    lora_alpha=2,
    lora_dropout=0.0,
    lora_targets="all",
)
ASKED = [[("Who?", "she"), ("Why did she do it?", "so")], [("Where?", "there, or here")], []]
IDS = [torch.arange(40, 70), torch.arange(50, 57), torch.arange(60, 80)]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def objective(kind=PoolObjective, recipe=RECIPE, model=None):
    torch.manual_seed(0)
    return kind(model or make_model(), make_tokenizer(), recipe, [Text("The Queen made tarts.")])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", [PoolObjective, InstructObjective])
def test_questions_that_share_a_text_are_learned_as_if_each_were_alone(kind, attention, monkeypatch):
    recipe = RECIPE if kind is PoolObjective else replace(SUMMARY, lexical=0.0, scaffold=0)
    found = []
    for masked in (("eager", "sdpa"), ()):
        monkeypatch.setattr(answering, "_MASKED", masked)
        model = make_model()
        model.set_attn_implementation(attention)
        learner = objective(kind, recipe, model)
        assert learner._branching == bool(masked)
        done = learner(IDS, ASKED, 4)
        done.loss.backward()
        found.append((done.parts["answers"], {n: p.grad for n, p in learner.named_parameters() if p.requires_grad}))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    for name, grad in found[0][1].items():
        torch.testing.assert_close(grad, found[1][1][name], atol=1e-5, rtol=1e-3)


def test_sliding_windows_and_sparse_layers_read_each_question_alone():
    assert not objective(model=make_model("mistral"))._branching


def test_the_loss_is_that_of_the_readers_prompt(tmp_path):
    learner = objective(recipe=replace(RECIPE, reconstruction=0.0, reading=0)).eval()
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    ids = make_tokenizer()("The Queen made tarts, a dozen.")["input_ids"]
    with torch.no_grad():
        found = float(learner([torch.tensor(ids)], [[("Who?", "She")]], 4).loss)
    learner.save(tmp_path, "")
    model, tokenizer = make_model(), make_tokenizer()
    pool = WeightedPool.from_pretrained(tmp_path, model, tokenizer, ratio=3)
    prompt = PromptBuilder(model, tokenizer)
    answer = torch.tensor(prompt.answer("She"))
    vectors = pool.compress([ids])[0]
    embeds = torch.cat([prompt.build([vectors], [], "Who?").embeds, pool.embed(answer[:-1].tolist())])

    def loss(adapter):
        with torch.no_grad(), only_adapter(model, adapter):
            logits = model(inputs_embeds=embeds[None]).logits[0, -len(answer) :]
        return float(torch.nn.functional.cross_entropy(logits, answer))

    name = add_adapter(model, tmp_path / "reader")
    assert loss(name) == pytest.approx(found, abs=1e-4) and abs(loss(None) - found) > 0.01


def test_answers_teach_how_loud_each_token_is():
    learner = objective(recipe=replace(RECIPE, reconstruction=0.0, reading=0))
    with torch.no_grad():
        for name, parameter in learner.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    learner(IDS, ASKED, 2).loss.backward()
    grad = learner.token_loudness.grad
    assert grad[40:70].abs().min() > 0 and not grad[100:].any()


def test_a_long_text_is_compressed_further():
    learner = objective(recipe=replace(RECIPE, most_vectors=6))
    seen = []
    real = learner.vectors
    learner.vectors = lambda segments, counts, scaffold: seen.append(counts) or real(segments, counts, scaffold)
    learner([torch.arange(40, 76), torch.arange(40, 60)], [ASKED[0], ASKED[1]], 4)
    assert seen == [[2, 2, 2, 3, 3]]


def test_reading_is_learned_before_questions(base, data, tmp_path, monkeypatch):
    asked, real = [], PoolObjective.forward
    monkeypatch.setattr(PoolObjective, "forward", lambda own, **a: asked.append(a["asked"]) or real(own, **a))
    report = pretrain(base, [data], tmp_path / "out", RECIPE, SCHEDULE, device="cpu")
    assert len(asked) == 8 and not any(map(any, asked[:2])) and sum(map(any, asked[2:])) >= 3
    assert report.last_loss < report.first_loss


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_good_checkpoint(base, data, tmp_path, monkeypatch):
    out, real, calls = tmp_path / "out", PoolObjective.forward, []

    def spoiled(own, **given):
        done = real(own, **given)
        calls.append(done)
        return done._replace(loss=done.loss * float("nan")) if len(calls) > 5 else done

    monkeypatch.setattr(PoolObjective, "forward", spoiled)
    with pytest.raises(TrainingError, match=r"loss of step 6 is not a finite .*lower --learning-rate"):
        pretrain(base, [data], out, RECIPE, SCHEDULE, device="cpu")
    assert [path.name for path in whole_checkpoints(out)] == ["checkpoint-4"] and not (out / "compressor.json").exists()


def test_it_goes_on_with_the_same_losses(base, data, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pretrain(base, [data], whole, RECIPE, SCHEDULE, device="cpu")
    pretrain(base, [data], cut, RECIPE, SCHEDULE, device="cpu")
    shutil.rmtree(whole_checkpoints(cut)[-1])
    for name in ("compressor.json", "compressor.safetensors", "reader"):
        (cut / name).rename(tmp_path / f"gone-{name}")
    assert pretrain(base, [data], cut, RECIPE, SCHEDULE, device="cpu").resumed_at == 4
    one, two = (WeightedPool.from_pretrained(folder, ratio=3) for folder in (whole, cut))
    torch.testing.assert_close(one.token_loudness, two.token_loudness, atol=1e-5, rtol=1e-5)
    assert one.token_loudness.std() > 0


def test_it_starts_from_an_earlier_pool_only(base, data, tmp_path):
    first = pretrain(base, [data], tmp_path / "a", RECIPE, SCHEDULE, device="cpu").folder
    short = replace(SCHEDULE, steps=1, learning_rate=1e-9, summary_learning_rate=1e-9)
    second = pretrain(base, [data], tmp_path / "b", RECIPE, short, start=first, device="cpu").folder
    one, two = (WeightedPool.from_pretrained(folder, ratio=3) for folder in (first, second))
    torch.testing.assert_close(one.token_loudness, two.token_loudness, atol=1e-6, rtol=1e-6)
    with pytest.raises(ModelError, match="of the method weighted-pool"):
        pretrain(base, [data], tmp_path / "c", replace(SUMMARY), short, start=first, device="cpu")
    with pytest.raises(ModelError, match="holds no"):
        AutoCompressor.from_pretrained(first)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"questions": 0, "reading": 0}, "learned from questions"),
        ({"reconstruction": 0.0}, "Reading is learned from reconstruction"),
        ({"most_vectors": 0}, "at least 1"),
    ],
)
def test_recipes_that_do_not_fit_together(wrong, words):
    with pytest.raises(UsageError, match=words):
        replace(RECIPE, **wrong)
