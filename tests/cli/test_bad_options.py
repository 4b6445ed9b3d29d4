"""Wrong values of options are refused with one sentence and exit code 2, before torch is imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CALLS = """
ask lib Q --k 0
ask lib Q --k x
ask lib Q --raw -1
ask lib Q --raw foo
ask lib Q --compressed foo
ask lib Q --retriever foo
ask lib Q --budget 0
ask lib Q --max-new-tokens 0
ask lib Q --temperature -1
ask lib Q --temperature nan
ask lib Q --top-p 0
ask lib Q --top-p 2
ask lib Q --raw document --compressed document
ask lib Q --device foo
ask lib ""
ingest x --corpus a/b
ingest "" --corpus a
ingest x --corpus lib --ratio 0
ingest x --corpus lib --segment-tokens 0
ingest x --corpus lib --summary-tokens 0
ingest x --corpus lib --mode foo
ingest x --corpus lib --compressor foo
ingest x --corpus lib --batch-size 0
ingest x --corpus lib --device foo
convert smollm2 out --max-length 0
convert smollm2 out --max-length 10 --pattern strided
convert smollm2 out --pattern foo
convert smollm2 out --block-size 3
convert smollm2 out --sink-blocks -1
convert smollm2 out --local-blocks 0
convert smollm2 out --stride -1
convert smollm2 out --full-layers foo
convert smollm2 out --full-layers 1,x
convert smollm2 out --full-layers -1
convert smollm2 out --rope foo
convert smollm2 out --rope -1
convert smollm2 out --rope nan
convert smollm2 out --dtype foo
plan --shape foo
plan --shape smollm2 --length 0
plan --shape smollm2 --hardware 0xh100
plan --shape smollm2 --full-layers 99
extend smollm2 data out --length 0
extend smollm2 data out --length 64 --steps 0
extend smollm2 data out --length 64 --tokens 0
extend smollm2 data out --length 64 --batch-size 0
extend smollm2 data out --length 64 --lora-rank -1
extend smollm2 data out --length 64 --train-norms
extend smollm2 data out --length 64 --learning-rate 0
extend smollm2 data out --length 64 --learning-rate nan
extend smollm2 data out --length 64 --schedule foo
extend smollm2 data out --length 64 --warmup 2
extend smollm2 data out --length 64 --long-weight 0
extend smollm2 data out --length 64 --held-out -1
extend smollm2 data out --length 64 --held-out 1.5
extend smollm2 data out --length 64 --held-out foo
extend smollm2 data out --length 64 --save-every 0
extend smollm2 data out --length 64 --dtype float16
extend smollm2 data out --length 64 --device foo
extend smollm2 data out --length 64 --report-to foo
extend smollm2 data out --length 64 --pattern foo
pretrain smollm2 data out --steps 0
pretrain smollm2 data out --method foo
pretrain smollm2 data out --mode foo
pretrain smollm2 data out --segment-tokens 0
pretrain smollm2 data out --dtype foo
pretrain smollm2 data out --device foo
pretrain smollm2 data out --lora-targets foo
pretrain smollm2 data out --questions -1
pretrain smollm2 data out --report-to foo
study lib --epochs 0
study lib --learning-rate nan
study lib --loss foo
study lib --batch-size 0
study lib --per-passage 0
study lib --per-passage 9
study lib --budget 0
study lib --held-out 1.5
study lib --held-out 0
study lib --device foo
study lib --dtype foo
study lib --report-to foo
eval foo smollm2 --out out
eval niah smollm2 --out out --lengths abc
eval niah smollm2 --out out --lengths 0
eval niah smollm2 --out out --samples 0
eval niah smollm2 --out out --seed -1
eval ruler smollm2 --out out --tasks foo
eval niah smollm2 --out out --systems foo
eval niah smollm2 --out out --readers foo
eval niah smollm2 --out out --ratio 3
eval docqa smollm2 --out out --systems foo
eval niah smollm2 --out out --depths 0
eval niah smollm2 --out out --batch-size 0
eval niah smollm2 --out out --dtype foo
eval niah smollm2 --out out --device foo
eval docqa smollm2 --out out --max-new-tokens 0 --data fairytaleqa=x
eval docqa smollm2 --out out --ratio 0 --data fairytaleqa=x
eval docqa smollm2 --out out --compressor foo --data fairytaleqa=x
eval ruler smollm2 --out out --data foo=x
eval perplexity smollm2 --out out
bench attention --shape foo
bench attention --length 0
bench attention --what foo
bench attention --impl foo
bench attention --layer -1
bench attention --rows 0
bench attention --repeats 0
bench attention --dtype foo
bench attention --device foo
bench attention --plot x.foo
bench attention --out nowhere/x.json
bench attention --pattern foo
bench model --shape foo
bench model
bench model --shape smollm2 --what foo
bench model --shape smollm2 --length 0
bench model --shape smollm2 --layers 0
bench model --shape smollm2 --full-layers foo
bench finetune --shape smollm2 --ratio 0
bench finetune --shape foo
bench reader --repeats 0
bench reader --text nowhere.txt
doctor --device foo
""".strip().splitlines()

WITHOUT_TORCH = """
import contextlib, io, json, shlex, sys
sys.modules["torch"] = None  # an import of it fails
from longreach.cli import main
for call in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(shlex.split(call))
        except SystemExit as done:
            code = done.code
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    here = tmp_path_factory.mktemp("calls")
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        input=json.dumps([*CALLS, *MEANT_TO_WORK]),
        text=True,
        capture_output=True,
        cwd=here,
        env={
            "LONGREACH_STORE": str(here / "store"),
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(Path(sys.modules["longreach"].__file__).parents[1]),
        },
        check=True,
    )
    assert list(here.iterdir()) == [], "a refused call leaves nothing behind"
    return dict(zip([*CALLS, *MEANT_TO_WORK], map(json.loads, ran.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_value_is_refused_before_torch_is_imported(results, call):
    code, out, err = results[call]
    assert code == 2 and not out, (code, out, err)
    assert err.startswith("longreach: ") and err.count("\n") == 1 and "wrong inside" not in err, err


MEANT_TO_WORK = ["doctor", "doctor --json", "plan --shape smollm2", "corpus ls"]


@pytest.mark.parametrize("call", MEANT_TO_WORK)
def test_commands_that_load_no_model_need_no_torch(results, call):
    code, out, err = results[call]
    assert code == 0 and out and not err
