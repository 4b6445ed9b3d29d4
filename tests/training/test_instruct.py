"""A compressor that learns from answers: its data, the lexical loss, the scaffold, and what comes out."""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from longreach import AutoCompressor
from longreach.compressors.answering import rarity
from longreach.compressors.autocompressor.instruct import InstructObjective
from longreach.compressors.autocompressor.lexical import lexical, parts, shares
from longreach.compressors.autocompressor.objective import scale_to_embeddings
from longreach.compressors.autocompressor.recipe import AutoCompressorRecipe
from longreach.datasets.texts import Text, TextQuestion, read_texts
from longreach.engine.prompt import PromptBuilder
from longreach.errors import DocumentError, ModelError, TrainingError, UsageError
from longreach.training.common.checkpoints import whole_checkpoints
from longreach.training.pretrain.pretrain import pretrain
from longreach.training.pretrain.schedule import Schedule
from tests.conftest import make_model, make_tokenizer

RECIPE = AutoCompressorRecipe(
    segment_tokens=12,
    summary_tokens=4,
    min_summary_tokens=2,
    mode="independent",
    questions=2,
    lexical=0.3,
    scaffold=4,
    scale=None,
    reconstruction=1.0,
    lora_rank=2,
    lora_alpha=2,
    lora_dropout=0.0,
    lora_targets="all",
)
SCHEDULE = Schedule(steps=8, batch_size=2, accumulate=1, learning_rate=1e-2, summary_learning_rate=3e-2, save_every=4)
LINES = [
    {"text": "The Queen made tarts, a dozen.", "questions": [{"question": "Who?", "answers": ["A queen", "She"]}]},
    {"text": "The Knave took them.", "questions": [{"question": "What?", "answer": "Tarts"}]},
    {"text": "Nothing is asked here."},
]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)) + "\n\n")
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def objective(recipe=RECIPE):
    torch.manual_seed(0)
    return InstructObjective(make_model(), make_tokenizer(), recipe, [Text("The Queen made tarts.")])


def test_texts_are_read_with_their_questions(data):
    first, second, third = read_texts([data])
    assert first.questions == (TextQuestion("Who?", ("A queen", "She")),)
    assert second == Text("The Knave took them.", (TextQuestion("What?", ("Tarts",)),)) and third.questions == ()


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '["a"]',
        '{"questions": []}',
        '{"text": " "}',
        '{"text": 3}',
        '{"text": "a", "questions": ["b"]}',
        '{"text": "a", "questions": [{"question": "b"}]}',
        '{"text": "a", "questions": [{"question": "b", "answers": []}]}',
        '{"text": "a", "questions": [{"question": "b", "answers": "Tarts"}]}',  # no five answers of a letter
    ],
)
def test_a_line_that_is_no_text_is_named(tmp_path, line):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DocumentError, match=r"Line 2 of '.*bad\.jsonl' .*correct or remove it"):
        read_texts([path])


def test_files_that_are_not_there_or_empty(tmp_path):
    with pytest.raises(DocumentError, match="check the path"):
        read_texts([tmp_path / "none.jsonl"])
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DocumentError, match="nothing to train on"):
        read_texts([tmp_path / "empty.jsonl"])


def test_every_doubling_of_the_vectors_halves_their_parts():
    found = parts(32, 4)
    assert [part[::2] for part in found[:4]] == [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]
    assert [part[::2] for part in found[4:8]] == [(0.125, 0.25), (0.375, 0.5), (0.625, 0.75), (0.875, 1)]
    own = sorted((part.start, part.own) for part in found)
    assert own == [(i / 32, (i + 1) / 32) for i in range(32)]
    odd = sorted((part.start, part.own) for part in parts(7, 3))  # no power of two: all of the segment all the same
    assert odd[0][0] == 0 and odd[-1][1] == 1 and all(a[1] == b[0] for a, b in pairwise(odd))


