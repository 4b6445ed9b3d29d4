"""Folders and files from anywhere: nothing of them runs, nothing is fetched, nothing is random or endless."""

import json
import socket
import struct

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import longreach as lr
from longreach.errors import ModelError
from longreach.models.loading.load import load_named, load_tokenizer
from tests.conftest import make_model, make_tokenizer


@pytest.fixture
def folder(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def no_network(monkeypatch):
    """Sockets that tell of themselves, and no switch that says offline."""
    asked = []

    def refuse(*args, **kwargs):
        asked.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return asked


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder, change):
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})


CODE = [
    (
        "config.json",
        {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}},
    ),
    ("config.json", {"architectures": ["Evil"], "auto_map": {"AutoModelForCausalLM": "evil.Evil"}}),
    ("tokenizer_config.json", {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}),
    ("config.json", {"model_type": "evil", "auto_map": {"AutoConfig": "org/other--evil.Evil"}}),
]


@pytest.mark.parametrize(("name", "values"), CODE, ids=["config", "model", "tokenizer", "elsewhere"])
def test_the_python_of_a_folder_never_runs(folder, name, values, monkeypatch, no_network):
    """Not even with `yes |` before the command, which would answer the prompt of transformers."""
    monkeypatch.setattr("builtins.input", lambda *shown: "yes")
    (folder / "custom_generate").mkdir()
    for path in (folder / "evil.py", folder / "custom_generate" / "generate.py"):
        path.write_text(f"open({str(folder / 'ran')!r}, 'w')\nclass Evil:\n    pass\n")
    change(folder / name, **values)
    if "architectures" not in values:
        with pytest.raises(ModelError, match="Python code of its own, which is never run"):
            lr.load(folder)
    else:  # what transformers knows is loaded by its own code, whatever the folder asks for
        lr.load(folder)
    assert not (folder / "ran").exists() and not no_network


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attn_implementation", "kernels-community/flash-attn"),
        ("_attn_implementation", "org/kernel@main"),
        ("_attn_implementation", {"": "a/b"}),
        ("transformers_weights", "../../elsewhere.safetensors"),
    ],
)
def test_a_config_that_names_code_or_weights_elsewhere_is_refused(folder, key, value):
    change(folder / "config.json", **{key: value})
    with pytest.raises(ModelError, match=f"asks for {key}"):
        lr.load(folder)


LOST = [
    (["lm_head.weight"], {}),
    (["model.layers.1.self_attn.k_proj.weight"], {}),
    (["model.layers.2.input_layernorm.weight", "model.norm.weight"], {}),
    (["model.embed_tokens.weight"], {}),
    ([f"model.layers.{layer}." for layer in (1, 2)], {}),
]


@pytest.mark.parametrize(("lost", "shape"), LOST, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize("kind", ["stock", "hybrid"])
def test_weights_that_are_missing_are_named_and_never_random(folder, lost, shape, kind):
    if kind == "hybrid":
        pattern = lr.AttentionPattern(block_size=16, sink_blocks=1, local_blocks=2, stride=0)
        lr.convert(make_model(), pattern, max_length=512).save_pretrained(folder)
    names = [name for name in load_file(folder / "model.safetensors") if any(map(name.startswith, lost))]
    change_weights(folder, lambda all: {name: tensor for name, tensor in all.items() if name not in names})
    with pytest.raises(ModelError, match=f"lack {len(names)} tensor") as caught:
        lr.load(folder)
    assert sorted(names)[0] in str(caught.value)


def test_a_tied_head_need_not_be_there(folder):
    make_model(tie_word_embeddings=True).save_pretrained(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert torch.equal(lr.load(folder)[0].lm_head.weight, make_model(tie_word_embeddings=True).lm_head.weight)
    change(folder / "config.json", tie_word_embeddings=False)
    with pytest.raises(ModelError, match=r"lack 1 tensor \(lm_head.weight\)"):
        lr.load(folder)


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"])
def test_weights_of_another_shape_are_named(folder, name):
    change_weights(folder, lambda all: all | {name: all[name][:-1].clone()})
    with pytest.raises(ModelError, match="do not have the shapes") as caught:
        lr.load(folder)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_size", 2**40),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 500),
        ("hidden_size", 2**50),
        ("intermediate_size", 10**12),
        ("intermediate_size", 3_000_000),
        ("num_attention_heads", 2**60),
        ("head_dim", 10**9),
        ("vocab_size", -5),
        ("vocab_size", 2**70),
        ("hidden_size", float("inf")),
        ("num_attention_heads", 0),
        ("num_hidden_layers", "many"),
    ],
)
def test_a_config_that_describes_more_than_there_is_takes_no_memory(folder, key, value):
    change(folder / "config.json", **{key: value})
    with pytest.raises(ModelError):
        lr.load(folder)


