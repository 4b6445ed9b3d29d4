"""Our models in lm-evaluation-harness; our scores, lengths and wording of RULER against the harness' own."""

import re
import sys

import pytest
import torch

import longreach
from longreach.errors import MissingDependency
from longreach.evals.peers import harness
from longreach.evals.run.sample import Sample
from longreach.evals.scores.metrics import METRICS
from longreach.evals.suites.draw import count_tokens
from longreach.evals.suites.ruler import samples as ruler
from tests.conftest import make_model, make_tokenizer

NO_DOWNLOAD = ("niah_single_1", "niah_multikey_2", "niah_multikey_3", "vt", "cwe", "fwe")
LENGTH = 4096
COUNT = 4


@pytest.fixture
def lm_eval(monkeypatch):
    """The harness' RULER; only its first process asks the network for NLTK's data, which these tasks do without."""
    pytest.importorskip("lm_eval")
    pytest.importorskip("wonderwords")
    pytest.importorskip("nltk")
    monkeypatch.setenv("LOCAL_RANK", "1")
    import lm_eval.tasks.ruler.prepare_niah

    monkeypatch.delenv("LOCAL_RANK")
    return lm_eval


def theirs(task, tokenizer):
    """The harness' samples: (prompt, beginning of the answer, answers)."""
    from lm_eval.tasks.ruler import cwe_utils, fwe_utils, niah_utils, prepare_niah, vt_utils

    if task.startswith("niah"):
        kind, key, value = {
            "niah_single_1": ("repeat", "words", "numbers"),
            "niah_multikey_2": ("needle", "words", "numbers"),
            "niah_multikey_3": ("needle", "uuids", "uuids"),
        }[task]
        rows = prepare_niah.generate_samples(
            prepare_niah.get_haystack(type_haystack=kind),
            tokenizer,
            max_seq_length=LENGTH,
            type_haystack=kind,
            type_needle_k=key,
            type_needle_v=value,
            template=niah_utils.TEMPLATE,
            num_samples=COUNT,
        )
    elif task == "vt":
        example = vt_utils.sys_vartrack_w_noise_random(tokenizer, 1, 500, incremental=5)[0]
        rows = vt_utils.sys_vartrack_w_noise_random(tokenizer, COUNT, LENGTH, icl_example=example)
    elif task == "cwe":
        rows = cwe_utils.sys_word_pair_random(COUNT, LENGTH, tokenizer)
    else:
        rows = fwe_utils.sys_kwext(tokenizer, LENGTH, COUNT)
    return [(row["input"], row["gen_prefix"], row["outputs"]) for row in rows]


