"""Causal language modelling: GPT's objective, the next token from those before it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ptm_lightning.data.batch import Batch, Rows, as_batch, frame_rows, later_places
from ptm_lightning.data.layout import Continued, Frame, LayOut, Pieces, Stream
from ptm_lightning.data.module import TextData
from ptm_lightning.data.noise import Bools, Ints
from ptm_lightning.data.predict import Text
from ptm_lightning.data.show import show_place
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.data.tokenizer_training import Algorithm
from ptm_lightning.errors import UserError
from ptm_lightning.findings import Finding, faults
from ptm_lightning.generate import Generation, generate
from ptm_lightning.models.build import max_positions
from ptm_lightning.models.sight import refuse_sight
from ptm_lightning.task import Task
from ptm_lightning.terms import Ratio, Term, perplexity, token_terms

SHOWN = 8
"""Rows of a batch that are continued as examples."""


def next_places(document_ids: Ints) -> Bools:
    """The places from which a next token of the same document is predicted.

    Args:
        document_ids: (R, T) 0 is padding.

    Returns:
        (R, T) true where the place to the right belongs to the same document; in the last column never.
    """
    follows = np.zeros(document_ids.shape, dtype=np.bool_)
    follows[:, :-1] = (document_ids[:, 1:] == document_ids[:, :-1]) & (document_ids[:, 1:] > 0)
    return follows


@dataclass(frozen=True)
class NextTokenCollate:
    """Pieces of documents to a batch in which each place predicts the next one."""

    store: TokenStore
    frame: Frame
    isolated: bool
    packed: bool
    pad_id: int
    evaluate: bool
    """Sentences that training doesn't contain are marked, and the bytes of the text are counted."""

    def rows(self, pieces: Pieces) -> Rows:
        """R rows of T places."""
        return frame_rows(pieces, self.store.tokens, self.frame, self.pad_id, isolated=self.isolated)

    def __call__(self, pieces: Pieces) -> Batch:
        """One batch; the targets of N places are the tokens that follow them."""
        rows = self.rows(pieces)
        at = np.flatnonzero(next_places(rows.document_ids))
        targets = rows.input_ids.ravel()[at + 1]
        batch = as_batch(rows, at, targets, packed=self.packed, counts={"clm": len(at)})
        if self.evaluate:
            content = np.zeros(rows.input_ids.size, dtype=np.bool_)
            content[rows.content] = True
            batch["bytes"] = int(content[at + 1].sum()) * self.store.bytes_per_token
            if self.store.fresh is not None:
                fresh = np.zeros(rows.input_ids.size, dtype=np.bool_)
                fresh[rows.content] = self.store.fresh[rows.offset]
                batch["fresh"] = torch.from_numpy(fresh[at + 1])
        return batch


