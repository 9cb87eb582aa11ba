"""Permutation language modelling: XLNet's objective, tokens in random order, each from those before it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ptm_lightning.data.batch import Batch, Rows, as_batch, frame_rows
from ptm_lightning.data.layout import Frame, Pieces
from ptm_lightning.data.module import TextData
from ptm_lightning.data.noise import Tokens
from ptm_lightning.data.permutation import factorisation_order, target_spans
from ptm_lightning.data.permutation_findings import permutation_findings
from ptm_lightning.data.predict import Text, text_batch
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.data.tokenizer import raw
from ptm_lightning.data.tokenizer_training import Algorithm
from ptm_lightning.errors import UserError
from ptm_lightning.fill import example_with_mask, fill_masks, masked_examples
from ptm_lightning.findings import Finding
from ptm_lightning.models.rows import only_rows
from ptm_lightning.models.two_streams import permutation_mask, target_mapping, target_slots
from ptm_lightning.task import Task
from ptm_lightning.terms import Ratio, Term, perplexity, token_terms


@dataclass(frozen=True)
class PermutationCollate:
    """Pieces of documents to a batch with targets in random order. The ids stay as they are."""

    store: TokenStore
    frame: Frame
    isolated: bool
    longest: int
    one_in: int
    pad_id: int
    cls_id: int | None
    cls_segment: int
    seed: int
    evaluate: bool
    """Sentences that training doesn't contain are marked."""

    def rows(self, pieces: Pieces) -> Rows:
        """R rows of T places."""
        return frame_rows(pieces, self.store.tokens, self.frame, self.pad_id, isolated=self.isolated)

    def __call__(self, pieces: Pieces) -> Batch:
        """One batch."""
        rows = self.rows(pieces)
        ids = rows.input_ids.ravel()
        tokens = Tokens(ids[rows.content], rows.example, rows.offset, rows.draw)
        chosen = target_spans(tokens, longest=self.longest, one_in=self.one_in, seed=self.seed)
        at = rows.content[chosen]
        order = np.zeros_like(ids)
        order[rows.content] = factorisation_order(tokens, chosen, self.seed)
        framing = np.ones(len(ids), dtype=np.bool_)
        framing[rows.content] = False
        segments = np.where(framing & (ids == self.cls_id), self.cls_segment, 0)

        batch = as_batch(rows, at, ids[at], packed=False, counts={"plm": len(at)})
        batch["order"] = torch.from_numpy(order.reshape(rows.input_ids.shape))
        batch["token_type_ids"] = torch.from_numpy(segments.reshape(rows.input_ids.shape))
        batch["most_targets"] = int(order.max())
        if self.evaluate and self.store.fresh is not None:
            batch["fresh"] = torch.from_numpy(self.store.fresh[rows.offset[chosen]])
        return batch


class PermutationLMData(TextData):
    """Text with spans of tokens that are predicted in random order.

    The ids are not masked: a target is hidden from its own prediction, and seen by those after it in the order. (The
    collator of transformers puts the mask token there, so that no target sees the word of another.) A text has the
    tokenizer's own frame; a tokenizer trained on the spot has XLNet's, with <sep> and <cls> at the end. In blocks,
    <cls> opens a row and <sep> closes a document.

    References:
        - XLNet, 2019, https://arxiv.org/abs/1906.08237
    """

    tokenizer_algorithm: Algorithm = "xlnet"
    """What kind of tokenizer to train."""
    longest_span: int = 5
    """The longest span of targets, in tokens."""
    one_in: int = 6
    """One in so many tokens is a target, XLNet's K: a span of targets lies in so many times as much text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.longest_span < 1:
            raise UserError(f"--data.longest_span {self.longest_span}: give at least 1; XLNet has 5")
        if self.one_in < 2:
            raise UserError(f"--data.one_in {self.one_in}: give at least 2, so that targets see text; XLNet has 6")
        if self.layout == "packed":
            raise UserError("--data.layout packed: XLNet can't keep documents in one row apart; take rows or blocks")

    def make_frame(self) -> Frame:
        """The tokenizer's own special tokens; in blocks, the one for classification opens a row."""
        known = self.hf_tokenizer
        cls, sep = known.cls_token_id, known.sep_token_id
        own = super().make_frame()
        if not len(own) or (self.layout == "blocks" and None in (cls, sep)):
            raise UserError(
                "--data.tokenizer: it frames no text with special tokens, which the first target of a row must see; "
                "take one that has a cls and a sep token, or --data.tokenizer train"
            )
        return Frame((cls,), (sep,)) if self.layout == "blocks" else own

    @property
    def cls_segment(self) -> int:
        """The segment of the token for classification, by the tokenizer: XLNet's has one of its own."""
        coded = raw(self.hf_tokenizer).encode("a")
        return dict(zip(coded.ids, coded.type_ids, strict=True)).get(self.hf_tokenizer.cls_token_id, 0)

    def collator(self, store: TokenStore, *, evaluate: bool) -> Callable[[Pieces], Batch]:
        """XLNet's targets and their order."""
        return PermutationCollate(
            store=store,
            frame=self.frame,
            isolated=self.layout != "blocks",
            longest=self.longest_span,
            one_in=self.one_in,
            pad_id=self.pad_id,
            cls_id=self.hf_tokenizer.cls_token_id,
            cls_segment=self.cls_segment,
            seed=self.seed,
            evaluate=evaluate,
        )

    def findings(self, seen: Sequence[tuple[Pieces, Batch]]) -> Iterator[Finding]:
        """Targets as asked for and none of them special, ids untouched, and steps that are a permutation."""
        collate = self.collator(self.corpus.train, evaluate=False)
        assert isinstance(collate, PermutationCollate)
        rows = [(collate.rows(pieces), batch) for pieces, batch in seen]
        yield from permutation_findings(rows, self.hf_tokenizer, longest=self.longest_span, one_in=self.one_in)

    def show_row(self, batch: Batch, row: int) -> str:
        """A row as text: {token:step} for the targets, with the step at which they are predicted."""
        real = batch["document_ids"][row] > 0
        tokens = self.hf_tokenizer.convert_ids_to_tokens(batch["input_ids"][row, real].tolist())
        steps = batch["order"][row, real].tolist()
        return " ".join(
            f"{{{token}:{step}}}" if step else str(token) for token, step in zip(tokens, steps, strict=True)
        )

    def predict_batch(self, texts: list[Text]) -> Batch:
        """Texts in which the mask token stands where the model shall guess: each from all that is not masked."""
        known, mask_token = self.hf_tokenizer, self.hf_tokenizer.mask_token
        if mask_token is None:
            raise UserError("--data.tokenizer: the tokenizer has no mask token to mark what shall be predicted")
        for text in texts:
            if mask_token not in text.text:
                raise UserError(f"--data.predict: text {text.id} has no {mask_token} to fill: {text.text[:60]!r}")
        batch = text_batch(texts, known, self.max_length)
        ids = batch["input_ids"]
        batch["order"] = (ids == known.mask_token_id).long()
        batch["target_index"] = torch.nonzero(batch["order"].flatten()).squeeze(1)
        batch["most_targets"] = max(1, int(batch["order"].sum(dim=1).max()))  # masks may be cut off
        batch["token_type_ids"] = (ids == known.cls_token_id).long() * self.cls_segment
        return batch