def test_json_that_is_none_is_refused(folder):
    there = (folder / "config.json").read_text()
    for name in ("config.json", "tokenizer_config.json", "generation_config.json", "tokenizer.json"):
        for text in ("[" * 200_000, "[]", "7", '{"a": ', "\0", there[:50]):
            kept = (folder / name).read_bytes()
            (folder / name).write_text(text)
            with pytest.raises(ModelError) as caught:
                lr.load(folder)
            assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)
            (folder / name).write_bytes(kept)


def test_a_tokenizer_that_doubles_texts_is_refused(folder):
    doubling = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    change(folder / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [doubling] * 40})
    with pytest.raises(ModelError, match="times as long"):
        lr.load(folder)
    metaspace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    prefix = {"type": "Prepend", "prepend": "\u2581"}
    change(folder / "tokenizer.json", normalizer={"type": "Sequence", "normalizers": [prefix, metaspace]})
    lr.load(folder)


def shards(folder):
    make_model().save_pretrained(folder, max_shard_size="50KB")
    (folder / "model.safetensors").unlink()
    return folder / "model.safetensors.index.json"


def test_shards_are_all_there_and_in_the_folder(folder, tmp_path):
    index = shards(folder)
    lr.load(folder)
    map_ = json.loads(index.read_text())["weight_map"]
    name, part = next(iter(map_.items()))
    (tmp_path / "outside.safetensors").write_bytes((folder / part).read_bytes())
    for path in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), 7, None, ["x"]):
        change(index, weight_map=map_ | {name: path})
        with pytest.raises(ModelError, match=r"outside its folder|lists no weight files"):
            lr.load(folder)
    change(index, weight_map=map_)
    whole = (folder / part).read_bytes()
    (folder / part).write_bytes(whole[:-20])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        lr.load(folder)
    (folder / part).unlink()
    with pytest.raises(ModelError, match=r"lacks 1 of its \d+ weight files") as caught:
        lr.load(folder)
    assert part in str(caught.value)


def test_a_pickle_in_place_of_weights_does_not_run(folder, tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": Evil()}))
    with pytest.raises(ModelError):
        lr.load(folder)
    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError):
        lr.load(folder)
    assert not (tmp_path / "ran").exists()
    torch.save(make_model().state_dict(), folder / "pytorch_model.bin")
    assert torch.equal(lr.load(folder)[0].lm_head.weight, make_model().lm_head.weight)


