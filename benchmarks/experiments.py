"""The experiments that `evidence.py` runs, what a finished one is asked, and what its metrics stand beside."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import NamedTuple

import baselines
import numpy as np
from lightning.pytorch import Trainer
from numpy.typing import NDArray

from ptm_lightning.check import seen_batches
from ptm_lightning.data.batch import Batch
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.data.tokenizer import sentinel_ids
from ptm_lightning.data.words import WordTable
from ptm_lightning.plugins import find_class
from ptm_lightning.run import read_config
from ptm_lightning.task import Task

SENTENCES = 10
LENGTHS = range(12, 41)
"""Tokens of a document that is shown."""

WORD = re.compile(r"\w+|[^\w\s]")

Sentence = tuple[list[int], int]
"""A short document, and the place of a word in it that is one token."""


@dataclass(frozen=True)
class Experiment:
    """One line of the table."""

    arguments: tuple[str, ...]
    """Of `fit`, without the text."""
    question: Callable[[TaskData, list[int], int], list[int]]
    """Turns a short document, and the place of a word in it, into what the finished run is asked."""


def masked(data: TaskData, ids: list[int], place: int) -> list[int]:
    """The word is masked."""
    return [*ids[:place], data.hf_tokenizer.mask_token_id, *ids[place + 1 :]]


def sentinel(data: TaskData, ids: list[int], place: int) -> list[int]:
    """A sentinel stands in the place of the word."""
    return [*ids[:place], int(sentinel_ids(data.hf_tokenizer)[0]), *ids[place + 1 :]]


def beginning(data: TaskData, ids: list[int], place: int) -> list[int]:
    """All before the word."""
    return ids[:place]


def wrong_word(data: TaskData, ids: list[int], place: int) -> list[int]:
    """The word is one of another document."""
    others = (other[at] for other, at in sentences(data) if other[at] not in ids)
    return [*ids[:place], next(others, ids[0]), *ids[place + 1 :]]


# A corpus of 4 million tokens needs no larger vocabulary; seen five times, a small network needs no dropout.
COMMON = ("--data.vocab_size", "8192", "--max_tokens", "20e6")
# Next sentences and what attention can tell are learned late, in many steps at a high rate: a linear schedule has
# lowered it by then.
STABLE = ("--model.size", "tiny", "--data.batch_tokens", "2048", "--model.schedule", "wsd")
# At the published deviation of 0.02 the discriminator of a narrow network hadn't left chance after 8 million tokens.
ELECTRA = (
    *("--model.size", "tiny", "--data.batch_tokens", "2048"),
    *("--model.learning_rate", "1e-3", "--model.overrides.initializer_range", "0.06"),
)
# Pieces of cased bytes are learned late, too: at 1e-3, 0.02 and 15 % it still knew nothing but the tokens that are kept
# after 10 million.
ROBERTA = (
    *("--model.learning_rate", "2e-3", "--model.overrides.initializer_range", "0.06"),
    *("--data.mask_rate", "0.3"),
)
NO_DROPOUT = ("--model.overrides.hidden_dropout_prob", "0.0", "--model.overrides.attention_probs_dropout_prob", "0.0")

EXPERIMENTS = {
    "mlm": Experiment(("--config", "mlm", "--model.size", "mini", "--max_tokens", "20e6"), masked),
    "bert": Experiment(("--config", "bert", *COMMON, *STABLE, *NO_DROPOUT), masked),
    "roberta": Experiment(("--config", "roberta", *COMMON, *STABLE, *ROBERTA, *NO_DROPOUT), masked),
    "albert": Experiment(("--config", "albert", *COMMON, *STABLE, *NO_DROPOUT), masked),
    "gpt": Experiment(("--config", "gpt", *COMMON, *STABLE), beginning),
    "xlnet": Experiment(("--config", "xlnet", *COMMON, *STABLE), masked),
    "t5": Experiment(("--config", "t5", *COMMON, *STABLE, "--model.overrides.dropout_rate", "0.0"), sentinel),
    "bart": Experiment(("--config", "bart", *COMMON, *STABLE), masked),
    "electra": Experiment(("--config", "electra", *COMMON, *ELECTRA, *NO_DROPOUT), wrong_word),
}


def data_of(run_dir: Path) -> TaskData:
    """The data of a finished run, ready for both training and validation."""
    config = read_config(run_dir)
    task = find_class(config["model"].pop("class_path"), Task, "model")
    data = task.data_class(**{name: value for name, value in config["data"].items() if name != "class_path"})
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    data.setup("fit")
    return data


def sentences(data: TaskData) -> Iterator[Sentence]:
    """Short validation documents, evenly spaced, with a word amid each."""
    store, table = data.corpus.validation, WordTable.of(data.hf_tokenizer)
    lengths = np.diff(store.offsets)
    (fit,) = np.nonzero((lengths >= LENGTHS.start) & (lengths < LENGTHS.stop))
    for document in fit[:: max(1, len(fit) // (4 * SENTENCES))]:
        ids = store.tokens[store.offsets[document] : store.offsets[document + 1]].astype(np.int64)
        starts = np.append(table.starts(ids), True)
        words = [str(word).strip() for word in data.hf_tokenizer.batch_decode(ids[:, None])]
        whole = [at for at, word in enumerate(words) if starts[at] and starts[at + 1] and len(word) > 3]
        if whole := [at for at in whole if words[at].isalpha()]:
            yield ids.tolist(), whole[len(whole) // 2]


def questions(name: str, data: TaskData) -> list[str]:
    """Texts for `predict`."""
    question = EXPERIMENTS[name].question
    texts = [str(data.hf_tokenizer.decode(question(data, *sentence))) for sentence in sentences(data)]
    return texts[:: max(1, len(texts) // SENTENCES)][:SENTENCES]


def baselines_of(data: TaskData, found: dict[str, float]) -> dict[str, float]:
    """What the metrics are for models that learned the least, on the same held-out batches.

    Args:
        data: Set up.
        found: The metrics, by name without a prefix.

    Returns:
        By name; a metric without a baseline is left out.
    """
    values = _of_targets(data, "mlm_" if "mlm_loss" in found else "")
    for name, simple in (("nsp", _overlap), ("sop", _naive_bayes)):
        if f"{name}_loss" in found:
            train, held_out = (_pairs(data, (b for _, b in seen_batches(data))), _pairs(data, data.val_dataloader()))
            label = baselines.entropy(float(held_out.negative.mean()))
            values[f"{name}_accuracy"] = simple(train, held_out)
            values |= {f"{name}_loss": label, "loss": values["mlm_loss"] + label}
    if "replaced" in found:
        chance = baselines.finding_all(found["replaced"], (found["loss"] - found["mlm_loss"]) / found["rtd_loss"])
        values["generator_accuracy"] = values.pop("mlm_accuracy")
        values |= chance | {"loss": chance["loss"] + values["mlm_loss"]}
    return {name: value for name, value in values.items() if name in found}


def _of_targets(data: TaskData, prefix: str) -> dict[str, float]:
    """A unigram model of the targets: of tokens."""
    train = np.concatenate([batch["targets"].numpy() for _, batch in seen_batches(data)])
    counts = np.bincount(train, minlength=data.link.vocabulary)
    held_out = list(data.val_dataloader())
    targets = np.concatenate([batch["targets"].numpy() for batch in held_out])
    losses = baselines.unigram_losses(counts, targets)
    right = targets == counts.argmax()
    if "chances" in held_out[0]:  # ELECTRA's generator sees some targets, and what it sees is always right
        seen = np.concatenate([(b["input_ids"].flatten()[b["target_index"]] == b["targets"]).numpy() for b in held_out])
        losses[seen], right[seen] = 0.0, True
    found = {"loss": losses.mean(), "perplexity": exp(losses.mean()), "accuracy": right.mean()}
    if "fresh" in held_out[0]:
        found["loss_new_sentences"] = losses[np.concatenate([b["fresh"].numpy() for b in held_out])].mean()
    if "bytes" in held_out[0]:
        found["bits_per_byte"] = losses.sum() / log(2) / sum(batch["bytes"] for batch in held_out)
    if len(sentinels := sentinel_ids(data.hf_tokenizer)) and "decoder_lengths" in held_out[0]:
        text = ~np.isin(targets, [*sentinels, data.frame.after[-1]])
        found |= {"loss_text": losses[text].mean(), "accuracy_text": right[text].mean()}
    return {prefix + name: float(value) for name, value in found.items()}


class Pairs(NamedTuple):
    """Rows of two segments, as words."""

    words: list[tuple[baselines.Words, baselines.Words]]
    negative: NDArray[np.bool_]
    """Whether the second segment doesn't follow the first one."""


