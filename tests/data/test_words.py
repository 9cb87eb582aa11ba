from functools import lru_cache
from pydoc_data.topics import topics

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.tokenizer_training import Algorithm, train_tokenizer
from ptm_lightning.data.words import WordTable
from ptm_lightning.errors import UserError

ENGLISH = list(topics.values())[:40]
QUOTES = "  Don't 'quoted' ''s x's 'sing we'll  two  spaces\t\ttab \n\n\nnew\n I'd've a'b 12.5% of 3x4 e.g. (ok)!  "
CHINESE = "他说：我们喜欢abc和猫。再见！"  # noqa: RUF001
EMOJI = "emoji 😀😃 flags 🇩🇪, naïve Ünïcödé"


@lru_cache
def trained(algorithm: Algorithm) -> PreTrainedTokenizerFast:
    return train_tokenizer([*ENGLISH, QUOTES, *[CHINESE, EMOJI] * 10], algorithm, 1500, 128)


def both(algorithm: Algorithm, text: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    tokenizer = trained(algorithm)
    encoded = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    words = encoded.word_ids
    reference = np.array([i == 0 or words[i] != words[i - 1] for i in range(len(words))])
    return WordTable.of(tokenizer).starts(np.array(encoded.ids)), reference, encoded.tokens


def groups(algorithm: Algorithm, text: str) -> list[str]:
    starts, _, tokens = both(algorithm, text)
    found: list[str] = []
    for begins, token in zip(starts, tokens, strict=True):
        found = [*found, token] if begins else [*found[:-1], found[-1] + token]
    return found


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe"])
@pytest.mark.parametrize("text", [*ENGLISH, QUOTES])
def test_words_equal_the_pre_tokenizer_on_english(algorithm: Algorithm, text: str) -> None:
    starts, reference, _ = both(algorithm, text)
    np.testing.assert_array_equal(starts, reference)


@pytest.mark.parametrize("text", [CHINESE, EMOJI])
def test_wordpiece_words_equal_the_pre_tokenizer_in_other_scripts(text: str) -> None:
    starts, reference, _ = both("wordpiece", text)
    np.testing.assert_array_equal(starts, reference)


def test_bpe_words_equal_the_pre_tokenizer_with_emoji_torn_into_bytes() -> None:
    starts, reference, _ = both("bpe", EMOJI)
    np.testing.assert_array_equal(starts, reference)


def test_no_chinese_character_is_torn_and_each_begins_a_word() -> None:
    plain = Tokenizer(models.BPE())
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    plain.model = models.BPE(vocabulary, [])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain)
    ids = np.array(plain.encode("我们 ab猫。").ids)  # one token a byte
    starts = WordTable.of(tokenizer).starts(ids)
    #                            我 3       们 3      ' ' a b  猫 3       。3
    assert starts.tolist() == [1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0, 0]


def test_korean_syllables_torn_into_bytes_stay_in_their_word() -> None:
    starts, reference, tokens = both("bpe", "한국어 문장입니다")
    assert len(tokens) > 8
    np.testing.assert_array_equal(starts, reference)


def test_sentencepiece_words_begin_at_spaces_and_punctuation() -> None:
    assert groups("unigram", "the statement, (optional) value3") == [
        "▁the",
        "▁statement",
        ",",
        "▁(",
        "optional",
        ")",
        "▁value3",
    ]
    assert groups("unigram", "他说我们") == ["▁他", "说", "我", "们"]


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_special_tokens_are_words_of_their_own(algorithm: Algorithm) -> None:
    tokenizer = trained(algorithm)
    ids = np.array([tokenizer.mask_token_id, *tokenizer("and").input_ids, tokenizer.mask_token_id])
    starts = WordTable.of(tokenizer).starts(ids)
    special = np.isin(ids, tokenizer.all_special_ids)
    assert starts[special].all()
    assert starts[1:][special[:-1]].all()


def test_the_first_token_begins_a_word_even_if_it_goes_on() -> None:
    tokenizer = trained("wordpiece")
    piece = next(i for token, i in tokenizer.get_vocab().items() if token.startswith("##"))
    assert WordTable.of(tokenizer).starts(np.array([piece, piece])).tolist() == [True, False]
    assert WordTable.of(tokenizer).starts(np.array([], dtype=np.int64)).tolist() == []


def test_a_tokenizer_without_marks_is_refused() -> None:
    plain = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match=r"--data\.tokenizer: words can't be told apart in a BPE tokenizer"):
        WordTable.of(PreTrainedTokenizerFast(tokenizer_object=plain))
