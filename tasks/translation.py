"""Translation from one language into another."""

from collections.abc import Sequence
from dataclasses import field, replace
from typing import ClassVar, Literal

from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.example_store import ExampleStore
from ptm_lightning.data.languages import language_token, language_tokens, set_languages
from ptm_lightning.data.layout import Frame
from ptm_lightning.data.target_text import TargetTextData
from ptm_lightning.data.task_data import TaskData
from ptm_lightning.errors import UserError
from ptm_lightning.log import say
from ptm_lightning.metrics.references import Reference
from ptm_lightning.metrics.translation import (
    how_it_is_cut,
    is_misnamed,
    sentence_score,
    signatures,
    translation_scores,
)
from ptm_lightning.text_generation import TextGeneration

SAMPLE = 100
"""Rows that are looked at for how their language is written."""


class TranslationData(TargetTextData):
    """Texts in two languages: columns named by their codes, or a column `translation` that holds both.

    A multilingual tokenizer (mBART, NLLB, M2M-100) marks both sides with its languages' tokens, each in its own way.

    References:
        - mBART, 2020, https://arxiv.org/abs/2001.08210; mBART-50, https://arxiv.org/abs/2008.00401
        - M2M-100, 2020, https://arxiv.org/abs/2010.11125; NLLB, 2022, https://arxiv.org/abs/2207.04672
    """

    train: list[str] = field(default_factory=lambda: ["builtin:number_words"])
    """What to train on: files with a column for each language (.jsonl .csv .tsv .parquet), globs, the hub."""
    source_language: str = "en"
    """The language to translate from, and its column; a multilingual model's own code, such as en_XX."""
    target_language: str = "de"
    """The language to translate into, and its column."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source_language == self.target_language:
            raise UserError(f"--data.target_language {self.target_language}: is the source's too; give another")

    @property
    def fields(self) -> tuple[str, ...]:  # type: ignore[override]
        """The columns, source first."""
        return self.source_language, self.target_language

    def setup(self, stage: str) -> None:
        """Opens the stores, and says what the scores of a language without spaces between words mean."""
        super().setup(stage)
        if stage == "predict":
            return
        language = self.target_language
        if told := how_it_is_cut(language):
            say(told)
        store = self.corpus.test if stage == "test" else self.corpus.validation
        assert store is None or isinstance(store, ExampleStore)
        rows = store.rows(range(min(SAMPLE, len(store)))) if store else ()
        if is_misnamed(language, [row[language] for row in rows]):
            say(
                f"--data.target_language {language}: its words have no spaces between them; BLEU and TER count what "
                "stands between spaces; name the language by its code, such as zh, ja or th, and the column with "
                f"--data.columns.zh {language}"
            )

    @property
    def purpose(self) -> str:
        """T5's own name."""
        return f"translation_{self.source_language}_to_{self.target_language}"

    def _given_tokenizer(self) -> PreTrainedTokenizerFast | None:
        """The model's tokenizer, set to the two languages."""
        given = super()._given_tokenizer()
        if given is not None:
            self._languages(given)
        return given

    def make_frames(self) -> tuple[Frame, Frame]:
        """The tokenizer's own; of M2M-100's tokenizers without a class of their own the language and the end."""
        languages = self._languages(self.hf_tokenizer)
        if languages is None or hasattr(self.hf_tokenizer, "src_lang"):
            return super().make_frames()
        end = self.hf_tokenizer.eos_token_id
        source, target = (Frame((language,), (end,)) for language in languages)
        return source, target

    def decoder_ids(self) -> dict[str, int]:
        """The decoder begins with the target's language: mBART takes it for the start, others say it first."""
        if (languages := self._languages(self.hf_tokenizer)) is None:
            return {}
        starts = self.frames[1].after[-1] == languages[1]
        return {"decoder_start_token_id" if starts else "forced_bos_token_id": languages[1]}

    def _languages(self, tokenizer: PreTrainedTokenizerFast) -> tuple[int, int] | None:
        """The ids of both languages, which the tokenizer uses from here on; None if it isn't multilingual."""
        if not language_tokens(tokenizer):
            return None
        source = language_token(tokenizer, self.source_language, "--data.source_language")
        target = language_token(tokenizer, self.target_language, "--data.target_language")
        if hasattr(tokenizer, "src_lang"):
            set_languages(tokenizer, source, target)
        ids = tokenizer.get_vocab()
        return ids[source], ids[target]


class Translation(TextGeneration):
    """Translations by an encoder-decoder (no causal network), scored with BLEU, chrF++ and TER beside the source.

    References:
        - Transformer, 2017, https://arxiv.org/abs/1706.03762
        - sacrebleu, 2018, https://arxiv.org/abs/1804.08771
    """

    data_class: ClassVar[type[TaskData]] = TranslationData
    sentence_measure: ClassVar[str] = "sentence_chrf"
    headline: ClassVar[tuple[str, ...]] = ("bleu", "chrf", "ter", "bleu_copy")

    backbone: str | None = None
    """A pretrained folder or hub name to start from, with a tokenizer.json, which published Marian and M2M-100 models
    lack; NLLB and T5 have it."""

    def setup(self, stage: str) -> None:
        """Says, and writes into the model card, what must be quoted with the scores."""
        super().setup(stage)
        if stage != "predict":
            numbers = self._link.provenance.get("references", [1])
            found = signatures(self._target_language, numbers)
            quoted = {f"signature of {name}": text for name, text in found.items()}
            self.link = replace(self._link, provenance=self._link.provenance | quoted)
            say("; ".join(f"{name}: {text}" for name, text in quoted.items()))

    @property
    def _target_language(self) -> str:
        return str(self._link.target_side["fields"][1])

    def measure(
        self, sources: Sequence[str], answers: Sequence[str], references: Sequence[Reference]
    ) -> dict[str, float]:
        """BLEU, chrF++ and TER of the answers, and of the sources as they are."""
        language = self._target_language
        baseline = translation_scores(sources, references, language)
        copied = {f"{name}_copy": value for name, value in baseline.items()}
        return translation_scores(answers, references, language) | copied

    def sentence_score(self, answer: str, reference: Reference) -> float:
        """ChrF++."""
        return sentence_score(answer, reference)

    def best_by(self) -> tuple[str, Literal["min", "max"]]:
        """BLEU."""
        return "val/bleu", "max"

    def example_text(self) -> str | None:
        """A text to translate."""
        return "twenty-one, thirty-five"
