"""The ways of reading that have a name, and what a policy refuses."""

import pickle
from dataclasses import FrozenInstanceError, asdict, replace

import pytest

from longreach import Policy
from longreach.errors import UsageError


@pytest.mark.parametrize(
    ("made", "fields", "name"),
    [
        (Policy.none(), {"raw": 0, "compressed": "none"}, "no context"),
        (Policy.passages(7), {"k": 7, "raw": 7, "compressed": "none"}, "raw"),
        (Policy.compressed(), {"raw": 0, "compressed": "document"}, "compressed"),
        (Policy.mixed(), {"k": 5, "raw": 2, "compressed": "document"}, "mixed"),
        (Policy.mixed(9), {"k": 9, "raw": 9, "compressed": "document"}, "mixed"),
        (Policy.full(), {"raw": "document", "compressed": "none"}, "full"),
    ],
)
def test_ways_of_reading_have_names(made, fields, name):
    assert made == Policy(**fields)
    assert made.name == name


def test_the_named_ways_take_the_other_fields():
    made = Policy.compressed(budget=900, retriever="hybrid", adapter=False)
    assert made == Policy(raw=0, compressed="document", budget=900, retriever="hybrid", adapter=False)
    assert Policy.passages(3, cut=True).cut
    with pytest.raises(TypeError):
        Policy.none(compressed="document")


def test_a_field_and_a_class_method_share_a_name():
    policy = Policy()
    assert policy.compressed == "passages"
    assert replace(policy, compressed="none").compressed == "none"
    assert asdict(policy)["compressed"] == "passages"
    assert pickle.loads(pickle.dumps(policy)) == policy
    assert repr(policy).startswith("Policy(k=5, raw=2, compressed='passages'")
    assert hash(policy) == hash(Policy())
    with pytest.raises(FrozenInstanceError):
        policy.compressed = "none"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Policy.passages(0), "at least 1 passage"),
        (lambda: Policy.mixed(-1), "0 or more passages"),
        (lambda: Policy.full(budget=0), "budget"),
        (lambda: Policy.none(retriever="x"), "retriever"),
        (lambda: Policy(raw="document", compressed="document"), "choose one"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()
