"""Steps out of memory that is taken once: the same tokens as `generate`, recorded or not, full and hybrid."""

import gc
import weakref

import pytest
import torch
from transformers import DynamicCache, StaticCache

import longreach as lr
from longreach.caches.prefix import cache_bytes
from longreach.engine.rows import read_prefix
from longreach.errors import UsageError
from longreach.models.attend import STEPS
from longreach.models.cached import CACHE
from longreach.models.steps import Steps
from tests.conftest import FAMILIES, make_model
from tests.kernels.cases import needs_triton
from tests.models.recording import recorder

SHAPE = {"num_hidden_layers": 6, "sliding_window": None}
PATTERN = lr.AttentionPattern(block_size=4, sink_blocks=1, local_blocks=3, stride=4)
OURS = ["llama", "mistral", "qwen2", "qwen3"]


def made(family="llama", hybrid=True, pattern=PATTERN, **shape):
    model = make_model(family, **(SHAPE | shape))
    return lr.convert(model, pattern, max_length=2048) if hybrid else model


def ids_of(rows, tokens, seed=0):
    return torch.randint(0, 256, (rows, tokens), generator=torch.Generator().manual_seed(seed))


def written(steps, logits, tokens):
    """Greedy tokens [B, tokens]."""
    out = [logits.argmax(-1)]
    for _ in range(tokens - 1):
        out.append(steps.step(out[-1]).argmax(-1))
    return torch.stack(out, 1)


def wanted(model, ids, tokens, **kwargs):
    out = model.generate(ids, max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0, **kwargs)
    return out[:, ids.shape[1] :]


def recorded(model, max_length, **kwargs):
    """Steps that are written down at the second step and repeated, with Triton's kernels under the interpreter."""

    def state():
        layers = [vars(layer) for layer in steps.cache.layers]
        held = [x for layer in layers for value in layer.values() for x in (value if type(value) is tuple else [value])]
        return [steps._lengths, *(x for x in held if isinstance(x, torch.Tensor))]

    steps = Steps(model, max_length, record=recorder(state), impl="triton", **kwargs)
    return steps


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("family", OURS)
def test_tokens_are_those_of_generate(family, hybrid):
    model, ids = made(family, hybrid), ids_of(2, 37)
    steps = Steps(model, 37 + 19)
    assert not steps.recorded
    assert torch.equal(written(steps, steps.read(ids), 20), wanted(model, ids, 20))
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(UsageError, match="max_length=57"):
        steps.step(ids[:, 0])


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(OURS)))
def test_other_families_step_as_well(family):
    model, ids = make_model(family), ids_of(1, 30)
    steps = Steps(model, 50)
    assert torch.equal(written(steps, steps.read(ids), 12), wanted(model, ids, 12))


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize(("family", "hybrid"), [("llama", False), *((family, True) for family in OURS)])
def test_a_recorded_step_repeated_is_the_model(family, hybrid):
    model, ids = made(family, hybrid, num_hidden_layers=3), ids_of(1, 21)
    steps = recorded(model, 60)
    assert steps.recorded
    places = None
    logits = steps.read(ids)
    tokens = [logits.argmax(-1)]
    for _ in range(13):  # over several blocks: into the window's ring, and out of it
        logits = steps.step(tokens[-1])
        here = [x.data_ptr() for layer in steps.cache.layers for x in vars(layer).values() if torch.is_tensor(x)]
        assert places in (None, here)
        places = here
        whole = model(torch.cat([ids, torch.stack(tokens, 1)], 1), use_cache=False).logits[:, -1]
        torch.testing.assert_close(logits, whole, atol=1e-4, rtol=1e-4)
        tokens.append(logits.argmax(-1))


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("hybrid", [False, True])
def test_recorded_rows_of_unlike_length_are_the_single_ones(hybrid):
    model, ids, lengths = made(hybrid=hybrid, num_hidden_layers=3), ids_of(2, 23), [23, 6]
    mask = torch.stack([(torch.arange(23) >= 23 - n).long() for n in lengths])
    steps = recorded(model, 40)
    together = written(steps, steps.read(ids, attention_mask=mask), 8)
    for row, n in enumerate(lengths):
        assert torch.equal(together[row : row + 1], wanted(model, ids[row : row + 1, 23 - n :], 8))
    with pytest.raises(UsageError, match="one by one"):
        steps.read(ids[:, :2])


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("make", [Steps, recorded])
@pytest.mark.parametrize("hybrid", [False, True])
def test_turns_and_prefixes(make, hybrid):
    model, ids = made(hybrid=hybrid, num_hidden_layers=3), ids_of(1, 50)
    cache = read_prefix(model, model.get_input_embeddings()(ids[0, :20]).detach())
    steps = make(model, 80, cache=cache)
    first = written(steps, steps.read(ids[:, 20:33]), 6)
    assert torch.equal(first, wanted(model, ids[:, :33], 6))
    said = torch.cat([ids[:, :33], first[:, :5], ids[:, 33:]], 1)
    assert torch.equal(written(steps, steps.read(ids[:, 33:]), 8), wanted(model, said, 8))