def _pairs(data: TaskData, batches: Iterable[Batch]) -> Pairs:
    words: list[tuple[baselines.Words, baselines.Words]] = []
    labels = []
    for batch in batches:
        ids = batch["input_ids"].clone()
        ids.view(-1)[batch["target_index"]] = batch["targets"]
        real, second = batch["document_ids"] > 0, batch["token_type_ids"] == 1
        sides = [[row[at].tolist() for row, at in zip(ids, real & side, strict=True)] for side in (~second, second)]
        texts = [data.hf_tokenizer.batch_decode(side, skip_special_tokens=True) for side in sides]
        words += zip(*([WORD.findall(text.lower()) for text in side] for side in texts), strict=True)
        labels.append(batch["labels"].numpy() == 1)
    return Pairs(words, np.concatenate(labels))


def _overlap(train: Pairs, held_out: Pairs) -> float:
    """Accuracy of taking a second segment for the next one if it shares enough words with the first one."""
    weights = baselines.rarity(train.words)
    threshold = baselines.best_threshold(baselines.overlap(train.words, weights), ~train.negative)
    return float(((baselines.overlap(held_out.words, weights) < threshold) == held_out.negative).mean())


def _naive_bayes(train: Pairs, held_out: Pairs) -> float:
    """Accuracy of naive Bayes on the words of both segments."""
    ordered = [pair[::-1] if swapped else pair for pair, swapped in zip(*train, strict=True)]
    return float((baselines.NaiveBayes.fit(ordered).swapped(held_out.words) == held_out.negative).mean())