def test_rare_tokens_of_a_vectors_own_part_count_most():
    ids = torch.tensor([7, 7, 9, 7, 7, 7, 7, 8])
    weight = rarity([ids.tolist()], 16)
    assert weight[9] == weight[8] > weight[7] > 0 and weight[ids].mean() == pytest.approx(1)
    rows = shares(ids, weight, parts(4, 2))
    torch.testing.assert_close(rows.sum(-1), torch.ones(4))
    assert rows[0, 4:].sum() == 0 and rows[0, :2].min() > 0 and rows[2].argmax() == 2  # second half of the first half
    assert shares(ids[:1], weight, parts(4, 2)).tolist() == [[1.0]] * 4


def test_the_lexical_loss_knows_vectors_that_name_their_words():
    torch.manual_seed(0)
    head = torch.nn.functional.normalize(torch.randn(20, 16), dim=-1)
    ids = torch.tensor([3, 5, 7, 11])
    count = [shares(ids, torch.ones(20), parts(4, 4))]
    right, wrong = (
        lexical([20 * head[which]], [ids], head, 3 * head, count, length=3.0) for which in (ids, ids.roll(1))
    )
    assert right.naming < 0.1 < 5 < wrong.naming
    assert right.pointing == pytest.approx(0, abs=1e-5) and wrong.pointing > 0.5
    torch.testing.assert_close(right.targets[0], 3 * head[ids])


def test_answers_teach_the_compressor():
    learner = objective(replace(RECIPE, lexical=0.0, scaffold=0, reconstruction=0.0))
    ids = [torch.arange(40, 70), torch.arange(50, 57)]  # three segments, the last short, and one
    learner(ids, [[("Who?", "she"), ("Why?", "so")], []], 3).loss.backward()
    grads = {name: p.grad for name, p in learner.named_parameters() if p.requires_grad}
    assert grads["embed_summary"][:3].abs().min(-1).values.min() > 0 and not grads["embed_summary"][3:].any()
    assert all(grad.isfinite().all() and grad.any() for name, grad in grads.items() if "lora_B" in name)


def test_the_loss_is_that_of_the_readers_prompt():
    learner = objective(replace(RECIPE, lexical=0.0, scaffold=0, reconstruction=0.0)).eval()
    tokenizer = make_tokenizer()
    ids = tokenizer("The Queen made tarts, a dozen.")["input_ids"]
    summary = learner.embed_summary.detach()
    scale = learner.scale
    compressor = AutoCompressor(learner.model, tokenizer, 4, 12, "independent", embed_summary=summary, scale=scale)
    vectors = torch.cat([compressor.encode([compressor.embed(ids[i : i + 12])])[0] for i in (0, 12, 24)]).detach()
    prompt = PromptBuilder(learner.model, tokenizer)
    answer = torch.tensor(prompt.answer("She"))
    assert answer.tolist() == [*tokenizer("She")["input_ids"], tokenizer.eos_token_id]
    embeds = torch.cat([prompt.build([scale * vectors], [], "Who?").embeds, compressor.embed(answer[:-1].tolist())])
    with torch.no_grad():
        logits = learner.adapted(inputs_embeds=embeds[None]).logits[0, -len(answer) :]
        found = learner([torch.tensor(ids)], [[("Who?", "She")]], 4)
    assert float(found.loss) == pytest.approx(float(torch.nn.functional.cross_entropy(logits, answer)), abs=1e-4)


def test_on_the_whole_scaffold_reading_does_not_see_the_vectors():
    learner, ids, asked = objective().eval(), [torch.arange(40, 60)], [[("Who?", "she")]]

    def read(scaffold):
        with torch.no_grad():
            parts_ = learner(ids, asked, 4, scaffold).parts
        return float(parts_["answers"]), float(parts_["reconstruction"]), float(parts_["naming"])

    before = {scaffold: read(scaffold) for scaffold in (0.0, 1.0)}
    with torch.no_grad():
        learner.embed_summary.normal_()
    assert read(1.0)[:2] == before[1.0][:2] and read(1.0)[2] != before[1.0][2]
    assert all(abs(a - b) > 1e-4 for a, b in zip(read(0.0), before[0.0], strict=True))


