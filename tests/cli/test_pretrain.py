"""`longreach pretrain`, and a corpus made with what it trained."""

import json

import pytest

from tests.cli.conftest import TEXTS

FEW = (
    "--segment-tokens",
    24,
    "--lora-rank",
    2,
    "--steps",
    2,
    "--accumulate",
    1,
    "--learning-rate",
    0.01,
    "--device",
    "cpu",
)


def test_train_ingest_at_a_ratio_and_ask(run, models, texts, tmp_path):
    out = tmp_path / "compressor"
    trained = run("pretrain", models / "one", texts, out, *FEW, "--max-ratio", 12, "--json")
    assert trained.code == 0
    assert trained.json["steps"] == 2 and trained.json["tokens"] == 2 * 96
    assert (trained.json["summary_tokens"], trained.json["min_summary_tokens"]) == (6, 2)
    assert "tokens/s" in trained.err and "loss" in trained.err
    made = run("ingest", texts, "--corpus", "c", "--compressor", out, "--ratio", 8, "--json")
    assert made.code == 0, made
    shown = run("corpus", "show", "c", "--json").json
    assert shown["vectors"] == 3 * shown["passages"]
    answer = run("ask", "c", "Who stole the tarts?", "--max-new-tokens", 4, "--json")
    assert answer.code == 0 and {passage["document"].rsplit("/")[-1] for passage in answer.json["passages"]} <= {*TEXTS}
    again = run("ingest", texts, "--corpus", "c", "--ratio", 8, "--json")
    assert again.code == 0 and len(again.json["unchanged"]) == 2
    other = run("ingest", texts, "--corpus", "c", "--ratio", 4)
    assert other.code == 2 and "made with summary_tokens 3" in other.sentence
    low = run("ingest", texts, "--corpus", "d", "--compressor", out, "--ratio", 2)
    assert low.code == 2 and "ratio of 4 or more" in low.sentence


def test_it_says_what_it_trained_and_goes_on(run, models, texts, tmp_path):
    out = tmp_path / "compressor"
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "empty.txt").write_text(" ")
    (tmp_path / "more" / "lines.jsonl").write_text('{"text": "The Queen made some tarts."}\n')
    data = (texts, tmp_path / "more")
    result = run("pretrain", models / "one", *data, out, *FEW, "--max-ratio", 12)
    assert result.code == 0 and "step 2, loss" in result.out and "ratio 4 and up at 24 tokens" in result.out
    assert "Omitted: " in result.err and "empty.txt" in result.err
    more = run("pretrain", models / "one", *data, out, *FEW, "--max-ratio", 12, "--steps", 3, "--json")
    assert more.code == 0 and more.json["resumed_at"] == 2 and more.json["steps"] == 3
    assert json.loads((out / "compressor.json").read_text())["segment_tokens"] == 24


def test_a_weighted_pool_answers_with_the_reader_it_was_learned_with(run, models, texts, tmp_path):
    data, out = tmp_path / "asked.jsonl", tmp_path / "pool"
    line = {"text": "The Queen made tarts.", "questions": [{"question": "Who?", "answer": "A queen"}]}
    data.write_text(json.dumps(line))
    options = ("--method", "weighted-pool", "--questions", 2, "--max-ratio", 12)
    trained = run("pretrain", models / "one", data, out, *FEW, *options, "--json")
    assert trained.code == 0 and trained.json["mode"] == "independent"
    made = run("ingest", texts, "--corpus", "c", "--compressor", out, "--ratio", 8, "--json")
    assert made.code == 0, made
    shown = run("corpus", "show", "c", "--json").json
    assert shown["vectors"] < shown["tokens"] / 6 and shown["adapter"].endswith("reader")
    assert run("ask", "c", "Who stole the tarts?", "--max-new-tokens", 4, "--json").code == 0
    again = run("ingest", texts, "--corpus", "c", "--ratio", 4)
    assert again.code == 2 and "made with ratio 8" in again.sentence


@pytest.mark.parametrize(
    "options, code, words",
    [
        (("--method", "weighted-pool"), 2, ["learned from questions"]),
        (("--method", "weighted-pool", "--questions", 2, "--lexical", 1), 2, ["no option --lexical", "--questions"]),
        (("--method", "sum"), 2, ["autocompressor, weighted-pool"]),
        (("--min-ratio", 0), 2, ["--min-ratio"]),
        (("--max-ratio", 25), 2, ["--max-ratio", "24 tokens"]),
        (("--mode", "forward"), 2, ["accumulate, independent, replace"]),
        (("--steps", 0), 2, ["at least 1"]),
        (("--substeps", 0), 2, ["at least 1"]),
        (("--segment-tokens", 4090), 2, ["window of 4096", "lower segment_tokens"]),
        (("--learning-rate", -1), 2, ["above 0"]),
        (("--reconstruction", -1), 2, ["at least 0"]),
        (("--dtype", "int8"), 2, ["float32, bfloat16"]),
        (("--device", "abacus"), 2, ["no device 'abacus'"]),
    ],
)
def test_wrong_settings_get_a_sentence(wrong, models, texts, tmp_path, options, code, words):
    wrong(code, words, "pretrain", models / "one", texts, tmp_path / "out", *FEW, "--max-ratio", 12, *options)
    assert not (tmp_path / "out").exists()


def test_wrong_data_and_folders_get_a_sentence(wrong, models, texts, tmp_path):
    def fails(code, words, *arguments):
        wrong(code, words, "pretrain", *arguments, *FEW, "--max-ratio", 12)

    fails(1, ["none.txt", "no file or folder"], models / "one", tmp_path / "none.txt", tmp_path / "out")
    (tmp_path / "short.txt").write_text("Short.")
    fails(2, ["holds 6 tokens", "96"], models / "one", tmp_path / "short.txt", tmp_path / "out")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff\x00")
    fails(1, ["photo.jpg"], models / "one", texts, tmp_path / "photo.jpg", tmp_path / "out")
    fails(2, ["exists already"], models / "one", texts, texts)
    fails(1, ["No model"], tmp_path / "no-model", texts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("every", [1, 9])
def test_a_run_that_diverges_keeps_nothing_bad(run, models, texts, tmp_path, every):
    options = ("--max-ratio", 12, "--learning-rate", 1e38, "--steps", 9, "--warmup", 0, "--save-every", every)
    result = run("pretrain", models / "one", texts, tmp_path / "out", *FEW, *options)
    assert result.code == 1 and "loss of step 2 is not a finite" in result.sentence
    assert "lower --learning-rate" in result.sentence and [path.name for path in (tmp_path / "out").iterdir()] == [
        "run.json"
    ]
