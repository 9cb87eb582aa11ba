"""The model card says what is known, and nothing else."""

from typing import Any

import pytest
import yaml
from ptm_lightning.tasks import MaskedLM
from transformers import AutoConfig, BertForMaskedLM

from ptm_lightning.checkpoint import KEY
from ptm_lightning.link import Link
from ptm_lightning.model_card import CardData, card_data, model_card

PROVENANCE = {
    "sources": ["corpus/*.txt", "more.jsonl"],
    "validation_sources": [],
    "train": {"documents": 950, "tokens": 120_000, "unknown": 60, "duplicates": 3},
    "validation": {"documents": 50, "tokens": 6_000, "unknown": 0, "duplicates": 0},
    "unigram_loss": 6.0124,
}
RECORD = CardData(
    title="bert, MaskedLM",
    auto_class="AutoModelForMaskedLM",
    objective="MaskedLM: masks.",
    model={"architecture": "bert", "parameters": 4_400_000},
    max_length=64,
    training={"optimizer steps": "700 of 1,000", "seed": 3},
    arguments={"--data.train": ["a|b.txt"]},
    provenance=PROVENANCE,
    metrics={"val/loss": 4.5, "val/accuracy": 0.25, "train/loss": 9.0},
    versions={"trained with torch": "2.13.0"},
)


def changed(**values: Any) -> CardData:
    return CardData(**(vars(RECORD) | values))


def front_matter(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def section(card: str, title: str) -> str:
    return card.split(f"\n## {title}\n\n")[1].split("\n## ")[0]


@pytest.mark.parametrize(
    ("auto_class", "tag"),
    [
        ("AutoModelForMaskedLM", "fill-mask"),
        ("AutoModelForCausalLM", "text-generation"),
        ("AutoModelForSequenceClassification", "text-classification"),
        ("AutoModelForSeq2SeqLM", None),
    ],
)
def test_front_matter_is_what_the_hub_reads(auto_class: str, tag: str | None):
    front = front_matter(model_card(changed(auto_class=auto_class)))
    expected: dict[str, Any] = {"library_name": "transformers", "tags": ["ptm_lightning", "bert"]}
    assert front == expected | ({"pipeline_tag": tag} if tag else {})


@pytest.mark.parametrize("auto_class", ["AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"])
def test_usage_is_three_lines_of_python(auto_class: str):
    code = section(model_card(changed(auto_class=auto_class)), "How to use it").split("```")[1].removeprefix("python\n")
    assert len(code.splitlines()) == 3
    compile(code, "README.md", "exec")


def test_data_are_told_with_the_share_held_out():
    data = section(model_card(RECORD), "Data")
    assert "| training sources | corpus/*.txt, more.jsonl |" in data
    assert "| train: tokens | 120,000 |" in data
    assert "held out by a hash of their text" in data
    assert "| held-out share of the documents | 5.00% |" in data


def test_validation_sources_are_told_and_nothing_is_held_out():
    data = section(model_card(changed(provenance=PROVENANCE | {"validation_sources": ["dev.txt"]})), "Data")
    assert "| validation sources | dev.txt |" in data
    assert "held" not in data


def test_a_built_in_example_is_told_as_such():
    told = {"sources": ["a.txt", "builtin:modules"], "validation_sources": ["builtin:number_words"]}
    data = section(model_card(changed(provenance=PROVENANCE | told)), "Data")
    assert "| training sources | a.txt, builtin:modules |" in data
    assert "| builtin:modules | a built-in example: Docstrings of the modules that have most of them, each with" in data
    assert "| builtin:number_words | a built-in example: English numbers in words" in data
    assert "built-in" not in section(model_card(RECORD), "Data")


def test_metrics_stand_beside_the_unigram_loss():
    metrics = section(model_card(RECORD), "Metrics")
    assert "| val/loss | 4.5000 |" in metrics
    assert "| loss of a unigram model, for comparison | 6.0124 |" in metrics
    assert "train/loss" not in metrics


def test_what_is_not_known_is_not_told():
    card = model_card(changed(provenance={}, metrics={}, arguments={}))
    assert section(card, "Data").strip() == "Not recorded."
    assert section(card, "Metrics").strip() == "This step was not validated."
    assert "All arguments have their defaults." in section(card, "Recipe")
    assert section(card, "Limits").splitlines()[:2] == [
        "* Trained on rows of at most 64 tokens, special tokens included.",
        "* Nothing but the metrics above was measured.",
    ]


def test_limits_are_what_was_measured():
    limits = section(model_card(RECORD), "Limits")
    assert "Unknown tokens in the train data: 0.050%." in limits
    assert "Duplicate documents found in the train data: 3." in limits
    assert "found in the validation data" not in limits


def test_a_bar_in_a_value_does_not_break_the_table():
    assert "| `--data.train` | a\\|b.txt |" in model_card(RECORD)


@pytest.fixture
def task() -> MaskedLM:
    task = MaskedLM(seed=3, ema=0.9)
    task.link = Link("", {}, vocabulary=50, special_ids={}, max_length=32, provenance=PROVENANCE, labels=["no", "yes"])
    config = AutoConfig.for_model(
        "bert", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    task.network = BertForMaskedLM(config)
    return task


def facts(task: MaskedLM) -> dict[str, Any]:
    record = {"total_steps": 2000, "tokens_seen": 1_234_567}
    return {"global_step": 1200, "hyper_parameters": dict(task.hparams), KEY: record}


def test_facts_come_from_the_checkpoint(task: MaskedLM):
    assert task.network is not None
    data = card_data(task, facts(task), {"val/loss": 1.0}, {})
    tied_once = sum({id(p): p.numel() for p in task.network.parameters()}.values())
    assert data.model["parameters"] == tied_once
    assert data.model["labels"] == "no, yes"
    assert (data.model["layers"], data.model["hidden size"], data.model["vocabulary"]) == (1, 16, 50)
    assert data.training == {
        "optimizer steps": "1,200 of 2,000",
        "tokens seen": 1_234_567,
        "optimizer": "adamw",
        "schedule": "linear, peak 0.001, warm-up 0.06",
        "weight average": "exponential, decay 0.9",
        "seed": 3,
    }
    assert data.objective == "MaskedLM: " + (MaskedLM.__doc__ or "").splitlines()[0]
    assert next(iter(data.versions)) == "exported with torch"


def test_only_what_differs_from_the_defaults_is_a_recipe(task: MaskedLM):
    settings = {
        "data": {"train": ["builtin:python"], "mask_rate": 0.3, "cache_dir": "/somewhere", "num_workers": 2},
        "trainer": {"max_steps": 2000, "accumulate_grad_batches": 1, "gradient_clip_val": None, "logger": "x"},
        "environment": {"precision": "bf16-mixed", "threads": 2, "version of torch": "2.13.0"},
    }
    data = card_data(task, facts(task), {}, settings)
    assert data.arguments == {
        "--model.ema": 0.9,
        "--model.seed": 3,
        "--data.mask_rate": 0.3,
        "--trainer.max_steps": 2000,
    }
    assert data.training["precision"] == "bf16-mixed"
    assert data.versions == {"trained with torch": "2.13.0"}


def test_overrides_are_flags_and_pairs_equal_lists(task: MaskedLM):
    hyper_parameters = facts(task)["hyper_parameters"] | {"overrides": {"hidden_size": 16}, "betas": [0.9, 0.98]}
    data = card_data(task, facts(task) | {"hyper_parameters": hyper_parameters}, {}, {})
    assert data.arguments == {"--model.overrides.hidden_size": 16, "--model.ema": 0.9, "--model.seed": 3}
