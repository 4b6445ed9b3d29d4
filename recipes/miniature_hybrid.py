"""LongGen in miniature: a third of full layers recalls what a window in every layer cannot.

A Llama with full attention learns to recall facts from texts of up to 128 tokens. Then, as in the
paper, it is converted (`longreach.convert`) and trained lightly at the target length, 1,024 tokens:
with all layers full, with the middle third full, and with an attention sink and a local window in
every layer; the same weights, texts and steps for each.

Every layer hands on what its window holds, so layers * window tokens is how far a model without
full layers can see.
"""

import copy

import torch
from facts import VALUES, draw, make_model, options, report, train

import longreach as lr

PATTERN = lr.AttentionPattern(block_size=16, sink_blocks=1, local_blocks=2, stride=0)
SHORT = [(8, 3), (12, 4), (16, 5), (24, 6), (32, 8), (48, 12), (64, 16), (96, 16), (128, 16)]
VARIANTS = {"full": "all", "hybrid": "middle-third", "sink-window": 0}


def logits(model, facts):
    """Of the questions, [R, 2F, V]."""
    return model(
        input_ids=facts.ids, use_cache=False, logits_to_keep=facts.questions.shape[1]
    ).logits


@torch.no_grad()
def recall(model, layers, tokens, facts, rows, seed):
    """Share of facts recalled: of all, by tenths of the text, and of those that no window
    reaches."""
    model.eval()
    generator, right, places = torch.Generator().manual_seed(seed), [], []
    for _ in range(rows // 4):
        batch = draw(4, tokens, facts, generator)
        right.append(batch.right(logits(model, batch)).float())
        places.append(batch.places)
    hits, place = torch.cat(right), torch.cat(places)
    distance = tokens + 2 * torch.arange(facts) - place
    beyond = (distance > layers * PATTERN.window_tokens) & (
        place >= PATTERN.sink_blocks * PATTERN.block_size
    )
    depth = place * 10 // tokens
    return {
        "recall": round(hits.mean().item(), 4),
        "recall_by_depth": [round(hits[depth == tenth].mean().item(), 4) for tenth in range(10)],
        "recall_beyond_reach": round(hits[beyond].mean().item(), 4),
        "facts": hits.numel(),
        "facts_beyond_reach": int(beyond.sum()),
    }


def main():
    """Trains the three variants, measures, reports."""
    args = options(__doc__.splitlines()[0])
    layers, tokens, facts = 6, *((400, 16) if args.quick else (1024, 32))
    short, long_ = (320, 100) if args.quick else (450, 180)
    rows, seed, window = (12 if args.quick else 60), 1000 * args.seed, tokens + 2 * facts
    base = make_model(layers, 160, seed)
    began = train(
        base,
        lambda batch: batch.loss(logits(base, batch)),
        SHORT[:8] if args.quick else SHORT,
        seed + 1,
        steps=short,
    )
    measured = (layers, tokens, facts, rows, seed + 3)  # texts that no training has seen
    variants, models = {}, {}
    for name, full in VARIANTS.items():
        full = layers if full == "all" else full
        model = lr.convert(copy.deepcopy(base), PATTERN, full, max_length=window)
        before = recall(model, *measured)["recall"]
        model.train()
        train(
            model,
            lambda batch, model=model: batch.loss(logits(model, batch)),
            [
                (tokens // 16, facts // 2),
                (tokens // 8, facts // 2),
                (tokens // 4, facts),
                (tokens // 2, facts),
                (tokens, facts),
            ],
            seed + 2,
            steps=long_,
            mixed=True,
            batch_tokens=2 * window,
            lr=5e-3 if args.quick else 3e-3,
        )
        models[name] = model
        variants[name] = {"full_layers": model.config.full_layers, "recall_converted": before}
        variants[name] |= recall(model, *measured)
    removed = lr.convert(models["hybrid"], PATTERN, 0, max_length=window)
    variants["hybrid, full layers removed"] = {"full_layers": []} | recall(removed, *measured)
    plan = lr.LayerPlan.make(layers, "middle-third")
    figures = {
        "miniature": "hybrid",
        "layers": layers,
        "pattern": repr(PATTERN),
        "text_tokens": tokens,
        "reach_tokens": layers * PATTERN.window_tokens,
        "short_steps": short,
        "longest_short_text_since_step": began,
        "long_steps": long_,
        "kv_reduction": round(plan.kv_reduction(PATTERN, window, 2), 4),
        "chance": round(1 / VALUES, 4),
        "variants": variants,
        "hybrid_over_full": round(variants["hybrid"]["recall"] / variants["full"]["recall"], 4),
        "goals": {"hybrid_over_full": 0.95},
    }
    report("miniature_hybrid", args, figures)


if __name__ == "__main__":
    main()
