"""The recipes: accelerate reads each, their commands are ones that exist, and two processes learn what one learns."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, ParallelismConfig, patch_environment
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from safetensors.torch import load_file

import longreach
from longreach.cli.app import app
from tests.conftest import make_model, make_tokenizer
from tests.training.conftest import make_hybrid, write_texts
from tests.training.test_extend import losses

ROOT = Path(__file__).parents[2]
RECIPES = sorted(f"recipes/{path.name}" for path in (ROOT / "recipes").glob("*.yaml"))
RUN = ("--block-size", 8, "--local-blocks", 2, "--full-layers", 1, "--length", 128, "--held-out", 2, "--device", "cpu")
LEARN = ("--steps", 3, "--learning-rate", 1e-2, "--eval-every", 100)


class Reached(Exception):
    """A command got as far as training."""


def commands(path):
    """What comes after `accelerate launch` in the comments of a recipe, or in a page."""
    lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
    if path.endswith(".yaml"):
        lines = [line[1:].strip() for line in lines if line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ").splitlines()
    found = [shlex.split(line) for line in whole if line.startswith("accelerate launch ")]
    return [[word.replace("$RANK", "1") for word in words[2:]] for words in found]


def launched(words):
    """What accelerate makes of them, the recipe included."""
    here = [str(ROOT / word) if word.startswith("recipes/") else word for word in words]
    return _validate_launch_command(launch_command_parser().parse_args(here))[0]


COMMANDS = {
    f"{path} {number}": words for path in [*RECIPES, "docs/scale.md"] for number, words in enumerate(commands(path))
}


def test_there_is_one_for_every_size():
    sizes = {"fsdp2_8_gpus": 8, "one_gpu": 1, "two_cpu_processes": 2, "ulysses_zero3": 8}
    assert [f"recipes/{name}.yaml" for name in sizes] == RECIPES
    for path, processes in zip(RECIPES, sizes.values(), strict=True):
        config = load_config_from_file(str(ROOT / path))
        assert (config.num_machines, config.num_processes) == (1, processes)
        assert config.mixed_precision == ("no" if config.use_cpu else "bf16")
        assert any(path in words for words in commands(path)) and path in (ROOT / "docs" / "scale.md").read_text()


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_its_commands_exist(words, monkeypatch):
    """Down to the settings that training would get; the models' names stand for a small one."""

    def reach(*args, **options):
        raise Reached

    verb = words[words.index("longreach.cli") + 1]
    # This one first: it imports a module, which must not keep the other's small model for the tests to come.
    monkeypatch.setattr(f"longreach.training.{verb}.{verb}.{verb}", reach)
    monkeypatch.setattr("longreach.models.loading.load.load", lambda *args, **options: (make_model(), make_tokenizer()))
    args = launched(words)
    assert args.module and args.training_script == "longreach.cli"
    command = typer.main.get_command(app)
    with pytest.raises(Reached), command.make_context("longreach", list(args.training_script_args)) as context:
        command.invoke(context)


def test_fsdp2_cuts_every_layer():
    args = launched(commands("recipes/fsdp2_8_gpus.yaml")[0])
    assert args.use_fsdp and args.num_processes == 8 and args.mixed_precision == "bf16"
    with patch_environment(**prepare_multi_gpu_env(args)):
        plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True and not plugin.activation_checkpointing
    model = make_hybrid()
    plugin.set_auto_wrap_policy(model)
    assert plugin.auto_wrap_policy.keywords["transformer_layer_cls"] == {type(model.model.layers[0])}


@pytest.mark.parametrize("number, machines, processes", [(0, 1, 8), (1, 8, 64)])
def test_ulysses_cuts_rows_over_a_machine_and_weights_over_all(number, machines, processes):
    args = launched(commands("recipes/ulysses_zero3.yaml")[number])
    assert args.use_deepspeed and (args.num_machines, args.num_processes) == (machines, processes)
    args.deepspeed_fields_from_accelerate_config = ""
    command, environment = prepare_deepspeed_cmd_env(args)
    assert command is None  # torchrun's arguments instead of a launcher of its own, on every machine
    with patch_environment(**environment):
        parallel, zero = ParallelismConfig(), DeepSpeedPlugin()
    assert parallel.sp_size == 8 and parallel.sp_size * parallel.data_parallel_size == processes
    assert parallel.sp_handler.sp_attn_implementation == "sdpa" and parallel.sp_handler.sp_seq_length_is_variable
    assert (zero.zero_stage, zero.zero3_init_flag, zero.zero3_save_16bit_model) == (3, False, True)


