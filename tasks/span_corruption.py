"""Span corruption: T5's objective, and UL2's mixture of denoisers."""

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.layout import Frame, LayOut, Pieces
from ptm_lightning.data.module import TextData
from ptm_lightning.data.noise import Ints
from ptm_lightning.data.predict import Text
from ptm_lightning.data.seq2seq import (
    closed_frame,
    lay_out_closed,
    prompt_batch,
    prompts,
    refuse_packed,
    target_rows,
)
from ptm_lightning.data.seq2seq_findings import Seq2SeqRow, noised_rows, seq2seq_findings
from ptm_lightning.data.show import decoded
from ptm_lightning.data.span_corruption import (
    Denoiser,
    SpanCollate,
    check_noise,
    longest_text,
    read_denoiser,
    span_counts,
    split_spans,
)
from ptm_lightning.data.span_findings import span_findings
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.data.tokenizer import sentinel_ids
from ptm_lightning.errors import UserError
from ptm_lightning.findings import Finding
from ptm_lightning.generate import Generation, answer
from ptm_lightning.optim import OptimizerName
from ptm_lightning.task import Task
from ptm_lightning.terms import Ratio, Terms, perplexity, token_terms

SENTINELS = 100
"""T5's number of them."""


class SpanCorruptionData(TextData):
    """Text in which spans gave way to sentinels, `<extra_id_0>` first, and what stood there as the target.

    As in Google's code the number of noise tokens and of spans is exact, a row begins with text and ends with noise,
    and so no sentinel closes the targets; both sides end with the tokenizer's end. In blocks, rows of text are so long
    that they come to exactly `max_length` once corrupted. A tokenizer trained here gets 100 sentinels on top of
    `vocab_size`. With `denoisers`, each row gets a kind of noise by chance, and a token at its beginning that names it;
    rows then differ in length once corrupted.

    References:
        - T5, 2019, https://arxiv.org/abs/1910.10683
        - UL2, 2022, https://arxiv.org/abs/2205.05131
    """

    noise_density: float = 0.15
    """Share of the tokens that the decoder must say."""
    mean_span: float = 3.0
    """Mean length of a span, in tokens."""
    denoisers: list[dict[str, Any]] | None = None
    """Kinds of noise to mix instead: density, mean_span (without it one span, at the end), weight, mode (R for [R])."""

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_packed(self.layout)
        check_noise("noise_density", self.noise_density, "mean_span", self.mean_span)
        self.kinds: tuple[Denoiser, ...] = (Denoiser(self.noise_density, self.mean_span),)
        if self.denoisers is not None:
            if (self.noise_density, self.mean_span) != (0.15, 3.0):
                raise UserError("--data.denoisers: say density and mean_span in it, not beside it")
            self.kinds = tuple(map(read_denoiser, self.denoisers))
            if not self.kinds or len({kind.mode is None for kind in self.kinds}) > 1:
                raise UserError("--data.denoisers: give at least one, and a mode to all of them or to none")

    def special_tokens(self) -> tuple[str, ...]:
        """The sentinels, then the modes."""
        modes = dict.fromkeys(kind.token for kind in self.kinds if kind.token is not None)
        return (*(f"<extra_id_{i}>" for i in range(SENTINELS)), *modes)

    def make_frame(self) -> Frame:
        """The tokenizer's own, closed by its end."""
        return closed_frame(super().make_frame(), self.hf_tokenizer)

    def setup(self, stage: str) -> None:
        """Opens the stores; the tokenizer must have sentinels enough for the longest row."""
        super().setup(stage)
        self.sentinels = sentinel_ids(self.hf_tokenizer)
        longest = np.array([self._longest()])
        spans = max(int(span_counts(longest, kind.density, kind.mean_span)[1][0]) for kind in self.kinds)
        if spans > len(self.sentinels):
            raise UserError(
                f"--data.tokenizer: it has {len(self.sentinels)} sentinels (<extra_id_0>, ...), and rows of "
                f"--data.max_length {self.max_length} need {spans}; take --data.tokenizer train or another with "
                "sentinels, shorter rows, or a longer --data.mean_span"
            )

    def _longest(self) -> int:
        """Tokens of the longest text that fits both sides once corrupted."""
        inputs, targets = self.max_length - len(self.frame), self.max_length - 1
        if not (longest := longest_text(inputs, targets, self.kinds)):
            raise UserError(f"--data.max_length {self.max_length}: leaves no text to corrupt; give more, such as 128")
        return longest

    def rows_maker(self, store: TokenStore, *, evaluate: bool) -> LayOut:
        """Rows that are longer than `max_length` by as much as the noise takes away."""
        return partial(lay_out_closed, layout=self.layout, longest=self._longest(), frame=self.frame)

    def collator(self, store: TokenStore, *, evaluate: bool) -> SpanCollate:
        """T5's noise."""
        return SpanCollate(
            store=store,
            frame=self.frame,
            kinds=self.kinds,
            modes=self._modes(),
            sentinels=self.sentinels,
            pad_id=self.pad_id,
            seed=self.seed,
            evaluate=evaluate,
        )

    def _modes(self) -> Ints:
        """The ids of the modes, by kind of noise."""
        known = self.hf_tokenizer.get_vocab()
        names = [kind.token for kind in self.kinds if kind.token is not None]
        if missing := [name for name in names if name not in known]:
            raise UserError(
                f"--data.denoisers: the tokenizer has no token {missing[0]}; "
                "take --data.tokenizer train, or other modes"
            )
        return np.array([known[name] for name in names], dtype=np.int64)

    def findings(self, seen: Sequence[tuple[Pieces, Batch]]) -> Iterator[Finding]:
        """Noise and spans as asked, sentinels in their order, and sides that rebuild the text."""
        collate = self.collator(self.corpus.train, evaluate=False)
        rows: list[Seq2SeqRow] = []
        kinds: list[int] = []
        for pieces, batch in seen:
            text = collate.rows(pieces)
            rows += noised_rows(text, batch)
            kinds += collate.kinds_of(text).tolist()
        yield from span_findings(rows, kinds, collate, self.hf_tokenizer)
        yield from seq2seq_findings(rows, [batch for _, batch in seen], self.max_length, self.hf_tokenizer)

    def predict_batch(self, texts: list[Text]) -> Batch:
        """Texts in which sentinels stand where the model shall fill something in."""
        rows = self.hf_tokenizer(
            [text.text for text in texts],
            add_special_tokens=False,
            truncation=True,
            max_length=self.max_length - len(self.frame),
        )["input_ids"]
        for text, ids in zip(texts, rows, strict=True):
            if not set(self.sentinels.tolist()) & set(ids):
                first = self.hf_tokenizer.convert_ids_to_tokens(int(self.sentinels[0]))
                raise UserError(f"--text or --data.predict: text {text.id} has no {first} to fill: {text.text[:60]!r}")
        framed = [[*self.frame.before, *ids, *self.frame.after] for ids in rows]
        return prompt_batch(framed, texts, self.pad_id)


