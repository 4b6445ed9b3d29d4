"""The recipe of a hybrid that finds needles: its commands, and a run of them on tiny shapes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import longreach
from longreach.pattern import LayerPlan
from tests.conftest import make_model, make_tokenizer

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments):
    command = [sys.executable, str(ROOT / "recipes" / "longgen.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ["smollm2", "llama3-8b", "qwen3-8b"])
@pytest.mark.parametrize("gpus, config", [(0, None), (1, "one_gpu.yaml"), (8, "fsdp2_8_gpus.yaml")])
def test_every_recipe_says_its_commands(tmp_path, name, gpus, config):
    convert, extend = run(name, tmp_path, tmp_path / "out", "--gpus", gpus, "--dry-run")
    assert " convert " in convert and " extend " in extend and "--asks 0.5" in extend
    assert "accelerate" not in convert
    assert (config in extend) if config else ("accelerate" not in extend)
    assert ("--num_processes 8" in extend) == (gpus == 8)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("family, name", [("llama", "llama3-8b"), ("qwen3", "qwen3-8b")])
def test_tiny_shapes_are_converted_and_trained(tmp_path, family, name):
    model = make_model(family)
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    model.save_pretrained(tmp_path / "tiny")
    prose = tmp_path / "prose"
    prose.mkdir()
    for number in range(4):
        (prose / f"{number}.txt").write_text("The hare sat down. It rained! Nobody came. " * 60)
    out = tmp_path / "out"
    run(name, prose, out, "--model", tmp_path / "tiny", "--scale", 4, "--steps", 2, "--full-layers", "1,")
    trained, _ = longreach.load(out, device="cpu")
    assert trained.config.model_type == f"longreach_{family}"
    assert LayerPlan.make(3, trained.config.full_layers).full == (1,)
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
