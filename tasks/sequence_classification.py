"""Classification of texts and pairs of texts: one label, several, or a number."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.corpus_text import CorpusSettings
from ptm_lightning.data.example_data import ExampleData, FieldsCollate
from ptm_lightning.data.example_store import ExampleStore
from ptm_lightning.data.labelled import LabelledTexts
from ptm_lightning.data.labels import Labels, ProblemType
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.new_words import NewTokens
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.errors import UserError
from ptm_lightning.evaluation import Record, records_of
from ptm_lightning.figures import Figure, calibration, confusion, confusion_by_label
from ptm_lightning.finetuning import FineTuning
from ptm_lightning.metrics.classification import (
    best_thresholds,
    classification_scores,
    majority_scores,
    multi_label_scores,
    regression_scores,
)
from ptm_lightning.models.rows import only_first_places
from ptm_lightning.terms import Ratio, Term, Terms

TERM = "classification"
THRESHOLDS = "label_thresholds"


@dataclass(frozen=True)
class Collate:
    """Rows with their labels."""

    fields: FieldsCollate
    store: ExampleStore

    def __call__(self, pieces: Pieces) -> Batch:
        """One batch of R rows."""
        examples, batch = self.fields(pieces)
        labels = torch.from_numpy(np.array(self.store.columns["label"][examples]))
        batch["labels"] = labels.float() if labels.is_floating_point() else labels
        batch["counts"][TERM] = len(labels)
        return batch


class SequenceClassificationData(ExampleData):
    """Texts or pairs of texts with a label: a name, a list of names, or a number (a float)."""

    train: list[str] = field(default_factory=lambda: ["builtin:modules"])
    """What to train on: files with the columns text and label (.jsonl .csv .tsv .parquet), folders, globs, the hub."""
    problem_type: ProblemType | None = None
    """What the labels are; default: numbers if the first is a float, several if it is a list, else one name."""
    pair: bool = False
    """Whether a second text, in the column `pair`, belongs to each."""

    @property
    def fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns of text."""
        return ("text", "pair") if self.pair else ("text",)

    def reader(self) -> LabelledTexts:
        """Texts and labels; those of a trained model are the only ones allowed."""
        problem_type = self.problem_type or self.evaluated_head().get("problem_type")
        return LabelledTexts(self.fields, Labels(problem_type, *self.model_labels()))

    def make_tokenizer(self, settings: CorpusSettings) -> tuple[PreTrainedTokenizerFast, NewTokens]:
        """One that has a token for padding, else the end, which no row holds.

        A causal network classifies by a row's last token, and finds it before the padding.
        """
        tokenizer, new_tokens = super().make_tokenizer(settings)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        return tokenizer, new_tokens

    def collate_examples(self, store: ExampleStore, *, evaluate: bool) -> Callable[[Pieces], Batch]:
        """Rows of the fields, and their labels."""
        return Collate(FieldsCollate(store, self.template, self.max_length), store)

    def show_row(self, batch: Batch, row: int) -> str:
        """A row for people, with its label."""
        label, names = batch["labels"][row], self.link.labels
        if label.ndim:
            shown = ", ".join(name for name, on in zip(names, label.tolist(), strict=True) if on) or "none"
        else:
            shown = names[int(label)] if names else f"{float(label):g}"
        return f"{super().show_row(batch, row)}\n  -> {shown}"