def test_local_things_stay_local(folder, tmp_path, no_network, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    lr.load("model")
    adapter = tmp_path / "org" / "name"
    adapter.mkdir(parents=True)
    lora = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": "someone/base"}
    (adapter / "adapter_config.json").write_text(json.dumps(lora))
    with pytest.raises(ModelError, match="hf download someone/base"):  # the base is none of this machine's
        lr.load("org/name")
    change(adapter / "adapter_config.json", base_model_name_or_path=str(folder))
    with pytest.raises(ModelError, match="no LoRA weights"):
        lr.load("org/name")
    with pytest.raises(ModelError, match="is not on this machine"):
        load_named("someone/model")
    assert not no_network
    with pytest.raises(ModelError, match="check the name"):
        lr.load("nope")
    assert len(no_network) == 1  # whether there is a network was asked, and nothing else


def test_the_switch_of_the_hub_is_obeyed(no_network, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("nope", "org/name"):
        with pytest.raises(ModelError, match="HF_HUB_OFFLINE is set"):
            lr.load(name)
    assert not no_network


def make_gguf(path, lost=(), **values):
    """A small Llama of random weights as a GGUF file, without the tensors and with the metadata that are given."""
    shape = {"hidden": 32, "ffn": 64, "heads": 4, "blocks": 2, "vocabulary": 260}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(values.pop("blocks", shape["blocks"]))
    writer.add_context_length(512)
    writer.add_embedding_length(values.pop("hidden", shape["hidden"]))
    writer.add_feed_forward_length(values.pop("ffn", shape["ffn"]))
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(shape["vocabulary"])
    writer.add_tokenizer_model("gpt2")
    vocabulary = sorted(make_tokenizer().get_vocab().items(), key=lambda item: item[1])
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([3 if token.startswith("<") and len(token) > 1 else 1 for token, _ in vocabulary])
    writer.add_token_scores([0.0] * len(vocabulary))  # merges follow from them
    writer.add_eos_token_id(256)
    writer.add_bos_token_id(259)
    for key, value in values.items():
        writer.add_uint16(key.replace("_", "."), value)
    hidden, ffn = shape["hidden"], shape["ffn"]
    sizes = {"token_embd": (260, hidden), "output": (260, hidden), "output_norm": (hidden,)}
    for block in range(shape["blocks"]):
        names = {"attn_q": (hidden, hidden), "attn_k": (hidden, hidden), "attn_v": (hidden, hidden)}
        names |= {"attn_output": (hidden, hidden), "ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden)}
        names |= {"ffn_down": (hidden, ffn), "attn_norm": (hidden,), "ffn_norm": (hidden,)}
        sizes |= {f"blk.{block}.{name}": size for name, size in names.items()}
    draw = np.random.default_rng(0)
    for name, size in sizes.items():
        if not any(part in f"{name}.weight" for part in lost):
            writer.add_tensor(f"{name}.weight", draw.normal(0, 0.1, size).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_whole_or_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGREACH_CACHE", str(tmp_path / "cache"))
    model, _ = lr.load(make_gguf(tmp_path / "whole.gguf"), device="cpu")
    assert model.config.num_hidden_layers == 2
    for lost, named in (("blk.1.", "layers.1"), ("blk.0.ffn_up", "layers.0.mlp.up_proj"), ("output_norm", "norm")):
        with pytest.raises(ModelError, match="lack") as caught:
            lr.load(make_gguf(tmp_path / "lost.gguf", lost=[lost]), device="cpu")
        assert named in str(caught.value)
    with pytest.raises(ModelError, match="part 2 of 3 of a model: merge them"):
        lr.load(make_gguf(tmp_path / "part.gguf", split_no=1, split_count=3), device="cpu")
    for values in ({"blocks": 10**9}, {"ffn": 2**31}, {"hidden": 2**31}):
        with pytest.raises(ModelError, match="says llama"):
            lr.load(make_gguf(tmp_path / "large.gguf", **values), device="cpu")


def test_a_damaged_gguf_header_ends_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("LONGREACH_CACHE", str(tmp_path / "cache"))
    whole = make_gguf(tmp_path / "whole.gguf").read_bytes()
    endless = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"k"
    hostile = [
        whole[: len(whole) // 2],
        whole[:-1],
        whole[:200],
        b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63),
        endless + struct.pack("<IIQ", 9, 0, 2**62),
        endless + struct.pack("<IIQ", 9, 8, 2**62),
        endless + struct.pack("<IIQ", 9, 9, 2**62),
        endless + struct.pack("<IQ", 8, 2**62),
        endless + struct.pack("<I", 99),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"t" + struct.pack("<I", 2**31),
    ]
    for data in hostile:
        (tmp_path / "bad.gguf").write_bytes(data)
        with pytest.raises(ModelError, match="cannot be read as a GGUF model"):
            lr.load(tmp_path / "bad.gguf", device="cpu")


def test_what_lies_beside_a_gguf_file_is_none_of_it(tmp_path, monkeypatch, no_network):
    monkeypatch.setenv("LONGREACH_CACHE", str(tmp_path / "cache"))
    path = make_gguf(tmp_path / "whole.gguf")
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/name", "peft_type": "LORA"}')
    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["evil.Evil", null]}}')
    (tmp_path / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}}')
    assert lr.load(path, device="cpu")[0].config.model_type == "llama"
    assert not no_network


ENDLESS = "^(([a-z_0-9.])+.)+[A-Z]([a-z])+$"  # to Python's own `re`
ALWAYS_ENDLESS = "(.|..|...)+[A-Z]"


@pytest.fixture
def adapter(folder, tmp_path):
    """A LoRA over the model, with weights that matter."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    wrapped = get_peft_model(lr.load(folder)[0], lora)
    torch.manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.3)
    wrapped.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def uses(folder, adapter):
    """The four ways in which an adapter is read."""
    from longreach.models.decoder import add_adapter
    from longreach.models.hybrid.adapted import merge_lora, read_json
    from longreach.training.common.adapter import load_trainable_adapter

    yield lambda: lr.load(adapter)
    yield lambda: merge_lora(lr.load(folder)[0], adapter, read_json(adapter / "adapter_config.json"))
    yield lambda: add_adapter(lr.load(folder)[0], adapter)
    yield lambda: load_trainable_adapter(lr.load(folder)[0], adapter)


@pytest.mark.parametrize(
    "values",
    [
        {"target_modules": ENDLESS},
        {"target_modules": ALWAYS_ENDLESS},
        {"exclude_modules": ALWAYS_ENDLESS},
        {"rank_pattern": {ALWAYS_ENDLESS: 4}},
        {"alpha_pattern": {ALWAYS_ENDLESS: 4}},
        {"modules_to_save": [ENDLESS]},
        {"layers_pattern": [ENDLESS], "layers_to_transform": [0]},
        {"layers_pattern": "(a+)+", "layers_to_transform": [0]},
        {"target_modules": ["(a+)+$"]},
        {"target_modules": "(("},
        {"target_modules": "a" * 30_000},
        {"target_modules": 7},
        {"r": 10**9},
        {"r": "4"},
        {"rank_pattern": {"q_proj": 10**9}},
        {"rank_pattern": [4]},
        {"megatron_config": {"a": 1}, "megatron_core": "evil"},
        {"megatron_core": "evil"},
        {"layer_replication": [[0, 3]] * 1000},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}},
        {"peft_type": "PROMPT_TUNING"},
        {"peft_type": None},
    ],
    ids=str,
)
def test_an_adapter_can_only_add_to_weights(folder, adapter, values, monkeypatch):
    from longreach.models.loading import lora

    monkeypatch.setattr(lora, "_PATTERN_SECONDS", 0.2)
    there = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**there, **values, "base_model_name_or_path": str(folder)})
    )
    for use in uses(folder, adapter):
        with pytest.raises(ModelError) as caught:
            use()
        assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"target_modules": r".*\.(q|v)_proj"},
        {"target_modules": r"model\.layers\.\d+\.self_attn\.(q_proj|v_proj)"},
        {"target_modules": ["q_proj", "v_proj", "k_proj"], "exclude_modules": r".*k_proj$"},
        {"alpha_pattern": {r"layers\.\d\.self_attn\.[qv]_proj": 8}, "lora_alpha": 3},
        {"exclude_modules": ENDLESS, "rank_pattern": {ENDLESS: 7}, "alpha_pattern": {ENDLESS: 5}},
        {"alpha_pattern": {"q_proj": 8, "v_proj": 8}, "lora_alpha": 3, "rank_pattern": {r".*[qv]_proj": 4}, "r": 2},
    ],
    ids=str,
)
def test_patterns_that_end_mean_what_they_mean_to_peft(folder, adapter, values):
    ids = torch.arange(40)[None]
    change(adapter / "adapter_config.json", base_model_name_or_path=str(folder))
    with torch.no_grad():
        plain, bare = lr.load(adapter)[0](ids).logits, lr.load(folder)[0](ids).logits
        change(adapter / "adapter_config.json", **values)
        patterned = lr.load(adapter)[0](ids).logits
    assert (plain - bare).abs().max() > 0.1
    assert torch.equal(plain, patterned)


def test_lora_weights_that_are_missing_are_named(folder, adapter):
    path = adapter / "adapter_model.safetensors"
    change(adapter / "adapter_config.json", base_model_name_or_path=str(folder))
    there = load_file(path)
    lost = "base_model.model.model.layers.1.self_attn.v_proj."
    halves = [f"{lost}lora_B.weight", lost, "base_model.model.model.layers.2."]
    for half in halves:
        save_file({name: tensor for name, tensor in there.items() if not name.startswith(half)}, path)
        for use in uses(folder, adapter):
            with pytest.raises(ModelError):
                use()
    with pytest.raises(ModelError, match=r"4 of 12 weights are missing, such as base_model.model.model.layers.2"):
        lr.load(adapter)
    save_file(there | {lost + "lora_A.weight": there[lost + "lora_A.weight"][:, :-1].clone()}, path)
    for use in uses(folder, adapter):
        with pytest.raises(ModelError, match="fit"):
            use()
    path.unlink()
    for use in uses(folder, adapter):
        with pytest.raises(ModelError):
            use()


def test_an_adapter_over_itself_is_refused(tmp_path):
    names = ("first", "second")
    for name, other in zip(names, reversed(names), strict=True):
        (tmp_path / name).mkdir()
        lora = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / other)}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(lora))
    with pytest.raises(ModelError, match="correct the base_model_name_or_path"):
        lr.load(tmp_path / "first")
    with pytest.raises(ModelError, match="correct the base_model_name_or_path"):
        load_tokenizer(tmp_path / "first")


def test_a_folder_of_a_model_and_an_adapter_is_refused(folder, adapter):
    for path in adapter.iterdir():
        path.rename(folder / path.name)
    with pytest.raises(ModelError, match="a folder of their own"):
        lr.load(folder)


def test_the_tokenizer_for_the_harness_asks_for_no_code(folder, tmp_path):
    """lm-evaluation-harness reads tokenizers with trust_remote_code=True."""
    from longreach.evals.peers.harness import tokenizer_folder

    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]})
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil:\n    pass\n")
    copy = tokenizer_folder(str(folder), tmp_path / "copy")
    asked = AutoTokenizer.from_pretrained(copy, trust_remote_code=True)
    assert asked("abc")["input_ids"] == make_tokenizer()("abc")["input_ids"]
    assert not (tmp_path / "ran").exists() and "auto_map" not in (tmp_path / "copy/tokenizer_config.json").read_text()
