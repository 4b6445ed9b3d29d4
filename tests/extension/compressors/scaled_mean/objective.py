"""What a scaled mean learns from: each row of tokens, reproduced from its own vectors."""

import torch
from safetensors.torch import load_file

from longreach.compressors.objective import CompressorObjective, Substep
from tests.extension.compressors.scaled_mean.compressor import WEIGHTS, scaled_means, write


class ScaledMeanObjective(CompressorObjective):
    """One number a dimension is trained; the model stays as it is."""

    def __init__(self, model, tokenizer, recipe):
        super().__init__(model, tokenizer, recipe)
        self.recipe = recipe
        self.model = model.requires_grad_(False)
        self.weight = torch.nn.Parameter(torch.ones(model.get_input_embeddings().weight.shape[1]))

    @property
    def own(self):
        return self.weight

    def plan(self, batch, chance, step):
        return [{"ids": batch["ids"]}]

    def forward(self, ids):
        texts = self.model.get_input_embeddings()(ids)
        vectors = torch.stack([scaled_means(text, self.recipe.width, self.weight) for text in texts])
        logits = self.model(inputs_embeds=torch.cat([vectors, texts], dim=1)).logits
        told = logits[:, vectors.shape[1] - 1 : -1].float()
        loss = torch.nn.functional.cross_entropy(told.flatten(0, 1), ids.flatten())
        return Substep(loss, {"reproduction": loss.detach()}, loss.new_zeros(0))

    def save(self, folder, model_ref):
        write(folder, self.weight, self.recipe, model_ref, self.base_fingerprint)

    def load(self, folder):
        with torch.no_grad():
            self.weight.copy_(load_file(folder / WEIGHTS)["weight"])
