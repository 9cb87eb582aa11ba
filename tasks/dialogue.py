"""Dialogue: the next reply in a conversation."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field, replace
from typing import ClassVar

from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.answering import PREDICT_ROWS, pad_of, prompt_room
from ptm_lightning.data.batch import Batch
from ptm_lightning.data.chat import Chat, Message, with_chat_template
from ptm_lightning.data.conversations import (
    CUT_ROWS,
    FIELDS,
    LONG_REPLIES,
    LONG_TURNS,
    ConversationReader,
    Learn,
    fit_prompt,
    messages_of,
)
from ptm_lightning.data.corpus_text import CorpusSettings
from ptm_lightning.data.example_data import CALLED, ExampleData, Split, example_at
from ptm_lightning.data.example_store import ExampleStore
from ptm_lightning.data.layout import Frame, LayOut, Pieces
from ptm_lightning.data.new_words import NewTokens
from ptm_lightning.data.predict import Text, predict_texts
from ptm_lightning.data.replies import Replies, ReplyCollate
from ptm_lightning.data.seq2seq import closed_frame, prompt_batch
from ptm_lightning.data.show import show_row
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.target_text import target_frame
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.data.tokenizer_training import Algorithm
from ptm_lightning.link import Link
from ptm_lightning.log import say
from ptm_lightning.metrics.dialogue import dialogue_scores, word_f1
from ptm_lightning.metrics.references import Reference, references_of
from ptm_lightning.models.start import CAUSAL, SEQ2SEQ
from ptm_lightning.text_generation import TextGeneration


class DialogueData(ExampleData):
    """Conversations: `messages` of a role and a content, or `turns`, texts of user and assistant by turns.

    They become tokens by the tokenizer's chat template; one that has none gets a simple one. Turns that don't fit are
    cut from the left, as a whole; the system's message stays, unless the last turn leaves it no room.
    """

    fields: ClassVar[tuple[str, ...]] = FIELDS
    predict_rows: ClassVar[int] = PREDICT_ROWS

    train: list[str] = field(default_factory=lambda: ["builtin:conversations"])
    """What to train on: files with the column messages or turns (.jsonl .parquet), globs, the hub."""
    tokenizer_algorithm: Algorithm = "bpe"
    """What kind of tokenizer to train; wordpiece would lose capital letters."""
    max_length: int = 256
    """Tokens of the longest row: what was said and, for a causal network, the reply."""
    max_target_length: int = 64
    """Tokens of the longest reply, its end included."""
    learn: Learn = "all"
    """Which of the assistant's turns are learned and measured: all, or only the last one of each conversation."""

    # Stores

    def make_tokenizer(self, settings: CorpusSettings) -> tuple[PreTrainedTokenizerFast, NewTokens]:
        """With a chat template."""
        tokenizer, new_tokens = super().make_tokenizer(settings)
        tokenizer, roles = with_chat_template(tokenizer)
        return tokenizer, new_tokens | (roles if self.given_tokenizer is not None else {})

    def reader(self) -> ConversationReader:
        """Conversations, in the tokenizer's template."""
        chat = Chat(self.hf_tokenizer)
        return ConversationReader(chat, self._target_frame, self._max_prompt, self.max_target_length, self.learn)

    def make_frame(self) -> Frame:
        """None: the template has all that stands around a text."""
        self.chat = Chat(self.hf_tokenizer)
        return Frame((), ())

    @property
    def pad_id(self) -> int:
        """What fills rows."""
        return pad_of(self.hf_tokenizer, self.end_id)

    @property
    def end_id(self) -> int:
        """What ends a reply."""
        return self.chat.end_id if self._target_frame is None else self._target_frame.after[-1]

    @property
    def _target_frame(self) -> Frame | None:
        return None if self.causal else closed_frame(target_frame(self.hf_tokenizer), self.hf_tokenizer)

    @property
    def _max_prompt(self) -> int:
        return prompt_room(self.max_length, self.max_target_length, two_sided=not self.causal)

    def example_ids(self, store: ExampleStore, numbers: Sequence[int]) -> list[str]:
        """The conversation's number and the turn's: the same whatever else of it is left out."""
        ends = Replies(store, evaluate=True).reply_ends[list(numbers)]
        places = zip(example_at(store, ends - 1), store.columns["turn"][ends - 1], strict=True)
        return [f"{conversation}:{turn}" for conversation, turn in places]

    # Batches

    def rows_maker(self, store: TokenStore, *, evaluate: bool) -> LayOut:
        """Rows of replies."""
        assert isinstance(store, ExampleStore)
        return Replies(store, evaluate)

    def collate_examples(self, store: ExampleStore, *, evaluate: bool) -> Callable[[Pieces], Batch]:
        """What was said and the replies; in evaluation with their texts."""
        return ReplyCollate(Replies(store, evaluate), self.pad_id, two_sided=not self.causal)

    def _make_link(self) -> Link:
        validation = None if self._predicts() else self.corpus.validation
        side = {
            "fields": ["source", "reference"],
            "max_length": self.max_target_length,
            "before": self._max_prompt if self.causal else 0,
            "last": self.end_id,
            "ids": {"eos_token_id": self.end_id, "pad_token_id": self.pad_id},
            "asked": len(Replies(validation, True).reply_ends) if isinstance(validation, ExampleStore) else 0,
        }
        return replace(super()._make_link(), max_length=max(self.max_length, self.max_target_length), target_side=side)

    # Turns to answer

    def predict_inputs(self) -> Iterator[Text]:
        """What to answer, in order: texts given right here, then the last turns of the user in the sources."""
        for text in predict_texts(self.predict, self.text, self.columns, required=FIELDS):
            if text.blank:
                yield text
                continue
            messages = messages_of(text.row, f"--data.predict: the row with the id {text.id}", ask=True)
            length = sum(len(message["content"]) for message in messages)
            yield Text(text.id, messages[-1]["content"], {"messages": messages}, length)

    def predict_batch(self, texts: list[Text]) -> Batch:
        """A batch of conversations; of those that are too long the end."""
        prompts = [self._prompt(text.row["messages"]) for text in texts]
        self.note_cut(sum(cut for cut, _ in prompts), len(texts))
        return prompt_batch([ids for _, ids in prompts], texts, self.pad_id)

    def _prompt(self, messages: Sequence[Message]) -> tuple[bool, list[int]]:
        """Whether something is cut, and the ids: by whole turns, or if the last one doesn't fit, within it."""
        if fitted := fit_prompt(self.chat, messages, self._max_prompt):
            return fitted[0] > 0, fitted[1]
        ids = self.chat.prompt(messages[-1:])
        return len(messages) > 1 or len(ids) > self._max_prompt, ids[-self._max_prompt :] or [self.end_id]

    # For people

    def facts(self) -> dict[str, str]:
        """How many conversations and replies there are, and how many don't fit."""
        told = {name: f"{count:,}" for name, count in self.corpus.provenance["dialogue"].items()}
        return super().facts() | told

    def show_row(self, batch: Batch, row: int) -> str:
        """A row, with what is to be said marked."""
        return show_row(batch, row, self.hf_tokenizer)

    def _say_what_is_cut(self, split: Split, store: ExampleStore) -> None:
        counts, length, of = store.counted, f"--data.max_length {self.max_length}", CALLED[split]
        if cut := counts[CUT_ROWS]:
            rows = f"{cut:,} of {counts['rows']:,} {of} rows"
            say(f"{length}: {rows} lack earlier turns, which don't fit; whole turns are cut")
        target = f"--data.max_target_length {self.max_target_length}"
        for what, flag in {LONG_TURNS: length, LONG_REPLIES: target}.items():
            if left_out := counts[what]:
                say(f"{flag}: {left_out:,} {of} {what} are left out; {counts['replies']:,} others are not")


