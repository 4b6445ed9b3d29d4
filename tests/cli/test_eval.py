"""`longreach eval`: every suite in this process on tiny models, one JSON object, and one sentence for every mistake."""

import json

import pytest
import torch

ASKED = [
    {"question": "Who stole the tarts?", "answer": "The Knave of Hearts", "document": "tarts.txt"},
    {"question": "Who fell down the rabbit hole?", "answer": "Alice", "document": "alice.txt"},
]
TINY = ("--device", "cpu")


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "asked.jsonl"
    path.write_text("\n".join(map(json.dumps, ASKED)))
    return path


@pytest.fixture
def prose(tmp_path):
    path = tmp_path / "prose.txt"
    path.write_text(
        " ".join(f"The {word} said that number {i} was late." for i in range(90) for word in ("dog", "cat"))
    )
    return path


def lines(out):
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


def by_reader(found):
    return {row["reader"]: row for row in found["rows"]}


def test_niah_in_three_ways_and_again(run, models, prose, tmp_path):
    options = (*TINY, "--lengths", "700,900", "--depths", 2, "--haystack", prose, "--out", tmp_path / "out")
    done = run("eval", "niah", models / "one", *options, "--json")
    assert done.code == 0, done
    assert done.json["suite"] == "niah" and done.json["run"] == str(tmp_path / "out")
    readers = {"full", "hybrid, untrained", "sink-window"}
    assert {(row["reader"], row["length"]) for row in done.json["rows"]} == {
        (r, n) for r in readers for n in (700, 900)
    }
    said = lines(tmp_path / "out")
    assert {line["tags"]["depth"] for line in said} == {0, 100} and len(said) == 12 and "12/12" in done.err
    header = json.loads((tmp_path / "out" / "run.json").read_text())
    assert header["settings"]["lengths"] == [700, 900] and header["settings"]["model"] == "one"
    assert header["settings"]["haystack"] == "prose.txt" and header["seed"] == 42
    again = run("eval", "niah", models / "one", *options)
    assert again.code == 0 and "12/12" not in again.err and len(lines(tmp_path / "out")) == 12
    assert "hybrid, untrained" in again.out and "first token s" in again.out


def test_ruler_asks_the_tasks_that_are_named(run, models, prose, tmp_path):
    options = (*TINY, "--lengths", 900, "--samples", 1, "--systems", "full", "--haystack", prose)
    tasks = ("--tasks", "niah_single_1,fwe")
    done = run("eval", "ruler", models / "one", *options, *tasks, "--out", tmp_path / "a", "--json")
    assert done.code == 0, done
    assert [row["task"] for row in done.json["rows"]] == ["niah_single_1", "fwe", "mean"]
    assert "omitted" not in done.err


def test_babilong(run, models, prose, tmp_path):
    options = (*TINY, "--lengths", 1500, "--samples", 1, "--systems", "sink-window", "--tasks", "qa1")
    done = run("eval", "babilong", models / "one", *options, "--haystack", prose, "--out", tmp_path / "a", "--json")
    assert done.code == 0, done
    assert [(row["reader"], row["task"], row["metric"]) for row in done.json["rows"]] == [
        ("sink-window", "qa1", "babilong")
    ]


def test_perplexity(run, models, prose, tmp_path):
    options = (*TINY, "--lengths", 1100, "--data", prose, "--out", tmp_path / "a")
    done = run("eval", "perplexity", models / "one", *options, "--json")
    assert done.code == 0, done
    assert [row["bucket"] for row in done.json["rows"]] == [[0, 1024], [1024, 1100]] * 3
    table = run("eval", "perplexity", models / "one", *options).out
    assert "1,024-1,100" in table and "hybrid, untrained" in table


