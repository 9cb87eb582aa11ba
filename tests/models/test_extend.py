"""New rows of a vocabulary: means of pieces, by transformers' own forward pass."""

import pytest
import torch
from transformers import PreTrainedModel

from ptm_lightning.models.build import build_config, build_network
from ptm_lightning.models.extend import extend_vocabulary, only_ids
from ptm_lightning.testing_case import tiny

NEW = {"hello": [7, 9], "world": [11, 12, 13]}
ROLES = {"pad": 0, "mask": 1, "cls": 2, "sep": 3, "bos": 2, "eos": 3, "unk": 4}
MASKED = ["bert", "roberta", "albert", "distilbert", "electra", "modernbert", "deberta-v2"]
NETWORKS = [*((name, "AutoModelForMaskedLM") for name in MASKED)]
NETWORKS += [("gpt2", "AutoModelForCausalLM"), ("llama", "AutoModelForCausalLM"), ("xlnet", "AutoModelForCausalLM")]
NETWORKS += [("t5", "AutoModelForSeq2SeqLM"), ("bart", "AutoModelForSeq2SeqLM")]


def network(architecture: str, auto_class: str, **overrides: object) -> PreTrainedModel:
    fields = tiny(architecture) | overrides
    config = build_config(architecture, "tiny", fields, vocab_size=60, max_length=32, special_ids=ROLES)
    built = build_network(auto_class, config, 0).eval()
    with torch.no_grad():
        for parameter in built.parameters():  # biases are drawn as zeros
            parameter.add_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return built


def logits(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    inputs = {"input_ids": torch.tensor([ids])}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.no_grad():
        return model(**inputs).logits[0]


@pytest.mark.parametrize(("architecture", "auto_class"), NETWORKS)
def test_a_new_logit_is_the_mean_of_its_pieces_logits_and_the_old_ones_stay(architecture: str, auto_class: str) -> None:
    model = network(architecture, auto_class)
    before = logits(model, [5, 6, 8])
    random_state = torch.get_rng_state()
    extend_vocabulary(model, NEW, 60)
    assert torch.equal(torch.get_rng_state(), random_state)
    after = logits(model, [5, 6, 8])
    assert after.shape == (3, 62)
    assert model.config.get_text_config().vocab_size == 62
    torch.testing.assert_close(after[:, :60], before)
    torch.testing.assert_close(after[:, 60], before[:, [7, 9]].mean(dim=1))
    torch.testing.assert_close(after[:, 61], before[:, [11, 12, 13]].mean(dim=1))
    embeddings = model.get_input_embeddings().weight
    torch.testing.assert_close(embeddings[61], (embeddings[11] + embeddings[12] + embeddings[13]) / 3)


def test_untied_output_rows_are_means_too() -> None:
    model = network("gpt2", "AutoModelForCausalLM", tie_word_embeddings=False)
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight
    before = logits(model, [5, 6])
    extend_vocabulary(model, NEW, 60)
    torch.testing.assert_close(logits(model, [5, 6])[:, 60], before[:, [7, 9]].mean(dim=1))
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight


def test_rows_to_spare_are_used() -> None:
    model = network("bert", "AutoModelForMaskedLM")
    before = logits(model, [5, 6])
    extend_vocabulary(model, NEW, 50)
    after = logits(model, [5, 6])
    assert after.shape == (2, 60)
    torch.testing.assert_close(after[:, 50], before[:, [7, 9]].mean(dim=1))
    torch.testing.assert_close(after[:, 52:], before[:, 52:])


def test_with_the_old_ids_only_it_is_the_old_network() -> None:
    model = network("roberta", "AutoModelForMaskedLM")
    before = logits(model, [5, 6, 8])
    extend_vocabulary(model, NEW, 60)
    with only_ids(model, 60):
        torch.testing.assert_close(logits(model, [5, 6, 8]), before)
    assert logits(model, [5, 6, 8]).shape == (3, 62)