class Dialogue(TextGeneration):
    """Replies by a causal network or an encoder-decoder, scored with perplexity, BLEU, F1 of words and distinct-n.

    BLEU and F1 stand beside those of the commonest training reply.

    References:
        - DialoGPT, 2019, https://arxiv.org/abs/1911.00536; BlenderBot, 2020, https://arxiv.org/abs/2004.13637
        - ConvAI2, 2019, https://arxiv.org/abs/1902.00098
    """

    data_class: ClassVar[type[TaskData]] = DialogueData
    heads: ClassVar[tuple[str, ...]] = (CAUSAL, SEQ2SEQ)
    sentence_measure: ClassVar[str] = "f1"
    headline: ClassVar[tuple[str, ...]] = ("perplexity", "bleu", "f1", "f1_commonest", "distinct1", "distinct2")

    architecture: str = "gpt2"
    """What to build from scratch when there is no backbone: a transformers model type, such as gpt2, llama or bart."""

    def measure(
        self, sources: Sequence[str], answers: Sequence[str], references: Sequence[Reference]
    ) -> dict[str, float]:
        """BLEU, F1 and distinct-n of the replies; BLEU and F1 of the commonest reply, whatever is said."""
        replies = [references_of(reference)[0] for reference in references]
        constant = [str(self._link.provenance["commonest reply"])] * len(replies)
        baseline = dialogue_scores(constant, replies)
        return dialogue_scores(answers, replies) | {f"{n}_commonest": baseline[n] for n in ("bleu", "f1")}

    def sentence_score(self, answer: str, reference: Reference) -> float:
        """F1 of words."""
        return max(word_f1(answer, reply) for reply in references_of(reference))

    def example_text(self) -> str | None:
        """A turn of the user."""
        return "What comes after twenty-one?"
