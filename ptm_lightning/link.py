"""What a task must know of its data, carried by the checkpoint so that loading needs neither data nor hub."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self


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
    """Of tasks that answer with text: the prefix of their inputs, the longest answer, how the decoder begins."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Sources, documents, tokens, loss of a unigram model: for the summary and the model card."""
    network: dict[str, Any] | None = None
    """The network's config, once it is built."""

    def with_network(self, config: dict[str, Any]) -> Self:
        """The same link, with the network's config."""
        return replace(self, network=config)

    def state(self) -> dict[str, Any]:
        """What the checkpoint carries."""
        return asdict(self)
