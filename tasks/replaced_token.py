"""Replaced token detection, ELECTRA's objective: a generator replaces tokens, and the network finds them."""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedConfig, PreTrainedModel

from ptm_lightning.cross_entropy import stretches, summed_cross_entropy
from ptm_lightning.data.batch import CHANCE_BITS, Batch
from ptm_lightning.data.layout import Pieces
from ptm_lightning.data.masked import MaskCollate
from ptm_lightning.data.noise import Ints, Purpose, hash64
from ptm_lightning.data.predict import Text, text_batch
from ptm_lightning.data.replacement_findings import Replaced, replacement_findings
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.errors import UserError
from ptm_lightning.findings import Finding
from ptm_lightning.log import say
from ptm_lightning.models.build import build_network
from ptm_lightning.models.rows import only_rows
from ptm_lightning.task import Task
from ptm_lightning.terms import Auroc, Ratio, Term, Terms

from .masked_lm import MaskedLMData

HEAD_WIDTH = 64


@dataclass(frozen=True)
class ReplaceCollate(MaskCollate):
    """Pieces of documents to a batch with BERT's noise, and the chances that decide what replaces a target."""

    def __call__(self, pieces: Pieces) -> Batch:
        """One batch of R rows of T places; the second term counts every real token."""
        batch = super().__call__(pieces)
        batch["counts"]["rtd"] = batch["counts"]["tokens"]
        return batch

    def of_targets(self, draw: Ints, offset: Ints) -> Batch:
        """A random integer for each target, by its place in the store like all noise."""
        chances = hash64(self.seed, draw, offset, Purpose.SAMPLE) >> (64 - CHANCE_BITS)
        return Batch(chances=torch.from_numpy(chances.astype(np.int64)), **super().of_targets(draw, offset))


class ReplacedTokenData(MaskedLMData):
    """Text with masked tokens, for a generator to replace.

    References:
        - ELECTRA, 2020, https://arxiv.org/abs/2003.10555; the shares are those of its code
    """

    collate: ClassVar[type[MaskCollate]] = ReplaceCollate

    mask_share: float = 0.85
    """Share of the targets that the generator sees as the mask token."""
    random_share: float = 0.0
    """Share of the targets that it sees as random tokens; the rest stays as it is."""

    def predict_batch(self, texts: list[Text]) -> Batch:
        """Texts of which every token is judged."""
        return text_batch(texts, self.hf_tokenizer, self.max_length)


def sample_tokens(logits: Tensor, chances: Tensor, temperature: float) -> Tensor:
    """Draws a token from each row's distribution, by the inverse of its cumulative distribution.

    The sums are of integers, which are exact: a draw is in range, is never a token without probability, and is the same
    on any device.

    Args:
        logits: (N, V).
        chances: (N,) integers, uniform in [0, 2**30).
        temperature: Divides the logits; 1 leaves the distribution as it is.

    Returns:
        (N,) token ids, without gradient.
    """
    logits = logits.detach()
    parts = [_sample(logits[part].float() / temperature, chances[part]) for part in stretches(logits)]
    drawn = torch.cat([chances[:0], *parts])
    return drawn.clamp(max=logits.shape[-1] - 1)  # a network that has diverged has no distribution


def _sample(logits: Tensor, chances: Tensor) -> Tensor:
    cumulative = (logits.softmax(dim=-1) * 2.0**32).long().cumsum(dim=-1)
    threshold = chances[:, None] * cumulative[:, -1:] >> CHANCE_BITS
    return torch.searchsorted(cumulative, threshold, right=True).squeeze(1)


