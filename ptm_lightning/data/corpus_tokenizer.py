"""The tokenizer of a corpus: loaded, trained on its text, or extended by its words; made once and kept in the cache."""

import json
import logging
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.corpus_text import CorpusSettings, source_key, text_bytes, texts_of
from ptm_lightning.data.new_words import NewTokens, choose_words, extend_tokenizer, kind_of, read_words
from ptm_lightning.data.sources import resolve
from ptm_lightning.data.store import written_once
from ptm_lightning.data.text_sample import Sample, sample_text, with_few_words
from ptm_lightning.data.tokenizer import load_tokenizer, to_text
from ptm_lightning.data.tokenizer_training import UNIGRAM, train_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.log import say
from ptm_lightning.progress import reading

TRAIN = "train"
"""The name of the tokenizer that is trained on the spot."""
SAMPLE_BYTES = 100_000_000
"""A tokenizer is trained on so many bytes of text at most: more doesn't change it for the better."""
UNIGRAM_CHARACTERS = 2_000_000
"""A unigram tokenizer on text whose different words have so many characters: that takes 100 seconds of one core, half
of it 33, and then a text becomes 2 % more tokens."""
LONG_BYTES = 1_000_000
"""Training on more text than this is said, for it takes seconds."""

logger = logging.getLogger(__name__)


def prepare_tokenizer(
    settings: CorpusSettings, given: PreTrainedTokenizerFast | None, parts: Sequence[CorpusSettings] = ()
) -> tuple[PreTrainedTokenizerFast, NewTokens]:
    """The tokenizer, loaded, trained or extended as the settings say, and the tokens that it was extended by.

    Args:
        settings: As for `prepare_corpus`.
        given: The tokenizer of the model that is trained on, if it has one.
        parts: Those of a mixture: a tokenizer is trained on the text of all of them.

    Raises:
        UserError: It can't be loaded, trained or extended.
    """
    if (new_words := settings.new_words) is not None:
        if given is None or settings.tokenizer is not None:
            raise UserError(
                f"--data.new_words {new_words}: extends the tokenizer of a pretrained model; start from one with "
                "--init_from, and leave --data.tokenizer out"
            )
        return _extended(settings, given, new_words)
    if settings.tokenizer not in (None, TRAIN):
        return load_tokenizer(str(settings.tokenizer)), {}
    return given or _trained(settings, parts or [settings]), {}


def _trained(settings: CorpusSettings, parts: Sequence[CorpusSettings]) -> PreTrainedTokenizerFast:
    recipe: list[Any] = [_reading_recipe(part) for part in _distinct(parts)]
    recipe += [settings.algorithm, settings.vocab_size, settings.max_length]
    recipe += [settings.special_tokens, SAMPLE_BYTES, UNIGRAM_CHARACTERS]

    def make(folder: Path) -> None:
        sample = _sample(parts)
        if settings.algorithm in UNIGRAM:
            sample = with_few_words(sample, UNIGRAM_CHARACTERS)
        if not sample.whole:
            say(f"--data.tokenizer train: a {settings.algorithm} tokenizer is trained on {sample}")
        elif sample.bytes > LONG_BYTES:
            logger.info("training a %s tokenizer on %s; it may take a minute", settings.algorithm, sample)
        trained = train_tokenizer(
            sample.passages,
            settings.algorithm,
            settings.vocab_size,
            settings.max_length,
            settings.special_tokens,
            trained_on=str(sample),
        )
        trained.save_pretrained(folder)

    return load_tokenizer(str(_kept(settings.cache, recipe, make)))


def _distinct(parts: Sequence[CorpusSettings]) -> list[CorpusSettings]:
    """The parts without those that have the text of another."""
    return list({(part.train, part.split_text, part.columns, part.fields): part for part in parts}.values())


def _reading_recipe(settings: CorpusSettings) -> list[Any]:
    """What the training text depends on."""
    keys = [source_key(source, settings.cache) for source in resolve(settings.train, "--data.train")]
    return [keys, settings.split_text, settings.columns, settings.fields]


def _sample(parts: Sequence[CorpusSettings]) -> Sample:
    """Training text, at most `SAMPLE_BYTES` of it."""
    distinct = _distinct(parts)
    sources = [resolve(part.train, "--data.train") for part in distinct]
    with reading("reading for the tokenizer", text_bytes(list(chain.from_iterable(sources)))) as advance:
        each = (texts_of(found, "--data.train", part) for part, found in zip(distinct, sources, strict=True))
        texts = (text for text in chain.from_iterable(each) if text is not None)
        return sample_text(texts, SAMPLE_BYTES, advance)


def _extended(
    settings: CorpusSettings, given: PreTrainedTokenizerFast, new_words: int | str
) -> tuple[PreTrainedTokenizerFast, NewTokens]:
    """The given tokenizer with more words; which ones the cache knows, once the text was counted."""
    kind_of(given.backend_tokenizer)  # refuses at once what can't be extended
    if isinstance(new_words, str):
        return extend_tokenizer(given, read_words(Path(new_words), given))
    if new_words < 1:
        raise UserError(f"--data.new_words {new_words}: give a number of words from 1 on, or a file of words")

    def make(folder: Path) -> None:
        forms = choose_words(_sample([settings]).passages, given, new_words)
        (folder / "words.json").write_text(json.dumps(forms))

    recipe = ["new words", _reading_recipe(settings), to_text(given)[0], new_words, SAMPLE_BYTES]
    forms = json.loads((_kept(settings.cache, recipe, make) / "words.json").read_text())
    if len(forms) < new_words:
        say(f"--data.new_words {new_words}: only {len(forms)} words of the text are cut in pieces and occur twice")
    return extend_tokenizer(given, forms)


def _kept(cache: Path, recipe: list[Any], make: Callable[[Path], None]) -> Path:
    """A folder of the cache that depends on a recipe; made first if it isn't there."""
    folder = cache / "tokenizers" / blake2b(json.dumps(recipe).encode(), digest_size=16).hexdigest()
    with written_once(folder) as partial:
        if partial is not None:
            make(partial)
    return folder