def test_vectors_are_read_as_long_as_embeddings():
    model = make_model()
    scale = scale_to_embeddings(model)
    (vectors,) = AutoCompressor(model, make_tokenizer(), 4, 12).compress([list(range(40, 60))])
    lengths = [rows.detach().norm(dim=-1).mean() for rows in (scale * vectors, model.get_input_embeddings().weight)]
    assert lengths[0] == pytest.approx(float(lengths[1]), rel=0.25)


def log(folder):
    return json.loads((whole_checkpoints(folder)[-1] / "trainer_state.json").read_text())["log_history"]


def test_it_learns_and_goes_on_with_the_same_losses(base, data, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    report = pretrain(base, [data], whole, RECIPE, SCHEDULE, device="cpu")
    assert report.last_loss < report.first_loss
    logged = log(whole)
    assert {"naming", "pointing", "answers", "reconstruction"} <= set().union(*logged)
    pretrain(base, [data], cut, RECIPE, SCHEDULE, device="cpu")
    for path in [whole_checkpoints(cut)[-1], cut / "compressor.json", cut / "adapter_model.safetensors"]:
        path.rename(tmp_path / f"gone-{path.name}")
    assert pretrain(base, [data], cut, RECIPE, SCHEDULE, device="cpu").resumed_at == 4
    before, after = ([line["loss"] for line in lines if "loss" in line] for lines in (logged, log(cut)))
    assert after == pytest.approx(before, abs=1e-5)
    made = AutoCompressor.from_pretrained(whole, ratio=6)
    assert made.describe()["scale"] == scale_to_embeddings(make_model()) and made.summary_tokens == 2


def test_it_starts_from_an_earlier_compressor(base, data, tmp_path):
    first = pretrain(base, [data], tmp_path / "a", RECIPE, SCHEDULE, device="cpu")
    short = replace(SCHEDULE, steps=1, learning_rate=1e-9, summary_learning_rate=1e-9)
    pretrain(base, [data], tmp_path / "b", RECIPE, short, start=first.folder, device="cpu")
    one, two = (AutoCompressor.from_pretrained(tmp_path / name).compress([[50] * 20])[0] for name in "ab")
    torch.testing.assert_close(one, two, atol=1e-4, rtol=1e-4)
    wider = replace(RECIPE, lora_rank=4)
    with pytest.raises(ModelError, match=r"no compressor to start from .*same model, summary tokens and LoRA"):
        pretrain(base, [data], tmp_path / "c", wider, short, start=first.folder, device="cpu")
    with pytest.raises(ModelError, match="no compressor to start from"):
        pretrain(base, [data], tmp_path / "d", RECIPE, short, start=tmp_path, device="cpu")
    for changes, words in [({"lora_targets": "attention"}, "has no place"), ({"lora_alpha": 8}, "lora_alpha is 2")]:
        with pytest.raises(ModelError, match=f"no compressor to start from .*{words}"):
            pretrain(base, [data], tmp_path / "e", replace(RECIPE, **changes), short, start=first.folder, device="cpu")
        shutil.rmtree(tmp_path / "e")


def test_a_run_that_started_elsewhere_is_another(base, data, tmp_path):
    one = pretrain(base, [data], tmp_path / "one", RECIPE, replace(SCHEDULE, steps=1), device="cpu").folder
    two = pretrain(base, [data], tmp_path / "two", RECIPE, replace(SCHEDULE, steps=2), device="cpu").folder
    out, wrong = tmp_path / "out", replace(RECIPE, lora_rank=4)
    with pytest.raises(ModelError, match="no compressor to start from"):
        pretrain(base, [data], out, wrong, SCHEDULE, start=one, device="cpu")
    pretrain(base, [data], out, wrong, replace(SCHEDULE, steps=1), device="cpu")  # nothing had come of it
    shutil.rmtree(out)
    pretrain(base, [data], out, RECIPE, replace(SCHEDULE, steps=1), start=one, device="cpu")
    for start in (None, two):
        with pytest.raises(UsageError, match="another run: start is"):
            pretrain(base, [data], out, RECIPE, replace(SCHEDULE, steps=2), start=start, device="cpu")
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({key: value for key, value in run.items() if key != "start"}))
    for steps in (2, 3):  # begun by a release that did not note it
        assert pretrain(base, [data], out, RECIPE, replace(SCHEDULE, steps=steps), device="cpu").resumed_at == steps - 1


