"""What a task must know of its data, carried by the checkpoint so that loading needs neither data nor hub."""

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self

from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.tokenizer import from_text, to_text

SPECIAL_ROLES = ("pad", "mask", "cls", "sep", "bos", "eos", "unk")


@dataclass(frozen=True)
class Link:
    """The data module makes it in `setup`, the task takes it there, and the checkpoint carries it.

    Everything in it is a plain string, number, list or dict, so that a checkpoint loads with `weights_only`.
    """

    tokenizer: str
    """tokenizer.json, as text."""
    tokenizer_config: dict[str, Any]
    """tokenizer_config.json: special tokens, model_max_length."""
    vocabulary: int
    """How many ids the tokenizer has."""
    special_ids: dict[str, int | None]
    """Ids of the special tokens by role: "pad", "mask", "cls", "sep", "bos", "eos", "unk"."""
    max_length: int
    """The longest row, in tokens, special tokens included."""
    labels: list[str] = field(default_factory=list)
    """Label names in the order of their ids."""
    problem_type: str | None = None
    """What the labels are, in transformers' words, such as "regression"; None without labels."""
    target_side: dict[str, Any] = field(default_factory=dict)
    """Of tasks that answer with text: the prefix of their inputs, the longest answer, how it begins and ends."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Sources, documents, tokens, loss of a unigram model: for the summary and the model card."""
    new_tokens: dict[str, list[int]] = field(default_factory=dict)
    """Tokens by which this run has extended the tokenizer that it started with; each with the ids of its pieces."""
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Mixtures only: of each part, the name of its "task" and its "share" of the steps."""
    network: dict[str, Any] | None = None
    """The network's config, once it is built."""
    auto_class: str | None = None
    """Its transformers auto class."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, **values: Any) -> Self:
        """What the tokenizer says, and other values."""
        text, config = to_text(tokenizer)
        special_ids = {role: getattr(tokenizer, f"{role}_token_id") for role in SPECIAL_ROLES}
        if special_ids["pad"] == special_ids["eos"]:  # a network doesn't learn the embedding of its padding id
            special_ids["pad"] = None
        return cls(text, config, len(tokenizer), special_ids, **values)

    @cached_property
    def hf_tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer, read once: it takes longer than a small network's answer."""
        return from_text(self.tokenizer, self.tokenizer_config)

    def with_network(self, auto_class: str, config: Any) -> Self:
        """The same link, with the network's auto class and config."""
        plain = config.to_diff_dict() | {"model_type": config.model_type}
        return replace(self, network=plain, auto_class=auto_class)

    def state(self) -> dict[str, Any]:
        """What the checkpoint carries."""
        return asdict(self)