class PermutationLM(Task):
    """XLNet's permutation language modelling, without its memory of earlier rows (mems).

    References:
        - XLNet, 2019, https://arxiv.org/abs/1906.08237
    """

    data_class: ClassVar[type[TaskData]] = PermutationLMData
    auto_class: ClassVar[str] = "AutoModelForCausalLM"

    architecture: str = "xlnet"
    """What to build from scratch when there is no backbone: a network with XLNet's two streams of attention."""

    def check_kind(self, kind: type[PreTrainedConfig], flag: str) -> None:
        """Refuses a network without two streams."""
        if kind.model_type != "xlnet":
            raise UserError(f"{flag}: can't predict in any order; give an xlnet, the only one that can")

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """The network's arguments: who sees whom, and what is predicted."""
        assert self.network is not None
        rows, width = batch["input_ids"].shape
        mapping = target_mapping(batch["target_index"], rows, width, batch["most_targets"])
        return super().inputs(batch) | {
            "perm_mask": permutation_mask(batch["order"]).to(self.network.dtype),
            "target_mapping": mapping.to(self.network.dtype),
            "use_mems": False,
        }

    def logits_at_targets(self, batch: Batch) -> Tensor:
        """(N, vocabulary): the logits of the targets alone, of the (R, P) that the query stream predicts."""
        assert self.network is not None
        slots = target_slots(batch["target_index"], batch["input_ids"].shape[1], batch["most_targets"])
        with only_rows(self.network, slots):
            logits: Tensor = self.network(**self.inputs(batch)).logits
        return logits.flatten(0, 1)

    def hidden_from(self, batch: Batch, number: int) -> Tensor:
        """The target itself and later ones, beside other rows and padding."""
        hidden = super().hidden_from(batch, number)
        row, place = divmod(int(batch["target_index"][number]), hidden.shape[1])
        hidden[row] |= batch["order"][row] >= batch["order"][row, place]
        return hidden

    def terms(self, batch: Batch) -> Mapping[str, Term | Ratio]:
        """Cross-entropy of the targets, in nats; in evaluation also accuracy and the loss on new sentences."""
        return token_terms("plm", self.logits_at_targets(batch), batch, training=self.training)

    def finish_metrics(self, metrics: dict[str, float], prefix: str) -> dict[str, float]:
        """Adds the perplexity of the targets."""
        return metrics | {f"{prefix}/perplexity": perplexity(metrics[f"{prefix}/loss"])}

    def example_text(self) -> str | None:
        """A text with a mask to fill."""
        return example_with_mask(self.tokenizer())

    def examples(self, batch: Batch) -> list[dict[str, str]]:
        """Rows of a batch as text with masks for the targets, with the targets and the best guesses for them."""
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        hides = tokenizer.mask_token_id if tokenizer.mask_token_id is not None else tokenizer.pad_token_id
        hidden = batch["input_ids"].masked_fill(batch["order"] > 0, hides)
        shown: Batch = {**batch, "input_ids": hidden}
        return masked_examples(self.logits_at_targets(batch).float().detach(), shown, tokenizer)

    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        """The best guesses for each mask token, and the text with the first ones filled in."""
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        return fill_masks(self.logits_at_targets(batch).float(), batch, tokenizer)
