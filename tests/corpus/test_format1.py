"""Corpora of format 1, made by the code before there were memories: read exactly, and added to as they are.

`format1.zip` was made with a fake compressor; `format1-merged.zip` with an AutoCompressor whose LoRA was merged into
the model, with a scale, beside the vectors that were in it then.
"""

import json
import multiprocessing
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from longreach import Document, Policy, Reader, Sampling
from longreach.compressors.jobs import Job
from longreach.compressors.memory import KeysValues, LayerEntries, Vectors
from longreach.corpus.export import export
from longreach.corpus.rows import FORMATS, VectorRows, rows_of
from longreach.corpus.store import Corpus
from longreach.corpus.tables import connect
from longreach.errors import CorpusError, UsageError
from longreach.models.fingerprint import base_fingerprint
from longreach.session import open_workspace
from tests.conftest import make_model, make_tokenizer
from tests.corpus.corpus_fakes import FakeCompressor, child_add, dump

HERE = Path(__file__).parent
# Each takes five seconds: the write that is the last, and whether it dies before or after it.
MORE_KILLS = [
    (1, "before"),
    (1, "after"),
    (2, "before"),
    (3, "before"),
    (3, "after"),
    (5, "after"),
    (8, "before"),
    (8, "after"),
]
NEW = Document("new", "A third text, which came after the format had changed.")


@pytest.fixture
def old(tmp_path):
    shutil.unpack_archive(HERE / "format1.zip", tmp_path)
    return Corpus.open(tmp_path, "c", FakeCompressor())


@pytest.fixture
def merged(tmp_path, monkeypatch):
    """The store with the corpus 'merged', and the model that it names."""
    shutil.unpack_archive(HERE / "format1-merged.zip", tmp_path)
    make_model().save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made_anew(text):
    """The vectors of a text, as the compressor makes them now."""
    compressor = FakeCompressor()
    ids = compressor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return torch.cat([result.memory.vectors for result in compressor.stream([Job("k", ids)])])


def columns(corpus, table="passages"):
    return connect(corpus.path).open_table(table).schema.names


def test_it_is_read_exactly(old):
    assert old.settings.format == 1 and old.verify().ok and len(old.versions()) == 5
    for info in old.documents():
        passages = old.passages(info.document)
        text = old.document_text(info.document)
        assert text == "".join(passage.text for passage in passages) and len(text) == info.characters
        memories = old.memories(info.revision)
        assert {type(memory) for memory in memories} == {Vectors} and {memory.scale for memory in memories} == {1.0}
        assert torch.equal(torch.cat(old.vectors(info.revision)), made_anew(text))
        assert info.vectors == sum(passage.n_vectors for passage in passages) == sum(m.positions for m in memories)
    word = old.passages()[0].text.split()[1]
    assert old.search(word)


def test_it_is_added_to_in_its_own_format(old):
    before = columns(old), columns(old, "documents")
    kept = old.documents()[0].document
    assert old.add([NEW, Document("scanned", NEW.text, ("A page is missing.",))]).added == ["new", "scanned"]
    assert old.add(Document(kept, old.document_text(kept))).unchanged == [kept]
    assert columns(old) == before[0] and columns(old, "documents")[: len(before[1])] == before[1]
    revision = next(info.revision for info in old.documents() if info.document == "new")
    assert torch.equal(torch.cat(old.vectors(revision)), made_anew(NEW.text))
    assert old.verify().ok and Corpus.open(old.path.parent, "c").settings.format == 1
    for version in old.versions():
        old.rollback(version.version)
        assert old.verify().ok
    old.rollback(old.versions()[-2].version)
    old.compact()
    assert old.verify().ok and old.repair().lost == [] and old.verify().ok


def test_removing_documents_leaves_the_others_in_its_own_format(old):
    before = columns(old, "documents")
    gone, kept = (info.document for info in old.documents())
    text = old.document_text(kept)
    assert old.remove(gone) == [gone] and [info.document for info in old.documents()] == [kept]
    assert old.document_text(kept) == text and old.documents()[0].vectors > 0
    assert columns(old, "documents")[: len(before)] == before
    assert old.verify().ok and old.add(NEW).added == ["new"] and old.verify().ok


