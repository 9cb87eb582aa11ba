"""Configs that fit the tokenizer, networks that are a function of the seed, and the lengths they take."""

from typing import Any

import pytest
import torch
from tiny_networks import IDS, MASKED, MLM, config, network

from ptm_lightning.errors import UserError
from ptm_lightning.levers import switch_off
from ptm_lightning.models.attention import ATTENTION
from ptm_lightning.models.build import (
    build_network,
    check_fit,
    max_positions,
    position_offset,
    takes,
)
from ptm_lightning.models.dropout import Dropout


def test_the_vocabulary_and_special_ids_are_the_tokenizers() -> None:
    roberta = config("roberta")
    assert (roberta.vocab_size, roberta.pad_token_id, roberta.bos_token_id, roberta.eos_token_id) == (50, 0, 2, 3)
    modern = config("modernbert", special_ids=IDS | {"bos": 5, "eos": 6})
    assert (modern.bos_token_id, modern.eos_token_id, modern.cls_token_id, modern.sep_token_id) == (5, 6, 2, 3)
    assert (config("bert").bos_token_id, config("bert").eos_token_id) == (None, None)
    bart = config("bart")
    assert (bart.decoder_start_token_id, bart.forced_eos_token_id) == (3, 3)
    assert config("t5").decoder_start_token_id == 0


@pytest.mark.parametrize("architecture", [*MASKED, "gpt2", "llama", "t5", "bart", "xlnet"])
def test_no_special_id_points_outside_the_vocabulary(architecture: str) -> None:
    values = config(architecture).to_dict()
    assert all(value is None or value < 50 for name, value in values.items() if name.endswith("_token_id"))


def test_positions_begin_after_the_padding_id_in_roberta() -> None:
    roberta = config("roberta", special_ids=IDS | {"pad": 1, "unk": 0})
    assert position_offset(roberta) == 2
    assert roberta.max_position_embeddings == 18
    assert position_offset(config("bert")) == 0
    assert config("gpt2").n_positions == 16


@pytest.mark.parametrize("architecture", [*MASKED, "mpnet", "longformer", "ibert"])
def test_a_row_of_the_greatest_length_can_be_read(architecture: str) -> None:
    built = build_network(MLM, config(architecture, special_ids=IDS | {"pad": 1, "unk": 0}), 0).eval()
    assert built(input_ids=torch.full((1, 16), 7), attention_mask=torch.ones(1, 16)).logits.shape == (1, 16, 50)


def test_deberta_has_its_disentangled_attention() -> None:
    built = network("deberta-v2")
    assert built.deberta.encoder.relative_attention
    assert built.deberta.encoder.rel_embeddings.weight.shape == (512, 128)
    assert not built.deberta.embeddings.position_biased_input


def test_overrides_win_and_take_either_name() -> None:
    assert config("bert", {"num_hidden_layers": 3}).num_hidden_layers == 3
    assert config("distilbert", {"num_hidden_layers": 3}).n_layers == 3
    assert config("distilbert", {"hidden_dim": 96}).hidden_dim == 96
    assert config("deberta-v2", {"position_buckets": 32}).position_buckets == 32
    assert config("bert").hidden_dropout_prob == 0.1