def test_documents_in_every_way(run, models, texts, questions, tmp_path):
    options = (*TINY, "--questions", questions, "--documents", texts, "--max-new-tokens", 4, "--ratio", 10)
    done = run("eval", "docqa", models / "one", *options, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done
    rows = by_reader(done.json)
    assert list(rows) == ["full", "none", "truncated", "bm25", "compressed", "mixed"]  # mean pooling is what compresses
    assert rows["truncated"]["positions"] == rows["compressed"]["positions"] < rows["full"]["positions"]
    assert {line["document"] for line in lines(tmp_path / "out")} == {"alice.txt", "tarts.txt"}
    header = json.loads((tmp_path / "out" / "run.json").read_text())
    assert header["settings"]["compressor"]["ratio"] == 10 and header["readers"]["compressed"]["ingest_seconds"] > 0
    again = run("eval", "docqa", models / "one", *options, "--out", tmp_path / "out", "--json")
    assert again.json == done.json


def test_another_compressor_and_mean_pooling_at_its_ratio(run, models, texts, questions, tmp_path):
    options = (*TINY, "--questions", questions, "--documents", texts, "--max-new-tokens", 4, "--batch-size", 2)
    chosen = ("--compressor", "autocompressor", "--systems", "mean-pool,compressed,hybrid")
    done = run("eval", "docqa", models / "one", *options, *chosen, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done
    assert list(by_reader(done.json)) == ["mean-pool", "compressed", "hybrid, untrained"]
    made = json.loads((tmp_path / "out" / "run.json").read_text())["readers"]
    assert made["mean-pool"]["compressor_fingerprint"] != made["compressed"]["compressor_fingerprint"]
    assert len([path for path in (tmp_path / "out" / "corpora").iterdir() if path.is_dir()]) == 2
    described = [
        json.loads(path.read_text())["compressor"] for path in (tmp_path / "out" / "corpora").glob("*/corpus.json")
    ]
    assert {d["method"]: d.get("ratio") for d in described} == {"mean-pool": 31, "autocompressor": None}


def test_a_corpus_is_read_as_it_is(run, library, questions, tmp_path):
    options = ("--questions", questions, "--max-new-tokens", 4, *TINY)
    done = run("eval", "docqa", "library", *options, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done
    assert list(by_reader(done.json)) == ["full", "none", "truncated", "bm25", "compressed", "mixed"]
    assert not (tmp_path / "out" / "corpora").exists()
    assert all(line["document"].endswith(".txt") for line in lines(tmp_path / "out"))


def test_an_adapter_is_measured_with_text_too(run, models, texts, questions, tmp_path):
    from tests.reading.test_reader import make_adapter

    make_adapter(tmp_path / "lora")
    options = (*TINY, "--questions", questions, "--documents", texts, "--max-new-tokens", 4, "--ratio", 10)
    done = run(
        "eval", "docqa", models / "one", *options, "--adapter", tmp_path / "lora", "--out", tmp_path / "out", "--json"
    )
    assert done.code == 0, done
    assert list(by_reader(done.json))[-1] == "bm25+adapter"
    made = json.loads((tmp_path / "out" / "run.json").read_text())["readers"]
    assert made["bm25+adapter"]["adapter"] == made["compressed"]["adapter"] != made["bm25"]["adapter"]


def test_a_pool_is_read_with_the_adapter_that_came_with_it(run, models, texts, questions, tmp_path):
    from longreach.compressors.weighted_pool.compressor import write_pool
    from longreach.models.fingerprint import base_fingerprint
    from tests.conftest import make_model, make_tokenizer
    from tests.reading.test_reader import make_adapter

    fingerprint = base_fingerprint(make_model(max_position_embeddings=4096), make_tokenizer())
    chosen = {"ratio": 6, "segment_tokens": 60}
    make_adapter(write_pool(tmp_path / "pool", torch.randn(260), chosen, str(models / "one"), fingerprint))
    options = (*TINY, "--questions", questions, "--documents", texts, "--max-new-tokens", 4)
    done = run(
        "eval",
        "docqa",
        models / "one",
        *options,
        "--compressor",
        tmp_path / "pool",
        "--out",
        tmp_path / "out",
        "--json",
    )
    assert done.code == 0, done
    rows = by_reader(done.json)
    ways = ["full", "none", "truncated", "bm25", "mean-pool", "compressed", "mixed", "bm25+adapter"]
    assert list(rows) == ways and rows["mean-pool"]["positions"] == pytest.approx(
        rows["compressed"]["positions"], abs=9
    )
    made = json.loads((tmp_path / "out" / "run.json").read_text())["readers"]
    assert made["compressed"]["adapter"] == made["bm25+adapter"]["adapter"] != made["mean-pool"]["adapter"] is None
    assert made["compressed"]["study_seconds"] == 0 < made["compressed"]["ingest_seconds"]


def test_longbench_is_cut_aloud_and_others_are_left_out_aloud(run, models, tmp_path):
    row = {"input": "Who?", "context": "word " * 1200, "answers": ["Ann"], "all_classes": None, "_id": "l1"}
    (tmp_path / "hotpotqa.jsonl").write_text(
        f"{json.dumps(row)}\n{json.dumps(row | {'context': 'short', '_id': 'l2'})}"
    )
    options = (*TINY, "--systems", "full", "--max-new-tokens", 4)
    done = run(
        "eval", "docqa", models / "one", *options, "--data", f"longbench={tmp_path}", "--tasks", "longbench-hotpotqa",
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert done.code == 0, done
    assert "full: 1 of 2 samples are longer than the window; their middle is cut." in done.err
    assert lines(tmp_path / "out")[0]["positions"] == 4096 - 4
    assert json.loads((tmp_path / "out" / "run.json").read_text())["settings"]["beyond_window"] == {"full": 1}
    story = {"article_id": "7", "article": "word " * 1200}
    asked = {"question": "Who?", "options": ["Ann", "Bob", "Cy", "Di"], "gold_label": 3}
    both = [story | {"questions": [asked]}, {"article_id": "8", "article": "Short.", "questions": [asked]}]
    (tmp_path / "quality.jsonl").write_text("\n".join(map(json.dumps, both)))
    given = ("--data", f"quality={tmp_path / 'quality.jsonl'}")
    done = run("eval", "docqa", models / "one", *options, *given, "--out", tmp_path / "other", "--json")
    assert "full: 1 of 2 samples are longer than the window; they are omitted." in done.err
    assert [line["document"] for line in lines(tmp_path / "other")] == ["quality/8"]


@pytest.mark.parametrize(
    "suite, options, code, words",
    [
        ("sudoku", (), 2, ["no suite 'sudoku'", "niah, ruler, babilong, docqa, perplexity"]),
        ("ruler", ("--tasks", "vt,chess"), 2, ["no task 'chess' of ruler", "niah_single_1"]),
        ("docqa", ("--tasks", "chess"), 2, ["no task 'chess' of docqa", "longbench-lcc"]),
        ("niah", ("--systems", "bm25"), 2, ["no system 'bm25' of niah", "full, hybrid, sink-window"]),
        ("docqa", ("--systems", "compressed+adapter"), 2, ["no system 'compressed+adapter' of docqa", "bm25+adapter"]),
        ("niah", ("--lengths", "9000"), 2, ["9,000 is beyond the model's window of 4,096", "--beyond-window"]),
        ("perplexity", ("--lengths", "9000", "--data", "{prose}"), 2, ["9,000", "4,096", "--beyond-window"]),
        ("niah", ("--lengths", "4k"), 2, ["--lengths is '4k'", "2048,4096"]),
        ("niah", ("--lengths", "0"), 2, ["lengths are numbers of tokens"]),
        ("niah", ("--samples", 0), 2, ["samples is 0"]),
        ("niah", ("--lengths", "4000", "--haystack", "{short}"), 2, ["shorter than the length"]),
        ("ruler", ("--tasks", "qa_1", "--lengths", "2000"), 2, ["qa_1 needs a file"]),
        ("ruler", ("--data", "qa_3=x"), 2, ["no data 'qa_3' of ruler", "qa_1, qa_2"]),
        ("ruler", ("--data", "x"), 2, ["--data is 'x'", "NAME=PATH"]),
        ("perplexity", ("--lengths", "700,900", "--data", "{prose}"), 2, ["up to one length"]),
        ("perplexity", (), 2, ["held-out texts", "--data PATH"]),
        ("perplexity", ("--data", "{short}"), 2, ["None of the texts has 4,096 tokens", "--lengths"]),
        ("docqa", (), 2, ["--data PRESET=PATH", "--questions"]),
        ("docqa", ("--tasks", "qmsum"), 2, ["qmsum needs its data", "--data qmsum=PATH"]),
        ("docqa", ("--questions", "{bad}", "--documents", "{prose}"), 2, ["Line 2 of", "is not JSON"]),
        ("docqa", ("--questions", "{bad}"), 2, ["no corpus", "--documents"]),
        ("docqa", ("--data", "squality={bad}"), 2, ["Line 1 of", "'metadata.passage_id'"]),
        ("docqa", ("--data", "narrativeqa=nobody/nothing"), 1, ["no file or folder 'nobody/nothing'"]),
        ("docqa", ("--questions", "{bad}", "--data", "qmsum=x"), 2, ["omit one of them"]),
        ("docqa", ("--documents", "{prose}"), 2, ["--questions", "omit --documents"]),
        ("docqa", ("--questions", "{good}", "--documents", "{prose}", "--tasks", "qmsum"), 2, ["--tasks and --split"]),
        ("docqa", ("--questions", "{good}", "--documents", "{prose}", "--haystack", "{prose}"), 2, ["--haystack"]),
        ("docqa", ("--questions", "{good}", "--documents", "{prose}", "--ratio", 0), 2, ["ratio is 0"]),
        ("docqa", ("--questions", "{good}", "--documents", "{prose}", "--max-new-tokens", 0), 2, ["is 0; give at"]),
        ("niah", ("--ratio", 0), 2, ["no option '--ratio' (it belongs to docqa)", "--haystack, --depths"]),
        ("niah", ("--max-new-tokens", 9), 2, ["no option '--max-new-tokens' (it belongs to docqa)"]),
        ("perplexity", ("--tasks", "x"), 2, ["no option '--tasks'", "--lengths, --data"]),
        ("docqa", ("--lengths", "9"), 2, ["no option '--lengths' (it belongs to niah, ruler, babilong, perplexity)"]),
        ("babilong", ("--lengths", "1500", "--haystack", "{words}"), 2, ["'{words}' is shorter than the length"]),
        ("babilong", ("--tasks", "qa1", "--data", "babi={folder}"), 2, ["qa1_x_test.txt", "not UTF-8"]),
        ("ruler", ("--tasks", "cwe", "--lengths", "1"), 2, ["cwe at 1 token", "greater length"]),
        ("niah", ("--device", "abacus"), 2, ["no device 'abacus'"]),
        ("niah", ("--dtype", "int3"), 2, ["float32, bfloat16"]),
        ("niah", ("--systems", "kvpress", "--depths", 2), 1, ["kvpress is not installed", "pip install kvpress=="]),
        ("perplexity", ("--systems", "kvpress", "--data", "{prose}"), 2, ["no system 'kvpress' of perplexity"]),
        ("niah", ("--batch-size", 0, "--lengths", "600", "--haystack", "{prose}"), 2, ["batch_size is 0"]),
    ],
)
def test_wrong_use_gets_a_sentence(wrong, models, prose, tmp_path, monkeypatch, suite, options, code, words):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.delenv("LONGREACH_KVPRESS", raising=False)
    (tmp_path / "short.txt").write_text("One sentence is here. And another one.")
    (tmp_path / "words.txt").write_text("Hi. Yes. No.")
    (tmp_path / "qa1_x_test.txt").write_bytes(b"1 Mary went to the caf\xe9.\n")
    (tmp_path / "good.jsonl").write_text(json.dumps(ASKED[0] | {"document": "prose.txt"}))
    (tmp_path / "bad.jsonl").write_text(f"{json.dumps(ASKED[0] | {'document': 'prose.txt'})}\n{{")
    paths = {"prose": prose, "short": tmp_path / "short.txt", "bad": tmp_path / "bad.jsonl"}
    paths |= {"words": tmp_path / "words.txt", "good": tmp_path / "good.jsonl", "folder": tmp_path}
    filled = [str(option).format(**paths) for option in options]
    words = [word.format(**paths) for word in words]
    wrong(code, words, "eval", suite, models / "one", *filled, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_extra_names_the_command(wrong, models, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    given = ("--data", "narrativeqa=deepmind/narrativeqa")
    wrong(1, ["pip install 'longreach[hub]'"], "eval", "docqa", models / "one", *given, "--out", tmp_path / "out")


def test_a_corpus_has_its_own_documents_and_vectors(wrong, library, questions, texts, tmp_path):
    out = ("--out", tmp_path / "out")
    wrong(2, ["has its vectors", "--ratio"], "eval", "docqa", "library", "--questions", questions, "--ratio", 5, *out)
    given = ("--questions", questions, "--documents", texts)
    wrong(2, ["documents are those of the corpus 'library'"], "eval", "docqa", "library", *given, *out)
    wrong(2, ["those of the corpus", "--questions FILE"], "eval", "docqa", "library", *out)


def test_a_folder_of_other_settings_or_of_something_else(wrong, run, models, prose, tmp_path):
    options = (*TINY, "--depths", 2, "--haystack", prose, "--systems", "full", "--out", tmp_path / "out")
    assert run("eval", "niah", models / "one", "--lengths", "600", *options).code == 0
    words = ["belongs to another run", "settings.lengths is [600] there and [700] here"]
    wrong(2, words, "eval", "niah", models / "one", "--lengths", "700", *options)
    words = ["another run", "readers.full.model_fingerprint"]
    wrong(2, words, "eval", "niah", models / "other", "--lengths", "600", *options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").touch()
    options = (*options[:-1], tmp_path / "mine")
    wrong(2, ["exists already and is no run"], "eval", "niah", models / "one", "--lengths", "600", *options)


def test_beyond_the_window_where_it_is_asked_for(run, models, prose, tmp_path):
    options = (*TINY, "--lengths", "4300", "--depths", 2, "--haystack", prose, "--systems", "full", "--beyond-window")
    done = run("eval", "niah", models / "one", *options, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done
    assert done.json["rows"][0]["positions"] > 4096
