"""Training a tokenizer: WordPiece, byte-level BPE or unigram, with the special tokens of a family of networks."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ptm_lightning.errors import UserError

Algorithm = Literal["wordpiece", "bpe", "unigram", "gpt2", "xlnet"]

UNIGRAM = ("unigram", "xlnet")
"""Those that are trained by the unigram model."""
TRAINED_ON = "trained_on"
"""The key in tokenizer_config.json that says on how much text the tokenizer was trained."""

END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(
    texts: Sequence[str],
    algorithm: Algorithm,
    vocab_size: int,
    max_length: int,
    special_tokens: Sequence[str] = (),
    trained_on: str | None = None,
) -> PreTrainedTokenizerFast:
    """Trains a tokenizer as BERT (WordPiece), RoBERTa or GPT-2 (byte-level BPE), ALBERT or XLNet (unigram) has it.

    A corpus too small for `vocab_size` gives a smaller vocabulary: the caller sees it in `len(tokenizer)`.

    Args:
        texts: Documents, or passages of them.
        algorithm: WordPiece (https://arxiv.org/abs/1609.08144), BPE (https://arxiv.org/abs/1508.07909) on bytes with
            RoBERTa's ("bpe") or GPT-2's special tokens, or unigram (https://arxiv.org/abs/1804.10959) with ALBERT's or
            XLNet's special tokens: XLNet's stand behind the text, and padding before it.
        vocab_size: Tokens wanted, special tokens included.
        max_length: The longest row in tokens, which the tokenizer carries as `model_max_length`.
        special_tokens: More of them, such as sentinels. They come on top of `vocab_size`, in the order of their ids,
            and take the space before them along, as RoBERTa's <mask> does.
        trained_on: What the texts are, for the model card; the tokenizer carries it.

    Returns:
        The tokenizer, with its special tokens and its frame of a single text and of a pair.

    Raises:
        UserError: The text is empty, or has more distinct characters than `vocab_size` leaves room for.
    """
    tokenizer, names = _TRAINERS[algorithm](texts, vocab_size)
    if (size := tokenizer.get_vocab_size()) > vocab_size:
        raise UserError(f"--data.vocab_size {vocab_size}: single characters alone need {size}; give more than that")
    tokenizer.post_processor = _frame_of(tokenizer, algorithm, names)
    make: Any = PreTrainedTokenizerFast  # its constructor has no types
    settings = names | _settings(algorithm) | ({} if trained_on is None else {TRAINED_ON: trained_on})
    made: PreTrainedTokenizerFast = make(tokenizer_object=tokenizer, model_max_length=max_length, **settings)
    if special_tokens:
        more: Any = [AddedToken(token, lstrip=True, normalized=False, special=True) for token in special_tokens]
        made.add_special_tokens({"extra_special_tokens": more})
    return made


def _settings(algorithm: Algorithm) -> dict[str, Any]:
    """What else the family's published tokenizers say."""
    if algorithm in ("bpe", "gpt2"):
        ends = {"bos_token": "<s>", "eos_token": "</s>"} if algorithm == "bpe" else {}
        return {"model_input_names": ["input_ids", "attention_mask"], **ends}
    padding = {"padding_side": "left"} if algorithm == "xlnet" else {}  # its classifiers read the last token
    return {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"], **padding}


def _wordpiece(texts: Sequence[str], vocab_size: int) -> tuple[Tokenizer, dict[str, str]]:
    """As BERT, uncased.

    The library numbers the pieces '##x' of single characters in the order of a randomly seeded hash map, and breaks
    ties between merges by these numbers. So they are given in order: a first pass over the text finds the characters.
    """
    names = _names("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    special = list(names.values())

    def trained(size: int, first: list[str]) -> Tokenizer:
        tokenizer = _bare_wordpiece({})
        trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=special + first, show_progress=False)
        tokenizer.train_from_iterator(texts, trainer)
        return tokenizer

    alphabet = trained(0, []).get_vocab()
    _check_text(alphabet, special)
    inner = sorted(piece for piece in alphabet if piece.startswith("##") and len(piece) == 3)
    vocabulary = trained(vocab_size, inner).get_vocab()
    # Rebuilt, because what comes first is taken for special tokens.
    tokenizer = _bare_wordpiece(vocabulary)
    tokenizer.add_special_tokens(special)
    return tokenizer, names


def _bare_wordpiece(vocabulary: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _bpe(texts: Sequence[str], vocab_size: int) -> tuple[Tokenizer, dict[str, str]]:
    """As RoBERTa."""
    names = _names("<pad>", "<unk>", "<s>", "</s>", "<mask>")
    return _byte_level(texts, vocab_size, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]), names


def _gpt2(texts: Sequence[str], vocab_size: int) -> tuple[Tokenizer, dict[str, str]]:
    """As GPT-2, where one token ends a text and begins the next; the padding token is one of its own."""
    names = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": "<pad>"}
    return _byte_level(texts, vocab_size, [END_OF_TEXT, "<pad>"]), names


def _byte_level(texts: Sequence[str], vocab_size: int, special: list[str]) -> Tokenizer:
    """BPE on bytes, so that no text is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size <= (least := len(special) + len(alphabet)):
        raise UserError(f"--data.vocab_size {vocab_size}: byte-level BPE needs more than {least} (all bytes)")
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    _check_text(tokenizer.get_vocab(), [*special, *alphabet])
    return tokenizer


def _unigram(texts: Sequence[str], vocab_size: int) -> tuple[Tokenizer, dict[str, str]]:
    """As ALBERT, with its case kept."""
    return _sentencepiece(texts, vocab_size, _names("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"))


def _xlnet(texts: Sequence[str], vocab_size: int) -> tuple[Tokenizer, dict[str, str]]:
    """As XLNet."""
    return _sentencepiece(texts, vocab_size, _names("<pad>", "<unk>", "<cls>", "<sep>", "<mask>"))


def _sentencepiece(texts: Sequence[str], vocab_size: int, names: dict[str, str]) -> tuple[Tokenizer, dict[str, str]]:
    special = list(names.values())
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    try:
        tokenizer.train_from_iterator(texts, trainer)
    except Exception as error:  # the library raises a bare Exception
        if "not large enough" not in str(error):
            raise
        raise UserError(f"--data.vocab_size {vocab_size}: too small to hold the text's single characters") from error
    _check_text(tokenizer.get_vocab(), [*special, "▁"])
    scores = {name: score for name, score in json.loads(tokenizer.to_str())["model"]["vocab"] if name not in special}
    pieces = sorted(_settled(scores).items(), key=lambda item: (-item[1], item[0]))
    tokenizer.model = models.Unigram([(name, 0.0) for name in special] + pieces, special.index("<unk>"))
    return tokenizer, names


_TRAINERS = {"wordpiece": _wordpiece, "bpe": _bpe, "unigram": _unigram, "gpt2": _gpt2, "xlnet": _xlnet}


def _settled(scores: dict[str, float]) -> dict[str, float]:
    """Scores that don't depend on the order in which threads and hash maps worked.

    The library adds up in the order of threads (the last digits differ), and gives the characters that it must keep
    the lowest score plus 0.0001, 0.0002 and so on in the order of a randomly seeded hash map.
    """
    lowest = min(scores.values())
    steps = {piece: (score - lowest) * 1e4 for piece, score in scores.items() if len(piece) == 1}
    kept = sorted(piece for piece, step in steps.items() if abs(step - round(step)) < 1e-3)
    ordered = zip(kept, sorted((scores[piece] for piece in kept), reverse=True), strict=True)
    return {piece: round(score, 6) for piece, score in (scores | dict(ordered)).items()}


def _names(pad: str, unk: str, cls: str, sep: str, mask: str) -> dict[str, str]:
    """Special tokens by their role; their order here is that of their ids, RoBERTa excepted."""
    return {"pad_token": pad, "unk_token": unk, "cls_token": cls, "sep_token": sep, "mask_token": mask}


def _check_text(vocabulary: dict[str, int], given: Iterable[str]) -> None:
    """Refuses a vocabulary that has nothing but what was given beforehand."""
    if not set(vocabulary) - set(given):
        raise UserError("--data.tokenizer train: --data.train holds no text to train a tokenizer on")


def _frame_of(tokenizer: Tokenizer, algorithm: Algorithm, names: dict[str, str]) -> Any:
    """What stands around a text and around a pair, as the family's published tokenizers have it."""
    ids = tokenizer.get_vocab()
    if algorithm == "gpt2":  # nothing after a text: it is there to be continued
        return processors.TemplateProcessing(
            single=f"{END_OF_TEXT} $A",
            pair=f"{END_OF_TEXT} $A {END_OF_TEXT} $B",
            special_tokens=[(END_OF_TEXT, ids[END_OF_TEXT])],
        )
    cls, sep = ((names[role], ids[names[role]]) for role in ("cls_token", "sep_token"))
    if algorithm == "bpe":
        # By position: the keyword for cls differs between versions of tokenizers.
        return processors.RobertaProcessing(sep, cls, True, False)
    if algorithm == "xlnet":
        return processors.TemplateProcessing(
            single=f"$A {sep[0]} {cls[0]}:2",
            pair=f"$A {sep[0]} $B:1 {sep[0]}:1 {cls[0]}:2",
            special_tokens=[cls, sep],
        )
    return processors.TemplateProcessing(
        single=f"{cls[0]} $A {sep[0]}",
        pair=f"{cls[0]} $A {sep[0]} $B:1 {sep[0]}:1",
        special_tokens=[cls, sep],
    )