@pytest.mark.parametrize(
    ("architecture", "overrides", "message"),
    [
        ("brt", None, r"^--model.architecture brt: no such architecture, did you mean '\w+'\?$"),
        ("zzzzzzz", None, r"^--model.architecture zzzzzzz: no such architecture, known: albert, bart, bert, "),
        (
            "bert",
            {"num_hiden_layers": 3},
            r"^--model.overrides.num_hiden_layers: bert has no such field, did you mean 'num_hidden_layers'\?$",
        ),
        ("distilbert", {"intermediate_size": 3}, "^--model.overrides.intermediate_size: distilbert has no such field"),
        ("bert", {"num_hidden_layers": "three"}, "^--model.overrides for bert: .*num_hidden_layers"),
        ("perceiver", None, "^--model.size tiny: perceiver has other dimensions than BERT; .* d_latents, "),
    ],
)
def test_mistakes_in_the_config(architecture: str, overrides: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(architecture, overrides)


def test_mpnet_takes_id_1_for_padding_whatever_its_config_says() -> None:
    with pytest.raises(UserError, match="mpnet needs a tokenizer whose padding token has the id 1, not 0"):
        config("mpnet")


def test_dimensions_that_do_not_fit_each_other() -> None:
    with pytest.raises(UserError, match=r"--model.overrides for bert: .*attention heads"):
        build_network(MLM, config("bert", {"num_attention_heads": 3}), 0)


def test_an_architecture_without_this_head() -> None:
    with pytest.raises(UserError, match="transformers has no ModelForMaskedLM of gpt2; take bert, roberta, albert, "):
        build_network(MLM, config("gpt2"), 0)


@pytest.mark.parametrize("architecture", MASKED)
def test_weights_are_a_function_of_the_seed_and_leave_the_random_state_alone(architecture: str) -> None:
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = network(architecture, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12)
    second, third = network(architecture, seed=1), network(architecture, seed=2)
    pairs = list(zip(first.state_dict().values(), second.state_dict().values(), strict=True))
    assert all(torch.equal(one, other) for one, other in pairs)
    assert not torch.equal(first.get_input_embeddings().weight, third.get_input_embeddings().weight)


def test_torchs_own_if_ours_are_off() -> None:
    switch_off(["attention", "dropout"])
    try:
        built = network("bert")
    finally:
        switch_off([])
    assert built.config._attn_implementation == "sdpa"
    assert not any(isinstance(module, Dropout) for module in built.modules())
    assert any(isinstance(module, Dropout) for module in network("bert").modules())


@pytest.mark.parametrize(
    ("architecture", "attention"), [("bert", ATTENTION), ("deberta-v2", "eager"), ("t5", ATTENTION)]
)
def test_attention_and_precision(architecture: str, attention: str) -> None:
    built = network(architecture, auto_class="AutoModel")
    assert built.config._attn_implementation == attention
    assert {weight.dtype for weight in built.parameters()} == {torch.float32}
    assert built.training


def test_pooling_layers_that_no_loss_reads_are_left_out() -> None:
    for auto_class in (MLM, "AutoModel"):
        assert not [name for name, _ in network(auto_class=auto_class).named_parameters() if "pooler" in name]
    pretraining = network(auto_class="AutoModelForPreTraining")
    assert [name for name, _ in pretraining.named_parameters() if "pooler" in name]


def test_a_tokenizer_that_does_not_fit() -> None:
    built = network()
    check_fit(built, 50, 16)
    with pytest.raises(
        UserError, match=r"^--data\.tokenizer: the tokenizer has 51 ids, but the model's embeddings only 50 rows; "
    ):
        check_fit(built, 51, 16)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "distilbert", "electra", "albert", "gpt2", "bart"])
def test_a_length_beyond_the_positions(architecture: str) -> None:
    built = network(architecture, auto_class="AutoModel")
    check_fit(built, 50, 16)
    with pytest.raises(UserError, match=r"^--data.max_length 17: the model has 16 positions; use at most 16$"):
        check_fit(built, 50, 17)


def test_roberta_with_514_positions_takes_512() -> None:
    published = config("roberta", {"max_position_embeddings": 514}, special_ids=IDS | {"pad": 1, "unk": 0})
    assert max_positions(build_network(MLM, published, 0)) == 512


@pytest.mark.parametrize("architecture", ["modernbert", "deberta-v2", "t5", "xlnet", "llama"])
def test_relative_positions_have_no_limit(architecture: str) -> None:
    check_fit(network(architecture, auto_class="AutoModel"), 50, 100_000)


def test_takes() -> None:
    assert takes(network("roberta"), "position_ids")
    assert not takes(network("t5", auto_class="AutoModel"), "position_ids")
