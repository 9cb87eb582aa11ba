"""FineTuning: what tasks share that start from a pretrained network and give it a head of their own."""

import re
from abc import ABC
from dataclasses import replace
from typing import Any, ClassVar

from torch import nn

from ptm_lightning.checkpoint import record_of
from ptm_lightning.data.formats import Row
from ptm_lightning.errors import UserError
from ptm_lightning.log import say
from ptm_lightning.models.head import told_by_head
from ptm_lightning.models.lora import Lora, add_adapters, is_adapter
from ptm_lightning.optim import build_optimizer
from ptm_lightning.task import Task

LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")
LORA_RATE = 5e-4
"""Peak learning rate of adapters where none is given."""
EMBEDDING = re.compile(r"(?:^|\.)(?:\w*embed\w*|wte|wpe|shared)(?:\.|$)")


class FineTuning(Task, ABC):
    """A pretrained network with a head: rates by layer, and layers that stay as they are.

    References:
        - layer-wise decay: ULMFiT, 2018, https://arxiv.org/abs/1801.06146; ELECTRA, 2020,
          https://arxiv.org/abs/2003.10555
        - LoRA, 2021, https://arxiv.org/abs/2106.09685
    """

    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's averaging of the gradient and of its square."""
    found: ClassVar[tuple[str, ...]] = ()
    """What training finds besides weights, such as a threshold: fields of the network's config."""
    labelled: ClassVar[bool] = False
    """Whether the head predicts labels, whose names its config has."""

    head_learning_rate: float | None = None
    """The head's own peak; default: as the others."""
    layer_decay: float = 1.0
    """What the rate of each layer is of the one above it, such as 0.9; the embeddings have the lowest."""
    frozen_layers: int = 0
    """Embeddings and so many of the lowest layers stay as they are; -1: all but the head."""
    lora_rank: int = 0
    """Trains adapters of this rank beside the pretrained weights (LoRA), and the head; learning_rate is then 5e-4."""
    lora_alpha: float | None = None
    """What the adapters add is multiplied with alpha / rank. Default: twice the rank."""
    lora_dropout: float = 0.0
    """Share of the adapters' input that is dropped in training."""
    lora_targets: list[str] | None = None
    """Names of the linear layers that get adapters, such as query value. Default: all but the head."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"--model.layer_decay {self.layer_decay}: give a factor above 0 and at most 1, such as 0.9")
        if self.lora_rank < 0:
            raise UserError(f"--model.lora_rank {self.lora_rank}: give 1 or more, such as 8")
        if self.lora_alpha is not None and self.lora_alpha <= 0:
            raise UserError(f"--model.lora_alpha {self.lora_alpha}: give a number above 0, such as 16")
        self.check_share("lora_dropout")
        for name in ("lora_alpha", "lora_dropout", "lora_targets"):
            if getattr(self, name) and not self.lora_rank:
                raise UserError(f"--model.{name}: only adapters have one; give --model.lora_rank too")

    def check_share(self, name: str) -> None:
        """Refuses an argument that is no share below 1."""
        if not 0 <= (value := getattr(self, name)) < 1:
            raise UserError(f"--model.{name} {value}: give a share below 1, such as 0.1")

    def keep(self, **values: Any) -> None:
        """Writes what training has found into the network's config, which checkpoints and exports carry."""
        assert self.network is not None
        for name, value in values.items():
            setattr(self.network.config, name, value)
        self.link = self._link.with_network(self.auto_class, self.network.config)

    def kept(self, name: str) -> Any:
        """What training has found, from the network's config; None before."""
        return getattr(self.network.config, name, None) if self.network is not None else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes along what was found when a run goes on."""
        super().on_load_checkpoint(checkpoint)
        stored = record_of(checkpoint)["link"]["network"]
        self.keep(**{name: stored[name] for name in self.found if name in stored})

    def setup(self, stage: str) -> None:
        """When a pretrained network predicts, which no data of ours have told its labels, its head says them.

        When it is trained, it is said if tokens that it got just now don't learn.
        """
        super().setup(stage)
        assert self.network is not None
        if stage == "predict" and self.labelled and not (self._link.labels or self._link.problem_type):
            self.link = replace(self._link, **told_by_head(self.network.config))
        embeddings: Any = self.network.get_input_embeddings()
        if stage == "fit" and self._link.new_tokens and not embeddings.weight.requires_grad:
            flags = "--model.lora_rank" if self.lora_rank else "--model.frozen_layers"
            say(f"{flags}: the embeddings aren't trained, so the {len(self._link.new_tokens)} new tokens don't learn")

    @property
    def peak_rate(self) -> float:
        """The peak learning rate."""
        return self.learning_rate or (LORA_RATE if self.lora_rank else super().peak_rate)

    @property
    def lora(self) -> Lora | None:
        """What the adapters are like; None without them."""
        alpha = 2 * self.lora_rank if self.lora_alpha is None else self.lora_alpha
        return Lora(self.lora_rank, alpha, self.lora_dropout, self.lora_targets) if self.lora_rank else None

    def trained_beside(self, name: str) -> bool:
        """Whether a parameter is trained as a whole, beside adapters: the head, and what was drawn with it."""
        network: Any = self.network
        vocabulary = network.get_output_embeddings()
        pretrained = vocabulary is not None and network.get_parameter(name) in set(vocabulary.parameters())
        # A network that was pretrained on masked tokens has no pooler.
        return not pretrained and (is_head(network, name) or "pooler" in name.split("."))

    def evaluated(self, example: int) -> Row:
        """A row that was validated or tested, as it was read.

        Args:
            example: Its number in the data.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        row: Row = next(getattr(data.corpus, self.evaluation.split).rows([example]))
        return row

    def configure_model(self) -> None:
        """Builds the network, gives it adapters if asked for, and freezes what shall stay as it is."""
        super().configure_model()
        if self.network is None:
            return
        if self.head_learning_rate and not any(is_head(self.network, n) for n, _ in self.network.named_parameters()):
            raise UserError("--model.head_learning_rate: the network has no head beside its body; leave it out")
        if self.lora is not None:
            if self.backbone is None:
                raise UserError("--model.lora_rank: adapts a pretrained network; give --init_from or --model.backbone")
            add_adapters(self.network, self.lora, self.trained_beside, self.seed)
        if self.frozen_layers == 0:
            return
        layers = number_of_layers(self.network)
        if not -1 <= self.frozen_layers <= layers:
            raise UserError(f"--model.frozen_layers {self.frozen_layers}: the network has {layers} layers; -1 is all")
        kept = layers + 1 if self.frozen_layers == -1 else self.frozen_layers
        for name, parameter in self.network.named_parameters():
            if depth(self.network, name, layers) <= kept and not is_head(self.network, name):
                parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in self.network.parameters()):
            raise UserError(f"--model.frozen_layers {self.frozen_layers}: leaves nothing to learn; give fewer")
        adapters = [parameter for name, parameter in self.network.named_parameters() if is_adapter(name)]
        if adapters and not any(parameter.requires_grad for parameter in adapters):
            raise UserError(f"--model.frozen_layers {self.frozen_layers}: leaves no adapter to learn; give fewer")

    def build_optimizer(self) -> Any:
        """The optimizer, with a rate for each layer."""
        assert self.network is not None
        network, layers = self.network, number_of_layers(self.network)
        head = self.head_learning_rate or self.peak_rate

        def rate(name: str) -> float:
            if is_head(network, name):
                return head
            return float(self.peak_rate * self.layer_decay ** (layers + 1 - depth(network, name, layers)))

        return build_optimizer(self, network, rate)


def is_head(network: Any, name: str) -> bool:
    """Whether a parameter belongs to the head and not to the pretrained body; T5 as a whole is its body."""
    return network.base_model is not network and not name.startswith(f"{network.base_model_prefix}.")


def number_of_layers(network: nn.Module) -> int:
    """How many layers the body has; an encoder-decoder's longer side counts."""
    numbers = [int(found[1]) for name, _ in network.named_parameters() if (found := LAYER.search(f".{name}"))]
    return max(numbers, default=-1) + 1


def depth(network: nn.Module, name: str, layers: int) -> int:
    """How high a parameter stands: 0 for embeddings, layers from 1, what is above them layers + 1."""
    if found := LAYER.search(f".{name}"):
        return int(found[1]) + 1
    return 0 if EMBEDDING.search(name) else layers + 1