def test_a_text_beyond_the_window_is_refused(base, tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps(LINES[0] | {"text": "Tarts. " * 900}))  # 6,300 tokens, 2,100 vectors, a window of 2,048
    with pytest.raises(UsageError, match=r"begins with 'Tarts\. .*2,100 vectors.* 2,048: cut it, or lower"):
        pretrain(base, [path], tmp_path / "out", replace(RECIPE, most_vectors=4000), SCHEDULE, device="cpu")
    assert not (tmp_path / "out").exists()


RUN = """
import sys
from dataclasses import replace
from longreach.training.pretrain.pretrain import pretrain
from tests.training.test_instruct import RECIPE, SCHEDULE
pretrain(sys.argv[1], [sys.argv[2]], sys.argv[3], RECIPE, replace(SCHEDULE, batch_size=1), device="cpu")
"""


@pytest.mark.slow
def test_two_processes_of_which_one_has_no_question(base, tmp_path):
    """The parts of a loss are no longer the same ones in both, and neither waits for the other."""
    data, root = tmp_path / "texts.jsonl", Path(__file__).parents[2]
    data.write_text("\n".join(map(json.dumps, [LINES[0], LINES[1], LINES[2], LINES[2], LINES[2]])))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    shared["PYTHONPATH"] = os.pathsep.join([str(root), str(root / "src")])
    command = [sys.executable, "-c", RUN, base, data, tmp_path / "out"]
    both = [
        subprocess.Popen(command, env=os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}) for rank in ("0", "1")
    ]
    try:
        assert [process.wait(timeout=90) for process in both] == [0, 0]
    finally:
        for process in both:
            process.kill()
    logged = [line for line in log(tmp_path / "out") if "loss" in line]
    assert len(logged) == 8 and all("naming" in line for line in logged)
    assert 0 < sum("answers" in line for line in logged) < 8


def test_out_of_memory_says_what_to_lower(base, data, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(InstructObjective, "forward", fail)
    schedule = replace(SCHEDULE, batch_size=1, checkpointing=True)
    with pytest.raises(
        TrainingError, match=r"lower --segment-tokens \(it is 12\) or --questions \(it is 2\); the last"
    ):
        pretrain(base, [data], tmp_path / "out", RECIPE, schedule, device="cpu")


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"mode": "accumulate"}, "mode independent"),
        ({"distillation": 1.0}, "without distillation"),
        ({"questions": 0}, "lexical loss goes with questions"),
        ({"lexical": 0.0}, "scaffold is what the lexical loss"),
        ({"scale": 0.0}, "above 0"),
        ({"questions": -1}, "at least 0"),
        ({"lora_targets": "none"}, "attention, all"),
    ],
)
def test_recipes_that_do_not_fit_together(wrong, words):
    with pytest.raises(UsageError, match=words):
        replace(RECIPE, **wrong)


def test_texts_without_any_question(base, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "Alone."}\n')
    with pytest.raises(UsageError, match="None of the texts has questions"):
        pretrain(base, [tmp_path / "t.jsonl"], tmp_path / "out", RECIPE, SCHEDULE, device="cpu")