def test_a_batch_with_padding_reads_on_without_a_graph():
    model, ids = made(), ids_of(2, 20)
    mask = torch.stack([torch.ones(20), (torch.arange(20) >= 11).float()]).long()
    steps = Steps(model, 60)
    first = written(steps, steps.read(ids, attention_mask=mask), 4)
    more = ids_of(2, 5, seed=1)
    second = written(steps, steps.read(more), 4)
    for row, start in enumerate((0, 11)):
        one = slice(row, row + 1)
        assert torch.equal(first[one], wanted(model, ids[one, start:], 4))
        said = torch.cat([ids[one, start:], first[one, :3], more[one]], 1)
        assert torch.equal(second[one], wanted(model, said, 4))
    with pytest.raises(UsageError, match="before the first tokens"):
        steps.read(ids, attention_mask=mask)


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("hybrid", [False, True])
def test_compiled_steps_are_the_same(hybrid, monkeypatch):
    # Kernels under the interpreter: inductor has to leave them whole.
    model, ids, runs = made(hybrid=hybrid, num_hidden_layers=3), ids_of(1, 21), []
    real = torch.compile

    def compile(run, **kwargs):
        compiled = real(run, **kwargs)
        return lambda *args: runs.append(1) or compiled(*args)

    monkeypatch.setattr(torch, "compile", compile)
    steps = Steps(model, 40, compile=True, impl="triton")
    assert torch.equal(written(steps, steps.read(ids), 8), wanted(model, ids, 8)) and len(runs) == 7


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("hybrid", [False, True])
def test_nothing_is_compiled_while_recording(hybrid):
    torch.compiler.reset()
    model, ids = made(hybrid=hybrid, num_hidden_layers=3), ids_of(1, 21)
    stats = torch._dynamo.utils.counters["stats"]
    steps = recorded(model, 40, compile=True)
    tokens = steps.step(steps.read(ids).argmax(-1)).argmax(-1)
    before, compiled = stats["unique_graphs"], []

    def fails(run):
        compiled.append(stats["unique_graphs"])
        run()
        compiled.append(stats["unique_graphs"])
        raise RuntimeError("enough")

    steps._record = fails
    with pytest.raises(UsageError, match="enough"):
        steps.step(tokens)
    assert before > 0 and compiled == [before, before]


@pytest.mark.parametrize("hybrid", [False, True])
def test_memory_is_freed_with_the_steps(hybrid):
    gc.collect()
    gc.disable()  # what refers to itself would stay
    try:
        steps = Steps(made(hybrid=hybrid, num_hidden_layers=3), 30)
        steps.step(steps.read(ids_of(1, 20)).argmax(-1))
        layers = [weakref.ref(layer) for layer in steps.cache.layers]
        assert all(ref() is not None for ref in layers)
        del steps
        assert all(ref() is None for ref in layers)
    finally:
        gc.enable()


