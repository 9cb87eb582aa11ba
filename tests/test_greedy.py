from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from ptm_lightning import greedy
from ptm_lightning.models.build import build_config, build_network

IDS = {"pad": 1, "unk": 0, "cls": 2, "sep": 3, "bos": 2, "eos": 3}
NARROW = {
    "bart": {"d_model": 16, "init_std": 0.5},
    "marian": {"d_model": 16, "init_std": 0.5},
    "mbart": {"d_model": 16, "init_std": 0.5},
    "m2m_100": {"d_model": 16, "init_std": 0.5},
    "t5": {"d_model": 16, "initializer_factor": 3.0},
}
SETTINGS = {
    "plain": {},
    "forced": {"forced_bos_token_id": 7, "forced_eos_token_id": 3},
    "no repeats": {"no_repeat_ngram_size": 2, "min_new_tokens": 11},
    "bad words": {"bad_words_ids": [[9], [10]]},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("architecture", NARROW)
@pytest.mark.parametrize("longest", [8, 20])
def test_answers_are_those_of_generate(
    architecture: str, settings: dict[str, Any], longest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build_config(architecture, "tiny", NARROW[architecture], vocab_size=40, max_length=48, special_ids=IDS)
    network: Any = build_network("AutoModelForSeq2SeqLM", config, seed=1).eval()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 40, (24, 12), generator=generator)
    lengths = torch.randint(3, 13, (24,), generator=generator)
    mask = (torch.arange(12) < lengths[:, None]).long()
    ids[mask == 0] = IDS["pad"]
    settings = {"max_new_tokens": longest, "decoder_start_token_id": 3, "pad_token_id": 1, "eos_token_id": 4} | settings
    make: Any = GenerationConfig
    expected = network.generate(ids, attention_mask=mask, generation_config=make(**settings))
    sizes: list[int] = []
    generate = network.generate

    def counted(**arguments: Any) -> Any:
        sizes.append(len(arguments["decoder_input_ids"]))
        return generate(**arguments)

    monkeypatch.setattr(network, "generate", counted)
    with torch.inference_mode():
        states = network.get_encoder()(input_ids=ids, attention_mask=mask)
        found = greedy.greedy_answers(network, states, mask, make(**settings))
    assert torch.equal(found, expected)
    assert sizes[0] == 24
    assert len(sizes) == -(-(expected.shape[1] - 1) // greedy.ROUND)
    assert sizes == sorted(sizes, reverse=True)
