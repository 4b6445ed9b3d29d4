"""The chunked loss in a model's own call: transformers' loss, whatever lies over the model."""

import peft
import pytest
import torch

from longreach.errors import ModelError
from longreach.training.extend import adapter
from longreach.training.extend.objective import chunked_loss
from longreach.training.extend.settings import ExtendSettings
from tests.conftest import make_model
from tests.training.conftest import make_hybrid


def batch_of(lengths=(40, 33), width=64):
    torch.manual_seed(1)
    ids = torch.zeros(len(lengths), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(0, 250, (length,))
        labels[row, 1:length] = ids[row, 1:length]
    return ids, labels


@pytest.mark.parametrize("make", [make_model, make_hybrid, lambda: make_hybrid(tie_word_embeddings=True)])
def test_loss_and_gradients_are_those_of_transformers(make):
    model, (ids, labels) = make(), batch_of()
    wanted = model(input_ids=ids, labels=labels).loss
    with chunked_loss(model, chunk_tokens=7) as chunked:
        found = chunked(input_ids=ids, labels=labels).loss
    torch.testing.assert_close(found, wanted)
    weights = list(model.parameters())
    for ours, theirs in zip(*(torch.autograd.grad(loss, weights) for loss in (found, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_padding_and_other_rows_change_nothing():
    model, (ids, labels) = make_hybrid(), batch_of()
    with chunked_loss(model):
        together = model(input_ids=ids, labels=labels, num_items_in_batch=100).loss
        alone = [model(input_ids=ids[r : r + 1, :n], labels=labels[r : r + 1, :n]).loss for r, n in ((0, 40), (1, 33))]
    torch.testing.assert_close(together, (39 * alone[0] + 32 * alone[1]) / 100)


def test_single_losses_and_shifted_labels():
    model, (ids, labels) = make_hybrid(), batch_of()
    with chunked_loss(model, chunk_tokens=9):
        losses = model(input_ids=ids, labels=labels, reduction="none")["losses"]
        mean = model(input_ids=ids, labels=labels).loss
        shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
        given = model(input_ids=ids, shift_labels=shifted, position_ids=torch.arange(64).expand(2, 64)).loss
    assert losses.shape == ids.shape and not losses.requires_grad
    assert torch.equal(losses > 0, shifted != -100)
    torch.testing.assert_close(losses.sum() / 71, mean.detach())
    torch.testing.assert_close(given, mean)


def test_it_is_undone_and_calls_without_labels_are_as_ever():
    model, (ids, labels) = make_hybrid().eval(), batch_of()
    wanted = model(ids).logits
    with pytest.raises(RuntimeError, match="stop"), chunked_loss(model):
        assert torch.equal(model(ids).logits, wanted)
        raise RuntimeError("stop")
    assert model(input_ids=ids, labels=labels).logits is not None


@pytest.mark.parametrize("tied", [False, True])
def test_under_lora_with_trained_embeddings_the_loss_is_that_of_the_merged_model(tied, tmp_path):
    model, (ids, labels) = make_hybrid(tie_word_embeddings=tied), batch_of()
    settings = ExtendSettings(length=128, lora_rank=2, train_norms=True, train_embeddings=True)
    trained = adapter.attach(model, settings, torch.float32)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    with chunked_loss(trained), torch.no_grad():
        wanted = trained(input_ids=ids, labels=labels).loss
    merged = adapter.merge(trained, tmp_path / "adapter")
    assert not isinstance(merged, peft.PeftModel)
    torch.testing.assert_close(merged(input_ids=ids, labels=labels).loss, wanted)
    merged.save_pretrained(tmp_path / "merged")
    again = type(merged).from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(again(input_ids=ids, labels=labels).loss, wanted)


def test_models_whose_logits_are_more_than_a_product_are_refused():
    with pytest.raises(ModelError, match="final_logit_softcapping"), chunked_loss(make_model("gemma2")):
        pass
