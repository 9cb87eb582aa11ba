"""MaskedText: text with masked tokens, whole words, spans or n-grams, and texts whose masks are to be filled."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ptm_lightning.data.batch import Batch, Rows, as_batch, frame_rows
from ptm_lightning.data.layout import Frame, Pieces
from ptm_lightning.data.module import TextData
from ptm_lightning.data.noise import NGRAM_LENGTHS, SPAN_LENGTHS, Bools, Ints, Tokens, Unit, mask, span_starts
from ptm_lightning.data.predict import Text
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.tokenizer import ordinary_ids
from ptm_lightning.data.words import WordTable
from ptm_lightning.errors import UserError


@dataclass(frozen=True)
class MaskCollate:
    """Pieces of documents to a batch with BERT's noise."""

    store: TokenStore
    frame: Frame
    isolated: bool
    packed: bool
    unit: Unit
    rate: float
    mask_share: float
    random_share: float
    pad_id: int
    mask_id: int
    ordinary_ids: Ints
    words: WordTable
    seed: int
    evaluate: bool
    """Noise without an epoch in it, and sentences that training doesn't contain marked."""

    def __call__(self, pieces: Pieces) -> Batch:
        """One batch of R rows of T places."""
        return self.noised(frame_rows(pieces, self.store.tokens, self.frame, self.pad_id, isolated=self.isolated))

    def noised(self, rows: Rows) -> Batch:
        """One batch of framed rows, whose ids are changed in place."""
        ids = rows.input_ids.ravel()
        tokens = Tokens(ids[rows.content], rows.example, rows.offset, rows.draw)
        masked = mask(
            tokens,
            self._unit_starts(tokens),
            rate=self.rate,
            mask_share=self.mask_share,
            random_share=self.random_share,
            mask_id=self.mask_id,
            ordinary_ids=self.ordinary_ids,
            seed=self.seed,
        )
        ids[rows.content] = masked.ids
        targets = np.flatnonzero(masked.chosen)
        batch = as_batch(
            rows, rows.content[targets], tokens.ids[targets], packed=self.packed, counts={"mlm": len(targets)}
        )
        if self.evaluate and self.store.fresh is not None:
            batch["fresh"] = torch.from_numpy(self.store.fresh[rows.offset[targets]])
        return batch

    def _unit_starts(self, tokens: Tokens) -> Bools:
        if self.unit == "token":
            return np.ones(len(tokens.ids), dtype=np.bool_)
        starts = self.words.starts(tokens.ids) | (np.diff(tokens.example, prepend=-1) > 0)
        if self.unit == "word":
            return starts
        return span_starts(starts, tokens, SPAN_LENGTHS if self.unit == "span" else NGRAM_LENGTHS, self.seed)


class MaskedText(TextData, ABC):
    """Text with masked tokens, words, spans or n-grams: the data module that masked language models build on.

    References:
        - BERT, 2018, https://arxiv.org/abs/1810.04805
        - SpanBERT, 2019, https://arxiv.org/abs/1907.10529
        - ALBERT, 2019, https://arxiv.org/abs/1909.11942
    """

    masking: Unit = "token"
    """What is masked as a whole: single tokens, whole words, spans of 1 to 10 words, or n-grams of 1 to 3 words."""
    mask_rate: float = 0.15
    """Share of the tokens that become targets in training."""
    validation_mask_rate: float = 0.15
    """The same in validation and test: leave it, so that losses compare."""
    mask_share: float = 0.8
    """Share of the targets that are replaced by the mask token."""
    random_share: float = 0.1
    """Share of the targets that are replaced by random tokens; the rest stays as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mask_rate", "validation_mask_rate"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"--data.{name} {getattr(self, name)}: give a share between 0 and 1, such as 0.15")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise UserError("--data.mask_share and --data.random_share: give shares that sum to at most 1")

    def setup(self, stage: str) -> None:
        """Opens the stores; the tokenizer must have a mask token."""
        super().setup(stage)
        if self.hf_tokenizer.mask_token_id is None:
            raise UserError(
                "--data.tokenizer: the tokenizer has no mask token; take one that has, or --data.tokenizer train"
            )

    @abstractmethod
    def collator(self, store: TokenStore, *, evaluate: bool) -> Callable[[Pieces], Batch]:
        """What makes a batch: `masking_collator`, or what adds to its batches."""

    def masking_collator(self, store: TokenStore, *, evaluate: bool) -> MaskCollate:
        """BERT's noise."""
        return MaskCollate(
            store=store,
            frame=self.frame,
            isolated=self.layout != "blocks",
            packed=self.layout == "packed",
            unit=self.masking,
            rate=self.validation_mask_rate if evaluate else self.mask_rate,
            mask_share=self.mask_share,
            random_share=self.random_share,
            pad_id=self.hf_tokenizer.pad_token_id,
            mask_id=self.hf_tokenizer.mask_token_id,
            ordinary_ids=ordinary_ids(self.hf_tokenizer),
            words=WordTable.of(self.hf_tokenizer),
            seed=self.seed,
            evaluate=evaluate,
        )

    def predict_batch(self, texts: list[Text]) -> Batch:
        """Texts in which the mask token stands where the model shall guess."""
        mask_token, mask_id = self.hf_tokenizer.mask_token, self.hf_tokenizer.mask_token_id
        for text in texts:
            if mask_token not in text.text:
                raise UserError(f"--data.predict: text {text.id} has no {mask_token} to fill: {text.text[:60]!r}")
        coded = self.hf_tokenizer(
            [text.text for text in texts],
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        ids, real = coded["input_ids"], coded["attention_mask"]
        index = torch.nonzero(ids.flatten() == mask_id).squeeze(1)
        return Batch(
            input_ids=ids,
            document_ids=real,
            position_ids=torch.arange(ids.shape[1]).expand_as(ids),
            target_index=index,
            padded=bool((real == 0).any()),
            packed=False,
            texts=[(text.id, text.text) for text in texts],
        )
