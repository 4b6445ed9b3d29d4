"""Doctor and the versions that were tested."""

from pathlib import Path

import longreach
from longreach import tested
from longreach.cli import doctor


def test_the_package_carries_the_constraints_that_tests_are_installed_by():
    top = Path(__file__).resolve().parents[2] / "constraints.txt"
    carried = Path(longreach.__file__).with_name("constraints.txt")
    assert carried.read_bytes() == top.read_bytes()
    known = tested.tested_versions()
    assert {f"{name}=={known[name]}" for name in ("torch", "transformers", "peft")} <= set(top.read_text().split())


def test_doctor_says_what_was_tested_and_what_is_newer_or_older(run, monkeypatch):
    versions = {"transformers": "99.0", "peft": "0.1", "torch": tested.tested_versions()["torch"] + "+cpu"}
    monkeypatch.setattr(doctor, "_find_version", lambda name: versions.get(name, tested.tested_versions()[name]))
    said = run("doctor").out
    assert (
        f"tested     torch {tested.tested_versions()['torch']}, transformers {tested.tested_versions()['transformers']}"
        in said
    )
    assert "transformers 99.0 is newer than" in said and "peft 0.1 is older than" in said
    assert said.count("that Longreach was tested with") == 2
    assert run("doctor", "--json").json["tested"]["torch"] == tested.tested_versions()["torch"]
