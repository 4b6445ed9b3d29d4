"""Models and corpora are shared, stay while they are used, and leave by least recent use."""

import pytest

from longreach import Corpus, Sampling
from longreach.errors import ModelError
from longreach.serving.pool import Pool, weights_bytes
from tests.serving.conftest import make_corpus, make_settings

ASKED = {"sampling": Sampling(4)}


@pytest.fixture(scope="module")
def store(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("store")
    for name in ("one", "two"):
        make_corpus(folder, base, name)
    return folder


def test_corpora_share_the_model_and_what_it_has_read(store, base):
    pool = Pool(make_settings(store, base))
    with pool.open_corpus("one") as one, pool.open_corpus("two") as two, pool.open_model() as shared:
        assert one.model is two.model is shared.model and len(pool.models()) == 1
        first = one.ask("Who stole the tarts?", **ASKED)
        again = two.ask("Who stole the tarts?", **ASKED)
        assert first.usage.cached == 0 < again.usage.cached and first.text == again.text
    assert pool.hot_bytes() > 0


def test_what_is_used_stays_and_the_rest_leaves(store, base):
    pool = Pool(make_settings(store, base))
    with pool.open_model() as shared:
        need = weights_bytes(shared.model)
    small = Pool(make_settings(store, base, memory_bytes=need + (64 << 10)))
    with small.open_corpus("one") as one:
        one.ask("Who stole the tarts?", **ASKED)
        assert len(small.models()) == 1
        # A corpus that nobody uses makes space for another one.
        with small.open_corpus("two") as two:
            assert two.ask("Who was angry?", **ASKED).text
    with small.open_corpus("one") as one:
        assert one.ask("Who stole the tarts?", **ASKED).text


def test_a_model_that_can_never_fit_is_one_sentence(store, base):
    pool = Pool(make_settings(store, base, memory_bytes=1 << 10))
    with pytest.raises(ModelError, match="--memory-gb"), pool.open_corpus("one") as one:
        one.ask("Who stole the tarts?", **ASKED)


def test_a_corpus_that_was_made_anew_is_opened_anew(tmp_path, base):
    make_corpus(tmp_path, base)
    pool = Pool(make_settings(tmp_path, base))
    with pool.open_corpus("library") as session:
        assert session.documents()
    Corpus.open(tmp_path, "library").delete()
    make_corpus(tmp_path, base)
    with pool.open_corpus("library") as session:
        assert len(session.documents()) == 2