def masked(text):
    """A prompt without what is drawn."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<key>", text)
    text = re.sub(r"(?<=for )[A-Za-z][^?.,\n]*?-[^?.,\n]*?(?= is:| mentioned)", "<key>", text)
    return re.sub(r"\d+", "<number>", re.sub(r"\b[A-Z]{3,5}\b(?! )|(?<=VAR )[A-Z]{3,5}", "<name>", text))


@pytest.mark.real
@pytest.mark.parametrize("task", NO_DOWNLOAD)
def test_prompts_say_what_the_harness_says_and_are_no_shorter(lm_eval, smollm2, task):
    _, tokenizer = smollm2
    other = theirs(task, tokenizer)
    for sample, (prompt, prefix, answers) in zip(
        ruler.generate(tokenizer, LENGTH, samples=COUNT, tasks=[task]), other, strict=True
    ):
        ours = sample.before + sample.context + sample.after
        length = count_tokens(tokenizer, ours) + sample.max_new_tokens
        # Theirs may be too long: frequent words are cut to the length without the answer.
        their_length = count_tokens(tokenizer, f"{prompt} {prefix}") + sample.max_new_tokens
        assert min(their_length, LENGTH) - 30 <= length <= LENGTH

        assert len(sample.answers) == len(answers)
        assert masked(sample.question) in masked(prompt)
        assert masked(sample.after).strip().endswith(masked(prefix.replace("assgined", "assigned")))
        instruction = sample.before.rstrip("\n").split("\n")[-1]  # behind the worked example
        assert masked(prompt).split(masked(instruction))[0].strip() == "" or task == "vt"
        assert masked(instruction) in masked(prompt)
        if task.startswith("niah"):
            assert set(masked(sample.context).split("\n")) == set(masked(prompt).split("\n")[1:-1])
        elif task == "vt":
            lines = {re.sub(r"VAR .*", "", line).strip() for line in masked(sample.context).split("\n")} - {""}
            assert lines == {
                "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
            }
            assert lines <= {line.strip() for line in prompt.split("\n")}
            assert len(re.findall(r"VAR \w+ = VAR \w+ ", prompt)) == len(re.findall(r"VAR \w+ = VAR \w+ ", ours)) == 8


@pytest.mark.parametrize(
    "text", ["", "4 and FIVE", "five", "it is four, five and six", "\n4\n", "six six six", "fou r", "4five6", "SIX."]
)
def test_scores_are_those_of_the_harness(lm_eval, text):
    from lm_eval.tasks.ruler.common_utils import process_results, process_results_part

    def score(metric, answers):
        return METRICS[metric](text, Sample("1", "ruler", "vt", "", "", "", "?", answers, metric, 30))

    several, one = ("4", "five", "Six"), ("Five",)
    for answers in (several, one):
        theirs = process_results({"max_length": LENGTH, "outputs": list(answers)}, [text])[str(LENGTH)]
        assert score("all", answers) == theirs
    # Of several answers the harness takes the mean where upstream, and so do we, takes the best.
    theirs = process_results_part({"max_length": LENGTH, "outputs": list(one)}, [text])[str(LENGTH)]
    assert score("part", one) == theirs


def test_a_hybrid_folder_goes_through_the_harness(lm_eval, tmp_path):
    hybrid = longreach.convert(make_model(), longreach.AttentionPattern(4, 1, 2, 3), [1], max_length=4096)
    hybrid.save_pretrained(tmp_path)
    make_tokenizer(chat=False).save_pretrained(tmp_path)
    harness.register()
    found = lm_eval.simple_evaluate(
        model=harness.NAME,
        model_args={"pretrained": str(tmp_path)},
        device="cuda:0" if torch.cuda.is_available() else "cpu",
        tasks=["niah_single_1"],
        limit=2,
        batch_size=2,
        bootstrap_iters=0,
        metadata={"pretrained": str(tmp_path), "max_seq_lengths": [1024]},
    )
    assert set(found["results"]) == {"niah_single_1"} and found["config"]["model_num_parameters"] > 0
    model, tokenizer = longreach.load(tmp_path)
    assert type(model).__name__ != "LlamaForCausalLM"
    for sample in found["samples"]["niah_single_1"]:
        prompt = sample["arguments"][0][0]
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
        assert 1024 - 128 - 6 * 91 < ids.shape[1] <= 1024 - 128
        written = model.generate(ids, max_new_tokens=128, do_sample=False)[0, ids.shape[1] :]
        text = tokenizer.decode(written, skip_special_tokens=True).split(tokenizer.eos_token)[0]
        assert sample["resps"][0][0] == text


@pytest.mark.real
def test_the_command_adds_the_model_and_finds_its_tokenizer(lm_eval, monkeypatch, capsys):
    """The embedded model has a name that the harness' tasks cannot look up by themselves."""
    metadata = '{"max_seq_lengths": [512]}'
    command = ["harness", "--model", "longreach", "--model_args", "pretrained=smollm2", "--tasks", "niah_single_1"]
    monkeypatch.setattr(sys, "argv", [*command, "--limit", "1", "--metadata", metadata])
    harness.main()
    assert re.search(r"niah_single_1.*\n.*\|\s*512\|.*\|\s*1\|", capsys.readouterr().out)


def test_without_the_harness_the_command_that_installs_it_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.api.registry", None)
    with pytest.raises(MissingDependency, match=r"pip install 'longreach\[harness\]'"):
        harness.register()
    with pytest.raises(SystemExit) as done:
        harness.main()
    assert done.value.code == 1 and capsys.readouterr().err.startswith("longreach: lm-evaluation-harness is not")
