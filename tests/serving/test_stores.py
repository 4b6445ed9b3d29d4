"""Vector stores by their ids: found without a look at the others, and never one that was made anew."""

from longreach import Corpus
from longreach.serving.database import Database
from longreach.serving.members import Members
from longreach.serving.pool import Pool
from longreach.serving.stores import VectorStores
from tests.serving.conftest import make_corpus, make_settings


def test_an_id_names_one_corpus_and_none_made_anew(tmp_path, base, monkeypatch):
    for name in ("one", "two"):
        make_corpus(tmp_path, base, name)
    database = Database(tmp_path)
    pool = Pool(make_settings(tmp_path, base))
    stores = VectorStores(database, pool, Members(database, pool, str(tmp_path)), str(tmp_path))
    two = stores.find("two")
    assert two.id.startswith("vs_") and stores.find("one").id != two.id
    opened = []
    plain = Corpus.open
    monkeypatch.setattr(Corpus, "open", lambda path, name, *args: opened.append(name) or plain(path, name, *args))
    assert stores.find(two.id) == two and opened == ["two"]
    fresh = VectorStores(database, pool, Members(database, pool, str(tmp_path)), str(tmp_path))
    assert fresh.find(two.id) == two and fresh.find("vs_nothing") is None
    plain(tmp_path, "two").delete()
    assert stores.find(two.id) is None and stores.find("two") is None
    make_corpus(tmp_path, base, "two")
    anew = stores.find("two")
    assert anew.id != two.id and stores.find(two.id) is None and stores.find(anew.id) == anew
    database.close()