class CausalLMData(TextData):
    """Text of which each token is predicted from those before it.

    A document stands between two special tokens: its end-of-text token, and in front the tokenizer's begin token or, if
    it has none, end-of-text as in GPT-2. One that is longer than a row goes on in the next: only its last piece has the
    end, and a later piece begins with the last token of the one before. In blocks, only end-of-text stands between
    documents, and a block begins wherever the stream was cut. Validation takes every document by itself, so that each
    of its tokens is predicted once, whatever the layout of training.

    References:
        - GPT-2, 2019, https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf
    """

    tokenizer_algorithm: Algorithm = "gpt2"
    """What kind of tokenizer to train."""

    def make_frame(self) -> Frame:
        """Begin and end of a document."""
        known = self.hf_tokenizer
        ends = [known.eos_token_id, known.sep_token_id]
        end = next((token for token in ends if token is not None), None)
        if end is None:
            raise UserError(
                "--data.tokenizer: the tokenizer has no end-of-text token (eos_token); take one that has, "
                "or --data.tokenizer train"
            )
        begins = [] if self.layout == "blocks" else [known.bos_token_id, known.cls_token_id]
        return Frame((next((token for token in begins if token is not None), end),), (end,))

    def rows_maker(self, store: TokenStore, *, evaluate: bool) -> LayOut:
        """Rows by the layout; a block has no begin token; validation takes rows."""
        if self.layout == "blocks" and not evaluate:
            return Stream(self.max_length, self.frame)
        return Continued("packed" if self.layout == "packed" and not evaluate else "rows", self.max_length, self.frame)

    def collator(self, store: TokenStore, *, evaluate: bool) -> Callable[[Pieces], Batch]:
        """Each place predicts the next one of its document."""
        return NextTokenCollate(
            store=store,
            frame=self.frame,
            isolated=evaluate or self.layout != "blocks",
            packed=self.layout == "packed" and not evaluate,
            pad_id=self.pad_id,
            evaluate=evaluate,
        )

    @property
    def pad_id(self) -> int:
        """What fills rows; it is never read, and is known by its place: it may be the end-of-text token."""
        pad = self.hf_tokenizer.pad_token_id
        return int(pad if pad is not None else self.frame.after[0])

    def findings(self, seen: Sequence[tuple[Pieces, Batch]]) -> Iterator[Finding]:
        """Each target is the token after its place, and of the same document; what ends is followed by its end."""
        collate = self.collator(self.corpus.train, evaluate=False)
        assert isinstance(collate, NextTokenCollate)
        shifted, crossing, missed, open_ends, early, tokens = [], [], [], [], [], 0
        name = self.hf_tokenizer.convert_ids_to_tokens
        for pieces, batch in seen:
            rows, at = collate.rows(pieces), batch["target_index"].numpy()
            ids, documents = rows.input_ids.ravel(), rows.document_ids.ravel()
            shown = partial(show_place, rows.input_ids, tokenizer=self.hf_tokenizer)
            wrong = np.flatnonzero(ids[at + 1] != batch["targets"].numpy())
            said = batch["targets"].numpy()[wrong]
            shifted += [f"{name(int(token))!r} after {shown(at[n])}" for n, token in zip(wrong, said, strict=True)]
            crossing += [f"after {shown(n)}" for n in at[documents[at] != documents[at + 1]]]
            missed += [f"after {shown(n)}" for n in np.setdiff1d(np.flatnonzero(next_places(rows.document_ids)), at)]
            unsaid, untrue = self._wrong_ends(rows, batch)
            open_ends += [shown(n) for n in unsaid]
            early += [f"after {shown(n)}" for n in untrue]
            tokens += len(rows.content)
        for what, examples in (
            ("targets that are not the next token", shifted),
            ("targets of another document", crossing),
            ("tokens that nothing predicts", missed),
            ("documents whose end is not said", open_ends),
            ("ends that are said where the document goes on", early),
        ):
            yield faults(what, examples, tokens)

    def _wrong_ends(self, rows: Rows, batch: Batch) -> tuple[Ints, Ints]:
        """The last places of documents that no end-of-text follows, and other places that one does.

        A block may be cut before an end.
        """
        ids, offsets, at = batch["input_ids"].numpy(), self.corpus.train.offsets, rows.content
        ends = offsets[np.searchsorted(offsets, rows.offset + 1)] == rows.offset + 1
        row_ends = (at + 1) % ids.shape[1] == 0
        following = np.minimum(at + 1, ids.size - 1)
        documents = rows.document_ids.ravel()
        framing = ~np.isin(following, at) & (documents[following] == documents[at])
        closed = ~row_ends & framing & (ids.ravel()[following] == self.frame.after[0])
        return at[ends & ~closed & ~(row_ends & (self.layout == "blocks"))], at[closed & ~ends]

    def predict_batch(self, texts: list[Text]) -> Batch:
        """Texts to go on with, each after the begin token."""
        begin, longest = self.frame.before, self.max_length
        coded = [self.hf_tokenizer(text.text, add_special_tokens=False)["input_ids"] for text in texts]
        prompts = [torch.tensor([*begin, *ids][-longest:]) for ids in coded]
        return Batch(
            input_ids=pad_sequence(prompts, batch_first=True, padding_value=self.pad_id),
            document_ids=pad_sequence([torch.ones_like(ids) for ids in prompts], batch_first=True),
            texts=[(text.id, text.text) for text in texts],
        )


