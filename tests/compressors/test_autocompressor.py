import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from longreach import AutoCompressor
from longreach.compressors.jobs import Job
from longreach.errors import DocumentError, ModelError, UsageError
from tests.conftest import FAMILIES, make_model, make_tokenizer

MODES = ("accumulate", "independent", "replace")
GENERATOR = torch.Generator().manual_seed(7)


def random_ids(count):
    return torch.randint(0, 256, (count,), generator=GENERATOR).tolist()


def plain_llama(model, x):
    """A Llama from its weights alone: [T, d] input embeddings to the [T, d] states after the final norm."""
    weights, c = dict(model.named_parameters()), model.config
    heads, groups, size = c.num_attention_heads, c.num_key_value_heads, c.head_dim
    length = len(x)
    angles = torch.arange(length)[:, None] / c.rope_parameters["rope_theta"] ** (torch.arange(0, size, 2) / size)[None]
    cos, sin = angles.cos().repeat(1, 2)[None], angles.sin().repeat(1, 2)[None]

    def norm(x, name):
        return x / (x.pow(2).mean(-1, keepdim=True) + c.rms_norm_eps).sqrt() * weights[f"model.{name}.weight"]

    def split(x, count):
        return x.view(length, count, size).transpose(0, 1)

    def rotate(x):
        return x * cos + torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1) * sin

    future = torch.full((length, length), float("-inf")).triu(1)
    for layer in range(c.num_hidden_layers):

        def linear(x, name, layer=layer):
            return x @ weights[f"model.layers.{layer}.{name}.weight"].T

        h = norm(x, f"layers.{layer}.input_layernorm")
        q = rotate(split(linear(h, "self_attn.q_proj"), heads))
        k = rotate(split(linear(h, "self_attn.k_proj"), groups)).repeat_interleave(heads // groups, 0)
        v = split(linear(h, "self_attn.v_proj"), groups).repeat_interleave(heads // groups, 0)
        attention = (q @ k.transpose(1, 2) / size**0.5 + future).softmax(-1) @ v
        x = x + linear(attention.transpose(0, 1).reshape(length, -1), "self_attn.o_proj")
        h = norm(x, f"layers.{layer}.post_attention_layernorm")
        gate = torch.nn.functional.silu(linear(h, "mlp.gate_proj")) * linear(h, "mlp.up_proj")
        x = x + linear(gate, "mlp.down_proj")
    return norm(x, "norm")


def plain_compress(model, ids, summary, segment_tokens, mode):
    embeddings, vectors = model.get_input_embeddings().weight, []
    for start in range(0, len(ids), segment_tokens):
        before = {"accumulate": vectors, "independent": [], "replace": vectors[-1:]}[mode]
        text = embeddings[ids[start : start + segment_tokens]]
        states = plain_llama(model, torch.cat([*before, text, summary]))
        vectors.append(states[-len(summary) :])
    return torch.cat(vectors)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("trained", [False, True])
def test_vectors_equal_a_plain_computation(model, tokenizer, mode, trained):
    summary = torch.randn(5, 32, generator=GENERATOR) if trained else None
    compressor = AutoCompressor(model, tokenizer, 5, 12, mode, embed_summary=summary)
    start = summary if trained else model.get_input_embeddings().weight[[tokenizer.eos_token_id] * 5]
    documents = [random_ids(count) for count in (1, 12, 13, 50)]
    with torch.no_grad():
        for ids, got in zip(documents, compressor.compress(documents), strict=True):
            wanted = plain_compress(model, ids, start, 12, mode)
            assert got.shape == wanted.shape
            assert (got - wanted).abs().max() <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mode", MODES)
def test_batched_equals_single(family, mode, tokenizer):
    compressor = AutoCompressor(make_model(family), tokenizer, 3, 20, mode)
    documents = [random_ids(count) for count in (47, 3, 60, 0, 21, 100)]
    together = compressor.compress(documents, batch_size=4)
    for ids, got in zip(documents, together, strict=True):
        (alone,) = compressor.compress([ids], batch_size=1)
        assert got.shape == (-(-len(ids) // 20) * 3, 32)
        torch.testing.assert_close(got, alone, atol=1e-5, rtol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=5), st.integers(1, 4), st.integers(1, 25), st.sampled_from(MODES))
def test_every_segment_comes_once_and_in_order(lengths, batch_size, segment_tokens, mode):
    compressor = AutoCompressor(make_model(), make_tokenizer(), 2, segment_tokens, mode)
    jobs = [Job(i, random_ids(length)) for i, length in enumerate(lengths)]
    seen = [(key, segment) for key, segment, _ in compressor.stream(iter(jobs), batch_size=batch_size)]
    for i, length in enumerate(lengths):
        assert [segment for key, segment in seen if key == i] == list(range(-(-length // segment_tokens)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("done", [1, 2, 4])
def test_resumed_equals_uninterrupted(model, tokenizer, mode, done):
    compressor = AutoCompressor(model, tokenizer, 3, 10, mode)
    ids = random_ids(45)
    whole = [memory for _, _, memory in compressor.stream([Job(0, ids)])]
    rest = list(compressor.stream([Job(0, ids, whole[:done])]))
    assert [segment for _, segment, _ in rest] == list(range(done, 5))
    for _, segment, memory in rest:
        assert torch.equal(memory.vectors, whole[segment].vectors)


def test_accumulate_depends_on_everything_before(model, tokenizer):
    ids = random_ids(60)
    changed = [(ids[0] + 1) % 256, *ids[1:]]
    last = {}
    for mode in MODES:
        compressor = AutoCompressor(model, tokenizer, 2, 20, mode)
        first, second = compressor.compress([ids, changed])
        last[mode] = (first[-2:] - second[-2:]).abs().max()
    assert last["independent"] == 0
    assert last["accumulate"] > 1e-4
    assert last["replace"] > 1e-6


@pytest.mark.parametrize("include_model", [False, True])
def test_saved_equals_loaded(model, tokenizer, tmp_path, include_model):
    summary = torch.randn(4, 32, generator=GENERATOR)
    compressor = AutoCompressor(model, tokenizer, 4, 9, "replace", embed_summary=summary)
    compressor.save(tmp_path, include_model=include_model)
    assert not list(tmp_path.glob("*.bin"))
    given_model = () if include_model else (model, tokenizer)
    loaded = AutoCompressor.from_pretrained(tmp_path, *given_model)
    assert loaded.describe() == compressor.describe()
    assert loaded.fingerprint == compressor.fingerprint
    ids = random_ids(30)
    assert torch.equal(loaded.compress([ids])[0], compressor.compress([ids])[0])
    assert AutoCompressor.from_pretrained(tmp_path, *given_model, segment_tokens=11).segment_tokens == 11


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
@pytest.mark.parametrize("accumulate", [True, False])
def test_reads_the_published_layout(model, tokenizer, tmp_path, weights, accumulate):
    summary = torch.randn(6, 32, generator=GENERATOR)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors") | {"embed_summary.weight": summary}
    if weights == "safetensors":
        save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    else:
        (tmp_path / "model.safetensors").unlink()
        torch.save(state, tmp_path / "pytorch_model.bin")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"summary_length": 6, "accumulate_summary": accumulate}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = AutoCompressor.from_pretrained(tmp_path, segment_tokens=15)
    assert loaded.mode == ("accumulate" if accumulate else "replace")
    wanted = AutoCompressor(model, tokenizer, 6, 15, loaded.mode, embed_summary=summary)
    ids = random_ids(40)
    torch.testing.assert_close(loaded.compress([ids])[0], wanted.compress([ids])[0])


def test_the_whole_checkpoint_is_in_the_published_layout(model, tokenizer, tmp_path):
    AutoCompressor(model, tokenizer, 4, 9).save(tmp_path, include_model=True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["summary_length"], config["accumulate_summary"]) == (4, True)
    assert load_file(tmp_path / "model.safetensors")["embed_summary.weight"].shape == (4, 32)


def test_reads_a_peft_folder(model, tokenizer, tmp_path):
    from peft import LoraConfig, get_peft_model

    class WithSummary(type(model)):
        pass

    base = make_model()
    base.__class__ = WithSummary
    base.embed_summary = torch.nn.Embedding(3, 32)
    lora = LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "v_proj"], modules_to_save=["embed_summary"])
    trained = get_peft_model(base, lora)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    trained.save_pretrained(tmp_path)
    loaded = AutoCompressor.from_pretrained(tmp_path, model, tokenizer, segment_tokens=10)
    merged = trained.merge_and_unload()
    summary = merged.embed_summary.weight.detach()
    ids = random_ids(25)
    with torch.no_grad():
        wanted = plain_compress(merged, ids, summary, 10, "accumulate")
    assert (loaded.compress([ids])[0] - wanted).abs().max() <= 1e-5
    untouched = AutoCompressor(make_model(), tokenizer, 3, 10, embed_summary=summary)
    assert (loaded.compress([ids])[0] - untouched.compress([ids])[0]).abs().max() > 1e-3


def test_an_adapter_on_the_model_changes_nothing(model, tokenizer):
    from peft import LoraConfig

    compressor = AutoCompressor(model, tokenizer, 3, 10)
    ids = random_ids(30)
    before, fingerprint = compressor.compress([ids])[0], compressor.fingerprint
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False), "a")
    with torch.no_grad():
        changed = model(torch.tensor([ids])).logits
    assert torch.equal(compressor.compress([ids])[0], before)
    assert compressor.fingerprint == fingerprint
    with torch.no_grad():
        assert torch.equal(model(torch.tensor([ids])).logits, changed)  # switched on again afterwards


def test_fingerprint_covers_weights_tokenizer_and_settings(tokenizer):
    def prints(model=None, tokenizer=tokenizer, **settings):
        return AutoCompressor(model or make_model(), tokenizer, **({"segment_tokens": 10} | settings)).fingerprint

    altered = make_model()
    with torch.no_grad():
        altered.model.layers[1].mlp.up_proj.weight[3, 4] += 1e-6
    other_tokens = make_tokenizer()
    other_tokens.add_tokens(["Alice"])
    seen = [
        prints(),
        prints(segment_tokens=11),
        prints(summary_tokens=49),
        prints(mode="replace"),
        prints(embed_summary=torch.zeros(50, 32)),
        prints(altered),
        prints(make_model().to(torch.bfloat16)),
        prints(tokenizer=other_tokens),
    ]
    assert len(set(seen)) == len(seen)
    assert prints() == seen[0]
    model = make_model()
    before = prints(model)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.01)
    assert prints(model) != before  # changed in place, after it was hashed once


