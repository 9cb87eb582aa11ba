"""The built-in tasks: importing this module is registering them."""

from .causal_lm import CausalLM, CausalLMData
from .denoising import Denoising, DenoisingData
from .dialogue import Dialogue, DialogueData
from .masked_lm import MaskedLM, MaskedLMData
from .mixture import Mixture, MixtureData
from .next_sentence import NextSentence, NextSentenceData
from .permutation_lm import PermutationLM, PermutationLMData
from .question_answering import QuestionAnswering, QuestionAnsweringData
from .replaced_token import ReplacedTokenData, ReplacedTokenDetection
from .sentence_order import SentenceOrder, SentenceOrderData
from .sequence_classification import SequenceClassification, SequenceClassificationData
from .span_corruption import SpanCorruption, SpanCorruptionData
from .summarization import Summarization, SummarizationData
from .token_classification import TokenClassification, TokenClassificationData
from .translation import Translation, TranslationData

__all__ = [
    "CausalLM",
    "CausalLMData",
    "Denoising",
    "DenoisingData",
    "Dialogue",
    "DialogueData",
    "MaskedLM",
    "MaskedLMData",
    "Mixture",
    "MixtureData",
    "NextSentence",
    "NextSentenceData",
    "PermutationLM",
    "PermutationLMData",
    "QuestionAnswering",
    "QuestionAnsweringData",
    "ReplacedTokenData",
    "ReplacedTokenDetection",
    "SentenceOrder",
    "SentenceOrderData",
    "SequenceClassification",
    "SequenceClassificationData",
    "SpanCorruption",
    "SpanCorruptionData",
    "Summarization",
    "SummarizationData",
    "TokenClassification",
    "TokenClassificationData",
    "Translation",
    "TranslationData",
]
