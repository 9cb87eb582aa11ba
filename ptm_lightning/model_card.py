"""The model card: what an exported model is, what it learned from, how, and what was measured; nothing else."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from lightning.pytorch import Trainer

from ptm_lightning.checkpoint import KEY
from ptm_lightning.data.builtin import described
from ptm_lightning.environment import environment
from ptm_lightning.run import without_secrets

if TYPE_CHECKING:
    from ptm_lightning.task import Task

PIPELINE_TAGS = {
    "AutoModelForMaskedLM": "fill-mask",
    "AutoModelForCausalLM": "text-generation",
    "AutoModelForSequenceClassification": "text-classification",
    "AutoModelForTokenClassification": "token-classification",
    "AutoModelForQuestionAnswering": "question-answering",
    "AutoModel": "feature-extraction",
}
"""The hub's name for what a model of this auto class does; an auto class that does several things has none."""
PIPELINES = frozenset({"fill-mask", "text-generation", "text-classification", "token-classification"})
"""Those of them that are a pipeline of transformers 5 with a text as its one input."""
DIMENSIONS = {
    "num_hidden_layers": "layers",
    "hidden_size": "hidden size",
    "num_attention_heads": "attention heads",
    "vocab_size": "vocabulary",
}
TRAINER = (
    "max_steps",
    "max_epochs",
    "limit_train_batches",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
)
"""The Trainer's arguments that belong to a recipe."""
NOT_RECIPE = frozenset({"predict", "text", "num_workers", "cache_dir"})
"""Arguments of data modules that change nothing in the model."""
HELD_OUT = "documents of the training sources, held out by a hash of their text"

Rows = dict[str, Any]


@dataclass(frozen=True)
class CardData:
    """What a model card says: tables of names and values, in their order."""

    title: str
    auto_class: str
    objective: str
    """One sentence."""
    model: Rows
    max_length: int
    """The longest row in training, in tokens."""
    training: Rows
    arguments: Rows
    """What the user set otherwise than the default, by flag."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """`Link.provenance`."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the validation at the checkpoint's step."""
    versions: Rows = field(default_factory=dict)


def card_data(
    task: "Task", facts: Mapping[str, Any], metrics: Mapping[str, float], settings: Mapping[str, Any]
) -> CardData:
    """Collects what the card says.

    Args:
        task: Loaded from the checkpoint.
        facts: The checkpoint without its tensors.
        metrics: Of the validation at its step.
        settings: "data" and "trainer", the arguments of the run, and its "environment"; what is missing isn't told.
    """
    network, link = task.network, task.link
    assert network is not None
    assert link is not None
    config = network.config
    name = type(task).__name__
    dimensions = {words: getattr(config, key) for key, words in DIMENSIONS.items() if hasattr(config, key)}
    then, now = settings.get("environment", {}), environment()
    return CardData(
        title=f"{config.model_type}, {name}",
        auto_class=task.auto_class,
        objective=f"{name}: {(type(task).__doc__ or 'no description').splitlines()[0]}",
        model={
            "architecture": config.model_type,
            "class": type(network).__name__,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            **dimensions,
            **({"labels": ", ".join(link.labels)} if link.labels else {}),
        },
        max_length=link.max_length,
        training=_training(facts, then, task.peak_rate),
        arguments=_arguments(task, facts["hyper_parameters"], settings),
        provenance=link.provenance,
        metrics=metrics,
        versions=_versions("trained with", then) or _versions("exported with", now),
    )


def _training(facts: Mapping[str, Any], then: Mapping[str, Any], rate: float) -> Rows:
    record, arguments = facts[KEY], facts["hyper_parameters"]
    rows = {
        "optimizer steps": f"{facts['global_step']:,} of {record['total_steps']:,}",
        "tokens seen": record["tokens_seen"],
        "optimizer": arguments["optimizer"],
        "schedule": f"{arguments['schedule']}, peak {rate:g}, warm-up {arguments['warmup']}",
        "weight average": f"exponential, decay {arguments['ema']}" if arguments["ema"] else "none",
        "seed": arguments["seed"],
    }
    return rows | {key: then[key] for key in ("precision", "processes", "device") if key in then}


def _arguments(task: "Task", model: Mapping[str, Any], settings: Mapping[str, Any]) -> Rows:
    data = {key: value for key, value in settings.get("data", {}).items() if key not in NOT_RECIPE}
    trainer = {key: value for key, value in settings.get("trainer", {}).items() if key in TRAINER}
    signature = inspect.signature(Trainer.__init__).parameters
    groups = {
        "model": (model, _defaults(type(task))),
        "data": (data, _defaults(task.data_class)),
        "trainer": (trainer, {key: signature[key].default for key in TRAINER}),
    }
    changed: Rows = without_secrets(
        {
            flag: item
            for group, (values, defaults) in groups.items()
            for key, value in values.items()
            if key in defaults and value is not None and _plain(value) != _plain(defaults[key])
            for flag, item in _flags(f"--{group}.{key}", value)
        }
    )
    return changed


