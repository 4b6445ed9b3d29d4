"""Sequences and heads over two processes: the same loss and gradients as in one, or one clear sentence."""

import contextlib
import functools
import json
import os

import pytest
import torch
from torch import distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.functional import cross_entropy, pad
from transformers.distributed import DistributedConfig
from transformers.integrations import flash_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import longreach
from longreach.errors import UsageError
from longreach.models import loss
from longreach.models.cached import CACHE, cache_in
from longreach.models.parallel import Ulysses
from tests.conftest import make_model
from tests.models import ulysses

RANKS, ROWS, TOKENS = 2, 2, 56
PATTERN = longreach.AttentionPattern(4, 1, 2, 3)
CASES = {
    "strided": {},
    "window": {"pattern": longreach.AttentionPattern(8, 1, 2)},
    "one KV head": {"num_key_value_heads": 1},
    "as many KV heads": {"num_key_value_heads": 4},
    "qwen3": {"family": "qwen3"},
    "padded": {"real": [TOKENS, 19]},
    "checkpointed": {"checkpointing": True},
}


def make_case(family="llama", pattern=PATTERN, real=None, checkpointing=False, **shape):
    """A hybrid model in training, tokens, the mask (or None) and the next tokens with -100 where there is none."""
    model = longreach.convert(make_model(family, **shape), pattern, [1], max_length=2048).train()
    if checkpointing:
        loss.checkpointing(model, on=True)
    ids = torch.randint(0, 250, (ROWS, TOKENS), generator=torch.Generator().manual_seed(1))
    mask = None if real is None else (torch.arange(TOKENS) < torch.tensor(real)[:, None]).long()
    labels = pad(ids if mask is None else ids.masked_fill(mask == 0, -100), (0, 1), value=-100)[:, 1:]
    return model, ids, mask, labels


def logits_and_gradients(model, ids, mask, labels, **options):
    logits = model(ids, attention_mask=mask, **options).logits
    cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters()}


def piece(x, rank, ranks):
    return None if x is None else x.chunk(ranks, 1)[rank]


@contextlib.contextmanager
def sequence_parallel(model, ranks, real_deepspeed, **options):
    before = ALL_ATTENTION_FUNCTIONS[model.config._attn_implementation]
    try:
        if real_deepspeed:
            ulysses.register_deepspeed(model, ranks, ROWS, **options)
        else:
            ulysses.register(model, distributed.group.WORLD, **options)
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS[model.config._attn_implementation] = before


def tensor_parallel(folder, ranks):
    """The difference that heads on several ranks make without a stride; what is said with one."""
    mesh, ids = init_device_mesh("cpu", (ranks,)), torch.arange(40)[None]
    options = {"distributed_config": DistributedConfig(tp_plan="auto"), "device_mesh": mesh}
    said = {}
    with torch.no_grad():
        for name in ("window", "strided"):
            whole = make_case(**CASES[name])[0].eval()
            split = type(whole).from_pretrained(f"{folder}/{name} model", **options)
            try:
                difference = float((split(ids).logits - whole(ids).logits).abs().max())
                said[name] = [difference, type(split.model.layers[0].self_attn.k_proj.weight).__name__]
            except UsageError as error:
                said[name] = str(error)
    return said


