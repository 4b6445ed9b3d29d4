"""Compiles every Triton kernel for an H100 (sm_90), which needs no GPU; prints one JSON line a kernel.

Run by test_triton_compile in its own process, because the interpreter replaces the compiler in the tests' own.
"""

import json

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from longreach.kernels.triton import backward as triton_backward
from longreach.kernels.triton import decode as triton_decode
from longreach.kernels.triton import prefill as triton_prefill
from longreach.kernels.triton import store as triton_store
from longreach.kernels.triton.launch import pattern_args
from longreach.kernels.view import HeadView
from longreach.pattern import AttentionPattern

FLOAT32 = {"lse_ptr", "delta_ptr", "dk_part", "dv_part", "part_ptr", "part_lse_ptr"}
DIM = {"D": 64, "BLOCK_D": 64}


def compile_kernel(kernel, config, named):
    options = {name: config[name] for name in ("num_warps", "num_stages") if name in config}
    constants = {name: value for name, value in (named | config).items() if name in kernel.arg_names and name.isupper()}
    signature = {}
    for name in kernel.arg_names:
        if name in constants or name == "starts_ptr":
            signature[name] = "constexpr"
        elif name == "lengths_ptr":
            signature[name] = "*i64"
        elif name.endswith(("_ptr", "_part")) or name in ("far_k", "far_v", "near_k", "near_v"):
            signature[name] = "*fp32" if name in FLOAT32 else "*bf16"
        else:
            signature[name] = "fp32" if name == "scale" else "i32"
    # What the launcher finds out by itself: pointers and strides are multiples of 16.
    aligned = [i for i, (n, t) in enumerate(signature.items()) if t[0] == "*" or (len(n) in (3, 4) and n[0] == "s")]
    source = ASTSource(kernel, signature, constants | {"starts_ptr": None} if "starts_ptr" in signature else constants,
                       {(i,): [["tt.divisibility", 16]] for i in aligned})  # fmt: skip
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptx, loops = built.asm["ptx"], built.asm["ttgir"].split("scf.for")
    line = {
        "kernel": kernel.__name__,
        "shared_bytes": built.metadata.shared,
        "tensor_core_products": ptx.count("wgmma.mma_async") + ptx.count("mma.sync"),
        "asynchronous_copies": ptx.count("cp.async"),
        "spills": ptx.count("ld.local"),
        "waiting_loads": sum(part.count("tt.load") for part in loops[1:]),
    }
    print(json.dumps(line))


def main():
    pattern = pattern_args(HeadView(AttentionPattern(64, 1, 16, 128), 0, 0, 8), 1.0) | DIM
    rows = {"HAS_STARTS": False}
    forward, backward, decode = triton_prefill, triton_backward, triton_decode
    config = forward._CONFIGS[0]
    compile_kernel(forward._forward_kernel, config, pattern | rows | {"HQ": 32, "GROUPS": 4, "COMPACT": False})
    config = backward._CONFIGS[0]
    compile_kernel(backward._delta_kernel, {"BLOCK_M": 64}, DIM | {"HQ": 32})
    compile_kernel(backward._dq_kernel, config, pattern | rows | {"HQ": 32, "GROUPS": 4})
    for kernel in (backward._dkv_kernel, backward._far_dkv_kernel):
        compile_kernel(kernel, config, pattern | rows | {"HKV": 8, "GROUPS": 4, "SHARES": 4})
    shape = {"HKV": 8, "GROUPS": 4, "TQ": 1, "ROWS": 16}
    compile_kernel(decode._split_kernel, decode._CONFIGS[0], pattern | rows | shape | {"COMPACT": True})
    compile_kernel(decode._combine_kernel, {}, DIM | shape | {"BLOCK_S": 32})
    compile_kernel(triton_store._store_kernel, {"num_warps": 1}, pattern | {"HKV": 8})


if __name__ == "__main__":
    main()
