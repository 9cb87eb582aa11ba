"""Denoising: BART's objective, text infilling and sentence permutation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.infilling import (
    AfterFullStops,
    AsStored,
    Infilling,
    Place,
    SentenceBegins,
    choose_spans,
    full_stops,
    infill,
    sentence_order,
)
from ptm_lightning.data.infilling_findings import PlannedRow, infilling_findings, planned_rows
from ptm_lightning.data.layout import Frame, LayOut, Pieces
from ptm_lightning.data.module import TextData
from ptm_lightning.data.predict import Text
from ptm_lightning.data.seq2seq import (
    FlatRows,
    Ragged,
    closed_frame,
    flat_rows,
    lay_out_closed,
    prompt_batch,
    prompts,
    refuse_packed,
    seq2seq_batch,
    target_rows,
)
from ptm_lightning.data.seq2seq_findings import noised_rows, seq2seq_findings
from ptm_lightning.data.show import decoded
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.data.words import WordTable
from ptm_lightning.errors import UserError
from ptm_lightning.fill import example_with_mask
from ptm_lightning.findings import Finding
from ptm_lightning.generate import Generation, answer
from ptm_lightning.task import Task
from ptm_lightning.terms import Terms, perplexity, token_terms


@dataclass(frozen=True)
class InfillCollate:
    """Pieces of documents to a batch with BART's noise."""

    store: TokenStore
    frame: Frame
    rate: float
    mean_span: float
    sentence_begins: SentenceBegins | None
    """Where sentences begin, if these are permuted."""
    words: WordTable
    mask_id: int
    pad_id: int
    seed: int
    evaluate: bool
    """Sentences that training doesn't contain are marked."""

    def __call__(self, pieces: Pieces) -> Batch:
        """One batch."""
        text = self.rows(pieces)
        order, starts, spans = self.infilling(text)
        noised = text.ids.copy()
        noised[text.content] = text.ids[text.content][order]
        inputs = Ragged(*infill(noised, text.row, text.content, starts, spans, self.mask_id))
        counts = {"denoising": len(text.ids), "tokens": len(text.ids)}
        batch = seq2seq_batch(inputs, Ragged(text.ids, text.row), pad_id=self.pad_id, counts=counts)
        if self.evaluate and self.store.fresh is not None:
            fresh = np.zeros(len(text.ids), dtype=np.bool_)
            fresh[text.content] = self.store.fresh[text.offset]
            batch["fresh"] = torch.from_numpy(fresh)
        return batch

    def rows(self, pieces: Pieces) -> FlatRows:
        """The rows before the noise."""
        return flat_rows(pieces, self.store, self.frame)

    def infilling(self, text: FlatRows) -> Infilling:
        """What is done to these rows."""
        place = Place(text.row[text.content], text.draw, text.offset)
        original = text.ids[text.content]
        starts = self.words.starts(original) | (np.diff(place.row, prepend=-1) > 0)
        order = np.arange(len(original))
        if self.sentence_begins is not None:
            order, begins = sentence_order(self.sentence_begins(original, text.offset), place, self.seed)
            place, starts = place.at(order), starts[order] | begins
        first = place.at(np.flatnonzero(starts))
        words = np.bincount(first.row)
        return Infilling(
            order, starts, choose_spans(words, first, rate=self.rate, mean_span=self.mean_span, seed=self.seed)
        )


