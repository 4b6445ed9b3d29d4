"""Training that asks for far reading: what it learns, by which gradients, and that it resumes."""

import copy
import json

import pytest
import torch

import longreach
from longreach.errors import UsageError
from longreach.models.hybrid.sparse import pattern_of
from longreach.models.hybrid.switched import all_full
from longreach.training.extend import adapter
from longreach.training.extend.curriculum import Stage
from longreach.training.extend.extend import extend
from longreach.training.extend.objective import chunked_loss
from longreach.training.extend.settings import ExtendSettings
from longreach.training.extend.trainer import LongTrainer
from tests.conftest import make_model, make_tokenizer
from tests.training.conftest import make_hybrid

ASKING = {
    "length": 768,
    "steps": 4,
    "batch_tokens": 1536,
    "held_out": 1,
    "asks": 0.5,
    "windows": (16, 32),
    "lengths": (Stage(512, 0.5), Stage(768, 0.5)),
    "lora_rank": 2,
    "train_layers": "full",
    "learning_rate": 1e-2,
    "eval_every": 100,
}


@pytest.fixture
def train(tmp_path):
    """Extends a tiny hybrid model by rows that ask."""
    folder = tmp_path / "prose"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text(f"The hare ran to hill {number}. It sat down! Nobody came. " * 30)

    def call(model=None, name="out", **settings):
        model = make_hybrid() if model is None else model
        return extend(
            model,
            make_tokenizer(),
            [folder],
            tmp_path / name,
            ExtendSettings(**(ASKING | settings)),
            device="cpu",
            cache=tmp_path / "cache",
            say=lambda text: None,
        )

    return call


def steps_of(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def test_only_full_layers_are_trained_and_the_pattern_stays(train, tmp_path):
    before = make_hybrid().state_dict()
    report = train(train_norms=True)
    assert report["replies"].keys() == {"before", "after"}
    assert report["replies"]["after"]["loss"] < report["replies"]["before"]["loss"]
    model, _ = longreach.load(tmp_path / "out", device="cpu")
    changed = {name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])}
    expected = {f"model.layers.1.self_attn.{x}_proj.weight" for x in "qkvo"}
    expected |= {f"model.layers.1.{name}_layernorm.weight" for name in ("input", "post_attention")}
    assert changed == expected
    assert pattern_of(model.config) == pattern_of(make_hybrid().config)


def test_all_weights_of_full_layers(train, tmp_path):
    before = make_hybrid().state_dict()
    train(lora_rank=0, steps=2)
    model, _ = longreach.load(tmp_path / "out", device="cpu")
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]) != name.startswith("model.layers.1."), name


def test_nothing_below_the_lowest_trained_layer_has_a_backward_pass():
    model = make_hybrid(num_hidden_layers=4)
    trained = adapter.attach(model, ExtendSettings(**ASKING), torch.float32)
    needs = {}
    for index, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda _, args, out, index=index: needs.update({index: out.requires_grad}))
    ids = torch.arange(64)[None]
    with chunked_loss(trained):
        trained(input_ids=ids, labels=ids).loss.backward()
    assert needs == {0: False, 1: True, 2: True, 3: True}
    layers = {name.split("layers.")[1][0] for name, value in trained.named_parameters() if value.grad is not None}
    assert layers == {"1"}


@pytest.mark.parametrize("share", [0.02, 0.9])
def test_the_loss_of_few_labels_is_that_of_all_logits(share):
    model = make_model()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 256, (3, 90), generator=generator)
    labels = torch.where(torch.rand(3, 90, generator=generator) < share, ids, -100)
    labels[:, 50] = ids[:, 50]
    logits = model(ids).logits[:, :-1].flatten(0, 1)
    wanted = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100)
    with chunked_loss(model):
        assert model(input_ids=ids, labels=labels).loss.item() == pytest.approx(wanted.item(), rel=1e-5)
        found = model(input_ids=ids, labels=labels, reduction="replies")
    counts = labels[:, 1:].flatten() != -100
    assert torch.equal(found["hits"], (logits.argmax(-1) == labels[:, 1:].flatten())[counts])
    assert found["losses"].mean().item() == pytest.approx(wanted.item(), rel=1e-5)


def gradients(model, dtype, ids, labels):
    """Of a LoRA in float32 over weights in `dtype`, as a run computes them."""
    model = copy.deepcopy(model)
    torch.manual_seed(0)
    trained = adapter.attach(model, ExtendSettings(**(ASKING | {"lora_rank": 4})), dtype)
    for name, parameter in trained.named_parameters():
        if "lora_B" in name:  # as it begins it is 0, and so are the gradients of lora_A
            torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    with chunked_loss(trained), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss = trained(input_ids=ids, labels=labels).loss
    loss.backward()
    found = {}
    for name, parameter in trained.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == parameter.grad.dtype == torch.float32
            found[name] = parameter.grad.flatten()
    return found