class SpanCorruption(Task):
    """T5's span corruption, and with `denoisers` UL2's, for any encoder-decoder that transformers knows.

    References:
        - T5, 2019, https://arxiv.org/abs/1910.10683
        - UL2, 2022, https://arxiv.org/abs/2205.05131
    """

    data_class: ClassVar[type[TaskData]] = SpanCorruptionData
    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"

    architecture: str = "t5"
    """What to build from scratch when there is no backbone: a transformers model type."""
    optimizer: OptimizerName = "adafactor"
    """Adafactor, whose steps are relative to the size of a weight, as T5 needs them; or AdamW."""
    weight_decay: float = 0.0
    """T5 has none."""

    def terms(self, batch: Batch) -> Terms:
        """Cross-entropy at all targets, in nats; in evaluation also what it is without sentinels and ends."""
        logits = self.logits_at_targets(batch)  # (N, vocabulary)
        terms = token_terms("spans", logits, batch, training=self.training)
        if self.training:
            return terms
        targets = batch["targets"]
        begins, ends = self._marks(batch)
        text = ~(begins | ends)
        wrong = (logits.argmax(dim=-1) != targets) & text
        wrong_spans = torch.zeros(len(targets) + 1, device=targets.device).index_add(0, begins.cumsum(0), wrong.float())
        spans = begins.sum()
        losses = functional.cross_entropy(logits.float(), targets, reduction="none")
        return terms | {
            "loss_text": Ratio((losses * text).sum(), text.sum()),
            "accuracy_text": Ratio((text & ~wrong).sum(), text.sum()),
            "exact_spans": Ratio(spans - (wrong_spans > 0).sum(), spans),
        }

    def _marks(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(N,) where a target is a sentinel, and (N,) where it is the end of its row."""
        targets = batch["targets"]
        ends = torch.zeros_like(targets, dtype=torch.bool)
        ends[batch["decoder_lengths"].cumsum(0) - 1] = True
        return torch.isin(targets, torch.tensor(self._sentinels, device=targets.device)), ends

    @cached_property
    def _sentinels(self) -> list[int]:
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        ids: list[int] = sentinel_ids(tokenizer).tolist()
        return ids

    def finish_metrics(self, metrics: dict[str, float], prefix: str) -> dict[str, float]:
        """Adds the perplexity of all targets."""
        return metrics | {f"{prefix}/perplexity": perplexity(metrics[f"{prefix}/loss"])}

    def example_text(self) -> str | None:
        """A text with a span to fill."""
        tokenizer = self.tokenizer()
        first = tokenizer.convert_ids_to_tokens(self._sentinels[0]) if tokenizer is not None else None
        return f"Returns a {first} of the given object." if first else None

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
        """What the model says for each sentinel of a text, and the text with it filled in."""
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        results = []
        for (id_, text), asked, reply in zip(batch["texts"], prompts(batch), self.answers(batch), strict=True):
            spans = split_spans(reply, self._sentinels)
            filled, said = text, {}
            for sentinel in (token for token in asked if token in spans):
                name = str(tokenizer.convert_ids_to_tokens(sentinel))
                said[name] = str(tokenizer.decode(spans[sentinel])).strip()
                filled = filled.replace(name, said[name])
            results.append({"id": id_, "text": text, "prediction": filled, "spans": said})
        return results
