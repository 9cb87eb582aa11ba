"""TextData: the data module of everything that is learned from plain text."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Literal

from ptm_lightning.data.corpus import Corpus, prepare_corpus
from ptm_lightning.data.corpus_text import CorpusSettings
from ptm_lightning.data.layout import LayOut, Layout, lay_out
from ptm_lightning.data.predict import Text, predict_texts
from ptm_lightning.data.store import TokenStore
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.errors import UserError
from ptm_lightning.log import say


class TextData(TaskData):
    """Plain text, as documents in a store; a subclass says how its pieces become a batch."""

    layout: Layout = "rows"
    """rows: a piece of a document in each; packed: several isolated in a row; blocks: one stream, cut."""
    split_text: Literal["blank_line", "line"] = "blank_line"
    """What divides the documents of a .txt file."""

    def setup(self, stage: str) -> None:
        """Opens the stores; a row must have room for text."""
        super().setup(stage)
        if (least := len(self.frame) + 2) > self.max_length:
            raise UserError(
                f"--data.max_length {self.max_length}: a row takes {len(self.frame)} special tokens and needs two of "
                f"text; give at least {least}, or what your texts need, such as 128"
            )

    def rows_maker(self, store: TokenStore, *, evaluate: bool) -> LayOut:
        """What makes rows of the documents of a store: by `layout`, at most `max_length` long."""
        return self.lay_out_as(self.layout)

    def lay_out_as(self, layout: Layout) -> LayOut:
        """Makes rows in one of the layouts, at most `max_length` long."""
        return partial(lay_out, layout=layout, max_length=self.max_length, frame=self.frame)

    def sentence_splitter(self) -> str | None:
        """Names what finds the sentences whose beginnings the stores must say, if they must; see `find_splitter`."""
        return None

    def lay_out_in_rows(self, why: str) -> None:
        """Takes rows instead of packing, and says so: for networks that can't isolate documents."""
        if self.layout == "packed":
            say(f"--data.layout packed: {why}; taking rows instead")
            self.layout = "rows"

    @property
    def pad_id(self) -> int:
        """What fills rows."""
        pad = self.hf_tokenizer.pad_token_id
        if pad is None:
            raise UserError(
                "--data.tokenizer: the tokenizer has no padding token (pad_token); take one that has, or "
                "--data.tokenizer train"
            )
        return int(pad)

    def facts(self) -> dict[str, str]:
        """Copies of documents, and the loss that a model must beat."""
        info = self.corpus.train.info
        return {
            "exact duplicates": f"{info['duplicates'] / info['documents']:.2%}",
            "loss of a unigram model": f"{self.corpus.provenance['unigram_loss']:.3f} nats",
        }

    def predict_inputs(self) -> Iterator[Text]:
        """What to predict for, in order: the texts given right here, then those of the sources."""
        return predict_texts(self.predict, self.text, self.columns, self.split_text)

    def settings(self) -> CorpusSettings:
        """All that the tokens depend on."""
        return replace(super().settings(), split_text=self.split_text, sentences=self.sentence_splitter())

    def open_corpus(self) -> Corpus:
        """Opens the stores of the text; makes first what the cache doesn't have."""
        return prepare_corpus(self.settings(), self.given_tokenizer)
