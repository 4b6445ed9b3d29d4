"""One set of option names for all trainings, and the names of earlier releases, which are still taken."""

import json

import pytest
import typer

from longreach.cli.app import app
from longreach.compressors.recipe import Recipe
from longreach.errors import UsageError
from longreach.training.common import run
from longreach.training.common.options import check_batch, translate
from longreach.training.extend.settings import EARLIER_NAMES as EXTEND
from longreach.training.extend.settings import ExtendSettings
from longreach.training.pretrain.schedule import EARLIER_NAMES as PRETRAIN
from longreach.training.pretrain.schedule import Schedule
from longreach.training.study.settings import StudySettings

TRAININGS = ("extend", "pretrain", "study")


def options_of(name):
    """The options of a command, by name, and whether each is shown."""
    command = typer.main.get_command(app).commands[name]
    return {option: parameter for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize(
    "name", ["learning-rate", "lora-rank", "lora-alpha", "batch-size", "warmup", "seed", "save-every", "report-to",
             "checkpointing"],
)  # fmt: skip
def test_all_trainings_have_one_name_and_one_help_for_one_thing(name):
    found = [options_of(training)[f"--{name}"] for training in TRAININGS]
    assert len({parameter.help.split(".")[0].split(" on q")[0] for parameter in found}) == 1 or name == "batch-size"


@pytest.mark.parametrize("settings", [ExtendSettings, StudySettings, Recipe, Schedule])
def test_settings_have_the_names_of_the_options(settings):
    names = set(settings.__dataclass_fields__)
    assert not names & {"lr", "lora", "lora_r", "alpha", "dropout", "batch", "rows", "max_steps", "summary_lr"}


@pytest.mark.parametrize(
    "command, old, new",
    [
        ("extend", ["--lora", "4", "--max-steps=3", "--rows", "2"],
         ["--lora-rank", "4", "--steps=3", "--batch-size", "2"]),
        ("extend", ["--eval-data", "--lr"], ["--evaluation", "--learning-rate"]),
        ("pretrain", ["--lora-r", "4", "--lr", "1", "--summary-lr=2"],
         ["--lora-rank", "4", "--learning-rate", "1", "--summary-learning-rate=2"]),
        ("study", ["--lora", "4", "--batch", "8", "--lr=1"], ["--lora-rank", "4", "--batch", "8", "--learning-rate=1"]),
        ("study", ["--rows", "--max-steps", "c", "--", "--lr"], ["--batch-size", "--max-steps", "c", "--", "--lr"]),
    ],
)  # fmt: skip
def test_names_of_earlier_releases_are_taken(command, old, new):
    assert translate(old, set(options_of(command))) == new


def test_no_earlier_name_is_shown():
    for training in TRAININGS:
        shown = {name for name, parameter in options_of(training).items() if not getattr(parameter, "hidden", False)}
        assert not shown & {"--lr", "--lora", "--lora-r", "--batch", "--rows", "--max-steps", "--eval-data"}


def test_questions_of_a_whole_step_become_those_of_its_parts():
    assert check_batch(None, 2, 8) == 8 and check_batch(8, 2, 8) == 4
    for batch, accumulate in ((5, 2), (8, 0)):
        with pytest.raises(UsageError, match="give --batch-size"):
            check_batch(batch, accumulate, 8)


@pytest.mark.parametrize(
    "names, there, now",
    [
        (EXTEND, {"max_steps": 9, "steps": 9, "lora": 2, "rows": 1}, {"steps": 9, "lora_rank": 2, "batch_size": 1}),
        (PRETRAIN, {"lora_r": 4, "lr": 0.1, "summary_lr": None},
         {"lora_rank": 4, "learning_rate": 0.1, "summary_learning_rate": None}),
    ],
)  # fmt: skip
def test_a_run_that_an_earlier_release_began_is_resumed_or_refused(tmp_path, names, there, now):
    (tmp_path / run.RUN).write_text(json.dumps(there))
    rank = now["lora_rank"]
    with pytest.raises(UsageError, match=rf"another run: lora_rank is {rank} there and 64 here\."):
        run.claim(tmp_path, now | {"lora_rank": 64}, earlier=names)
    assert run.settings_of(tmp_path) == there
    run.claim(tmp_path, now, earlier=names)
    assert run.settings_of(tmp_path) == now
    run.claim(tmp_path, now, earlier=names)