def generator_config(config: PreTrainedConfig, share: float) -> PreTrainedConfig:
    """The generator's config as ELECTRA's code makes it: narrower, as deep, with embeddings of the same width."""
    small: Any = deepcopy(config)
    small.architectures = None
    small.hidden_size = round(small.hidden_size * share)
    small.num_attention_heads = max(1, small.hidden_size // HEAD_WIDTH)
    small.intermediate_size = 4 * small.hidden_size
    if small.hidden_size < 1 or small.hidden_size % small.num_attention_heads:
        raise UserError(
            f"--model.generator_share {share}: a generator {small.hidden_size} wide can't have "
            f"{small.num_attention_heads} attention heads; take a share that gives a multiple of {HEAD_WIDTH}"
        )
    made: PreTrainedConfig = small
    return made


class ReplacedTokenDetection(Task):
    """ELECTRA: a generator fills masked tokens, and the network tells which tokens were replaced.

    The network is the discriminator; both are trained together and share their embeddings. As in ELECTRA's code, the
    discriminator judges every real token, special ones too, though these are never replaced.

    References:
        - ELECTRA, 2020, https://arxiv.org/abs/2003.10555
    """

    data_class: ClassVar[type[TaskData]] = ReplacedTokenData
    auto_class: ClassVar[str] = "AutoModelForPreTraining"

    architecture: str = "electra"
    """What to build from scratch when there is no backbone: only electra has the two heads."""
    generator_share: float = 0.25
    """Width of the generator as a share of the network's; it is as deep."""
    discriminator_weight: float = 50.0
    """Weight of the discriminator's loss; the generator's is 1."""
    temperature: float = 1.0
    """Of sampling from the generator."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.generator: PreTrainedModel | None = None
        if self.architecture != "electra":
            raise UserError(f"--model.architecture {self.architecture}: replaced token detection needs electra")
        if not 0 < self.generator_share <= 1:
            raise UserError(f"--model.generator_share {self.generator_share}: give a share up to 1, such as 0.25")
        for name in ("temperature", "discriminator_weight"):
            if getattr(self, name) <= 0:
                raise UserError(f"--model.{name} {getattr(self, name)}: give a positive number, such as 1")

    def configure_model(self) -> None:
        """Builds both networks, once; the generator's config follows from the other's."""
        loads = self.link is not None and self.link.network is not None
        super().configure_model()
        if self.network is None or self.generator is not None:
            return
        if self.backbone and not loads:
            say(f"--model.backbone {self.backbone}: has no generator; it starts from scratch, with these embeddings")
        seed = int(hash64(self.seed, 0, 0, Purpose.GENERATOR)[0] >> 1)
        config = generator_config(self.network.config, self.generator_share)
        generator: Any = build_network("AutoModelForMaskedLM", config, seed)
        network: Any = self.network
        generator.electra.embeddings = network.electra.embeddings
        generator.tie_weights()
        self.generator = generator

    def check_kind(self, kind: type[PreTrainedConfig], flag: str) -> None:
        """Refuses all but ELECTRA."""
        if kind.model_type != "electra":
            raise UserError(
                f"{flag}: is a {kind.model_type}; "
                "replaced token detection needs an electra, such as google/electra-small-discriminator"
            )

    def auxiliary_networks(self) -> dict[str, PreTrainedModel]:
        """The generator."""
        return {} if self.generator is None else {"generator": self.generator}

    def logits_at_targets(self, batch: Batch) -> Tensor:
        """(N, vocabulary + 1): the generator's logits, and the network's of each target, weighted as in the loss."""
        guesses, _, _, logits = self._run_both(batch)
        judged = self.discriminator_weight * logits.flatten()[batch["target_index"], None]
        return torch.cat([guesses, judged], dim=1)

    def findings(self, batches: Sequence[Batch]) -> Iterator[Finding]:
        """Tokens drawn as the generator guesses, in the place of targets only, and labels that tell them."""
        tokenizer = self.tokenizer()
        assert tokenizer is not None

        def replace(batch: Batch) -> Replaced:
            guesses, ids, replaced, _ = self._run_both(batch)
            return Replaced(guesses[:, : self._link.vocabulary], ids, replaced)

        yield from replacement_findings(batches, replace, tokenizer, self.temperature)

    def terms(self, batch: Batch) -> Terms:
        """Cross-entropies of both networks, in nats; in evaluation how well replaced tokens are found."""
        guesses, _, replaced, logits = self._run_both(batch)
        targets, counts, real = batch["targets"], batch["counts"], batch["document_ids"] > 0
        rtd = functional.binary_cross_entropy_with_logits(logits, replaced.float(), real.float(), reduction="sum")
        terms: dict[str, Term | Ratio | Auroc] = {
            "mlm": Term(summed_cross_entropy(guesses, targets), counts["mlm"]),
            "rtd": Term(rtd, counts["rtd"], self.discriminator_weight),
        }
        if self.training:
            return terms
        judged = (logits > 0) & real
        hits = (judged & replaced).sum()
        if "fresh" in batch:
            fresh, mlm = batch["fresh"], functional.cross_entropy(guesses.float(), targets, reduction="none")
            terms["mlm_loss_new_sentences"] = Ratio((mlm * fresh).sum(), fresh.sum())
        return terms | {
            "generator_accuracy": Ratio((guesses.argmax(dim=-1) == targets).sum(), counts["mlm"]),
            "replaced": Ratio(replaced.sum(), counts["rtd"]),
            "accuracy": Ratio(((judged == replaced) & real).sum(), counts["rtd"]),
            "precision": Ratio(hits, judged.sum()),
            "recall": Ratio(hits, replaced.sum()),
            "f1": Ratio(2 * hits, judged.sum() + replaced.sum()),
            "auroc": Auroc(logits[real], replaced[real]),
        }

    def finish_metrics(self, metrics: dict[str, float], prefix: str) -> dict[str, float]:
        """Adds the F1 of calling every token replaced, for comparison."""
        if (share := metrics.get(f"{prefix}/replaced")) is None:
            return metrics
        return metrics | {f"{prefix}/f1_all_replaced": 2 * share / (1 + share)}

    def _run_both(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One round of both networks.

        Returns:
            (N, V) the generator's logits at the targets; (R, T) the ids with tokens sampled from these; (R, T) which
            of them are replaced, for a right guess is an original; (R, T) the discriminator's logits of that.
        """
        assert self.network is not None
        assert self.generator is not None
        inputs, index = self.inputs(batch), batch["target_index"]
        with only_rows(self.generator, index):
            guesses: Tensor = self.generator(**inputs).logits.flatten(0, 1)
        sampled = sample_tokens(guesses[:, : self._link.vocabulary], batch["chances"], self.temperature)
        shape = inputs["input_ids"].shape
        ids = inputs["input_ids"].flatten().scatter(0, index, sampled).view(shape)
        replaced = torch.zeros_like(ids, dtype=torch.bool).flatten()
        replaced = replaced.scatter(0, index, sampled != batch["targets"]).view(shape)
        logits: Tensor = self.network(**inputs | {"input_ids": ids}).logits
        return guesses, ids, replaced, logits.float()

    def example_text(self) -> str:
        """A text of which a word may have been replaced."""
        return "Returns a copy of the given object."

    def examples(self, batch: Batch) -> list[dict[str, str]]:
        """Rows of a batch as the discriminator sees them, what was replaced in them, and which tokens it suspects."""
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        with torch.no_grad():
            _, ids, replaced, logits = self._run_both(batch)
        original = batch["input_ids"].flatten().scatter(0, batch["target_index"], batch["targets"]).view_as(ids)
        examples = []
        for row, real in enumerate(batch["document_ids"] > 0):
            changed = replaced[row].nonzero().flatten()
            suspects = logits[row].masked_fill(~real, -torch.inf).topk(max(1, len(changed)))
            before, after, suspected = (
                tokenizer.convert_ids_to_tokens(tokens.tolist())
                for tokens in (original[row, changed], ids[row, changed], ids[row, suspects.indices])
            )
            chances = suspects.values.sigmoid().tolist()
            examples.append(
                {
                    "text": str(tokenizer.decode(ids[row, real])),
                    "replaced": ", ".join(f"{old} > {new}" for old, new in zip(before, after, strict=True)),
                    "suspected": ", ".join(f"{t} {p:.0%}" for t, p in zip(suspected, chances, strict=True)),
                }
            )
        return examples

    def predictions(self, batch: Batch) -> list[dict[str, Any]]:
        """Each token of a text with its probability of being replaced, and those where it is more likely than not."""
        assert self.network is not None
        tokenizer = self.tokenizer()
        assert tokenizer is not None
        index, ids = batch["target_index"], batch["input_ids"]
        chances = self.network(**self.inputs(batch)).logits.float().sigmoid().flatten()[index].tolist()
        tokens = tokenizer.convert_ids_to_tokens(ids.flatten()[index].tolist())
        rows = (index // ids.shape[1]).tolist()
        results = []
        for row, (id_, text) in enumerate(batch["texts"]):
            judged = [
                {"token": token, "replaced": chance}
                for mine, token, chance in zip(rows, tokens, chances, strict=True)
                if mine == row
            ]
            suspects = [each["token"] for each in judged if each["replaced"] > 0.5]
            results.append({"id": id_, "text": text, "prediction": suspects, "tokens": judged})
        return results