class CausalLM(Task):
    """GPT's causal language modelling, for any network of transformers that sees no later token.

    References:
        - GPT-2, 2019, https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf
    """

    data_class: ClassVar[type[TaskData]] = CausalLMData
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    prediction_arguments: ClassVar[tuple[str, ...]] = ("max_new_tokens", "num_beams", "temperature", "top_p")

    architecture: str = "gpt2"
    """What to build from scratch when there is no backbone: a transformers model type, such as gpt2, llama or qwen3."""
    max_new_tokens: int = 40
    """The longest continuation, in predictions and examples."""
    num_beams: int = 1
    """Beams of the search for continuations; 1 is greedy."""
    temperature: float | None = None
    """Samples continuations, at 1 from the network's own distribution; without it the most likely one is taken."""
    top_p: float = 1.0
    """Samples from the most likely tokens that have this share together."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_p != 1.0 and self.temperature is None:
            raise UserError(f"--model.top_p {self.top_p} only means something when sampling: give --model.temperature")
        if min(self.max_new_tokens, self.num_beams) < 1:
            raise UserError("--model.max_new_tokens and --model.num_beams: give at least 1")

    def setup(self, stage: str) -> None:
        """Refuses a network that sees later tokens."""
        super().setup(stage)
        assert self.network is not None
        refuse_sight(self.network)
        places = max_positions(self.network)
        if stage == "predict" and places is not None and self.max_new_tokens >= places:
            raise UserError(
                f"--model.max_new_tokens {self.max_new_tokens}: the model has {places} positions, the text's included; "
                f"give at most {places - 1}"
            )

    def hidden_from(self, batch: Batch, number: int) -> torch.Tensor:
        """All that comes later, beside other documents and padding."""
        return super().hidden_from(batch, number) | later_places(batch, number)

    def terms(self, batch: Batch) -> Mapping[str, Term | Ratio]:
        """Cross-entropy of the next tokens, in nats; in evaluation also accuracy, bits per byte, and new sentences."""
        return token_terms("clm", self.logits_at_targets(batch), batch, training=self.training)

    def finish_metrics(self, metrics: dict[str, float], prefix: str) -> dict[str, float]:
        """Adds the perplexity of a token."""
        return metrics | {f"{prefix}/perplexity": perplexity(metrics[f"{prefix}/loss"])}

    def example_text(self) -> str:
        """A beginning to go on with."""
        return "Returns a"

    def examples(self, batch: Batch) -> list[dict[str, str]]:
        """The first half of each row's first document, how the network goes on, and how the text does."""
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        documents = [ids[number == 1] for ids, number in zip(batch["input_ids"], batch["document_ids"], strict=True)]
        halves = [(ids[: len(ids) // 2], ids[len(ids) // 2 :]) for ids in documents[:SHOWN] if len(ids) > 1]
        answers = self._continue([prompt.tolist() for prompt, _ in halves])
        return [
            {
                "prompt": str(tokenizer.decode(prompt, skip_special_tokens=True)),
                "generated": str(tokenizer.decode(answer)),
                "text": str(tokenizer.decode(rest, skip_special_tokens=True)),
            }
            for (prompt, rest), answer in zip(halves, answers, strict=True)
        ]

    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        """How the network goes on with each text."""
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        prompts = [ids[real > 0].tolist() for ids, real in zip(batch["input_ids"], batch["document_ids"], strict=True)]
        return [
            {"id": id_, "text": text, "prediction": str(tokenizer.decode(answer))}
            for (id_, text), answer in zip(batch["texts"], self._continue(prompts), strict=True)
        ]

    def _continue(self, prompts: list[list[int]]) -> list[list[int]]:
        """Continuations; prompts are cut on the left where the network has no place for prompt and continuation."""
        assert self.network is not None
        special = self._link.special_ids
        end = special["eos"] if special["eos"] is not None else special["sep"]
        pad = special["pad"] if special["pad"] is not None else end
        assert pad is not None
        places = max_positions(self.network) or self._link.max_length + self.max_new_tokens
        new = min(self.max_new_tokens, places - 1)
        settings = Generation(new, self.num_beams, self.temperature, self.top_p, self.seed)
        kept = [prompt[new - places :] for prompt in prompts]
        return generate(self.network, kept, settings, pad_id=pad, end_id=end)
