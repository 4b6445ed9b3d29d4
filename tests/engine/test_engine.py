"""The engine: every row gets what it gets alone, whatever the company."""

import copy
import gc
import signal
import subprocess
import sys
import threading
import time
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model

import longreach as lr
from longreach.caches.prefix import PrefixCache
from longreach.engine import choice, rows
from longreach.engine import engine as engine_module
from longreach.engine.adapters import can_mix
from longreach.engine.engine import Engine, engine_of
from longreach.engine.request import Request
from longreach.engine.rows import read_prefix
from longreach.engine.sampling import Sampling
from longreach.errors import UsageError
from longreach.models import joined
from longreach.models.cached import CACHE
from longreach.models.decoder import adapter_layers, add_adapter, only_adapter
from longreach.models.joined import can_join
from longreach.models.sharing import exclusive
from longreach.models.steps import Steps
from tests.conftest import FAMILIES, make_model
from tests.kernels.cases import needs_triton
from tests.models.recording import recorder

PATTERN = lr.AttentionPattern(block_size=4, sink_blocks=1, local_blocks=3, stride=4)
HYBRIDS = ["llama", "mistral", "qwen2", "qwen3"]
KINDS = [*FAMILIES, *(f"hybrid {family}" for family in HYBRIDS)]
LENGTHS = (40, 1, 17, 33, 90)


def made(kind):
    family = kind.removeprefix("hybrid ")
    if family == kind:
        return make_model(family)
    return lr.convert(make_model(family, num_hidden_layers=6, sliding_window=None), PATTERN, max_length=2048)


def prompt(model, length, seed=0):
    ids = torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed))
    return model.get_input_embeddings()(ids).detach()


@torch.no_grad()
def alone(model, embeds, count, adapter=None):
    """Greedy tokens by forwards over everything before each of them."""
    tokens = []
    for _ in range(count):
        with only_adapter(model, adapter):
            tokens.append(int(model(inputs_embeds=embeds[None], use_cache=False).logits[0, -1].argmax()))
            embeds = torch.cat([embeds, model.get_input_embeddings()(torch.tensor(tokens[-1:]))])
    return tokens


