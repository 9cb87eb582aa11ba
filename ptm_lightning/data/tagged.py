"""Sentences of words with a tag for each: what is stored of them, and windows of them as batches.

Each word is learned and predicted once: at its first token, in the window in which that is furthest from an end.

Shapes: w windows of T places, N words.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from ptm_lightning.data.answers import Span, trimmed
from ptm_lightning.data.batch import Batch
from ptm_lightning.data.example_store import Encode, Encoded, ExampleStore
from ptm_lightning.data.formats import Row, as_text
from ptm_lightning.data.labels import Labels
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.noise import Ints
from ptm_lightning.data.template import Template
from ptm_lightning.data.windows import Cut, Windows, last_field_columns, spread
from ptm_lightning.errors import UserError

FIELDS = ("tokens",)


class TaggedReader:
    """Reads words and their tags."""

    fields: tuple[str, ...] = FIELDS
    together: tuple[str, ...] = FIELDS

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.key: Any = ["tags", labels.preferred]
        self.known: Sequence[str] = labels.known

    def take(self, row: Row, where: str) -> None:
        """Takes in the tags of a training row."""
        for tag in tags_of(row, where):
            self.labels.take(tag, where)

    def check(self, row: Row, where: str) -> None:
        """Refuses a tag that training doesn't have."""
        for tag in tags_of(row, where):
            self.labels.check(tag, where)

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Knows the tags again."""
        self.labels.recall(facts["labels"], self.labels.problem_type)

    def stratum(self, row: Row) -> int:
        """All rows are held out in the same share."""
        return 0

    def encoder(self, tokenizer: Tokenizer) -> Encode:
        """What gives token ids, and for each the number of the word that begins with it and that word's tag, or -1.

        Raises:
            UserError: All training words have the same tag.
        """
        if not self.labels.known and len(self.labels.counts) < 2:
            words, only = sum(self.labels.counts.values()), "".join(self.labels.counts)
            raise UserError(
                f"--data.train: all {words:,} words have the one tag '{only}', and two or more are needed; "
                "add rows with others, or name the right column with --data.columns.tags (of CoNLL's, it is the last)"
            )
        ids = {name: number for number, name in enumerate(self.labels.names)}

        def encode(rows: Sequence[Row]) -> Iterator[Encoded]:
            coded = tokenizer.encode_batch([as_text(row["tokens"]) for row in rows], add_special_tokens=False)
            for row, encoding in zip(rows, coded, strict=True):
                begun = words_begun(trimmed(encoding.offsets, as_text(row["tokens"])), word_spans(row["tokens"]))
                tags = [ids[str(tag)] for tag in row["tags"]]
                columns = {"word": begun, "tag": [tags[word] if word >= 0 else -1 for word in begun]}
                yield Encoded((encoding.ids,), columns)

        return encode

    def facts(self, train: ExampleStore) -> dict[str, Any]:
        """The names of the tags, and how many words of the training split have each."""
        names, column = self.labels.names, train.columns["tag"]
        counts = np.bincount(column[column >= 0], minlength=len(names)).tolist()
        return {"labels": dict(zip(names, counts, strict=True))}


def tags_of(row: Row, where: str) -> list[Any]:
    """The row's tags.

    Raises:
        UserError: There are none, or not as many as tokens.
    """
    tokens, tags = row["tokens"], row.get("tags")
    if tags is None:
        there = ", ".join(row)
        raise UserError(f"{where}: no tags; the row's columns are {there}; name yours with --data.columns.tags")
    if not isinstance(tokens, list) or not isinstance(tags, list):
        raise UserError(f"{where}: tokens and tags must be lists, of words and of a name for each")
    if len(tokens) != len(tags):
        raise UserError(f"{where}: {len(tokens)} tokens have {len(tags)} tags; give each one")
    return tags


def word_spans(tokens: Sequence[str]) -> list[Span]:
    """Where words stand in the text that they make with spaces between."""
    begins = np.cumsum([0, *(len(token) + 1 for token in tokens)]).tolist()
    return [Span(begin, begin + len(token)) for begin, token in zip(begins, tokens, strict=False)]


def words_of_text(encoding: Encoding, offsets: Sequence[Span]) -> list[Span]:
    """The words that a tokenizer itself divides a text into."""
    found: dict[int, Span] = {}
    for word, span in zip(encoding.word_ids, offsets, strict=True):
        if word is not None and span.first < span.last:
            found[word] = Span(found.get(word, span).first, span.last)
    return list(found.values())


def words_begun(offsets: Sequence[Span], words: Sequence[Span]) -> list[int]:
    """For each token the number of the word that it is the first token of, or -1.

    Args:
        offsets: Where each token stands in the text.
        words: Where the words do. A word that no token begins in, such as a control character, is begun by none.
    """
    begun, word, last = [], 0, -1
    for token in offsets:
        while word < len(words) and words[word].last <= token.first:
            word += 1
        starts = token.first < token.last and word < len(words) and words[word].first < token.last and word != last
        begun.append(word if starts else -1)
        last = word if starts else last
    return begun


@dataclass(frozen=True)
class TaggedRows:
    """Makes rows of windows, in which the loss reads the first tokens of words."""

    template: Template

    def __call__(
        self, tokens: NDArray[Any], starts: Ints, cut: Cut, own: tuple[Ints, Ints], word: NDArray[Any]
    ) -> Batch:
        """A batch without targets.

        Args:
            tokens: Where the ids lie.
            starts: (w, 1) where each window begins there.
            cut: The windows.
            own: (w,) and (w,) which tokens are a window's own.
            word: (tokens,) the number of the word that each token begins, or -1.
        """
        batch = self.template.rows(tokens, starts, cut.lengths)
        column = last_field_columns(self.template, cut.lengths)
        words = spread(word, starts[:, -1], cut.lengths[:, -1], column, batch)
        place = np.arange(words.shape[1]) - column[:, None] + cut.begin[:, None]
        mine = (words >= 0) & (place >= own[0][:, None]) & (place < own[1][:, None])
        index = np.flatnonzero(mine)
        batch["target_index"] = torch.from_numpy(index)
        batch["words"] = torch.from_numpy(words.ravel()[index])
        batch["examples"] = torch.from_numpy(cut.example)
        batch["counts"] = {"tokens": int((batch["document_ids"] > 0).sum())}
        return batch


@dataclass(frozen=True)
class TaggedCollate:
    """Windows with the tags of their words."""

    windows: Windows
    rows: TaggedRows
    term: str
    evaluate: bool

    def __call__(self, pieces: Pieces) -> Batch:
        """One batch of w windows."""
        store = self.windows.store
        cut, starts = self.windows.read(pieces)
        batch = self.rows(store.tokens, starts, cut, self.windows.owned(cut), store.columns["word"])
        column = last_field_columns(self.windows.template, cut.lengths)
        tags = spread(store.columns["tag"], starts[:, -1], cut.lengths[:, -1], column, batch)
        batch["targets"] = torch.from_numpy(tags.ravel()[batch["target_index"].numpy()])
        batch["counts"][self.term] = len(batch["targets"])
        if self.evaluate:
            batch["rows"] = list(store.rows(cut.example.tolist()))
            batch["windows"] = torch.from_numpy(pieces.start)
        return batch
