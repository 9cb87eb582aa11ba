"""Tokenizers: load one, ask what it has, and carry one as plain text in a checkpoint."""

import json
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Regex, Tokenizer
from tokenizers.pre_tokenizers import Sequence, Split
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ptm_lightning.errors import UserError

_ORIGIN = ("name_or_path", "is_local", "local_files_only")
SLOW_PIECES = ("source.spm", "sentencepiece.bpe.model")
"""Beside vocab.json, files that hold the pieces of Marian's tokenizer, and of M2M-100's."""
FIX = "take a model that has one, such as NLLB or T5, or put one into the folder"
_FILES = ("tokenizer.json", "tokenizer_config.json")


def load_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder or, when no folder is meant, under this name on the hub.

    Code of a model repository never runs.

    Args:
        name: A folder, or a name on the hub such as `bert-base-uncased`.

    Returns:
        The tokenizer, backed by the `tokenizers` library.

    Raises:
        UserError: There is no such folder or name, it holds no tokenizer, or only one without a fast version.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir() and (folder.exists() or _is_path(name)):
        raise UserError(f"--data.tokenizer: '{name}' is not a folder; give a folder with tokenizer.json, or a hub name")
    _refuse_slow(folder)
    try:
        found = AutoTokenizer.from_pretrained(str(folder) if folder.is_dir() else name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        if "SentencePiece" in str(error):  # the library that transformers asks for makes no fast one
            raise UserError(f"--data.tokenizer: '{name}' has no tokenizer.json, which is needed; {FIX}") from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        where = "the folder" if folder.is_dir() else "neither a folder here nor readable from the hub:"
        raise UserError(f"--data.tokenizer: {where} '{name}' gives no tokenizer ({reason})") from error
    if not isinstance(found, PreTrainedTokenizerFast):
        raise UserError(f"--data.tokenizer: '{name}' has no fast version (tokenizer.json); {FIX}")
    if not len(ordinary_ids(found)):
        # AutoTokenizer makes an empty one out of a folder that holds a model's config.json only.
        raise UserError(f"--data.tokenizer: '{name}' holds no vocabulary (tokenizer.json is missing)")
    return found


def _refuse_slow(folder: Path) -> None:
    """Refuses a folder of Marian or M2M-100 as published: transformers knows no way from it to a fast tokenizer."""
    pieces = [name for name in SLOW_PIECES if (folder / name).exists() and (folder / "vocab.json").exists()]
    if pieces and not (folder / "tokenizer.json").exists():
        raise UserError(
            f"--data.tokenizer: '{folder}' has the slow tokenizer of Marian or M2M-100 alone ({pieces[0]}, vocab.json) "
            f"and needs a tokenizer.json; {FIX}"
        )


def _is_path(name: str) -> bool:
    """Whether a name can't be meant for the hub, where names are 'model' or 'owner/model'."""
    return name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1


def raw(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy that neither pads nor cuts, which a tokenizer.json may ask for silently."""
    copy: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def plain(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """A copy for the user's text, in which the names of special tokens are text like any other: "[MASK]" is no mask."""
    copy = raw(tokenizer)
    copy.encode_special_tokens = True
    names = {str(copy.id_to_token(id_)): id_ for id_ in set(tokenizer.all_special_ids)}
    names |= {str(token): id_ for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
    # A unigram model has them among its pieces.
    if found := _beginnings(name for name, id_ in names.items() if len(name) > 1 and _reads(copy, name, id_)):
        apart = Split(Regex(found), "isolated")
        own = copy.pre_tokenizer
        copy.pre_tokenizer = apart if own is None else Sequence([own, apart])
    return copy


def _reads(tokenizer: Tokenizer, name: str, id_: int) -> bool:
    """Whether a tokenizer makes a special token of its name, in a text."""
    return any(
        id_ in tokenizer.encode(text, add_special_tokens=False).ids for text in (name, f"a{name}a", f"a {name} a")
    )


def _beginnings(names: Iterable[str]) -> str:
    """A pattern of the first characters of some names, each only where the rest of its name follows."""
    rests: dict[str, list[str]] = {}
    for name in sorted(names):
        rests.setdefault(name[0], []).append(re.escape(name[1:]))
    return "|".join(f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in rests.items())


def meaning_special(tokenizer: Tokenizer, prefix: str) -> Tokenizer:
    """A tokenizer for texts behind a prefix: one that makes special tokens of their names if the prefix has any."""
    copy: Tokenizer = Tokenizer.from_str(tokenizer.to_str())
    special = {id_ for id_, token in copy.get_added_tokens_decoder().items() if token.special}
    return copy if special & set(copy.encode(prefix, add_special_tokens=False).ids) else tokenizer


def frame(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """The ids before and after a single text, such as [CLS] and [SEP].

    Args:
        tokenizer: Any tokenizer.

    Returns:
        Ids before and ids after; both empty when the tokenizer puts nothing around a text.
    """
    encoded = raw(tokenizer).encode("a")
    inside = [i for i, special in enumerate(encoded.special_tokens_mask) if not special]
    if not inside:
        raise AssertionError("a tokenizer that gives no token for 'a'")
    return list(encoded.ids[: inside[0]]), list(encoded.ids[inside[-1] + 1 :])


def ordinary_ids(tokenizer: PreTrainedTokenizerFast) -> npt.NDArray[np.int64]:
    """Ids that are neither special nor added tokens: random replacements are drawn from these.

    Returns:
        Ids in rising order, shape (n,), n < len(tokenizer).
    """
    own = set(tokenizer.get_vocab().values()) - set(tokenizer.added_tokens_decoder) - set(tokenizer.all_special_ids)
    return np.array(sorted(own), dtype=np.int64)


def sentinel_ids(tokenizer: PreTrainedTokenizerFast) -> npt.NDArray[np.int64]:
    """Ids of the sentinels <extra_id_0>, <extra_id_1>, ... in the order of their numbers, whatever their ids are.

    Without any, the tokenizer's further special tokens in their order.

    Returns:
        Shape (s,), s = 0 if there are none.
    """
    names = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    numbered = {int(found[1]): name for name in names if (found := re.fullmatch(r"<extra_id_(\d+)>", name))}
    ordered = [numbered[number] for number in sorted(numbered)] or [str(t) for t in tokenizer.extra_special_tokens]
    return np.array(tokenizer.convert_tokens_to_ids(ordered), dtype=np.int64)


def to_text(tokenizer: PreTrainedTokenizerFast) -> tuple[str, dict[str, Any]]:
    """The tokenizer as plain values, for the checkpoint.

    Returns:
        tokenizer.json as text, and tokenizer_config.json as a dict.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder, save_jinja_files=False)  # a chat template is one of the settings
        text, config = (Path(folder, name).read_text(encoding="utf-8") for name in _FILES)
    # Where it was loaded from is no property of the tokenizer, and would make two round trips differ.
    plain = {key: value for key, value in json.loads(config).items() if key not in _ORIGIN}
    return text, plain


def from_text(tokenizer_json: str, config: dict[str, Any]) -> PreTrainedTokenizerFast:
    """The tokenizer that `to_text` took apart.

    Args:
        tokenizer_json: tokenizer.json, as text.
        config: tokenizer_config.json.

    Returns:
        A tokenizer of the same class that gives the same ids.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, text in zip(_FILES, (tokenizer_json, json.dumps(config)), strict=True):
            Path(folder, name).write_text(text, encoding="utf-8")
        found = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    assert isinstance(found, PreTrainedTokenizerFast)
    # The temporary folder is gone; its name must not end up in a model card.
    found.name_or_path = ""
    found.init_kwargs.pop("name_or_path", None)
    return found
