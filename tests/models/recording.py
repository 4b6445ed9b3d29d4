"""A CUDA graph on a CPU: operations are written down once, with every Python number they were given, and repeated.

What would go wrong in a real graph goes wrong here: a number read back from a tensor is refused, one that changes from
step to step keeps the value it had, and results that live outside the recorded tensors are not seen.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

# Numbers that go to the host, and (`torch.tensor` of a list) numbers that come from it.
FORBIDDEN = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::lift_fresh")


class _Writer(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        if name.split(".")[0] in FORBIDDEN:
            raise RuntimeError(f"{name} while recording: the host would have to wait")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out


def recorder(state):
    """A recorder that puts back the tensors of `state()`, since a real one runs nothing while it records."""

    def make(run):
        before = [(x, x.clone()) for x in state()]
        with _Writer() as writer:
            result = run()
        for x, old in before:
            x.copy_(old)

        def replay():
            made = {}  # tensors made while recording, by identity; all others are the ones that were there

            def now(x):
                return made.get(id(x), x) if isinstance(x, torch.Tensor) else x

            def note(old, new):
                if isinstance(old, torch.Tensor):
                    made[id(old)] = new
                elif isinstance(old, list | tuple):
                    for a, b in zip(old, new, strict=True):
                        note(a, b)

            for func, args, kwargs, out in writer.calls:
                note(out, func(*tree_map(now, args), **tree_map(now, kwargs)))
            result.copy_(now(result))

        return replay, result

    return make
