"""The folder of a run: nobody else's, whole or going on."""

import pytest

from longreach.errors import ModelError, UsageError
from longreach.training.common import checkpoints, run
from tests.conftest import make_model, make_tokenizer


def test_a_folder_belongs_to_one_run(tmp_path):
    out = tmp_path / "deep" / "out"
    run.claim(out, {"length": 64, "pattern": (1, 2)})
    run.claim(out, {"length": 64, "pattern": (1, 2)})
    with pytest.raises(UsageError, match="another run: length is 64 there and 128 here, seed is null there and 1 here"):
        run.claim(out, {"length": 128, "pattern": [1, 2], "seed": 1})
    run.claim(out, {"length": 64, "pattern": [1, 2], "seed": 1}, renew=["seed"])
    assert run.settings_of(out) == {"length": 64, "pattern": [1, 2], "seed": 1} and run.settings_of(tmp_path) == {}
    with pytest.raises(UsageError, match="another run: length"):
        run.claim(out, {"length": 65, "pattern": [1, 2], "seed": 2}, renew=["seed"])
    assert run.settings_of(out)["seed"] == 1


def test_damaged_settings_are_one_sentence(tmp_path):
    run.claim(tmp_path, {"length": 64})
    (tmp_path / "run.json").write_bytes((tmp_path / "run.json").read_bytes()[:9])
    with pytest.raises(UsageError, match=r"run\.json' is damaged: give another folder"):
        run.claim(tmp_path, {"length": 64})


def test_a_checkpoint_that_cannot_be_read_is_named_unless_memory_is_full(tmp_path):
    with (
        pytest.raises(ModelError, match=r"c-2' cannot be read \(cut off\): delete it"),
        checkpoints.explain_unreadable(tmp_path / "c-2"),
    ):
        raise EOFError("cut\noff")
    with pytest.raises(MemoryError), checkpoints.explain_unreadable(tmp_path / "c-2"):  # to delete it would help nobody
        raise MemoryError


def test_nothing_of_others_is_overwritten(tmp_path):
    (tmp_path / "file").write_text("kept")
    for out in (tmp_path, tmp_path / "file"):
        with pytest.raises(UsageError, match="no run"):
            run.claim(out, {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_last_whole_checkpoint_counts_and_torn_ones_go(tmp_path):
    assert checkpoints.last_checkpoint(tmp_path) is None
    for step, state in ((2, '{"global_step": 2}'), (10, '{"global_step": 10}'), (12, '{"global_st'), (14, None)):
        folder = tmp_path / checkpoints.CHECKPOINTS / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if state:
            (folder / "trainer_state.json").write_text(state)
    assert checkpoints.last_checkpoint(tmp_path).name == "checkpoint-10"
    checkpoints.drop_torn(tmp_path)
    left = sorted(path.name for path in (tmp_path / checkpoints.CHECKPOINTS).iterdir())
    assert left == ["checkpoint-10", "checkpoint-2"]


def test_what_is_no_checkpoint_of_that_step_is_torn(tmp_path):
    for name, state in (("checkpoint-3", '{"global_step": 2}'), ("checkpoint-4", "[]"), ("checkpoint-x", "")):
        folder = tmp_path / checkpoints.CHECKPOINTS / name
        folder.mkdir(parents=True)
        (folder / "trainer_state.json").write_text(state)
    assert checkpoints.whole_checkpoints(tmp_path) == []
    checkpoints.drop_torn(tmp_path)
    assert [path.name for path in (tmp_path / checkpoints.CHECKPOINTS).iterdir()] == ["checkpoint-x"]


def test_checkpoints_of_earlier_releases_are_found(tmp_path):
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    (folder / "trainer_state.json").write_text('{"global_step": 5}')
    (folder / "complete").touch()
    for _ in range(2):
        checkpoints.adopt_earlier(tmp_path)
        assert checkpoints.last_checkpoint(tmp_path) == tmp_path / checkpoints.CHECKPOINTS / "checkpoint-5"
    checkpoints.drop(tmp_path / checkpoints.CHECKPOINTS, 5)
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_was_being_written_is_written_again(tmp_path):
    (tmp_path / ".result").mkdir()
    (tmp_path / ".result" / "stale").write_text("")
    assert run.report_of(tmp_path) is None
    run.finish(tmp_path, make_model(), make_tokenizer(), [{"loss": 1.0}], {"steps": 1})
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "log.jsonl", run.REPORT} <= names
    assert not {"stale", ".result"} & names and run.report_of(tmp_path) == {"steps": 1}
