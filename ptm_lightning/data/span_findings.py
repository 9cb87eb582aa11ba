"""What span corruption must keep, held against real batches: for `check`."""

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.layout import Frame
from ptm_lightning.data.seq2seq_findings import Seq2SeqRow, excerpts, framed
from ptm_lightning.data.span_corruption import Denoiser, restore, split_spans
from ptm_lightning.findings import Finding, faults, share


class Noise(NamedTuple):
    """The noise of a row, counted, and the exact numbers that were asked for; they are then rounded."""

    text: int
    """Tokens of the text."""
    noise: int
    spans: int
    asked_noise: float
    asked_spans: float


def span_findings(
    rows: Sequence[Seq2SeqRow],
    kinds: Sequence[int],
    denoisers: Sequence[Denoiser],
    frame: Frame,
    sentinels: list[int],
    tokenizer: PreTrainedTokenizerFast,
) -> Iterator[Finding]:
    """Compares rows before the noise with both sides after it.

    Args:
        rows: Rows of all batches.
        kinds: Which denoiser each of them got.
        denoisers: What was asked for.
        frame: The special tokens around a text.
        sentinels: In the order of their use.
        tokenizer: For examples in words.
    """
    known = set(sentinels)
    at = len(frame.before)
    modes = [
        tokenizer.convert_tokens_to_ids(denoisers[kind].token) if denoisers[kind].token else None for kind in kinds
    ]
    unnamed = [row for row, mode in zip(rows, modes, strict=True) if mode is not None and row.inputs[at] != mode]
    bare = [
        row if mode is None else row._replace(inputs=row.inputs[:at] + row.inputs[at + 1 :])
        for row, mode in zip(rows, modes, strict=True)
    ]
    noise = [_noise(row, denoisers[kind], frame, known) for row, kind in zip(bare, kinds, strict=True)]
    yield _noise_density(noise)
    yield _mean_span(noise)
    if len(denoisers) > 1:
        total = sum(denoiser.weight for denoiser in denoisers)
        for nth, denoiser in enumerate(denoisers):
            yield share(_name(denoiser), denoiser.weight / total, kinds.count(nth), len(kinds))
        yield faults("rows without the mode of their noise", excerpts(unnamed, lambda row: True, tokenizer))

    def out_of_order(row: Seq2SeqRow) -> bool:
        used, said = ([token for token in side if token in known] for side in (row.inputs, row.targets))
        return used != said or used != sentinels[: len(used)]

    def end_changed(row: Seq2SeqRow) -> bool:
        return not framed(row.inputs, frame) or row.targets[-1] != frame.after[-1]

    yield faults("rows whose sentinels are not in order, once each", excerpts(bare, out_of_order, tokenizer))
    yield faults("rows whose special tokens are changed", excerpts(bare, end_changed, tokenizer))
    torn = excerpts(bare, lambda row: restore(row.inputs, row.targets[:-1], sentinels) != row.text, tokenizer)
    yield faults("rows whose sides don't rebuild the text", torn)


def _name(denoiser: Denoiser) -> str:
    spans = f"spans of {denoiser.mean_span:g}" if isfinite(denoiser.mean_span) else "a single span"
    return f"rows of noise {denoiser.mode or ''}".rstrip() + f": {denoiser.density:g}, {spans}"


def _noise(row: Seq2SeqRow, asked: Denoiser, frame: Frame, sentinels: set[int]) -> Noise:
    length = len(row.text) - len(frame)
    spans = split_spans(row.targets[:-1], list(sentinels))
    # Neither side may come to nothing: noise has a token at least, and text before each span.
    noise = min(max(length * asked.density, 1), length - 1)
    wanted = min(max(noise / asked.mean_span, 1), noise, length - noise)
    return Noise(length, sum(map(len, spans.values())), len(spans), noise, wanted)


def _noise_density(rows: Sequence[Noise]) -> Finding:
    """The share of noise; it is no matter of chance, but rounded to tokens in each row."""
    total = max(1, sum(row.text for row in rows))
    wrong = [
        f"{row.noise} of {row.text} tokens are noise, where {row.asked_noise:.1f} were asked for"
        for row in rows
        if abs(row.noise - row.asked_noise) > 0.5 + 1e-6
    ]
    asked, found = sum(row.asked_noise for row in rows) / total, sum(row.noise for row in rows) / total
    return Finding("noise among tokens", f"{asked:.2%}", f"{found:.2%}", wrong[0] if wrong else "")


def _mean_span(rows: Sequence[Noise]) -> Finding:
    """The mean length of a span; their number is rounded in each row, as that of the noise."""
    wrong = [
        f"{row.noise} tokens of noise in {row.spans} spans, where {row.asked_spans:.1f} were asked for"
        for row in rows
        if abs(row.spans - row.asked_spans) > 1 + 1e-6
    ]
    asked = sum(row.asked_noise for row in rows) / max(1.0, sum(row.asked_spans for row in rows))
    found = sum(row.noise for row in rows) / max(1, sum(row.spans for row in rows))
    return Finding("mean length of a span, in tokens", f"{asked:.2f}", f"{found:.2f}", wrong[0] if wrong else "")
