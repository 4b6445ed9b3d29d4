#!/usr/bin/env bash
# Fills the GPU column of the goals: Llama-2-7B's shape, 131,072 tokens, bfloat16, in under nine minutes.
#
#     benchmarks/gpu.sh OUT        # one JSON and one log a step, in the folder OUT
#
# Needs torch, triton and transformers; nothing of this repository has to be installed. Every step has a time limit of
# its own and what is left of the whole; a step that fails is named, and the next one runs. Cheap steps come first.
# The full model's cache and the hybrid's lie in memory together: 141 GB are enough for the 7B shape at 128K.
#
#     LONGREACH_BENCH_DRY=1        # the same steps in tiny sizes on a CPU, to test this script
#     LONGREACH_BENCH_SECONDS=540  # for everything
#     PYTHON=python3               # the interpreter
set -uo pipefail
SECONDS=0

if [ $# -ne 1 ]; then
    echo "usage: $0 OUT" >&2
    exit 2
fi
mkdir -p "$1" || exit 1
OUT=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3}
LIMIT=${LONGREACH_BENCH_SECONDS:-540}
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"

"$PYTHON" -c 'import typer' 2>/dev/null || timeout 60 "$PYTHON" -m pip install --quiet typer ||
    echo "typer is missing and cannot be installed; the commands need it" >&2

if [ -n "${LONGREACH_BENCH_DRY:-}" ]; then
    SMALL="--device cpu --dtype float32 --length 96 --block-size 8 --local-blocks 3"
    ATTENTION="--shape smollm2 --repeats 1 --impl cpu $SMALL"
    MODEL="--shape smollm2 --layers 3 --repeats 1 $SMALL"
    PREFILL="" TRAIN="" DECODE="--new-tokens 2" COMPILED=""
else
    ATTENTION="--shape llama2-7b --length 131072 --dtype bfloat16 --device cuda --impl triton,flex"
    MODEL="--shape llama2-7b --length 131072 --dtype bfloat16 --device cuda"
    PREFILL="--repeats 2" TRAIN="--repeats 1 --layers 12" DECODE="--new-tokens 64" COMPILED="--graphs --compile"
fi

failed=""

# step NAME SECONDS ARGUMENTS...: one command of `longreach bench`, its JSON in NAME.json, its words in NAME.log.
step() {
    local name=$1 allowed=$2 left=$((LIMIT - SECONDS)) began=$SECONDS code
    shift 2
    rm -f "$OUT/$name.json"
    [ "$allowed" -gt "$left" ] && allowed=$left
    if [ "$allowed" -lt 1 ]; then
        echo "FAILED   $name: no time left of $LIMIT s"
        failed="$failed $name"
        return
    fi
    timeout --kill-after=5 "$allowed" "$PYTHON" -m longreach.cli bench "$@" --out "$OUT/$name.json" \
        >"$OUT/$name.log" 2>&1
    code=$?
    if [ $code -eq 0 ] && [ -s "$OUT/$name.json" ]; then
        echo "done     $name: $((SECONDS - began)) s"
        return
    fi
    failed="$failed $name"
    case $code in
    124 | 137) echo "FAILED   $name: longer than $allowed s (see $name.log)" ;;
    *) echo "FAILED   $name: exit code $code: $(tail -n 1 "$OUT/$name.log")" ;;
    esac
}

# The options are lists of words on purpose.
# shellcheck disable=SC2086
{
    step attention-decode 45 attention $ATTENTION --what decode --repeats 20
    step attention-forward 70 attention $ATTENTION --what forward --repeats 5
    step attention-train 80 attention $ATTENTION --what train --repeats 3
    step model-decode 100 model $MODEL $DECODE --what decode
    step model-train 110 model $MODEL $TRAIN --what train
    step model-prefill 95 model $MODEL $PREFILL --what prefill
    step model-decode-compiled 150 model $MODEL $DECODE $COMPILED --what decode
}

if [ -n "$failed" ]; then
    echo "not measured:$failed"
    exit 1
fi
echo "all measured in $SECONDS s"