def work(rank, ranks, folder, real_deepspeed):
    """One process: every case, then every call that is to be refused."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    positions = torch.arange(TOKENS).expand(ROWS, -1)
    for name, options in CASES.items():
        model, *tensors = make_case(**options)
        with sequence_parallel(model, ranks, real_deepspeed):
            mine = [piece(x, rank, ranks) for x in tensors]
            logits, gradients = logits_and_gradients(model, *mine, position_ids=piece(positions, rank, ranks))
        for gradient in gradients.values():
            distributed.all_reduce(gradient)
        torch.save((logits, gradients if rank == 0 else None), f"{folder}/{name} {rank}")
    model, ids, _, _ = make_case()
    said, here = tensor_parallel(folder, ranks), {"position_ids": piece(positions, rank, ranks)}
    left = (positions >= 3).long()
    whole = model.eval()(ids, use_cache=False).logits
    with sequence_parallel(model.train(), ranks, real_deepspeed):
        for name, options in {
            "cache": here | {CACHE: model.new_cache()},
            "use_cache": here | {"use_cache": True},
            "no positions": {},
            "restart": {"position_ids": positions[:, : TOKENS // ranks]},
            "left": here | {"attention_mask": piece(left, rank, ranks)},
            "mask": here | {"attention_mask": left},
        }.items():
            try:
                model(piece(ids, rank, ranks), **options)
            except UsageError as error:
                said[name] = str(error)
        try:
            model.generate(piece(ids, rank, ranks), max_new_tokens=2)
        except UsageError as error:
            said["generate"] = str(error)
    with sequence_parallel(model, ranks, real_deepspeed, disable_in_eval=True):
        output = model.eval()(ids)
        said["eval"] = [torch.equal(output.logits, whole), cache_in(output).get_seq_length()]
    with open(f"{folder}/said {rank}", "w") as file:  # noqa: PTH123
        json.dump(said, file)
    distributed.destroy_process_group()


def launch(folder, real_deepspeed=False, ranks=RANKS):
    for name in ("window", "strided"):
        make_case(**CASES[name])[0].save_pretrained(f"{folder}/{name} model")
    multiprocessing.spawn(work, (ranks, str(folder), real_deepspeed), nprocs=ranks)
    return folder


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    return launch(tmp_path_factory.mktemp("ranks"))


def check_case(folder, name, ranks=RANKS):
    model, *tensors = make_case(**CASES[name])
    want, gradients = logits_and_gradients(model, *tensors, use_cache=False)
    parts = [torch.load(folder / f"{name} {rank}") for rank in range(ranks)]
    real = slice(None) if tensors[1] is None else tensors[1].bool()
    torch.testing.assert_close(torch.cat([part[0] for part in parts], 1)[real], want[real], atol=2e-5, rtol=1e-4)
    assert parts[0][1].keys() == gradients.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(parts[0][1][key], gradient, atol=2e-4, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_cut_sequence_is_the_whole_one(ran, name):
    check_case(ran, name)


@pytest.fixture(params=range(RANKS))
def said(ran, request):
    return json.loads((ran / f"said {request.param}").read_text())


@pytest.mark.parametrize(
    "name, word",
    [
        ("cache", "use_cache=False"),
        ("use_cache", "use_cache=False"),
        ("generate", "generate without sequence parallelism"),
        ("no positions", "there are no position_ids"),
        ("restart", "start again"),
        ("left", "pad them on the right"),
        ("mask", r"[rows, 28]"),
    ],
)
def test_what_cannot_be_right_on_a_piece_is_refused_on_every_rank(said, name, word):
    assert word in said[name]


def test_evaluation_that_ulysses_leaves_alone_is_as_ever(said):
    assert said["eval"] == [True, TOKENS]


def test_heads_on_several_ranks_need_a_pattern_without_a_stride(said):
    difference, kind = said["window"]
    assert difference < 1e-4 and kind == "DTensor"
    assert "1 of 2 KV heads" in said["strided"] and "without a stride" in said["strided"]


def test_deepspeeds_own_ulysses_gives_the_same(tmp_path):
    pytest.importorskip("deepspeed", reason="only where DeepSpeed is installed; the stand-in is written after it")
    launch(tmp_path, real_deepspeed=True)
    for name in CASES:
        check_case(tmp_path, name)
    assert json.loads((tmp_path / "said 1").read_text())["eval"] == [True, TOKENS]


# -- attention functions that were replaced --------------------------------------------------------------------------


def stock(*args, **kwargs):
    return ALL_ATTENTION_FUNCTIONS._global_mapping["sdpa"](*args, **kwargs)


def forward(model):
    with torch.no_grad():
        return model(torch.arange(30)[None]).logits


def test_an_unknown_function_in_the_place_of_a_known_one_is_refused(monkeypatch):
    model = make_case()[0].eval()
    want = forward(model)
    disguised = functools.wraps(ALL_ATTENTION_FUNCTIONS["sdpa"])(lambda *args, **kwargs: stock(*args, **kwargs))
    for function in (stock, disguised, functools.partial(stock), torch.nn.Identity()):
        with monkeypatch.context() as patch:
            patch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", function)
            with pytest.raises(UsageError, match=r"'sdpa' was replaced by .*Ulysses"):
                forward(model)
    assert torch.equal(forward(model), want)


def test_a_kernel_under_its_own_name_is_for_full_layers_unless_there_are_ranks(monkeypatch):
    model = make_case()[0].eval()
    want = forward(model)
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "mine", stock)
    model.set_attn_implementation("mine")
    torch.testing.assert_close(forward(model), want)
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda group=None: 2)
    with pytest.raises(UsageError, match="'mine' was replaced by"):
        forward(model)


def test_a_replaced_flash_kernel_is_found_below_its_function(monkeypatch):
    assert Ulysses.of("flash_attention_2", training=True) is None
    monkeypatch.setattr(flash_attention, "_flash_attention_forward", stock)
    with pytest.raises(UsageError, match="flash_attention_2"):
        Ulysses.of("flash_attention_2", training=True)


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_an_exchange_that_does_not_keep_the_contract_is_refused(calls):
    class Broken:
        attn, world_size, sp_rank, process_group = None, 2, 0, None

        def __call__(self, module, q, k, v, mask, **kwargs):
            for _ in range(calls):  # without any exchange
                out = self.attn(module, q, k, v, mask, **kwargs)
            return out if calls else (None, None)

    layer = make_case()[0].model.layers[0].self_attn
    q, k = torch.randn(1, 4, 8, 8), torch.randn(1, 2, 8, 8)
    with pytest.raises(UsageError, match="not known here"):
        Ulysses(Broken()).attend(layer, q, k, k, PATTERN)