class SequenceClassification(FineTuning):
    """A network with a classification head, for any architecture that transformers has one for.

    References:
        - BERT, 2018, https://arxiv.org/abs/1810.04805
        - label smoothing: Szegedy et al., 2015, https://arxiv.org/abs/1512.00567
    """

    data_class: ClassVar[type[TaskData]] = SequenceClassificationData
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    found: ClassVar[tuple[str, ...]] = (THRESHOLDS,)
    labelled: ClassVar[bool] = True
    headline: ClassVar[tuple[str, ...]] = (
        *("accuracy", "accuracy_majority", "f1_macro", "f1_macro_majority", "mcc"),
        *("pearson", "spearman"),
    )

    label_smoothing: float = 0.0
    """Share of the target that is spread over all labels in training."""
    class_weights: Literal["balanced"] | None = None
    """balanced: rare labels weigh more in training, in inverse proportion to how often they occur."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_share("label_smoothing")

    def setup(self, stage: str) -> None:
        """Refuses what numbers have no use for."""
        super().setup(stage)
        if self._link.problem_type == "regression":
            for name in ("label_smoothing", "class_weights"):
                if getattr(self, name):
                    raise UserError(f"--model.{name}: the labels are numbers, not names; leave it out")

    def terms(self, batch: Batch) -> Terms:
        """Cross-entropy of the label, binary cross-entropy of all labels, or squared error; in evaluation accuracy."""
        return self._terms(self._logits(batch), batch)

    def evaluate(self, batch: Batch) -> tuple[Terms, list[Record]]:
        """The terms, and the logits and label of each example."""
        logits = self._logits(batch)
        return self._terms(logits, batch), records_of(batch["examples"], logits=logits, label=batch["labels"])

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """Accuracy, F1 and the other metrics of the kind of labels; beside them those of the commonest label."""
        logits, labels = _stacked(records)
        if self._link.problem_type == "regression":
            return regression_scores(logits.squeeze(-1), labels)
        if self._link.problem_type == "multi_label_classification":
            if self.trainer.state.fn == "fit":
                self.keep(**{THRESHOLDS: best_thresholds(logits.sigmoid(), labels.long())})
            return multi_label_scores(logits.sigmoid(), labels.long(), torch.tensor(self.thresholds))
        counts = list(self._link.provenance["labels"].values())
        trivial = majority_scores(labels.long(), counts.index(max(counts)), len(counts))
        return classification_scores(logits.softmax(dim=-1), labels.long()) | trivial

    def figures(self) -> dict[str, Figure]:
        """Of names, which are taken for which, or missed, and how far probabilities can be trusted."""
        if self._link.problem_type == "regression":
            return {}
        logits, right = _stacked(self.evaluation.records)
        right, names = right.long(), self._link.labels
        if self._link.problem_type == "multi_label_classification":
            chances = logits.sigmoid()
            predicted = (chances >= torch.tensor(self.thresholds)).long()
            matrix, curve = confusion_by_label(predicted, right, names), calibration(chances.flatten(), right.flatten())
        else:
            sure, predicted = logits.softmax(dim=-1).max(dim=-1)
            matrix, curve = confusion(predicted, right, names), calibration(sure, predicted == right)
        return {"confusion_matrix": matrix, "calibration": curve}

    def worst(self) -> Iterator[dict[str, Any]]:
        """Texts that get another label than the right one, the surest mistakes first."""
        logits, labels = _stacked(self.evaluation.records)
        errors = self._errors(logits, labels)
        for number in errors.argsort(descending=True)[: int((errors > 0).sum())].tolist():
            answer, row = self._answer(logits[number]), self.evaluated(self.evaluation.records[number]["example"])
            shown = {"label": str(self._written(labels[number])), "predicted": str(answer["prediction"])}
            if self._link.problem_type == "single_label_classification":
                shown["probability"] = answer["scores"][answer["prediction"]]
            yield (
                {name: row[name] for name in ("text", "pair") if name in row} | shown | {"error": float(errors[number])}
            )

    def example_scores(self, records: Sequence[Record]) -> dict[str, dict[int, float]]:
        """Whether each label is right, or all labels are; of numbers the absolute error."""
        errors = self._errors(*_stacked(records))
        name, worth = "accuracy", (errors == 0).float()
        if self._link.problem_type == "regression":
            name, worth = "mae", errors
        return {name: dict(zip((record["example"] for record in records), worth.tolist(), strict=True))}

    @property
    def thresholds(self) -> list[float]:
        """The probability from which on each of several labels is predicted: what was best on the validation data."""
        found: list[float] | None = self.kept(THRESHOLDS)
        return found or [0.5] * len(self._link.labels)

    def best_by(self) -> tuple[str, Literal["min", "max"]]:
        """Macro F1, or the loss of numbers."""
        return ("val/loss", "min") if self._link.problem_type == "regression" else ("val/f1_macro", "max")

    def examples(self, batch: Batch) -> list[dict[str, str]]:
        """Rows of a batch as text, with the right label and the predicted one."""
        tokenizer, logits = self.tokenizer(), self._logits(batch).detach()
        assert tokenizer is not None
        texts = [tokenizer.decode(ids[real > 0], skip_special_tokens=True) for ids, real in _rows(batch)]
        answers = [self._answer(one)["prediction"] for one in logits]
        right = [self._written(label) for label in batch["labels"]]
        return [
            {"text": str(text), "label": str(label), "predicted": str(answer)}
            for text, label, answer in zip(texts, right, answers, strict=True)
        ]

    def example_text(self) -> str | None:
        """A text to classify."""
        return "Returns the number of items in the list."

    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        """The label of each text, and the probability of every label."""
        rows = zip(batch["texts"], self._logits(batch), strict=True)
        return [{"id": id_, "text": text, **self._answer(logits)} for (id_, text), logits in rows]

    def configure_model(self) -> None:
        """Builds the network, and tells one that looks for the last token of a row what follows it."""
        super().configure_model()
        tokenizer = self.tokenizer()
        if self.network is not None and tokenizer is not None and self.network.config.pad_token_id is None:
            self.network.config.pad_token_id = tokenizer.pad_token_id

    def _logits(self, batch: Batch) -> Tensor:
        assert self.network is not None
        with only_first_places(self.network, batch["input_ids"]):
            logits: Tensor = self.network(**self.inputs(batch)).logits
        return logits.float()

    def _terms(self, logits: Tensor, batch: Batch) -> Terms:
        labels, count = batch["labels"], batch["counts"][TERM]
        kind, train = self._link.problem_type, self.training
        if kind == "regression":
            return {TERM: Term(functional.mse_loss(logits.squeeze(-1), labels, reduction="sum"), count)}
        weight = self._weights(logits) if train and self.class_weights else None
        smoothing = self.label_smoothing if train else 0.0
        if kind == "multi_label_classification":
            soft = labels * (1 - smoothing) + smoothing / 2
            losses = functional.binary_cross_entropy_with_logits(logits, soft, pos_weight=weight, reduction="none")
            return {TERM: Term(losses.mean(dim=-1).sum(), count)}
        losses = functional.cross_entropy(logits, labels, weight=weight, label_smoothing=smoothing, reduction="sum")
        if train:
            return {TERM: Term(losses, count)}
        return {TERM: Term(losses, count), "accuracy": Ratio((logits.argmax(dim=-1) == labels).sum(), count)}

    def _errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(n,) the distance of probabilities or numbers from what is right; 0 where the right labels are predicted."""
        if self._link.problem_type == "regression":
            return (logits.squeeze(-1) - labels).abs()
        if self._link.problem_type == "multi_label_classification":
            chances = logits.sigmoid()
            right = ((chances >= torch.tensor(self.thresholds)) == labels.bool()).all(dim=-1)
            return (chances - labels).abs().mean(dim=-1).masked_fill(right, 0)
        chances = logits.softmax(dim=-1).gather(1, labels.long()[:, None]).squeeze(1)
        return (1 - chances).masked_fill(logits.argmax(dim=-1) == labels, 0)

    def _weights(self, like: Tensor) -> Tensor:
        """(L,) of each label: examples / (labels * its examples), or for several labels negatives / positives."""
        counts = torch.tensor(list(self._link.provenance["labels"].values()), dtype=like.dtype, device=like.device)
        if self._link.problem_type == "multi_label_classification":
            total = int(self._link.provenance["train"]["documents"])
            return (total - counts).clamp(min=1) / counts.clamp(min=1)
        return counts.sum() / (len(counts) * counts.clamp(min=1))

    def _answer(self, logits: Tensor) -> dict[str, Any]:
        names = self._link.labels
        if self._link.problem_type == "regression":
            return {"prediction": float(logits[0])}
        several = self._link.problem_type == "multi_label_classification"
        chances = (logits.sigmoid() if several else logits.softmax(dim=-1)).tolist()
        scores = dict(sorted(zip(names, chances, strict=True), key=lambda pair: -pair[1]))
        least = dict(zip(names, self.thresholds, strict=True))
        best = [name for name, chance in scores.items() if chance >= least[name]] if several else next(iter(scores))
        return {"prediction": best, "scores": scores}

    def _written(self, label: Tensor) -> Any:
        names = self._link.labels
        if label.ndim:
            return [name for name, on in zip(names, label.tolist(), strict=True) if on]
        return names[int(label)] if names else float(label)


def _stacked(records: Sequence[Record]) -> tuple[Tensor, Tensor]:
    """(n, L) logits and (n,) or (n, L) labels of some examples."""
    logits, labels = (torch.stack([record[name] for record in records]) for name in ("logits", "label"))
    return logits, labels


def _rows(batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(batch["input_ids"], batch["document_ids"], strict=True)
