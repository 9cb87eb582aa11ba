import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AlbertConfig,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    RobertaConfig,
)

from ptm_lightning.data.tokenizer import (
    frame,
    from_text,
    load_tokenizer,
    meaning_special,
    ordinary_ids,
    plain,
    raw,
    to_text,
)
from ptm_lightning.data.tokenizer_training import Algorithm, train_tokenizer
from ptm_lightning.errors import UserError

ALGORITHMS: list[Algorithm] = ["wordpiece", "bpe", "unigram", "gpt2"]
TEXTS = [*list(topics.values())[:15], "“naïve” ‘ô’ ü 我们 é"]  # noqa: RUF001


@lru_cache
def trained(algorithm: Algorithm) -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, algorithm, 700, 64)


@pytest.mark.parametrize("algorithm", ALGORITHMS[:3])
def test_size_special_tokens_and_length(algorithm: Algorithm) -> None:
    tokenizer = trained(algorithm)
    assert len(tokenizer) == 700
    assert tokenizer.model_max_length == 64
    assert sorted(tokenizer.all_special_ids) == [0, 1, 2, 3, 4]
    encoded = tokenizer("the value", "of it").input_ids
    assert encoded[0] == tokenizer.cls_token_id
    assert encoded[-1] == tokenizer.sep_token_id
    assert tokenizer.mask_token_id in tokenizer(f"the {tokenizer.mask_token} value").input_ids


def test_ids_and_types_are_those_of_the_families() -> None:
    assert trained("wordpiece").convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert trained("bpe").convert_ids_to_tokens(range(5)) == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    assert trained("unigram").convert_ids_to_tokens(range(5)) == ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    assert set(trained("wordpiece")("a", "b").token_type_ids) == {0, 1}
    assert "token_type_ids" not in trained("bpe")("a", "b")
    assert trained("bpe")("a", "b").input_ids.count(2) == 3


def test_training_is_deterministic_over_processes() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/data'); import test_tokenizer as t\n"
        "print([t.to_text(t.trained(algorithm)) for algorithm in t.ALGORITHMS])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    ).stdout
    assert printed.strip() == str([to_text(trained(algorithm)) for algorithm in ALGORITHMS])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_training_is_deterministic_within_a_process(algorithm: Algorithm) -> None:
    assert to_text(train_tokenizer(list(TEXTS), algorithm, 700, 64)) == to_text(trained(algorithm))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_text_round_trip(algorithm: Algorithm) -> None:
    tokenizer = trained(algorithm)
    text, config = to_text(tokenizer)
    again = from_text(text, config)
    assert type(again) is type(tokenizer)
    assert to_text(again) == (text, config)
    for sample in TEXTS:
        assert again(sample).input_ids == tokenizer(sample).input_ids