def accelerate(folder, recipe, *arguments, options=(), script=("-m", "longreach.cli")):
    """Runs a command under `accelerate launch` with a recipe; token files go into the folder."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    here = {"PYTHONPATH": path, "LONGREACH_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment = os.environ | here | {"DS_ACCELERATOR": "cpu"}
    start = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ROOT / "recipes" / recipe)]
    done = subprocess.run(
        [*start, *options, *script, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def texts(tmp_path):
    return write_texts(tmp_path / "texts")


@pytest.mark.slow
def test_two_processes_on_cpus_learn_what_one_learns(run, models, texts, tmp_path):
    options = (*RUN, *LEARN, "--batch-tokens", 256, "--json")
    two = accelerate(tmp_path, "two_cpu_processes.yaml", "extend", models / "one", texts, tmp_path / "two", *options)
    (line,) = two.stdout.splitlines()  # one result, not one of each process
    assert json.loads(line)["steps"] == 3 and two.stderr.count("step 3/3  loss ") == 1
    assert run("extend", models / "one", texts, tmp_path / "one", *options).code == 0
    assert [loss for _, loss in losses(tmp_path / "two")] == pytest.approx(
        [loss for _, loss in losses(tmp_path / "one")], rel=1e-4
    )
    assert longreach.load(tmp_path / "two", device="cpu")[0].config.model_type == "longreach_llama"


@pytest.mark.slow
def test_two_processes_on_cpus_train_a_compressor(models, texts, tmp_path):
    few = (
        "--segment-tokens",
        24,
        "--max-ratio",
        12,
        "--lora-rank",
        2,
        "--steps",
        2,
        "--accumulate",
        1,
        "--device",
        "cpu",
    )
    arguments = ("pretrain", models / "one", texts, tmp_path / "out", *few, "--json")
    done = accelerate(tmp_path, "two_cpu_processes.yaml", *arguments)
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["tokens"] == 2 * 2 * 96  # steps, processes, tokens of a sequence
    last = r"step 2/2  loss \d+\.\d+  [\d,]+ tokens/s  lr \S+  0:00:00 left"  # no bar where no terminal is
    assert len(re.findall(last, done.stderr)) == 1 and "%|" not in done.stderr


# accelerate has neither FSDP nor DeepSpeed's own connection of processes on CPUs: the one takes them for GPUs here, the
# other is made before.
ON_CPUS = {
    "fsdp2_8_gpus": """
import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
torch.distributed.init_process_group("gloo")
PartialState._prepare_backend = lambda self, *args, **options: ("gloo", DistributedType.MULTI_GPU)
PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
""",
    "ulysses_zero3": """
import deepspeed
deepspeed.init_distributed("gloo", auto_mpi_discovery=False)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("also", [(), ("--lora-rank", 2, "--train-norms", "--train-embeddings")], ids=["all", "lora"])
@pytest.mark.parametrize("recipe", ON_CPUS)
def test_parts_of_weights_and_of_rows_learn_what_whole_ones_learn(run, models, texts, tmp_path, recipe, also):
    two = ["--num_processes", "2", "--mixed_precision", "no"]
    if recipe == "ulysses_zero3":
        pytest.importorskip("deepspeed", reason="only where DeepSpeed is installed")
        two += ["--parallelism_config_sp_size", "2"]
    script = tmp_path / "on_cpus.py"
    script.write_text(f"{ON_CPUS[recipe]}from longreach.cli import main\nmain()\n")
    options = (*RUN, *LEARN, *also, "--batch-tokens", 256 if recipe == "fsdp2_8_gpus" else 128)
    arguments = ("extend", models / "one", texts, tmp_path / "two", *options)
    accelerate(tmp_path, f"{recipe}.yaml", *arguments, options=two, script=(str(script),))
    assert run("extend", models / "one", texts, tmp_path / "one", *options).code == 0
    assert [loss for _, loss in losses(tmp_path / "two")] == pytest.approx(
        [loss for _, loss in losses(tmp_path / "one")], rel=1e-4
    )
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(weight, other[name], atol=1e-4) for name, weight in one.items())