def test_the_model_fingerprint_does_not_depend_on_the_dtype(tokenizer):
    exact = AutoCompressor(make_model(), tokenizer, segment_tokens=10)
    half = AutoCompressor(make_model().to(torch.bfloat16), tokenizer, segment_tokens=10)
    other = AutoCompressor(make_model(seed=1), tokenizer, segment_tokens=10)
    assert exact.model_fingerprint == half.model_fingerprint != other.model_fingerprint


@pytest.mark.parametrize(
    "settings",
    [
        {"summary_tokens": 0},
        {"segment_tokens": 0},
        {"segment_tokens": 2000},
        {"mode": "forward"},
        {"embed_summary": torch.zeros(3, 32)},
        {"embed_summary": torch.zeros(50, 31)},
    ],
)
def test_refuses_settings_out_of_range(model, tokenizer, settings):
    with pytest.raises(UsageError, match=r"must be|lower|needed"):
        AutoCompressor(model, tokenizer, **settings)


def test_refuses_what_would_leave_the_window_instead_of_extrapolating(tokenizer):
    model = make_model(max_position_embeddings=100)
    compressor = AutoCompressor(model, tokenizer, 10, 40)
    assert compressor.compress([random_ids(200)])[0].shape == (50, 32)  # the last input takes exactly 90 positions
    with pytest.raises(DocumentError, match="independent"):
        compressor.compress([random_ids(281)])
    compressor = AutoCompressor(model, tokenizer, 10, 40, "replace")
    assert compressor.compress([random_ids(281)])[0].shape == (80, 32)


