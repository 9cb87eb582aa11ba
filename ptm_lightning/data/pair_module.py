"""PairText: the data module of objectives that ask how two segments of text belong together."""

from abc import ABC
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ptm_lightning.data.batch import Batch, Rows, frame_rows
from ptm_lightning.data.layout import Frame, Pieces
from ptm_lightning.data.masked import MaskCollate, MaskedText
from ptm_lightning.data.pair_findings import short_rows, wrong_types
from ptm_lightning.data.pairs import LayOutPairs, follows
from ptm_lightning.data.sentences import RULES
from ptm_lightning.data.store import TokenStore
from ptm_lightning.errors import UserError
from ptm_lightning.findings import Finding, faults, share
from ptm_lightning.log import say

SHORTEST = 7
"""Three special tokens, and two for each segment."""
LATER, EARLIER = (f"the second comes {where} in the same document" for where in ("later", "earlier"))
OTHER = "the second is of another document"


def pair_rows(pieces: Pieces, masking: MaskCollate) -> Rows:
    """Rows of two segments, before the noise; all of a row sees itself."""
    return frame_rows(pieces, masking.store.tokens, masking.frame, masking.pad_id, isolated=False)


@dataclass(frozen=True)
class PairCollate:
    """Pieces, two for each row, to a batch with masked tokens, segments and labels."""

    masking: MaskCollate
    term: str
    """The name of the pair's loss term."""

    def __call__(self, pieces: Pieces) -> Batch:
        """One batch of R rows of T places; label 0: the second segment follows the first, 1: it doesn't."""
        masking = self.masking
        rows = pair_rows(pieces, masking)
        batch = masking.noised(rows)
        first = pieces.totals(masking.frame)[::2, None]
        second = (np.arange(rows.input_ids.shape[1]) >= first) & (rows.document_ids > 0)
        labels = 1 - follows(pieces, masking.store.offsets).astype(np.int64)
        return {
            **batch,
            "token_type_ids": torch.from_numpy(second.astype(np.int64)),
            "labels": torch.from_numpy(labels),
            "counts": batch["counts"] | {self.term: len(labels)},
        }


class PairText(MaskedText, ABC):
    """Rows of two segments, [CLS] first [SEP] second [SEP], with masked tokens and a label."""

    short_share: float = 0.1
    """Share of the documents whose rows are shorter than max_length, by a random length."""

    sentences: str = RULES
    """What finds sentences: rules, a spaCy pipeline that is installed, or a language for spaCy's rules, such as xx."""

    pair_term: ClassVar[str]
    """The name of the pair's loss term."""
    swapped: ClassVar[bool]
    """Whether a negative row has its segments swapped; else the second is of another document."""
    label_names: ClassVar[tuple[str, str]]
    """What labels 0 and 1 mean, for people."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout != "rows":
            raise UserError(f"--data.layout {self.layout}: pairs of segments have rows of their own; leave it out")
        if not 0 <= self.short_share <= 1:
            raise UserError(f"--data.short_share {self.short_share}: give a share between 0 and 1, such as 0.1")
        if self.max_length < SHORTEST:
            raise UserError(f"--data.max_length {self.max_length}: two segments need at least {SHORTEST}")

    def setup(self, stage: str) -> None:
        """Opens the stores; pairs must be possible in each."""
        super().setup(stage)
        if not self._predicts():
            self._check(self.corpus.train, "--data.train")
            self._check(self.corpus.validation, "--data.validation" if self.validation else "--data.validation_share")
            if self.corpus.test is not None:
                self._check(self.corpus.test, "--data.test")

    def sentence_splitter(self) -> str:
        """The stores say where sentences begin."""
        return self.sentences

    def make_frame(self) -> Frame:
        """[CLS] and [SEP], whatever the tokenizer itself puts around a text."""
        first, last = self.hf_tokenizer.cls_token_id, self.hf_tokenizer.sep_token_id
        if first is None or last is None:
            raise UserError(
                "--data.tokenizer: the tokenizer lacks cls_token or sep_token, which stand around the segments; "
                "take one that has them, or --data.tokenizer train"
            )
        return Frame((first,), (last,))

    def rows_maker(self, store: TokenStore, *, evaluate: bool) -> LayOutPairs:
        """Pairs of segments."""
        return LayOutPairs(store, self.frame, self.max_length, self.short_share, self.swapped, self.seed)

    def collator(self, store: TokenStore, *, evaluate: bool) -> Callable[[Pieces], Batch]:
        """BERT's noise, segments and labels."""
        return PairCollate(self.masking_collator(store, evaluate=evaluate), self.pair_term)

    def original_rows(self, pieces: Pieces) -> Rows:
        """The rows of these pieces before the noise."""
        return pair_rows(pieces, self.masking_collator(self.corpus.train, evaluate=False))

    def findings(self, seen: Sequence[tuple[Pieces, Batch]]) -> Iterator[Finding]:
        """What masking must keep; true labels, both about as often; segments told apart, and rows filled as asked."""
        yield from super().findings(seen)
        asked = self.rows_maker(self.corpus.train, evaluate=False)
        offsets, labels, wrong, types = self.corpus.train.offsets, np.zeros(0, dtype=np.int64), [], []
        for pieces, batch in seen:
            label = batch["labels"].numpy()
            first, second = pieces.start[::2], pieces.start[1::2]
            same = np.searchsorted(offsets, first, side="right") == np.searchsorted(offsets, second, side="right")
            in_order = same & (second >= first + pieces.length[::2])  # what was cut may lie between them
            swapped = same & (first >= second + pieces.length[1::2])
            true = np.where(label == 0, in_order, swapped if self.swapped else ~same)
            labels = np.append(labels, label)
            really = np.where(in_order, LATER, np.where(same, EARLIER, OTHER))
            wrong += [f"{self.show_row(batch, row)}, but {really[row]}" for row in np.flatnonzero(~true).tolist()]
            types += [self._show_types(batch, row) for row in wrong_types(pieces, batch, asked)]
        yield faults("pairs whose label is not true", wrong, len(labels))
        yield share(f"pairs that are {self.label_names[1]!r}", 0.5, int(labels.sum()), len(labels))
        yield faults("pairs whose token types don't tell them apart", types, len(labels))
        yield short_rows(asked)

    def _show_types(self, batch: Batch, row: int) -> str:
        tokens = self.hf_tokenizer.convert_ids_to_tokens(batch["input_ids"][row].tolist())
        types = batch["token_type_ids"][row].tolist()
        return " ".join(f"{token}:{kind}" for token, kind in zip(tokens, types, strict=True))

    def show_row(self, batch: Batch, row: int) -> str:
        """A row of a training batch for people, with what its label means."""
        return f"{super().show_row(batch, row)}\n  -> {self.label_names[int(batch['labels'][row])]}"

    def _check(self, store: TokenStore, flag: str) -> None:
        """Refuses a store that has no two segments of a document, or no other document; counts what gives no row."""
        if len(store) < 2 and not self.swapped:
            raise UserError(
                f"{flag}: a single document, so that no text is of another one; divide it "
                "(--data.split_text blank_line or line) or give more"
            )
        assert store.sentence_starts is not None
        single = int((np.diff(np.searchsorted(store.sentence_starts, store.offsets)) < 2).sum())
        if single == len(store):
            raise UserError(
                f"{flag}: none of {single:,} documents has two sentences, so that no pair can be made; give longer "
                "documents (blank lines divide those of a .txt file; a sentence ends at . ! ? or at a line's end)"
            )
        if single and flag == "--data.train":
            say(f"{flag}: {single:,} of {len(store):,} documents have one sentence and give no pair")
