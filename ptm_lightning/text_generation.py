"""TextGeneration: what tasks share that answer with text, such as summarization, translation and dialogue."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ptm_lightning.data.answering import TERM
from ptm_lightning.data.batch import Batch, later_places
from ptm_lightning.data.formats import as_text
from ptm_lightning.data.seq2seq import prompts
from ptm_lightning.errors import UserError
from ptm_lightning.evaluation import Record
from ptm_lightning.finetuning import FineTuning
from ptm_lightning.generate import Generation, answer_sorted, n_best
from ptm_lightning.log import say
from ptm_lightning.metrics.references import Reference, references_of
from ptm_lightning.models.build import max_positions
from ptm_lightning.models.sight import refuse_sight
from ptm_lightning.models.start import CAUSAL, SEQ2SEQ, encodes
from ptm_lightning.terms import Term, Terms, perplexity, token_terms

GENERATED_PLACES = 32_768
"""Tokens that are generated for at a time, of all rows: in a network of size base their states take 2.4 GB."""


class TextGeneration(FineTuning, ABC):
    """A network that answers a text with another one: an encoder-decoder, or where `heads` says so a causal one.

    References:
        - BART, 2019, https://arxiv.org/abs/1910.13461; T5, 2019, https://arxiv.org/abs/1910.10683
        - label smoothing: Szegedy et al., 2015, https://arxiv.org/abs/1512.00567
    """

    heads: ClassVar[tuple[str, ...]] = (SEQ2SEQ,)
    """The auto classes that the task takes."""
    prediction_arguments: ClassVar[tuple[str, ...]] = (
        "max_new_tokens",
        "min_new_tokens",
        "num_beams",
        "length_penalty",
        "no_repeat_ngram_size",
        "temperature",
        "top_p",
        "n_best",
    )

    sentence_measure: ClassVar[str] = "sentence_score"
    """What `sentence_score` is called."""

    architecture: str = "bart"
    """What to build from scratch when there is no backbone: a transformers model type, such as bart, t5 or marian."""
    label_smoothing: float = 0.0
    """Share of each target that is spread over the whole vocabulary in training; validation measures without it."""
    validation_answers: int = 200
    """Validation examples that are generated for while training, evenly spread; `validate` and `test` take all."""
    max_new_tokens: int | None = None
    """The longest answer, in tokens. Default: --data.max_target_length."""
    min_new_tokens: int = 0
    """The shortest answer, in tokens."""
    num_beams: int = 1
    """Beams of the search for the best answer; 1 takes the most likely token each time."""
    length_penalty: float = 1.0
    """Of beams: above 1 longer answers are preferred, below 1 shorter ones."""
    no_repeat_ngram_size: int = 0
    """No sequence of so many tokens comes twice in an answer, nor with a causal network from what it answers; 0: any
    may."""
    temperature: float | None = None
    """Samples answers, at 1 from the network's own distribution."""
    top_p: float = 1.0
    """Samples from the most likely tokens that have this share together."""
    n_best: int = 1
    """Answers that a prediction lists, from as many beams at least, or sampled."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_share("label_smoothing")
        if self.top_p != 1.0 and self.temperature is None:
            raise UserError(f"--model.top_p {self.top_p}: only means something when sampling: give --model.temperature")
        if self.length_penalty != 1.0 and self.num_beams == 1:
            raise UserError(
                f"--model.length_penalty {self.length_penalty}: only beams have one: give --model.num_beams"
            )
        for name in ("num_beams", "validation_answers", "max_new_tokens", "n_best"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"--model.{name} {value}: give at least 1")
        if self.n_best > self.num_beams and self.temperature is None:
            raise UserError(
                f"--model.n_best {self.n_best}: the search has {self.num_beams} beams; give --model.num_beams "
                f"{self.n_best}, or sample with --model.temperature"
            )

    # What a subclass says

    @abstractmethod
    def measure(
        self, sources: Sequence[str], answers: Sequence[str], references: Sequence[Reference]
    ) -> dict[str, float]:
        """Metrics of a whole evaluation, and what a trivial answer would have."""

    @abstractmethod
    def sentence_score(self, answer: str, reference: Reference) -> float:
        """A metric of one answer."""

    # The network

    def configure_model(self) -> None:
        """Builds the network, and says in its configs how it answers."""
        super().configure_model()
        if self.network is not None:
            self._configure_answers()

    @property
    def auto_class(self) -> str:  # type: ignore[override]
        """That of the network that the task has or, of its `heads`, that it starts with."""
        if self.link is not None and self.link.auto_class in self.heads:
            return str(self.link.auto_class)
        return SEQ2SEQ if CAUSAL not in self.heads or encodes(self) else CAUSAL

    def setup(self, stage: str) -> None:
        """Takes over the target's side from the data, for there may be other languages than in training."""
        super().setup(stage)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if data is not None:
            self.link = replace(self._link, target_side=data.link.target_side)
            self._configure_answers()
        assert self.network is not None
        if not self.network.config.is_encoder_decoder:
            refuse_sight(self.network, ", or an encoder-decoder, such as bart or t5")
            if stage == "fit" and self.no_repeat_ngram_size:
                say(
                    f"--model.no_repeat_ngram_size {self.no_repeat_ngram_size}: of a causal network transformers "
                    "counts what it answers too, of which no such sequence can be repeated"
                )
        longest, places = self._longest_answer(), max_positions(self.network)
        before = int(self._link.target_side.get("before", 0))
        if places is not None and before + longest > places:
            prompt = f", and {before} tokens may stand before the answer" if before else ""
            raise UserError(
                f"--model.max_new_tokens {longest}: the model has {places} positions{prompt}; "
                f"give at most {places - before}"
            )
        if self.min_new_tokens > longest:
            raise UserError(f"--model.min_new_tokens {self.min_new_tokens}: the longest answer has {longest} tokens")

    def _longest_answer(self) -> int:
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        return int(self._link.target_side.get("max_length", self._link.max_length))

    def _configure_answers(self) -> None:
        """Writes how the decoder begins, and how answers are generated, into the network's configs."""
        assert self.network is not None
        side, config = self._link.target_side, self.network.config
        kept: Any = self.network.generation_config
        names = (
            "decoder_start_token_id",
            "bos_token_id",
            "forced_bos_token_id",
            "forced_eos_token_id",
            "bad_words_ids",
        )
        ids = {name: getattr(kept, name) for name in names}
        ids |= {"pad_token_id": config.pad_token_id, "eos_token_id": config.eos_token_id} | side.get("ids", {})
        if config.is_encoder_decoder:
            if ids["decoder_start_token_id"] is None:  # mBART begins with the last token of the targets, the language
                last = side.get("last") if config.model_type == "mbart" else None
                ids["decoder_start_token_id"] = config.decoder_start_token_id if last is None else last
            config.decoder_start_token_id = ids["decoder_start_token_id"]
        settings = Generation(
            max_new_tokens=self._longest_answer(),
            num_beams=self.num_beams,
            temperature=self.temperature,
            top_p=self.top_p,
            min_new_tokens=self.min_new_tokens,
            length_penalty=self.length_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
        )
        self.network.generation_config = settings.config(**ids)
        if told := {name: side[name] for name in ("prefix", "separator") if side.get(name)}:
            longest = {"max_new_tokens": side["max_length"]} if "separator" in told else {}
            config.task_specific_params = {side["purpose"]: told | longest}
        self.link = self._link.with_network(self.auto_class, config)

    def hidden_from(self, batch: Batch, number: int) -> Tensor:
        """Without a decoder all that comes later, beside other rows and padding."""
        hidden = super().hidden_from(batch, number)
        return hidden if "decoder_input_ids" in batch else hidden | later_places(batch, number)

    # The loss and the metrics

    def terms(self, batch: Batch) -> Terms:
        """Cross-entropy of the targets, in nats; in evaluation without label smoothing, and with accuracy."""
        logits = self.logits_at_targets(batch)  # (N, vocabulary)
        if self.training and self.label_smoothing:
            loss = functional.cross_entropy(
                logits.float(), batch["targets"], reduction="sum", label_smoothing=self.label_smoothing
            )
            return {TERM: Term(loss, batch["counts"][TERM])}
        return token_terms(TERM, logits, batch, training=self.training)

    def finish_metrics(self, metrics: dict[str, float], prefix: str) -> dict[str, float]:
        """Adds the perplexity, where the loss is not smoothed."""
        smoothed = prefix == "train" and self.label_smoothing
        return metrics if smoothed else metrics | {f"{prefix}/perplexity": perplexity(metrics[f"{prefix}/loss"])}

    def evaluate(self, batch: Batch) -> tuple[Terms, list[Record]]:
        """The terms, and source, prompt and reference of each example that is generated for when all are known."""
        inputs, rows = prompts(batch), batch["rows"]
        records = [
            {"example": int(batch["examples"][row]), "prompt": inputs[row], **self._texts(rows[row])}
            for row in self._chosen(batch["examples"])
        ]
        return self.terms(batch), records

    def complete(self, records: Sequence[Record]) -> None:
        """Puts an answer in the place of each prompt; those of like length are generated for together."""
        for record, answer in zip(records, self.answers([record["prompt"] for record in records]), strict=True):
            del record["prompt"]
            record["answer"] = answer

    @staticmethod
    def _shown(texts: Mapping[str, Any], answer: str) -> dict[str, str]:
        """A source, its references in one line, and the answer."""
        right = " | ".join(references_of(texts["reference"]))
        return {"source": texts["source"], "reference": right, "answer": answer}

    def _texts(self, row: Mapping[str, Any]) -> dict[str, Any]:
        source, target = self._link.target_side["fields"]
        return {"source": as_text(row[source]), "reference": row[target]}

    def _chosen(self, examples: Tensor) -> list[int]:
        """The rows that are generated for: all, but while training only some examples, evenly spread."""
        rows = torch.arange(len(examples))
        if self.trainer.state.fn != "fit":
            return rows.tolist()
        total = int(self._link.target_side["asked"])
        some = min(self.validation_answers, total)
        place = examples.cpu() * some
        return rows[(place + some) // total > place // total].tolist()

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """The task's metrics over all answers."""
        return self.measure(*([record[name] for record in records] for name in ("source", "answer", "reference")))

    def example_scores(self, records: Sequence[Record]) -> dict[str, dict[int, float]]:
        """The metric of each answer."""
        worth = {record["example"]: self.sentence_score(record["answer"], record["reference"]) for record in records}
        return {self.sentence_measure: worth}

    def worst(self) -> Iterator[dict[str, Any]]:
        """Sources, references and answers, by the metric of each answer."""
        records = self.evaluation.records
        worth = self.example_scores(records)[self.sentence_measure]
        for record in sorted(records, key=lambda record: worth[record["example"]]):
            yield self._shown(record, record["answer"]) | {"score": worth[record["example"]]}

    # Answers

    def answers(self, inputs: list[list[int]]) -> list[str]:
        """The answers to inputs of the encoder, or what a causal network says after them, in their order."""
        assert self.network is not None
        return self._decoded(answer_sorted(self.network, inputs, GENERATED_PLACES, self.seed))

    def _decoded(self, answers: Iterable[list[int]]) -> list[str]:
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        options: Any = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return [str(tokenizer.decode(ids, **options)).strip() for ids in answers]

    def examples(self, batch: Batch) -> list[dict[str, str]]:
        """Rows of a batch: source, reference, answer, and its score."""
        shown = []
        for row, answer in zip(batch["rows"], self.answers(prompts(batch)), strict=True):
            texts = self._texts(row)
            score = f"{self.sentence_score(answer, texts['reference']):.3f}"
            shown.append(self._shown(texts, answer) | {"score": score})
        return shown

    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        """The best answer to each text with its score, a log-probability by length; all that were asked for."""
        assert self.network is not None
        best_of_each = n_best(self.network, prompts(batch), GENERATED_PLACES, self.seed, self.n_best)
        found = []
        for (id_, text), answers in zip(batch["texts"], best_of_each, strict=True):
            texts = self._decoded(answer.ids for answer in answers)
            listed = [{"text": said, "score": answer.score} for said, answer in zip(texts, answers, strict=True)]
            best = {"id": id_, "text": text, "prediction": texts[0], "score": answers[0].score}
            found.append(best | ({"answers": listed} if self.n_best > 1 else {}))
        return found
