"""Masked language modelling: BERT's and RoBERTa's objective, with tokens, words or spans masked."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ptm_lightning.data.batch import Batch, Rows, as_batch, frame_rows
from ptm_lightning.data.layout import Frame, Pieces
from ptm_lightning.data.masking_findings import masking_findings
from ptm_lightning.data.module import TextData
from ptm_lightning.data.noise import Bools, Ints, Tokens, Unit, mask, span_starts
from ptm_lightning.data.predict import Text, text_batch
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.tokenizer import ordinary_ids
from ptm_lightning.data.words import WordTable
from ptm_lightning.errors import UserError
from ptm_lightning.findings import Finding
from ptm_lightning.task import Task
from ptm_lightning.terms import Ratio, Term

GUESSES = 5


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
        rows = self.rows(pieces)
        ids = rows.input_ids.ravel()
        tokens = Tokens(ids[rows.content], rows.example, rows.offset, rows.draw)
        masked = mask(
            tokens,
            self.unit_starts(tokens),
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

    def rows(self, pieces: Pieces) -> Rows:
        """The rows before the noise."""
        return frame_rows(pieces, self.store.tokens, self.frame, self.pad_id, isolated=self.isolated)

    def of_targets(self, draw: Ints, offset: Ints) -> Batch:
        """What else the batch says of N targets: (N,) how often each was drawn before, (N,) its place in the store."""
        if self.evaluate and self.store.fresh is not None:
            return Batch(fresh=torch.from_numpy(self.store.fresh[offset]))
        return Batch()

    def unit_starts(self, tokens: Tokens) -> Bools:
        """(n,) true where a unit begins."""
        if self.unit == "token":
            return np.ones(len(tokens.ids), dtype=np.bool_)
        starts = self.words.starts(tokens.ids) | (np.diff(tokens.example, prepend=-1) > 0)
        return span_starts(starts, tokens, self.seed) if self.unit == "span" else starts


class MaskedLMData(TextData):
    """Text with masked tokens, whole words or spans.

    References:
        - BERT, 2018, https://arxiv.org/abs/1810.04805
        - SpanBERT, 2019, https://arxiv.org/abs/1907.10529
    """

    collate: ClassVar[type[MaskCollate]] = MaskCollate

    masking: Unit = "token"
    """What is masked as a whole: single tokens, whole words, or spans of 1 to 10 words."""
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

    def collator(self, store: TokenStore, *, evaluate: bool) -> Callable[[Pieces], Batch]:
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
            pad_id=self.hf_tokenizer.pad_token_id,
            mask_id=self.hf_tokenizer.mask_token_id,
            ordinary_ids=ordinary_ids(self.hf_tokenizer),
            words=WordTable.of(self.hf_tokenizer),
            seed=self.seed,
            evaluate=evaluate,
        )

    def findings(self, seen: Sequence[tuple[Pieces, Batch]]) -> Iterator[Finding]:
        """Shares as asked, special tokens untouched, words whole, and targets that rebuild the text."""
        collate = self.collator(self.corpus.train, evaluate=False)
        assert isinstance(collate, MaskCollate)
        yield from masking_findings(
            [(collate.rows(pieces), batch) for pieces, batch in seen],
            collate.unit_starts,
            self.hf_tokenizer,
            rate=self.mask_rate,
            mask_share=self.mask_share,
            random_share=self.random_share,
            ordinary_ids=collate.ordinary_ids,
        )

    def predict_batch(self, texts: list[Text]) -> Batch:
        """Texts in which the mask token stands where the model shall guess."""
        mask_token, mask_id = self.hf_tokenizer.mask_token, self.hf_tokenizer.mask_token_id
        for text in texts:
            if mask_token not in text.text:
                raise UserError(f"--data.predict: text {text.id} has no {mask_token} to fill: {text.text[:60]!r}")
        batch = text_batch(texts, self.hf_tokenizer, self.max_length)
        batch["target_index"] = torch.nonzero(batch["input_ids"].flatten() == mask_id).squeeze(1)
        return batch


class MaskedLM(Task):
    """BERT's masked language modelling, for any encoder that transformers knows for it.

    References:
        - BERT, 2018, https://arxiv.org/abs/1810.04805
        - RoBERTa, 2019, https://arxiv.org/abs/1907.11692
    """

    data_class: ClassVar[type[TextData]] = MaskedLMData
    auto_class: ClassVar[str] = "AutoModelForMaskedLM"

    def terms(self, batch: Batch) -> Mapping[str, Term | Ratio]:
        """Cross-entropy at the targets, in nats; in evaluation also accuracy and the loss on new sentences."""
        logits = self.logits_at_targets(batch).float()  # (N, vocabulary)
        targets, count = batch["targets"], batch["counts"]["mlm"]
        if self.training:
            return {"mlm": Term(functional.cross_entropy(logits, targets, reduction="sum"), count)}
        losses = functional.cross_entropy(logits, targets, reduction="none")
        terms: dict[str, Term | Ratio] = {
            "mlm": Term(losses.sum(), count),
            "accuracy": Ratio((logits.argmax(dim=-1) == targets).sum(), count),
        }
        if "fresh" in batch:
            fresh = batch["fresh"]
            terms["loss_new_sentences"] = Ratio((losses * fresh).sum(), fresh.sum())
        return terms

    def finish_metrics(self, metrics: dict[str, float], prefix: str) -> dict[str, float]:
        """Adds the perplexity of masked tokens."""
        return metrics | {f"{prefix}/perplexity": exp(min(metrics[f"{prefix}/loss"], 700.0))}

    def example_text(self) -> str | None:
        """A text with a mask to fill."""
        tokenizer = self.tokenizer()
        return f"Returns a {tokenizer.mask_token} of the given object." if tokenizer is not None else None

    def examples(self, batch: Batch) -> list[dict[str, str]]:
        """Rows of a batch as text, with the targets and the best guesses for them."""
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        logits = self.logits_at_targets(batch).float().detach()
        losses = functional.cross_entropy(logits, batch["targets"], reduction="none")
        guesses, width = logits.argmax(dim=-1), batch["input_ids"].shape[1]
        examples = []
        for row, (ids, real) in enumerate(zip(batch["input_ids"], batch["document_ids"] > 0, strict=True)):
            mine = batch["target_index"] // width == row
            examples.append(
                {
                    "text": str(tokenizer.decode(ids[real])),
                    "targets": ", ".join(tokenizer.convert_ids_to_tokens(batch["targets"][mine].tolist())),
                    "guesses": ", ".join(tokenizer.convert_ids_to_tokens(guesses[mine].tolist())),
                    "loss": f"{float(losses[mine].mean()):.3f}",
                }
            )
        return examples

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """The best guesses for each mask token, and the text with the first ones filled in."""
        scores: Tensor = self.logits_at_targets(batch).float().softmax(dim=-1)  # (N, vocabulary)
        best = scores.topk(min(GUESSES, scores.shape[-1]))
        row = batch["target_index"] // batch["input_ids"].shape[1]
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        results = []
        for i, (id_, text) in enumerate(batch["texts"]):
            mine = (row == i).nonzero().flatten().tolist()
            guesses = [
                [
                    {"token": str(tokenizer.decode([token])).strip(), "probability": score}
                    for token, score in zip(best.indices[n].tolist(), best.values[n].tolist(), strict=True)
                ]
                for n in mine
            ]
            filled = text
            for guess in guesses:
                filled = filled.replace(tokenizer.mask_token, guess[0]["token"], 1)
            results.append({"id": id_, "text": text, "prediction": filled, "guesses": guesses})
        return results