@pytest.mark.parametrize(
    ("algorithm", "config"), [("wordpiece", BertConfig()), ("bpe", RobertaConfig()), ("unigram", AlbertConfig())]
)
def test_saved_beside_a_model_transformers_gives_the_same_ids(
    algorithm: Algorithm, config: BertConfig, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    trained(algorithm).save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    sample = f"The quick {again.mask_token} can't, 我们!"
    assert again(sample).input_ids == trained(algorithm)(sample).input_ids
    assert load_tokenizer(str(tmp_path)).mask_token == trained(algorithm).mask_token


@pytest.mark.parametrize("config", [GPT2Config(), LlamaConfig(), Qwen3Config()], ids=lambda config: config.model_type)
def test_a_text_for_gpt_begins_with_the_end_of_text_and_stays_open(config: GPT2Config, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    trained("gpt2").save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.convert_ids_to_tokens(range(2)) == ["<|endoftext|>", "<pad>"]
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (0, 0, 1)
    ids = again("The 我们 can't").input_ids
    assert ids == trained("gpt2")("The 我们 can't").input_ids
    assert ids.index(0) == 0
    assert ids.count(0) == 1
    assert again.decode(ids, skip_special_tokens=True) == "The 我们 can't"
    assert again("a", "b").input_ids.count(0) == 2


def test_raw_neither_pads_nor_cuts() -> None:
    tokenizer = from_text(*to_text(trained("wordpiece")))
    tokenizer.backend_tokenizer.enable_padding(length=20)
    tokenizer.backend_tokenizer.enable_truncation(max_length=4)
    assert len(raw(tokenizer).encode("the the the the the the").ids) == 8
    assert len(tokenizer.backend_tokenizer.encode("the the the the the the").ids) == 20


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_names_of_special_tokens_in_a_text_are_text(algorithm: Algorithm) -> None:
    tokenizer = train_tokenizer(list(TEXTS), algorithm, 700, 64, ("<extra_id_0>", "<extra_id_1>"))
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(sorted(special))
    assert len(names) >= 4
    for name in names:
        for text in (name, f"the {name} of it", f"the{name}of it", f"{name}{name} {names[0]}"):
            ids = plain(tokenizer).encode(text, add_special_tokens=False).ids
            assert not {*ids} & special - {tokenizer.unk_token_id}
    for text in TEXTS:
        assert plain(tokenizer).encode(text).ids == raw(tokenizer).encode(text).ids


def test_a_name_is_text_for_words_between_spaces_too() -> None:
    model = models.WordLevel({"[UNK]": 0, "[MASK]": 1, "the": 2}, "[UNK]")
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", mask_token="[MASK]")
    assert plain(tokenizer).encode("the [MASK]").ids == [2, 0, 0]
    assert raw(tokenizer).encode("the [MASK]").ids == [2, 1]


def test_a_prefix_may_mean_special_tokens() -> None:
    tokenizer = train_tokenizer(list(TEXTS), "bpe", 700, 64, ("<2de>",))
    (german,) = tokenizer.convert_tokens_to_ids(["<2de>"])
    for prefix, count in (("<2de> ", 1), ("say: ", 0)):
        coded = meaning_special(plain(tokenizer), prefix).encode(prefix + "the text", add_special_tokens=False)
        assert coded.ids.count(german) == count


def test_frame() -> None:
    assert frame(trained("wordpiece")) == ([2], [3])
    assert frame(trained("bpe")) == ([0], [2])
    assert frame(trained("gpt2")) == ([0], [])
    plain = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="b"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    assert frame(PreTrainedTokenizerFast(tokenizer_object=plain)) == ([], [])


def test_ordinary_ids_leave_out_special_and_added_tokens() -> None:
    tokenizer = from_text(*to_text(trained("wordpiece")))
    tokenizer.add_tokens(["newtoken"])
    np.testing.assert_array_equal(ordinary_ids(tokenizer), np.arange(5, 700))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_text_or_too_small_a_vocabulary_is_refused(algorithm: Algorithm) -> None:
    with pytest.raises(UserError, match=r"--data\.train holds no text"):
        train_tokenizer([] if algorithm in ("bpe", "gpt2") else [" "], algorithm, 500, 64)
    with pytest.raises(UserError, match=r"--data\.vocab_size 10: "):
        train_tokenizer(TEXTS, algorithm, 10, 64)


def test_a_small_corpus_gives_what_there_is() -> None:
    assert 10 < len(train_tokenizer(["the quick brown fox"], "wordpiece", 30_000, 64)) < 100


def test_load_tells_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"--data\.tokenizer: './nowhere' is not a folder"):
        load_tokenizer("./nowhere")
    with pytest.raises(UserError, match=r"--data\.tokenizer: neither a folder here nor readable from the hub"):
        load_tokenizer("no-such-owner/no-such-name")
    with pytest.raises(UserError, match="gives no tokenizer"):
        load_tokenizer(str(tmp_path))
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="holds no vocabulary"):
        load_tokenizer(str(tmp_path))


def test_a_slow_tokenizer_is_refused_with_the_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source.spm").write_bytes(b"\x0a\x0b")
    (tmp_path / "vocab.json").write_text('{"</s>": 0, "<unk>": 1, "<pad>": 2}')
    fix = r"tokenizer\.json.*; take a model that has one, such as NLLB or T5, or put one into the folder"
    with pytest.raises(UserError, match=fix):
        load_tokenizer(str(tmp_path))

    def no_library(*_: object, **__: object) -> None:
        raise ImportError("MarianTokenizer requires the SentencePiece library but it was not found.")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", no_library)
    with pytest.raises(UserError, match=f"'owner/name' has no {fix}"):
        load_tokenizer("owner/name")