def make_adapter(folder, seed, targets, dora=False):
    """A LoRA large enough that it changes every answer."""
    config = LoraConfig(r=4, target_modules=list(targets), init_lora_weights=False, use_dora=dora)
    donor = get_peft_model(make_model(), config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in donor.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.normal_(0, 0.5)
    donor.save_pretrained(folder, save_embedding_layers=False)
    return folder


def greedy(embeds, count=12, **more):
    return Request(embeds, Sampling(max_new_tokens=count), **more)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_together_are_rows_alone(kind):
    model = made(kind)
    engine = Engine(model)
    prompts = [prompt(model, length, seed=length) for length in LENGTHS]
    wanted = [alone(model, embeds, 12) for embeds in prompts]
    assert can_join(model)
    with exclusive(model):  # so that all are there before the first step
        handles = [engine.submit(greedy(embeds)) for embeds in prompts]
    assert [handle.result().tokens for handle in handles] == wanted
    assert [engine.submit(greedy(embeds)).result().tokens for embeds in prompts] == wanted


@pytest.mark.parametrize("kind", ["llama", "gemma3", "hybrid llama"])
def test_rows_join_and_leave_between_steps(kind):
    model = made(kind)
    engine = Engine(model, chunk_tokens=16)
    counts = [30, 3, 12, 1, 20]
    prompts = [prompt(model, length, seed=length) for length in LENGTHS]
    wanted = [alone(model, *each) for each in zip(prompts, counts, strict=True)]
    handles = []
    for embeds, count in zip(prompts, counts, strict=True):
        if handles:
            next(iter(handles[0]))  # the first one writes already
        handles.append(engine.submit(greedy(embeds, count)))
    assert [handle.result().tokens for handle in handles] == wanted


def test_more_requests_than_rows_wait_for_their_turn():
    model = make_model()
    engine = Engine(model, max_rows=2)
    prompts = [prompt(model, 5 + length, seed=length) for length in range(6)]
    with exclusive(model):
        handles = [engine.submit(greedy(embeds, 4)) for embeds in prompts]
    assert [handle.result().tokens for handle in handles] == [alone(model, embeds, 4) for embeds in prompts]


def test_tokens_come_while_they_are_written_and_to_every_iteration():
    model = make_model()
    embeds = prompt(model, 20)
    wanted = alone(model, embeds, 10)
    handle = Engine(model).submit(greedy(embeds, 10))
    assert list(handle) == wanted and list(handle) == wanted
    written = handle.result()
    assert written.tokens == wanted and written.ended == "length"
    assert 0 < written.first_token_seconds < written.seconds
    assert written.kv_bytes == 3 * 2 * 2 * 64 * 8 * 4  # layers, K and V, heads, slots in whole blocks, dim, bytes


def test_stop_tokens_end_a_row_and_are_not_written():
    model = make_model()
    engine = Engine(model)
    prompts = [prompt(model, length, seed=length) for length in (9, 20)]
    free = [alone(model, embeds, 12) for embeds in prompts]
    stop = next(token for token in free[0] if token not in free[1])
    with exclusive(model):
        handles = [engine.submit(greedy(embeds, stops=frozenset([stop]))) for embeds in prompts]
    first, second = (handle.result() for handle in handles)
    assert first.tokens == free[0][: free[0].index(stop)] and first.ended == "stop"
    assert second.tokens == free[1] and second.ended == "length"


def test_sampling_with_a_seed_is_the_same_in_company():
    model = make_model()
    engine = Engine(model)
    prompts = [prompt(model, length, seed=length) for length in (9, 20, 9)]
    ways = [
        Sampling(12, 1.5, top_k=50, top_p=0.95, seed=3),
        Sampling(12, 1.0, seed=4),
        Sampling(12),
    ]
    requests = [Request(embeds, sampling) for embeds in prompts for sampling in ways]
    single = [engine.submit(request).result().tokens for request in requests]
    with exclusive(model):
        handles = [engine.submit(request) for request in requests]
    assert [handle.result().tokens for handle in handles] == single
    assert single[0] != single[1] != single[2]


@pytest.mark.parametrize("targets", [["q_proj", "o_proj"], ["v_proj", "down_proj", "embed_tokens"]])
@pytest.mark.parametrize("dora", [False, True])
def test_every_row_has_its_own_adapter(tmp_path, targets, dora):
    if dora and "embed_tokens" in targets:
        targets = ["v_proj", "down_proj"]
    model = make_model()
    names = [add_adapter(model, make_adapter(tmp_path / str(seed), seed, targets, dora)) for seed in range(3)]
    engine = Engine(model)
    order = [names[0], None, names[1], names[0], names[2]]
    prompts = [prompt(model, length, seed=length) for length in LENGTHS]
    wanted = [alone(model, embeds, 12, name) for embeds, name in zip(prompts, order, strict=True)]
    assert can_mix(model, names) is not dora
    with exclusive(model):
        handles = [engine.submit(greedy(e, adapter=name)) for e, name in zip(prompts, order, strict=True)]
    assert [handle.result().tokens for handle in handles] == wanted
    assert engine.submit(greedy(prompts[0], adapter=names[1])).result().tokens == alone(model, prompts[0], 12, names[1])
    assert wanted[0] != alone(model, prompts[0], 12)  # an adapter matters
    assert all(layer.disable_adapters and not layer._forward_hooks for layer in adapter_layers(model))


@pytest.mark.parametrize("kind", ["llama", "mistral", "hybrid llama"])
def test_equal_prefixes_are_read_once(kind, monkeypatch):
    model = made(kind)
    engine, prefixes = Engine(model, chunk_tokens=16), PrefixCache(1 << 30)
    context = prompt(model, 60)
    prompts = [torch.cat([context, prompt(model, length, seed=length)]) for length in (5, 9, 30)]
    wanted = [alone(model, embeds, 12) for embeds in prompts]
    read, real = [], rows.read_prefix
    monkeypatch.setattr(
        rows, "read_prefix", lambda model, embeds, *others: read.append(len(embeds)) or real(model, embeds, *others)
    )
    requests = [greedy(embeds, cuts=(40, 60), prefixes=prefixes) for embeds in prompts]
    with exclusive(model):
        handles = [engine.submit(request) for request in requests]
    written = [handle.result() for handle in handles]
    assert [one.tokens for one in written] == wanted
    assert sum(read) == 60 and sum(one.cached for one in written) == 2 * 60
    again = engine.submit(requests[1]).result()
    assert again.tokens == wanted[1] and again.cached == 60 and sum(read) == 60


def test_a_prefix_whose_first_reader_leaves_is_read_by_the_next():
    model = make_model()
    engine, prefixes = Engine(model, chunk_tokens=4), PrefixCache(1 << 30)
    embeds = prompt(model, 60)
    with exclusive(model):
        first, second = (engine.submit(greedy(embeds, cuts=(40,), prefixes=prefixes)) for _ in range(2))
        engine.turn()
        first.cancel()
    assert first.result().tokens == [] and first.result().ended == "cancelled"
    assert second.result().tokens == alone(model, embeds, 12)
    assert second.result().cached == 0


@pytest.mark.parametrize("kind", ["llama", "hybrid llama"])
def test_rows_share_a_cache_that_comes_before_them(kind):
    model = made(kind)
    engine = Engine(model)
    context = prompt(model, 50)
    cache = read_prefix(model, context)
    prompts = [prompt(model, length, seed=length) for length in (5, 9, 30)]
    with exclusive(model):
        handles = [engine.submit(greedy(embeds, after=cache)) for embeds in prompts]
    wanted = [alone(model, torch.cat([context, embeds]), 12) for embeds in prompts]
    assert [handle.result().tokens for handle in handles] == wanted
    assert cache.get_seq_length() == 50


def test_a_prompt_may_stand_behind_more_positions_than_its_cache_has():
    model = make_model()
    engine, context = Engine(model), prompt(model, 50)
    cache = read_prefix(model, context)
    kept = torch.arange(0, 50, 2)
    for layer in cache.layers:
        layer.keys, layer.values = layer.keys[:, :, kept], layer.values[:, :, kept]
    prompts = [prompt(model, length, seed=length) for length in (5, 9)]

    @torch.no_grad()
    def dropped(embeds):
        """Greedy tokens by transformers alone, over the entries that were kept."""
        past, tokens = copy.deepcopy(cache), []
        for at in range(50, 50 + len(embeds) + 11):
            if at < 50 + len(embeds):
                new = embeds[at - 50][None, None]
            else:
                new = model.get_input_embeddings()(torch.tensor([[tokens[-1]]]))
            logits = model(inputs_embeds=new, position_ids=torch.tensor([[at]]), **{CACHE: past}).logits
            if at >= 50 + len(embeds) - 1:
                tokens.append(int(logits[0, -1].argmax()))
        return tokens

    with exclusive(model):
        handles = [engine.submit(greedy(embeds, after=cache, position=50)) for embeds in prompts]
    assert [handle.result().tokens for handle in handles] == [dropped(embeds) for embeds in prompts]


def test_a_cancelled_row_leaves_and_the_others_stay():
    model = make_model()
    engine = Engine(model)
    prompts = [prompt(model, length, seed=length) for length in (9, 20)]
    with exclusive(model):
        left = engine.submit(greedy(prompts[0], 1500))
        stays = engine.submit(greedy(prompts[1], 40))
    seen = [token for _, token in zip(range(5), left, strict=False)]
    left.cancel()
    written = left.result()
    assert written.ended == "cancelled" and 5 <= len(written.tokens) < 1500
    assert written.tokens[:5] == seen == alone(model, prompts[0], 5)
    assert stays.result().tokens == alone(model, prompts[1], 40)


def test_what_nobody_waits_for_is_freed():
    model = make_model()
    engine = Engine(model)
    handle = engine.submit(greedy(prompt(model, 9), 2000))
    next(iter(handle))
    del handle
    until = time.monotonic() + 20
    while engine._batch.rows and time.monotonic() < until:
        time.sleep(0.01)
    assert not engine._batch.rows and not engine._batch._joined


def test_an_error_ends_its_own_request_only():
    model = make_model()
    engine = Engine(model)
    good = prompt(model, 20)
    with exclusive(model):
        before = engine.submit(greedy(good))
        wrong = engine.submit(greedy(torch.zeros(4, 7)))
        after = engine.submit(greedy(good, position=3, after=read_prefix(model, good[:3])))
    with pytest.raises(RuntimeError):
        wrong.result()
    with pytest.raises(RuntimeError):
        list(wrong)
    assert before.result().tokens == alone(model, good, 12)
    assert len(after.result().tokens) == 12
    for embeds, more in ((good[0], {}), (good[:0], {}), (good, {"cuts": (20,)}), (good, {"chunk_tokens": 0})):
        with pytest.raises(UsageError):
            greedy(embeds, **more)


def test_an_error_of_one_choice_leaves_the_samples_of_the_others_as_they_are(monkeypatch):
    model = make_model()
    sampled = Sampling(max_new_tokens=8, temperature=1.0, seed=5)
    want = Engine(model).submit(Request(prompt(model, 20), sampled)).result().tokens
    usual = choice.Chooser.choose

    def choose(self, logits):
        if self is broken[0].chooser and len(broken[0].progress.tokens) == 3:
            raise RuntimeError("probability tensor contains nan")
        return usual(self, logits)

    broken = []
    monkeypatch.setattr(choice.Chooser, "choose", choose)
    engine = Engine(model)
    with exclusive(model):
        handle = engine.submit(Request(prompt(model, 20), sampled))
        bad = engine.submit(Request(prompt(model, 9), Sampling(max_new_tokens=8, temperature=1.0, seed=1)))
        engine._admit(model)
        broken.append(engine._batch.rows[1])
    assert handle.result().tokens == want
    with pytest.raises(RuntimeError, match="nan"):
        bad.result()


def test_an_error_of_kept_prefixes_ends_its_own_request_only():
    class Broken(PrefixCache):
        def get(self, key):
            raise RuntimeError("out of memory")

    model = make_model()
    engine = Engine(model)
    with exclusive(model):
        bad = engine.submit(greedy(prompt(model, 20), 3, cuts=(10,), prefixes=Broken(1 << 20)))
        good = engine.submit(greedy(prompt(model, 9), 3))
    assert ends(good) and good.result().tokens == alone(model, prompt(model, 9), 3)
    with pytest.raises(RuntimeError, match="memory"):
        bad.result()


@pytest.mark.parametrize("kind", ["llama", "hybrid llama"])
def test_a_step_that_fails_in_company_is_taken_again_one_by_one(kind, monkeypatch):
    model = made(kind)
    engine = Engine(model)
    prompts = [prompt(model, length, seed=length) for length in LENGTHS]
    real, calls = model.model.layers[2].forward, []

    def fails(hidden, *args, **kwargs):
        calls.append(len(hidden))
        if len(hidden) > 1 and len(calls) > 20:
            raise RuntimeError("no memory")
        return real(hidden, *args, **kwargs)

    monkeypatch.setattr(model.model.layers[2], "forward", fails)
    sampling = Sampling(12, 1.0, seed=1)
    with exclusive(model):
        handles = [engine.submit(greedy(embeds)) for embeds in prompts]
        drawn = engine.submit(Request(prompts[0], sampling))
    wanted = [alone(model, embeds, 12) for embeds in prompts]
    assert [handle.result().tokens for handle in handles] == wanted
    assert max(calls) > 1
    assert drawn.result().tokens == engine.submit(Request(prompts[0], sampling)).result().tokens


def test_whoever_holds_the_lock_drives_the_engine():
    model = make_model()
    engine, embeds = Engine(model), prompt(model, 20)
    with exclusive(model):
        handle = engine.submit(greedy(embeds))
        assert handle.result().tokens == alone(model, embeds, 12)
        assert list(engine.submit(greedy(embeds, 3))) == alone(model, embeds, 3)


def test_a_closed_engine_drains_or_cancels_and_takes_nothing_more():
    model = make_model()
    for cancel in (False, True):
        engine = engine_of(model)
        assert engine is engine_of(model)
        handles = [engine.submit(greedy(prompt(model, 20), 300)) for _ in range(3)]
        next(iter(handles[0]))
        engine.close(cancel=cancel)
        counts = [len(handle.result().tokens) for handle in handles]
        assert (counts == [300] * 3) is not cancel and counts[0] > 0
        with pytest.raises(UsageError, match="closed"):
            engine.submit(greedy(prompt(model, 20)))
        assert engine_of(model) is not engine
    with exclusive(model):
        engine = engine_of(model)
        handle = engine.submit(greedy(prompt(model, 20), 5))
        engine.close()
        assert len(handle.result().tokens) == 5


def test_an_engine_keeps_no_model_alive():
    model = make_model()
    engine = engine_of(model)
    assert len(engine.submit(greedy(prompt(model, 20), 3)).result().tokens) == 3
    while engine._batch.rows:
        time.sleep(0.01)
    gone = weakref.ref(model)
    del model
    # The engine's thread holds the model until its turn returns.
    for _ in range(500):
        gc.collect()
        if gone() is None:
            break
        time.sleep(0.01)
    assert gone() is None


def test_the_thread_ends_when_there_is_nothing_to_do(monkeypatch):
    monkeypatch.setattr(engine_module, "_IDLE_SECONDS", 0.05)
    model = make_model()
    engine = Engine(model)
    for _ in range(2):
        assert len(engine.submit(greedy(prompt(model, 20), 3)).result().tokens) == 3
        thread = engine._thread
        assert thread is not None
        thread.join(10)
        assert not thread.is_alive() and engine._thread is None


def ends(handle, seconds=20):
    """Whether an answer ends; a request that was lost would be waited for without end."""
    with handle._progress.changed:
        return handle._progress.changed.wait_for(lambda: handle._progress.ended, seconds)


def test_a_request_that_comes_as_the_thread_gives_up_is_answered():
    model = make_model()
    engine = Engine(model)
    late = []

    class Condition(threading.Condition):
        def wait(self, timeout=None):
            if late:
                return super().wait(timeout)
            # The time is up, and a request gets the lock before this thread does.
            late.append(engine.submit(greedy(prompt(model, 20), 3)))
            return False

    engine._changed = Condition()
    assert len(engine.submit(greedy(prompt(model, 9), 3)).result().tokens) == 3
    while not late:
        time.sleep(0.01)
    assert ends(late[0]) and late[0].result().tokens == alone(model, prompt(model, 20), 3)


def test_an_interruption_loses_no_request_of_another_thread(monkeypatch):
    model = make_model()
    engine = Engine(model)
    interrupted = []

    class Interrupted(rows.Row):
        def __init__(self, *parts):
            if not interrupted:
                interrupted.append(True)
                raise KeyboardInterrupt
            super().__init__(*parts)

    monkeypatch.setattr(engine_module, "Row", Interrupted)
    with exclusive(model):
        theirs = engine.submit(greedy(prompt(model, 20), 3))
        with pytest.raises(KeyboardInterrupt):
            engine.submit(greedy(prompt(model, 9), 3)).result()
    assert interrupted and ends(theirs)
    assert theirs.result().tokens == alone(model, prompt(model, 20), 3)


def test_closing_cancels_a_request_that_is_about_to_become_a_row(monkeypatch):
    model = make_model()
    engine = Engine(model)

    class Slow(rows.Row):
        def __init__(self, *parts):
            closing = threading.Thread(target=engine.close, kwargs={"cancel": True}, daemon=True)
            closing.start()
            while not engine.closed:
                time.sleep(0.01)
            with engine._changed:  # `close` has seen to those that it knows
                super().__init__(*parts)

    monkeypatch.setattr(engine_module, "Row", Slow)
    handle = engine.submit(greedy(prompt(model, 9), 300))
    assert ends(handle) and handle.result().ended == "cancelled"


def test_a_request_that_is_cancelled_while_it_waits_for_its_turn_ends_at_once():
    model = make_model()
    engine = Engine(model, max_rows=1)
    long = engine.submit(greedy(prompt(model, 9), 3000))
    next(iter(long))
    waits = engine.submit(greedy(prompt(model, 20), 3))
    waits.cancel()
    assert ends(waits) and waits.result().ended == "cancelled"
    assert not long._progress.ended and engine.waiting == 0
    long.cancel()


def test_a_long_prompt_does_not_stall_those_that_write():
    model = make_model()
    engine = Engine(model, chunk_tokens=16)
    writes = engine.submit(greedy(prompt(model, 9), 1000))
    stream = iter(writes)
    next(stream)
    long = engine.submit(greedy(prompt(model, 1000), 1))
    count = 0
    for _ in stream:
        count += 1
        if long._progress.ended:
            break
    assert count > 1000 // 16 - 10
    assert long.result().tokens == alone(model, prompt(model, 1000), 1)


def test_threads_of_torch_are_those_of_the_caller():
    model = make_model()
    engine, seen = Engine(model), []
    model.register_forward_hook(lambda *_: seen.append((threading.current_thread().name, torch.get_num_threads())))
    usual = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            engine.submit(greedy(prompt(model, 9), 3)).result()
    finally:
        torch.set_num_threads(usual)
    assert seen == [("longreach-engine", 1)] * 3 + [("longreach-engine", 2)] * 3


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("hybrid", [False, True])
def test_recorded_steps_together_are_rows_alone(hybrid, monkeypatch):
    monkeypatch.setattr(joined, "_RECORD_AFTER", 2)
    model = make_model(num_hidden_layers=3, sliding_window=None)
    model = lr.convert(model, PATTERN, max_length=2048) if hybrid else model
    prompts = [prompt(model, length, seed=length) for length in (21, 6)]
    wanted = [alone(model, embeds, 10) for embeds in prompts]

    def state():
        held = [value for one in steps for layer in one.cache.layers for value in vars(layer).values()]
        flat = [x for value in held for x in (value if type(value) is tuple else [value])]
        lengths = [one.lengths for one in steps if one.lengths is not None]
        return [*lengths, *(x for x in flat if isinstance(x, torch.Tensor))]

    steps = [Steps(model, 40, record=recorder(state), impl="triton") for _ in prompts]
    logits = [one.read(inputs_embeds=embeds[None]) for one, embeds in zip(steps, prompts, strict=True)]
    tokens = [torch.cat(logits).argmax(-1)]
    together = joined.JoinedSteps(steps)
    for _ in range(9):
        tokens.append(together.step(tokens[-1]).argmax(-1))
    assert torch.stack(tokens, 1).tolist() == wanted
    assert together._replay is not None


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["", "raise KeyboardInterrupt"])
def test_a_process_ends_in_the_middle_of_a_long_prompt(ends):
    code = f"""
import torch
from longreach.engine.engine import engine_of
from longreach.engine.request import Request
from longreach.engine.sampling import Sampling
from tests.conftest import make_model
model = make_model(num_hidden_layers=60, max_position_embeddings=4096)
handle = engine_of(model).submit(Request(torch.randn(4000, 32), Sampling(2000)))
{ends}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    # Python ends itself with the signal where nobody catches Ctrl-C.
    assert done.returncode == (-signal.SIGINT if ends else 0), done.stderr
    assert "terminate" not in done.stderr