def test_gradients_in_bfloat16_point_where_those_of_float32_do():
    model = make_hybrid(num_hidden_layers=4, hidden_size=64, intermediate_size=128)
    ids = torch.randint(0, 256, (4, 128), generator=torch.Generator().manual_seed(3))
    labels = torch.where(torch.arange(128) > 100, ids, -100)
    exact = gradients(model, torch.float32, ids, labels)
    rough = gradients(model, torch.bfloat16, ids, labels)
    assert exact.keys() == rough.keys() and len(exact) == 8
    whole = [torch.cat(list(found.values())) for found in (exact, rough)]
    assert torch.cosine_similarity(*whole, dim=0) > 0.99
    for name, gradient in exact.items():
        assert torch.cosine_similarity(gradient, rough[name], dim=0) > 0.98, name


def test_the_teacher_is_the_untrained_model_with_all_layers_full(train, monkeypatch):
    stock = make_model()
    seen = []
    teach = LongTrainer._teach

    def watch(self, model, inputs):
        found = teach(self, model, inputs)
        with torch.no_grad():
            logits = stock(inputs["input_ids"]).logits
        counts = inputs["labels"][:, 1:] != -100
        wanted = logits[:, :-1][counts].log_softmax(-1).topk(20).values
        seen.append(torch.allclose(found.log_probs, wanted, atol=1e-4))
        assert all(not value.requires_grad for value in found)
        return found

    monkeypatch.setattr(LongTrainer, "_teach", watch)
    # The hybrid's rotary embedding is longer than the stock model's: convert to the same length.
    model = longreach.convert(stock, pattern_of(make_hybrid().config), [1], max_length=2048)
    train(model=model, teacher_weight=0.5, steps=3)
    assert len(seen) == 2 and all(seen)


def test_a_teacher_pulls_towards_itself(train):
    model = make_hybrid()
    with all_full(model), torch.no_grad():
        assert model(torch.arange(9)[None]).logits.isfinite().all()
    without = train(name="without", steps=6)
    taught = train(name="taught", steps=6, teacher_weight=20.0)
    # Learning what it does not expect costs divergence, so replies are learned less.
    assert taught["replies"]["after"]["loss"] > without["replies"]["after"]["loss"]


def test_samples_count_alike_however_many_of_their_tokens_do(train, tmp_path, monkeypatch):
    seen = []
    learn = LongTrainer.learn

    def watch(self, model, inputs, count):
        loss = learn(self, model, inputs, count)
        seen.append(float(loss) * 2)  # divided by the two samples of the step
        return loss

    monkeypatch.setattr(LongTrainer, "learn", watch)
    train(steps=1, dtype="float32")
    ((_, logged),) = steps_of(tmp_path / "out")
    assert len(seen) == 2 and logged == pytest.approx(sum(seen) / 2, abs=1e-3)


@pytest.mark.parametrize("options", [{"teacher_weight": 0.3}, {"dtype": "bfloat16", "checkpointing": False}])
def test_a_run_that_was_stopped_resumes_to_the_same_weights(train, tmp_path, monkeypatch, options):
    options |= {"steps": 6, "save_every": 2}
    train(name="whole", **options)
    step = LongTrainer.training_step

    def interrupt(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(LongTrainer, "training_step", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(**options)
    assert train(**options)["resumed_from_step"] == 2
    assert steps_of(tmp_path / "out") == steps_of(tmp_path / "whole")
    whole, resumed = (longreach.load(tmp_path / name, device="cpu")[0] for name in ("whole", "out"))
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name]), name


def test_settings_left_as_they_are_do_not_make_a_run_of_an_earlier_release_another_one():
    names = {"asks", "windows", "lengths", "train_layers", "teacher_weight"}
    assert not names & ExtendSettings(length=64).identity().keys()
    assert names == names & ExtendSettings(**ASKING, teacher_weight=1.0).identity().keys()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"asks": 1.5}, "asks is 1.5"),
        ({"steps": None}, "say how long it is"),
        ({"train_layers": "some"}, "all or full"),
        ({"train_embeddings": True}, "lies below all layers"),
        ({"teacher_weight": 1.0, "lora_rank": 0}, "goes with lora_rank"),
        ({"teacher_weight": 1.0, "asks": 0.0}, "and with asks"),
        ({"teacher_weight": -1.0}, "teacher_weight is -1"),
        ({"lengths": (Stage(1024, 1.0),)}, "the target length, 768"),
    ],
)
def test_wrong_settings_are_refused(change, words):
    with pytest.raises(UsageError, match=words):
        ExtendSettings(**(ASKING | change))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"windows": (12,)}, "give a multiple of 8"),
        ({"windows": (16, 264)}, "nothing to look for in rows of 512"),
    ],
)
def test_windows_that_cannot_be_are_refused_before_anything_is_made(train, tmp_path, change, words):
    with pytest.raises(UsageError, match=words):
        train(**change)
    assert not (tmp_path / "out").exists()


def test_a_model_without_sparse_layers_has_no_windows_and_no_full_layers(train, tmp_path):
    with pytest.raises(UsageError, match="the model has none"):
        train(model=make_model(), train_layers="all")
    with pytest.raises(UsageError, match="no hybrid: convert it first"):
        train(model=make_model())
    with pytest.raises(UsageError, match="no full layer"):
        train(model=longreach.convert(make_model(), pattern_of(make_hybrid().config), [], max_length=768))
    report = train(model=make_model(), windows=(), train_layers="all", steps=2)
    assert report["steps"] == 2
