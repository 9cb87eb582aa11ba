import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, BertConfig, BertModel

from ptm_lightning.errors import UserError
from ptm_lightning.models.build import build_config, build_network
from ptm_lightning.models.sizes import SIZES, check_shapes, dimensions

IDS = {"pad": 1, "unk": 0, "cls": 2, "sep": 3, "mask": 4}
FAMILIES = [
    *[("AutoModelForMaskedLM", name) for name in ("bert", "roberta", "albert", "distilbert", "electra")],
    *[("AutoModelForMaskedLM", name) for name in ("modernbert", "deberta-v2", "convbert", "rembert", "mpnet")],
    *[("AutoModelForCausalLM", name) for name in ("gpt2", "llama", "qwen3", "mistral", "opt", "xlnet")],
    *[("AutoModelForSeq2SeqLM", name) for name in ("t5", "mt5", "bart", "marian")],
]


@pytest.mark.parametrize(
    ("size", "published"),
    # layers, hidden, heads, feed-forward and parameters in millions, as in the table of Turc et al. 2019
    [
        ("tiny", (2, 128, 2, 512, 4.4)),
        ("mini", (4, 256, 4, 1024, 11.3)),
        ("small", (4, 512, 8, 2048, 29.1)),
        ("medium", (8, 512, 8, 2048, 41.7)),
        ("base", (12, 768, 12, 3072, 110.1)),
    ],
)
def test_bert_has_the_published_dimensions_and_parameters(size: str, published: tuple[float, ...]) -> None:
    assert (SIZES[size].layers, SIZES[size].hidden, SIZES[size].heads, SIZES[size].feed_forward) == published[:4]
    config = build_config("bert", size, None, vocab_size=30522, max_length=512, special_ids=IDS)
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in BertModel(config).parameters()) / 1e6
    # the paper counts roughly: it rounds, and doesn't say whether the pooling layer is in
    assert parameters == pytest.approx(published[4], rel=0.02)


@pytest.mark.parametrize(("auto_class", "architecture"), FAMILIES)
def test_every_family_is_built_as_large_as_asked(auto_class: str, architecture: str) -> None:
    config = build_config(architecture, "mini", None, vocab_size=60, max_length=16, special_ids=IDS)
    network = build_network(auto_class, config, seed=0)  # checks the shapes itself
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (256, 4, 4)
    shapes = {frozenset(weight.shape) for weight in network.parameters() if weight.dim() == 2}
    assert frozenset((1024, 256)) in shapes or (architecture == "modernbert" and frozenset((2048, 256)) in shapes)


def test_decoders_are_as_large_as_encoders() -> None:
    assert CONFIG_MAPPING["bart"](**dimensions(CONFIG_MAPPING["bart"], "mini")).decoder_layers == 4
    assert CONFIG_MAPPING["bart"](**dimensions(CONFIG_MAPPING["bart"], "mini")).decoder_ffn_dim == 1024
    assert CONFIG_MAPPING["t5"](**dimensions(CONFIG_MAPPING["t5"], "mini")).num_decoder_layers == 4


def test_factorised_embeddings() -> None:
    assert dimensions(CONFIG_MAPPING["albert"], "base")["embedding_size"] == 128
    assert dimensions(CONFIG_MAPPING["electra"], "mini")["embedding_size"] == 128
    assert dimensions(CONFIG_MAPPING["electra"], "tiny")["embedding_size"] == 128
    assert dimensions(CONFIG_MAPPING["convbert"], "mini")["embedding_size"] == 256


def test_a_config_that_lies_is_caught() -> None:
    config = build_config("bert", "tiny", None, vocab_size=60, max_length=16, special_ids=IDS)
    network = build_network("AutoModelForMaskedLM", config, seed=0)
    network.config.intermediate_size = 500
    with pytest.raises(UserError, match="no feed-forward layers 500 wide"):
        check_shapes(network)
    network.config.intermediate_size = 512
    network.bert.encoder.layer = nn.ModuleList(list(network.bert.encoder.layer)[:1])
    with pytest.raises(UserError, match="no 2 layers"):
        check_shapes(network)
    network.config.num_hidden_layers = 1
    network.set_input_embeddings(nn.Embedding(60, 64))
    with pytest.raises(UserError, match="no embeddings 128 wide"):
        check_shapes(network)


def test_unknown_size() -> None:
    with pytest.raises(UserError, match=r"^--model.size tny: no such size, did you mean 'tiny'\?$"):
        dimensions(BertConfig, "tny")