class DenoisingData(TextData):
    """Text with its sentences in another order and spans of words behind masks; the target is the whole text.

    Spans are of whole words, with lengths from a Poisson distribution; each becomes a single mask, and one of no words
    puts a mask in. A sentence ends at a token that ends in a full stop (or one of ! ? 。 and so on): a number such as
    3.14 may be cut there, as in fairseq's code. The special tokens around a text stay where they are.

    References:
        - BART, 2019, https://arxiv.org/abs/1910.13461
    """

    mask_rate: float = 0.3
    """Share of the words that are hidden."""
    mean_span: float = 3.0
    """Mean length of a span, in words."""
    permute_sentences: bool = True
    """Whether the sentences of a row are put in random order."""
    sentences: str | None = None
    """What finds them: rules, a spaCy pipeline or language. Default: full stops among the tokens, as in fairseq."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_packed(self.layout)
        if not 0 < self.mask_rate < 1:
            raise UserError(f"--data.mask_rate {self.mask_rate}: give a share between 0 and 1, such as 0.3")
        if not 0 < self.mean_span <= 100:
            raise UserError(f"--data.mean_span {self.mean_span}: give a number of words above 0, such as 3")
        if self.sentences and not self.permute_sentences:
            raise UserError("--data.sentences: they stay in order with --data.permute_sentences false; leave one out")

    def setup(self, stage: str) -> None:
        """Opens the stores; the tokenizer must have a mask token."""
        super().setup(stage)
        if self.hf_tokenizer.mask_token_id is None:
            raise UserError(
                "--data.tokenizer: the tokenizer has no mask token; take one that has, or --data.tokenizer train"
            )

    def sentence_splitter(self) -> str | None:
        """The stores say where sentences begin if it isn't seen from the tokens."""
        return self.sentences

    def make_frame(self) -> Frame:
        """The tokenizer's own, closed by its end."""
        return closed_frame(super().make_frame(), self.hf_tokenizer)

    def rows_maker(self, store: TokenStore, *, evaluate: bool) -> LayOut:
        """Rows that come to `max_length` uncorrupted, as the decoder says them."""
        longest = self.max_length - len(self.frame)
        return partial(lay_out_closed, layout=self.layout, longest=longest, frame=self.frame)

    def collator(self, store: TokenStore, *, evaluate: bool) -> InfillCollate:
        """BART's noise."""
        return InfillCollate(
            store=store,
            frame=self.frame,
            rate=self.mask_rate,
            mean_span=self.mean_span,
            sentence_begins=self._sentence_begins(store),
            words=WordTable.of(self.hf_tokenizer),
            mask_id=self.hf_tokenizer.mask_token_id,
            pad_id=self.pad_id,
            seed=self.seed,
            evaluate=evaluate,
        )

    def _sentence_begins(self, store: TokenStore) -> SentenceBegins | None:
        if not self.permute_sentences:
            return None
        return AsStored(store) if self.sentences else AfterFullStops(full_stops(self.hf_tokenizer))

    def findings(self, seen: Sequence[tuple[Pieces, Batch]]) -> Iterator[Finding]:
        """Words hidden and sentences moved as asked, and targets that are the text."""
        collate = self.collator(self.corpus.train, evaluate=False)
        begins = collate.sentence_begins
        rows: list[PlannedRow] = []
        for pieces, batch in seen:
            text = collate.rows(pieces)
            rows += planned_rows(noised_rows(text, batch), text, collate.infilling(text), begins, self.frame)
        yield from infilling_findings(
            rows,
            self.frame,
            self.hf_tokenizer,
            rate=self.mask_rate,
            mean_span=self.mean_span,
        )
        batches = [batch for _, batch in seen]
        yield from seq2seq_findings([row.sides for row in rows], batches, self.max_length, self.hf_tokenizer)

    def predict_batch(self, texts: list[Text]) -> Batch:
        """Texts to restore, with or without masks."""
        longest, mask = self.max_length - len(self.frame), self.hf_tokenizer.mask_token
        coded = self.hf_tokenizer(
            # a space before the mask would be a token of its own, as it never is in training
            [text.text.replace(f" {mask}", str(mask)) for text in texts],
            add_special_tokens=False,
            truncation=True,
            max_length=longest,
        )
        rows = [[*self.frame.before, *ids, *self.frame.after] for ids in coded["input_ids"]]
        return prompt_batch(rows, texts, self.pad_id)


class Denoising(Task):
    """BART's denoising, for any encoder-decoder that transformers knows.

    References:
        - BART, 2019, https://arxiv.org/abs/1910.13461
    """

    data_class: ClassVar[type[TaskData]] = DenoisingData
    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"

    architecture: str = "bart"
    """What to build from scratch when there is no backbone: a transformers model type."""

    def terms(self, batch: Batch) -> Terms:
        """Cross-entropy over the whole text, in nats; in evaluation also accuracy and the loss on new sentences."""
        return token_terms("denoising", self.logits_at_targets(batch), batch, training=self.training)

    def finish_metrics(self, metrics: dict[str, float], prefix: str) -> dict[str, float]:
        """Adds the perplexity."""
        return metrics | {f"{prefix}/perplexity": perplexity(metrics[f"{prefix}/loss"])}

    def example_text(self) -> str | None:
        """A text to restore."""
        return example_with_mask(self.tokenizer())

    def examples(self, batch: Batch) -> list[dict[str, str]]:
        """Rows of a batch as text: what was asked, what is right, and what the model says."""
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        columns = {"input": prompts(batch), "target": target_rows(batch), "generated": self.answers(batch)}
        return decoded(tokenizer, columns)

    def answers(self, batch: Batch) -> list[list[int]]:
        """What the model says to the encoder's rows, the most likely token each time."""
        assert self.network is not None
        return answer(self.network, prompts(batch), Generation(max_new_tokens=self._link.max_length))

    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        """Each text as the model would have it."""
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        answers = self.answers(batch)
        return [
            {"id": id_, "text": text, "prediction": str(tokenizer.decode(answer, skip_special_tokens=True))}
            for (id_, text), answer in zip(batch["texts"], answers, strict=True)
        ]