def test_old_and_new_corpora_hold_the_same(old, tmp_path):
    new = Corpus.create(tmp_path / "new", "c", FakeCompressor())
    assert new.settings.format == max(FORMATS) and columns(new) != columns(old)
    new.add([Document(info.document, old.document_text(info.document)) for info in old.documents()])
    for mine, other in zip(old.documents(), new.documents(), strict=True):
        assert (mine.document, mine.revision, mine.vectors) == (other.document, other.revision, other.vectors)
        assert old.passages(mine.document) == new.passages(mine.document)
        for one, two in zip(old.memories(mine.revision), new.memories(mine.revision), strict=True):
            assert torch.equal(one.vectors, two.vectors) and one.scale == two.scale
    written = [export(corpus, tmp_path / name) for name, corpus in (("one", old), ("two", new))]
    assert written[0] == written[1]
    for name in written[0]:
        if name != "corpus.json" and name != "documents.jsonl":
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("number", "when"),
    [(2, "after"), (5, "before"), *(pytest.param(*kill, marks=pytest.mark.slow) for kill in MORE_KILLS)],
)
def test_killed_while_adding_nothing_is_lost_and_it_resumes(old, tmp_path, when, number):
    texts = {info.document: old.document_text(info.document) for info in old.documents()}
    shutil.copytree(old.path.parent, tmp_path / "whole")
    whole = Corpus.open(tmp_path / "whole", "c", FakeCompressor())
    whole.add(NEW)
    context = multiprocessing.get_context("spawn")
    killed = context.Process(target=child_add, args=(tmp_path, [("new", NEW.text)], 0.0, (when, number)))
    killed.start()
    killed.join()
    again = Corpus.open(tmp_path, "c", FakeCompressor())
    assert texts.items() <= {info.document: again.document_text(info.document) for info in again.documents()}.items()
    again.add(NEW)
    assert again.verify().ok and dump(again) == dump(whole)


def test_it_takes_no_memory_that_it_cannot_hold():
    layer = LayerEntries(torch.zeros(1, 1, 4), torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.long))
    memory = KeysValues({0: layer}, 1)
    with pytest.raises(UsageError, match="format 1 cannot hold memories of the kind 'keys-values'"):
        VectorRows().columns(memory)
    row = rows_of(2).columns(memory)
    assert rows_of(2).memory(row, {}).covered == 1


def test_a_format_of_the_future_is_refused(old):
    path = old.path / "corpus.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 3}))
    with pytest.raises(CorpusError):
        Corpus.open(old.path.parent, "c")


def test_vectors_of_a_merged_compressor_are_what_they_were(merged):
    corpus = Corpus.open(merged, "merged")
    expected = load_file(merged / "expected.safetensors")
    found = {}
    for info in corpus.documents():
        for index, memory in enumerate(corpus.memories(info.revision)):
            found[f"{info.document}.{index}"] = memory.vectors
            assert memory.scale == 0.5
    assert found.keys() == expected.keys()
    for name, vectors in expected.items():
        assert torch.equal(found[name], vectors)


def test_a_corpus_of_a_merged_compressor_is_asked_and_added_to(merged):
    asked = open_workspace(merged, "merged", compressing=False)
    reader = Reader(asked.corpus, asked.model, asked.tokenizer, policy=Policy(raw=0, compressed="document", budget=900))
    assert reader.ask("Who stole the tarts?", sampling=Sampling(4)).usage.vectors
    opened = open_workspace(merged, "merged")
    corpus = opened.corpus
    texts = [Document(info.document, corpus.document_text(info.document)) for info in corpus.documents()]
    assert corpus.add(texts).unchanged == ["a", "b"]
    assert corpus.add(Document("c", "The king was angry.")).added == ["c"] and corpus.verify().ok
    ids = opened.tokenizer(texts[0].text, add_special_tokens=False)["input_ids"]
    expected = load_file(merged / "expected.safetensors")
    stored = torch.cat([expected[f"a.{index}"] for index in range(sum(name[0] == "a" for name in expected))])
    torch.testing.assert_close(corpus.compressor.compress([ids])[0], stored, atol=1e-5, rtol=1e-5)


def test_a_model_that_others_share_stays_bare_beside_a_corpus_of_a_merged_compressor(merged):
    shared = (make_model(), make_tokenizer())
    opened = open_workspace(merged, "merged", compressing=False, loader=lambda ref, **options: shared)
    assert opened.changed and opened.model is not shared[0]
    assert base_fingerprint(*shared) == base_fingerprint(make_model(), make_tokenizer())
