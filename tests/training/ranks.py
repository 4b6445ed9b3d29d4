"""Two processes: a run of `extend`, then a part of every weight each (FSDP2), compared with one process.

`torchrun --nproc-per-node=2 ranks.py TEXTS FOLDER CACHE STEPS`
"""

import json
import sys
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from longreach.models.loss import checkpointing
from longreach.training.extend import adapter
from longreach.training.extend.objective import chunked_loss, put_together
from longreach.training.extend.settings import ExtendSettings
from tests.training.conftest import make_hybrid
from tests.training.interrupted import train

SETTINGS = ExtendSettings(length=128, lora_rank=2, train_norms=True, train_embeddings=True)


def make(lora, tied):
    torch.manual_seed(0)
    model = make_hybrid(tie_word_embeddings=tied)
    checkpointing(model, True)
    return (adapter.attach(model, SETTINGS, torch.float32) if lora else model).train()


def inner_of(model):
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def check(folder, mesh, lora, tied):
    """How far losses, gradients and the saved model are from those of one process."""
    rank = distributed.get_rank()
    ids = torch.randint(0, 250, (2, 1, 48), generator=torch.Generator().manual_seed(1))
    whole, model = make(lora, tied), make(lora, tied)
    with chunked_loss(whole):
        wanted = sum(whole(input_ids=row, labels=row).loss for row in ids) / 2
    wanted.backward()
    with chunked_loss(model):
        for layer in inner_of(model).model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        loss = model(input_ids=ids[rank], labels=ids[rank]).loss
        loss.backward()
    distributed.all_reduce(loss.detach_())
    ours = {name: p.grad.full_tensor() for name, p in model.named_parameters() if p.grad is not None}
    theirs = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    distributed.barrier()
    if rank:
        return None
    put_together(model, state)
    if lora:
        model, whole = adapter.merge(model, folder / "a"), adapter.merge(whole, folder / "b")
    model.save_pretrained(folder / f"{lora} {tied}")
    saved = type(inner_of(whole)).from_pretrained(folder / f"{lora} {tied}")
    with torch.no_grad():
        logits = (saved.eval()(ids[0]).logits - whole.eval()(ids[0]).logits).abs().max()
    same = ours.keys() == theirs.keys() and len(ours) > 10
    gradients = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
    return [same, float(loss / 2 - wanted.detach()), gradients, float(logits)]


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    train(sys.argv[1], folder / "two", Path(sys.argv[3]), int(sys.argv[4]))
    cpus = distributed.device_mesh.init_device_mesh("cpu", (2,))
    found = [check(folder, cpus, lora, tied) for lora, tied in ((False, False), (False, True), (True, True))]
    if distributed.get_rank() == 0:
        (folder / "found.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()
