"""MaskedText: text with masked tokens, whole words, spans or n-grams, and texts whose masks are to be filled."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch

from ptm_lightning.data.batch import Batch, Rows, as_batch, frame_rows
from ptm_lightning.data.layout import Frame, Pieces
from ptm_lightning.data.masking_findings import LAWS, length_findings, masking_findings
from ptm_lightning.data.module import TextData
from ptm_lightning.data.noise import NGRAM_LENGTHS, SPAN_LENGTHS, Bools, Floats, Ints, Tokens, Unit, mask, span_starts
from ptm_lightning.data.predict import Text, text_batch
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.token_bytes import bytes_by_id
from ptm_lightning.data.tokenizer import ordinary_ids
from ptm_lightning.data.words import WordTable
from ptm_lightning.data.words_anew import WordsAnew
from ptm_lightning.errors import UserError
from ptm_lightning.findings import Finding


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
    words: WordTable | None
    """None where units are tokens, which need no words."""
    seed: int
    bytes_by_id: Floats | None
    """(vocabulary,) bytes of text for each token; in evaluation, where sentences that are new are marked, too."""

    def __call__(self, pieces: Pieces) -> Batch:
        """One batch of R rows of T places."""
        return self.noised(self.rows(pieces))

    def rows(self, pieces: Pieces) -> Rows:
        """The rows before the noise."""
        return frame_rows(pieces, self.store.tokens, self.frame, self.pad_id, isolated=self.isolated)

    def noised(self, rows: Rows) -> Batch:
        """One batch of framed rows, whose ids are changed in place."""
        ids = rows.input_ids.ravel()
        tokens = Tokens(ids[rows.content], rows.example, rows.offset, rows.draw)
        masked = mask(
            tokens,
            self.unit_starts(tokens, rows),
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
        batch.update(self.of_targets(rows.draw[targets], rows.offset[targets]))
        return batch

    def of_targets(self, draw: Ints, offset: Ints) -> Batch:
        """What else the batch says of N targets: (N,) how often each was drawn before, (N,) its place in the store."""
        if self.bytes_by_id is None:
            return Batch()
        said = Batch(bytes=float(self.bytes_by_id[self.store.tokens[offset]].sum()))
        if self.store.fresh is not None:
            said["fresh"] = torch.from_numpy(self.store.fresh[offset])
        return said

    def unit_starts(self, tokens: Tokens, rows: Rows) -> Bools:
        """(n,) true where a unit begins: at the latest where another text does."""
        if self.words is None:
            return np.ones(len(tokens.ids), dtype=np.bool_)
        apart = self.text_starts(rows)
        starts = self.words.starts(tokens.ids) | apart
        if self.unit == "word":
            return starts
        texts = tokens._replace(example=np.cumsum(apart))
        return span_starts(starts, texts, SPAN_LENGTHS if self.unit == "span" else NGRAM_LENGTHS, self.seed)

    def text_starts(self, rows: Rows) -> Bools:
        """(n,) true where a stretch of text begins: a row, a document, or what follows a special token."""
        offsets = self.store.offsets
        begins = offsets[np.searchsorted(offsets, rows.offset)] == rows.offset
        return np.asarray(begins | (np.diff(rows.content, prepend=-2) > 1) | (np.diff(rows.example, prepend=-1) > 0))


class MaskedText(TextData, ABC):
    """Text with masked tokens, words, spans or n-grams: the data module that masked language models build on.

    References:
        - BERT, 2018, https://arxiv.org/abs/1810.04805
        - SpanBERT, 2019, https://arxiv.org/abs/1907.10529
        - ALBERT, 2019, https://arxiv.org/abs/1909.11942
    """

    collate: ClassVar[type[MaskCollate]] = MaskCollate

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
        return self.collate(
            store=store,
            frame=self.frame,
            isolated=self.layout != "blocks",
            packed=self.layout == "packed",
            unit=self.masking,
            rate=self.validation_mask_rate if evaluate else self.mask_rate,
            mask_share=self.mask_share,
            random_share=self.random_share,
            pad_id=self.pad_id,
            mask_id=self.hf_tokenizer.mask_token_id,
            ordinary_ids=ordinary_ids(self.hf_tokenizer),
            words=None if self.masking == "token" else WordTable.of(self.hf_tokenizer),
            seed=self.seed,
            bytes_by_id=bytes_by_id(self.hf_tokenizer, store) if evaluate else None,
        )

    def original_rows(self, pieces: Pieces) -> Rows:
        """The rows of these pieces before the noise, for `check`."""
        return self.masking_collator(self.corpus.train, evaluate=False).rows(pieces)

    def findings(self, seen: Sequence[tuple[Pieces, Batch]]) -> Iterator[Finding]:
        """Shares as asked, special tokens untouched, words whole, lengths by law, and targets that rebuild the text."""
        collate = self.masking_collator(self.corpus.train, evaluate=False)
        rows = [self.original_rows(pieces) for pieces, _ in seen]
        if (law := LAWS.get(self.masking)) is not None:
            word_starts = replace(collate, unit="word").unit_starts
            yield from length_findings(rows, law, collate.unit_starts, word_starts, collate.text_starts)
        yield from masking_findings(
            [(original, batch) for original, (_, batch) in zip(rows, seen, strict=True)],
            collate.unit_starts,
            collate.text_starts,
            self.hf_tokenizer,
            rate=self.mask_rate,
            mask_share=self.mask_share,
            random_share=self.random_share,
            ordinary_ids=collate.ordinary_ids,
            words=None if self.masking == "token" else WordsAnew(self.hf_tokenizer),
        )

    def predict_batch(self, texts: list[Text]) -> Batch:
        """Texts in which the mask token stands where the model shall guess."""
        mask_token, mask_id = self.hf_tokenizer.mask_token, self.hf_tokenizer.mask_token_id
        for text in texts:
            if mask_token not in text.text:
                raise UserError(
                    f"--text or --data.predict: text {text.id} has no {mask_token} to fill: {text.text[:60]!r}"
                )
        batch = text_batch(texts, self.hf_tokenizer, self.max_length)
        batch["target_index"] = torch.nonzero(batch["input_ids"].flatten() == mask_id).squeeze(1)
        return batch