def test_what_was_read_in_inference_mode_goes_on_outside():
    model, ids = made(), ids_of(1, 20)
    steps = Steps(model, 40)
    with torch.inference_mode():
        logits = steps.read(ids)
    assert torch.equal(written(steps, logits.clone(), 5), wanted(model, ids, 5))


def test_memory_is_taken_once_and_counted():
    model = made(hybrid=False)
    steps = Steps(model, 100)
    steps.read(ids_of(2, 30))
    held = steps.kv_bytes
    assert held == 6 * 2 * 2 * 2 * 128 * 8 * 4  # layers, K and V, rows, heads, slots in whole blocks, dim, bytes
    assert cache_bytes(steps.cache) == held
    steps.step(torch.tensor([1, 2]))
    assert steps.kv_bytes == held


def test_what_cannot_be_recorded_is_refused():
    for model, options, word in (
        (made(), {"graph": True}, "one GPU"),
        (make_model("gemma2"), {"record": print}, "cannot be recorded"),
        (make_model("mistral"), {"record": print}, "sliding"),
    ):
        with pytest.raises(UsageError, match=word):
            Steps(model, 40, **options)
    with pytest.raises(UsageError, match="input_ids"):
        Steps(made(), 40).read()
    right = torch.tensor([[1, 1, 1], [1, 1, 0]])
    for mask in (right, right[:, :2], right[:1]):
        with pytest.raises(UsageError, match=r"on the left|as the tokens"):
            Steps(made(), 40).read(ids_of(2, 3), attention_mask=mask)
    for cache in (made().new_cache(max_length=40), StaticCache(config=made(hybrid=False).config, max_cache_len=40)):
        with pytest.raises(UsageError, match="taken over"):
            Steps(made(), 40, cache=cache)
    stock = made(hybrid=False)
    mixed = DynamicCache(config=stock.config)
    mixed.layers[-1] = StaticCache(config=stock.config, max_cache_len=40).layers[-1]
    with pytest.raises(UsageError, match="taken over"):
        Steps(stock, 40, cache=mixed)
    assert len(mixed.layers) == SHAPE["num_hidden_layers"]  # what is refused stays whole
    padded = made().new_cache()
    made()(ids_of(2, 3), attention_mask=right.flip(1), **{CACHE: padded})
    with pytest.raises(UsageError, match="with padding"):
        Steps(made(), 40, cache=padded)
    steps = Steps(made(), 10)
    with pytest.raises(UsageError, match="max_length=11"):
        steps.read(ids_of(1, 11))
    assert steps.read(ids_of(1, 10)).shape == (1, 260)
    empty = Steps(made(), 10, cache=DynamicCache())  # a cache without layers is none
    assert torch.equal(empty.read(ids_of(1, 10)), Steps(made(), 10).read(ids_of(1, 10)))


@pytest.mark.slow
@needs_triton
def test_steps_that_turn_out_not_to_be_recordable():
    def fails(run):
        raise RuntimeError("operation not permitted when stream is capturing")

    model, ids = made(num_hidden_layers=3), ids_of(1, 12)
    steps = Steps(model, 40, record=fails, impl="triton")
    tokens = steps.read(ids).argmax(-1)
    tokens = steps.step(tokens).argmax(-1)
    with pytest.raises(UsageError, match=r"not permitted.*graph=False"):
        steps.step(tokens)
    steps = Steps(model, 40, record=fails, impl="triton")
    steps._wanted = False  # as where nobody asked for a graph: then it goes on without
    assert torch.equal(written(steps, steps.read(ids), 5), wanted(model, ids, 5)) and not steps.recorded


def test_an_error_in_a_step_leaves_the_model_as_it_was():
    model = made()
    steps = Steps(model, 40)
    steps.read(ids_of(1, 10))
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(IndexError):
        steps.step(torch.tensor([10**6]))
    assert model.config._attn_implementation == "sdpa" != STEPS
