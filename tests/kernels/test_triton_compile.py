"""The kernels compile for a real GPU, onto its tensor cores, within its shared memory."""

import json
import os
import subprocess
import sys

import pytest

from tests.kernels.cases import needs_triton

H100_SHARED_BYTES = 232_448  # that one program may use


@pytest.mark.slow
@needs_triton
def test_kernels_compile_for_an_h100(tmp_path):
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compile_for_hopper"],
        capture_output=True,
        text=True,
        env=env | {"TRITON_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    built = {line["kernel"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert len(built) == 8
    for name, line in built.items():
        assert line["shared_bytes"] <= H100_SHARED_BYTES
        assert line["spills"] == 0
        if name not in ("_delta_kernel", "_combine_kernel", "_store_kernel"):
            assert line["tensor_core_products"] and line["asynchronous_copies"], line
    assert built["_split_kernel"]["waiting_loads"] == 0  # keys are on their way while others are multiplied
