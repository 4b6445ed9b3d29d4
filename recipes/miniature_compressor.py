"""An AutoCompressor in miniature: facts are recalled from 8 and 16 times fewer vectors than tokens,
and from no others.

A Llama learns to recall facts from raw texts. Then its own weights are frozen, and the library's
objective trains a LoRA (of full rank: the model is that small) and summary tokens, so that the same
facts are recalled from the vectors alone. Each step uses a part of the summary tokens, so one
compressor serves both ratios. Mean pooling gets a reader of its own: the same LoRA, steps and
texts, on the same model's mean-pooled states.
"""

import copy
import tempfile
from itertools import cycle
from pathlib import Path

import torch
from facts import VALUES, draw, make_model, make_tokenizer, options, report, train
from peft import LoraConfig, get_peft_model

import longreach as lr
from longreach.compressors.autocompressor.objective import TextObjective
from longreach.compressors.autocompressor.recipe import AutoCompressorRecipe
from longreach.compressors.recipe import ADAPTED

RATIOS, RANK = (8, 16), 64


def read(model, vectors, facts):
    """Logits of the questions after vectors [R, P, d]."""
    inputs = torch.cat([vectors, model.get_input_embeddings()(facts.questions)], dim=1)
    return model(
        inputs_embeds=inputs, use_cache=False, logits_to_keep=facts.questions.shape[1]
    ).logits


def compressed(compressor, facts):
    """The vectors of every text, [R, P, d]."""
    return torch.stack(compressor.compress(facts.text.tolist(), batch_size=len(facts.text)))


@torch.no_grad()
def recalls(model, facts, vectors):
    """Shares of facts recalled, from a text's own vectors and from what they are not."""
    dimensions = torch.randperm(vectors.shape[2], generator=torch.Generator().manual_seed(0))
    order = torch.randperm(vectors.shape[1], generator=torch.Generator().manual_seed(1))
    given = {
        "recall": vectors,
        "another_text": vectors.roll(1, 0),
        "no_vectors": vectors[:, :0],
        "order_shuffled": vectors[:, order],
        "dimensions_shuffled": vectors[:, :, dimensions],
    }
    right = {name: facts.right(read(model.eval(), before, facts)) for name, before in given.items()}
    return {name: round(hits.float().mean().item(), 4) for name, hits in right.items()}


def learn_to_compress(base, tokenizer, folder, stages, **schedule):
    """Trains a compressor with the library's objective, and saves it."""
    tokens = stages[-1][0]
    recipe = AutoCompressorRecipe(
        segment_tokens=tokens,
        summary_tokens=tokens // min(RATIOS),
        min_summary_tokens=tokens // max(RATIOS),
        substeps=1,
        longest_segment=tokens,
        lora_rank=RANK,
        lora_alpha=RANK,
        lora_dropout=0.0,
    )
    objective, chance = (
        TextObjective(copy.deepcopy(base), tokenizer, recipe),
        torch.Generator().manual_seed(0),
    )
    # Alike, as they start otherwise, they take longer to differ.
    torch.nn.init.normal_(objective.embed_summary)

    def loss(facts):
        labels = torch.cat([torch.full_like(facts.text, -100), facts.labels], dim=1)
        lengths = (facts.text.shape[1], facts.questions.shape[1])
        return objective(facts.ids, labels, lengths, objective.draw(chance).summary_tokens).loss

    train(objective, loss, stages, **schedule)
    objective.save(folder, "")


def learn_to_read(base, poolers, stages, **schedule):
    """Trains a reader of mean-pooled vectors, of all ratios in turn."""
    lora = LoraConfig(
        r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules=list(ADAPTED["attention"])
    )
    reader, turns = get_peft_model(copy.deepcopy(base), lora), cycle(poolers.values())
    train(
        reader,
        lambda facts: facts.loss(read(reader, compressed(next(turns), facts), facts)),
        stages,
        **schedule,
    )
    return reader


def main():
    """Trains both, measures, reports."""
    args = options(__doc__.splitlines()[0])
    tokens, facts, rows = (32, 2, 128) if args.quick else (128, 3, 512)
    raw_steps, steps = (270, 180) if args.quick else (400, 1500)
    raw = [
        stage
        for stage in [(8, 3), (12, 4), (16, 5), (24, 6), (32, 8), (64, 8), (128, 8)]
        if stage[0] <= tokens
    ]
    stages = [stage for stage in [(16, 2), (32, 2), (64, 2)] if stage[0] < tokens] + [
        (tokens, facts)
    ]
    seed, tokenizer = 1000 * args.seed, make_tokenizer()
    base = make_model(3 if args.quick else 4, 256, seed)
    train(
        base,
        lambda batch: batch.loss(base(input_ids=batch.ids).logits),
        raw,
        seed + 1,
        steps=raw_steps,
    )
    base.requires_grad_(False)
    # Texts that no training has seen.
    test = draw(rows, tokens, facts, torch.Generator().manual_seed(seed + 3))
    schedule = {"seed": seed + 2, "steps": steps, "batch_tokens": 1024, "lr": 4e-3}
    found = {"raw text": recalls(base, test, base.get_input_embeddings()(test.text))}
    with tempfile.TemporaryDirectory() as folder:
        learn_to_compress(base, tokenizer, Path(folder), stages, **schedule)
        for ratio in RATIOS:
            compressor = lr.AutoCompressor.from_pretrained(
                folder, copy.deepcopy(base), tokenizer, ratio=ratio, merged=True
            )
            found[f"autocompressor {ratio}x"] = recalls(
                compressor.model, test, compressed(compressor, test)
            )
    poolers = {
        ratio: lr.MeanPool(base, tokenizer, ratio, segment_tokens=tokens) for ratio in RATIOS
    }
    reader = learn_to_read(base, poolers, stages, **schedule)
    for ratio, pooler in poolers.items():
        found[f"mean-pool {ratio}x"] = recalls(reader, test, compressed(pooler, test))
    figures = {
        "miniature": "compressor",
        "text_tokens": tokens,
        "facts_of_a_text": facts,
        "vectors": {f"{ratio}x": tokens // ratio for ratio in RATIOS},
        "raw_steps": raw_steps,
        "steps": steps,
        "chance": round(1 / VALUES, 4),
        "texts": rows,
        "variants": found,
        "goals": {"autocompressor 8x": 0.9, "autocompressor 16x": 0.9},
        "goals_reached": all(
            found[f"autocompressor {ratio}x"]["recall"] >= 0.9 for ratio in RATIOS
        ),
    }
    report("miniature_compressor", args, figures)


if __name__ == "__main__":
    main()