def _flags(flag: str, value: Any) -> list[tuple[str, Any]]:
    """A flag and its value; of a dictionary, one for each key."""
    return [(f"{flag}.{key}", item) for key, item in value.items()] if isinstance(value, dict) else [(flag, value)]


def _defaults(cls: Any) -> Rows:
    """The defaults of what `declare_arguments` made arguments."""
    return {
        each.name: each.default_factory() if each.default_factory is not MISSING else each.default
        for each in fields(cls)
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def _versions(prefix: str, environment: Mapping[str, Any]) -> Rows:
    start = "version of "
    found = {name.removeprefix(start): value for name, value in environment.items() if name.startswith(start)}
    return {f"{prefix} {name}": value for name, value in found.items()}


def model_card(record: CardData) -> str:
    """README.md of an exported model.

    Args:
        record: What is known.

    Returns:
        YAML front matter as the hub reads it, and Markdown.
    """
    front = {"library_name": "transformers", "tags": ["ptm_lightning", str(record.model.get("architecture", ""))]}
    if tag := PIPELINE_TAGS.get(record.auto_class):
        front["pipeline_tag"] = tag
    sections = {
        "What it is": f"{record.objective}\n\n{table(record.model)}",
        "How to use it": f"```python\n{_usage(record.auto_class, record.provenance.get('separator', ''))}\n```",
        "Data": _data(record),
        "Recipe": f"{table(record.training)}\n\n{_recipe(record.arguments)}",
        "Metrics": _metrics(record),
        "Limits": _limits(record),
        "Versions": table(record.versions),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"---\n{yaml.safe_dump(front, sort_keys=True)}---\n\n# {record.title}\n\n{body}\n"


def table(rows: Mapping[str, Any], head: tuple[str, str] = ("", "")) -> str:
    """Names and values in Markdown."""
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {_cell(k)} | {_cell(v)} |" for k, v in rows.items())]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    return str(value).replace("|", "\\|").replace("\n", " ")


def _usage(auto_class: str, separator: str) -> str:
    """Code that uses the model; the separator ends a text that is to be answered."""
    tag = PIPELINE_TAGS.get(auto_class)
    if tag not in PIPELINES:
        return (
            f"from transformers import {auto_class}, AutoTokenizer\n"
            'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")\n'
            f'model = {auto_class}.from_pretrained("path/to/this/folder")'
        )
    text = (
        'f"A text with one {pipe.tokenizer.mask_token} in it."'
        if tag == "fill-mask"
        else json.dumps(f"A text.{separator}")
    )
    return (
        f'from transformers import pipeline\npipe = pipeline("{tag}", model="path/to/this/folder")\nprint(pipe({text}))'
    )


def _data(record: CardData) -> str:
    facts = record.provenance
    if not facts:
        return "Not recorded."
    held_out = not facts.get("validation_sources")
    rows: Rows = {"training sources": facts.get("sources", [])}
    rows["validation sources"] = facts["validation_sources"] if not held_out else HELD_OUT
    named = [*rows["training sources"], *facts.get("validation_sources", ())]
    rows |= {name: f"a built-in example: {text}" for name, text in described(named).items()}
    for split in ("train", "validation"):
        rows |= {f"{split}: {key}": value for key, value in facts.get(split, {}).items()}
    rows |= {key: facts[key] for key in facts if key not in _KNOWN}
    total = sum(facts.get(split, {}).get("documents", 0) for split in ("train", "validation"))
    if held_out and total:
        rows["held-out share of the documents"] = f"{facts['validation']['documents'] / total:.2%}"
    return table(rows)


_KNOWN = frozenset({"sources", "validation_sources", "train", "validation", "unigram_loss"})


def _recipe(arguments: Rows) -> str:
    if not arguments:
        return "All arguments have their defaults."
    return "Set otherwise than the default:\n\n" + table({f"`{flag}`": value for flag, value in arguments.items()})


def _metrics(record: CardData) -> str:
    measured = {name: f"{value:.4f}" for name, value in sorted(record.metrics.items()) if name.startswith("val/")}
    if not measured:
        return "This step was not validated."
    if (unigram := record.provenance.get("unigram_loss")) is not None:
        measured["loss of a unigram model, for comparison"] = f"{unigram:.4f}"
    return f"On the validation data, at the step of the weights; losses in nats.\n\n{table(measured)}"


def _limits(record: CardData) -> str:
    known = [f"Trained on rows of at most {record.max_length:,} tokens, special tokens included."]
    for split in ("train", "validation"):
        numbers = record.provenance.get(split, {})
        if numbers.get("tokens"):
            share = numbers.get("unknown", 0) / numbers["tokens"]
            known.append(f"Unknown tokens in the {split} data: {share:.3%}.")
        if numbers.get("duplicates"):
            known.append(f"Duplicate documents found in the {split} data: {numbers['duplicates']:,}.")
    known.append("Nothing but the metrics above was measured.")
    return "\n".join(f"* {line}" for line in known)
