"""Words that a tokenizer cuts in pieces become tokens of it: chosen by what they save, or named by the user."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.tokenizer import from_text, to_text
from ptm_lightning.errors import UserError

FLAG = "--data.new_words"
FEWEST = 2
"""A word that occurs less often isn't chosen."""

NewTokens = dict[str, list[int]]
"""By token, in the order of their ids: the ids of the pieces that it was cut into."""


class Word(NamedTuple):
    """A word as the tokenizer's pre-tokenizer gives it to its model."""

    form: str
    """Such as "Ġword" or "▁word"."""
    text: str


def words_of(text: str, backend: Tokenizer) -> Iterator[Word]:
    """The words of a text."""
    normal = backend.normalizer.normalize_str(text) if backend.normalizer else text
    for form, (begin, end) in backend.pre_tokenizer.pre_tokenize_str(normal):
        yield Word(form, normal[begin:end])


def choose_words(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, number: int) -> list[str]:
    """The words that the tokenizer cuts in pieces, those first that save most: frequency times pieces saved.

    A word has a letter in it, occurs twice, and has no unknown piece. Where only spaces divide words (SentencePiece),
    punctuation is taken off.

    Args:
        texts: Documents, read once.
        tokenizer: Of a kind that `extend_tokenizer` can extend.
        number: How many words are wanted.

    Returns:
        Their forms; fewer if there are no more.
    """
    backend = tokenizer.backend_tokenizer
    words = (word for text in texts for word in words_of(text, backend))
    if kind_of(backend) == "Unigram":
        words = (Word(bare, bare) for word in words for bare in re.findall(r"▁?\w+", word.form))
    counts = Counter(words)
    saved = {
        word.form: count * (len(pieces) - 1)
        for word, count in counts.items()
        if count >= FEWEST and any(map(str.isalpha, word.text)) and (pieces := _pieces(word.form, tokenizer))
    }
    ranked = sorted((form for form in saved if saved[form]), key=lambda form: (-saved[form], form))
    return ranked[:number]


def read_words(path: Path, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The forms of the words in a file, one a line; those that are one token already are left out.

    Raises:
        UserError: There is no such file, or a line isn't one word to the tokenizer, or has unknown characters.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{FLAG} {path}: can't be read; give a number, or a file with a word on each line") from error
    backend = tokenizer.backend_tokenizer
    before = " " if kind_of(backend) == "BPE" else ""  # as the word is written after a space
    forms = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = list(words_of(before + line.strip(), backend))
        if len(found) != 1:
            raise UserError(
                f"{path}:{number}: {line.strip()!r} is {len(found)} words to the tokenizer; give single ones"
            )
        if not (pieces := _pieces(found[0].form, tokenizer)):
            raise UserError(f"{path}:{number}: {line.strip()!r} has characters that the tokenizer doesn't know")
        if len(pieces) > 1:
            forms.append(found[0].form)
    return list(dict.fromkeys(forms))


def _pieces(form: str, tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """The ids of a word's pieces; none if one of them is unknown."""
    ids = [token.id for token in tokenizer.backend_tokenizer.model.tokenize(form)]
    return [] if tokenizer.unk_token_id in ids else ids


def kind_of(backend: Tokenizer) -> str:
    """The kind of tokenizer: WordPiece, Unigram or (byte-level) BPE.

    Raises:
        UserError: Words can't be added to it rightly.
    """
    description = json.loads(backend.to_str())
    kind, splits = description["model"]["type"], json.dumps(description.get("pre_tokenizer"))
    if kind == "Unigram" and '"Metaspace"' in splits:
        if backend.get_vocab_size() != len(description["model"]["vocab"]):
            raise UserError(
                f"{FLAG}: the tokenizer has special tokens behind its vocabulary, where new words would have to stand; "
                "leave it out"
            )
        return "Unigram"
    if kind == "WordPiece" and splits != "null":
        return "WordPiece"
    if kind == "BPE" and '"ByteLevel"' in splits:
        return "BPE"
    raise UserError(
        f"{FLAG}: words can't be added to a tokenizer of the kind {kind} that the model has; "
        "WordPiece, byte-level BPE and SentencePiece's unigram can be extended; leave it out"
    )


def extend_tokenizer(
    tokenizer: PreTrainedTokenizerFast, forms: Sequence[str]
) -> tuple[PreTrainedTokenizerFast, NewTokens]:
    """A tokenizer that has some words more; its old ids mean what they meant.

    The words belong to its model, as if it had been trained with them: WordPiece takes the longest piece that fits;
    unigram's new pieces are as likely as their own pieces are on average; BPE gets merges that come after all others,
    and with them the tokens on the way to a word, so that it grows by more than the words.

    Args:
        tokenizer: The old one, which stays as it is.
        forms: Words that it cuts in pieces, in the order of their new ids.

    Returns:
        The new tokenizer, and its new tokens.
    """
    text, config = to_text(tokenizer)
    description = json.loads(text)
    first = len(tokenizer)
    extend = {"WordPiece": _extend_wordpiece, "Unigram": _extend_unigram, "BPE": _extend_bpe}
    pieces = {
        form: [(token.value, token.id) for token in tokenizer.backend_tokenizer.model.tokenize(form)] for form in forms
    }
    new = extend[kind_of(tokenizer.backend_tokenizer)](description["model"], pieces, first)
    return from_text(json.dumps(description, ensure_ascii=False), config), new


Pieces = Mapping[str, Sequence[tuple[str, int]]]
"""By word, its pieces and their ids."""


def _extend_wordpiece(model: dict[str, Any], pieces: Pieces, first: int) -> NewTokens:
    model["vocab"] |= {form: first + i for i, form in enumerate(pieces)}
    return {form: [id_ for _, id_ in parts] for form, parts in pieces.items()}


def _extend_unigram(model: dict[str, Any], pieces: Pieces, first: int) -> NewTokens:
    scores = dict(model["vocab"])
    model["vocab"] += [[form, sum(scores[value] for value, _ in parts) / len(parts)] for form, parts in pieces.items()]
    return {form: [id_ for _, id_ in parts] for form, parts in pieces.items()}


def _extend_bpe(model: dict[str, Any], pieces: Pieces, first: int) -> NewTokens:
    """Merges each word's pieces from the left, as they are after the words before it were added.

    Later merges come after earlier ones in rank, so that they can't undo what these made a token.
    """
    together = [isinstance(merge, str) for merge in model["merges"][:1]] == [True]  # the format of older files
    merges = [tuple(merge.split(" ")) if together else tuple(merge) for merge in model["merges"]]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    origin: NewTokens = {}
    new: NewTokens = {}
    for parts in pieces.values():
        origin |= {value: [id_] for value, id_ in parts}
        left = _merged([value for value, _ in parts], ranks)
        while len(left) > 1:
            pair, token = (left[0], left[1]), left[0] + left[1]
            ranks[pair] = len(ranks)
            model["merges"].append(" ".join(pair) if together else list(pair))
            if token not in model["vocab"]:
                model["vocab"][token] = first + len(new)
                new[token] = origin[token] = origin[left[0]] + origin[left[1]]
            origin.setdefault(token, [model["vocab"][token]])
            left = _merged([token, *left[2:]], ranks)
    return new


def _merged(symbols: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Merges pairs, that of the lowest rank first, until none is left."""
    while len(symbols) > 1:
        rank, at = min((ranks.get(pair, inf), i) for i, pair in enumerate(pairwise(symbols)))
        if rank == inf:
            break
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    return symbols