def test_refuses_ids_of_another_vocabulary(model, tokenizer):
    with pytest.raises(UsageError, match="tokenizer"):
        AutoCompressor(model, tokenizer, 2, 10).compress([[1, 2], [5, 900]])


def test_refuses_folders_that_are_no_compressor(model, tokenizer, tmp_path):
    with pytest.raises(ModelError, match="no folder"):
        AutoCompressor.from_pretrained(tmp_path / "missing", model, tokenizer)
    with pytest.raises(ModelError, match="holds no compressor"):
        AutoCompressor.from_pretrained(tmp_path, model, tokenizer)
    model.save_pretrained(tmp_path / "stock")
    with pytest.raises(ModelError, match="no embed_summary"):
        AutoCompressor.from_pretrained(tmp_path / "stock", model, tokenizer)
    AutoCompressor(model, tokenizer, 2, 10).save(tmp_path / "own")
    with pytest.raises(ModelError, match="hidden size 32"):
        AutoCompressor.from_pretrained(tmp_path / "own", make_model(hidden_size=64), tokenizer)
    with pytest.raises(ModelError, match="give model and tokenizer"):
        AutoCompressor.from_pretrained(tmp_path / "own")


def test_fingerprint_covers_how_the_model_computes(tokenizer):
    plain = AutoCompressor(make_model(), tokenizer, segment_tokens=10)
    turned = make_model(rope_parameters={"rope_type": "default", "rope_theta": 500_000.0})
    other = AutoCompressor(turned, tokenizer, segment_tokens=10)
    assert plain.model_fingerprint != other.model_fingerprint and plain.fingerprint != other.fingerprint


def test_fingerprint_notices_weights_merged_behind_its_back(model, tokenizer):
    from peft import LoraConfig, get_peft_model

    compressor = AutoCompressor(model, tokenizer, segment_tokens=10)
    before = compressor.fingerprint, compressor.model_fingerprint
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    assert (compressor.fingerprint, compressor.model_fingerprint) == before
    wrapped.merge_and_unload()
    assert compressor.fingerprint != before[0] and compressor.model_fingerprint != before[1]


def test_refuses_a_compressor_of_another_model_of_the_same_size(model, tokenizer, tmp_path):
    AutoCompressor(model, tokenizer, 2, 10).save(tmp_path)
    with pytest.raises(ModelError, match="made for another model"):
        AutoCompressor.from_pretrained(tmp_path, make_model(seed=5), tokenizer)
    assert AutoCompressor.from_pretrained(tmp_path, make_model().to(torch.bfloat16), tokenizer)


def test_refuses_weight_files_that_are_no_tensors(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04\x95 no pickle of tensors")
    with pytest.raises(ModelError, match="cannot be read"):
        AutoCompressor.from_pretrained(tmp_path, model, tokenizer)
