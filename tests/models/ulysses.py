"""What DeepSpeed's Ulysses is to transformers, in few lines: the same attributes, exchanges and calls."""

import torch
from torch import distributed
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class AllToAll(torch.autograd.Function):
    """Piece r of dimension 0 goes to rank r."""

    @staticmethod
    def forward(ctx, group, x):
        ctx.group, out = group, torch.empty_like(x)
        distributed.all_to_all_single(out, x.contiguous(), group=group)
        return out

    @staticmethod
    def backward(ctx, grad):
        return None, AllToAll.apply(ctx.group, grad.contiguous())


class UlyssesStandIn(torch.nn.Module):
    """All tokens of this rank's heads for `attn`, this rank's tokens of all heads for everyone else."""

    def __init__(self, attn, kv_heads, group, disable_in_eval=False):
        super().__init__()
        self.attn, self.process_group, self.disable_in_eval = attn, group, disable_in_eval
        self.world_size, self.sp_rank = distributed.get_world_size(group), distributed.get_rank(group)
        self.kv_replication_factor = max(1, self.world_size // kv_heads)

    def forward(self, module, query, key, value, attention_mask, *args, **kwargs):
        if not module.training and self.disable_in_eval:
            return self.attn(module, query, key, value, attention_mask, *args, **kwargs)
        pieces = [torch.empty_like(kwargs["position_ids"]) for _ in range(self.world_size)]
        distributed.all_gather(pieces, kwargs["position_ids"], group=self.process_group)
        kwargs["position_ids"] = torch.cat(pieces, 1)
        key, value = (x.repeat_interleave(self.kv_replication_factor, 1) for x in (key, value))
        if self.kv_replication_factor > 1:
            module.num_key_value_groups = query.shape[1] // key.shape[1]
        query, key, value = (self.gather(x) for x in (query, key, value))
        out, weights = self.attn(module, query, key, value, attention_mask, *args, **kwargs)
        return self.scatter(out), weights

    def gather(self, x):
        """[B, H, T, D] to [B, H / ranks, T * ranks, D]."""
        x = AllToAll.apply(self.process_group, torch.stack(x.chunk(self.world_size, 1)))
        return torch.cat(x.unbind(), 2)

    def scatter(self, x):
        """[B, T * ranks, H / ranks, D] to [B, T, H * D]."""
        x = AllToAll.apply(self.process_group, torch.stack(x.chunk(self.world_size, 1)))
        return torch.cat(x.unbind(), 2).flatten(2)


def register(model, group, disable_in_eval=False):
    """Puts Ulysses in the place of the model's attention function."""
    name = model.config._attn_implementation
    ulysses = UlyssesStandIn(ALL_ATTENTION_FUNCTIONS[name], model.config.num_key_value_heads, group, disable_in_eval)

    def wrapper(module, query, key, value, attention_mask, *args, **kwargs):
        return ulysses(module, query, key, value, None, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS[name] = wrapper


def register_deepspeed(model, ranks, rows, disable_in_eval=False):
    """The same by DeepSpeed itself, as accelerate calls it."""
    import deepspeed
    from deepspeed.runtime.sequence_parallel import parallel_state_sp
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF

    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
    parallel_state_sp._release_sequence_parallel_groups()
    name = model.config._attn_implementation
    UlyssesSPAttentionHF.register_with_transformers(
        model, name, ranks, rows, seq_length_is_variable=True, disable_in_eval=disable_in_eval
    )
