"""What span corruption must keep, held against real batches: for `check`."""

from collections.abc import Iterator, Sequence
from math import isfinite
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from ptm_lightning.data.seq2seq_findings import Seq2SeqRow, excerpts, framed
from ptm_lightning.data.span_corruption import Denoiser, SpanCollate, restore, split_spans
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
    rows: Sequence[Seq2SeqRow], kinds: Sequence[int], asked: SpanCollate, tokenizer: PreTrainedTokenizerFast
) -> Iterator[Finding]:
    """Compares rows before the noise with both sides after it.

    Args:
        rows: Rows of all batches.
        kinds: Which kind of noise each of them got.
        asked: What was asked for.
        tokenizer: For examples in words.
    """
    bare, at = list(rows), len(asked.frame.before)
    if len(asked.modes):
        modes = asked.modes[list(kinds)].tolist()
        unnamed = [row for row, mode in zip(rows, modes, strict=True) if row.inputs[at] != mode]
        yield faults("rows without the mode of their noise", excerpts(unnamed, tokenizer))
        bare = [row._replace(inputs=row.inputs[:at] + row.inputs[at + 1 :]) for row in rows]
    noise = [_noise(row, asked, kind) for row, kind in zip(bare, kinds, strict=True)]
    yield _noise_density(noise)
    yield _mean_span(noise)
    if len(asked.kinds) > 1:
        total = sum(kind.weight for kind in asked.kinds)
        for nth, kind in enumerate(asked.kinds):
            yield share(_name(kind), kind.weight / total, kinds.count(nth), len(kinds))
    yield from _faulty_rows(bare, asked, tokenizer)


def _faulty_rows(
    rows: Sequence[Seq2SeqRow], asked: SpanCollate, tokenizer: PreTrainedTokenizerFast
) -> Iterator[Finding]:
    frame = asked.frame
    sentinels: list[int] = asked.sentinels.tolist()
    known = set(sentinels)

    def in_order(row: Seq2SeqRow) -> bool:
        used, said = ([token for token in side if token in known] for side in (row.inputs, row.targets))
        return used == said == sentinels[: len(used)]

    def special_kept(row: Seq2SeqRow) -> bool:
        return framed(row.inputs, frame) and row.targets[-1] == frame.after[-1]

    def rebuilds(row: Seq2SeqRow) -> bool:
        return restore(row.inputs, row.targets[:-1], sentinels) == row.text

    for what, holds in (
        ("rows whose sentinels are not in order, once each", in_order),
        ("rows whose special tokens are changed", special_kept),
        ("rows whose sides don't rebuild the text", rebuilds),
    ):
        yield faults(what, excerpts([row for row in rows if not holds(row)], tokenizer), len(rows))


def _name(denoiser: Denoiser) -> str:
    spans = f"spans of {denoiser.mean_span:g}" if isfinite(denoiser.mean_span) else "a single span"
    return f"rows of noise {denoiser.mode or ''}".rstrip() + f": {denoiser.density:g}, {spans}"


def _noise(row: Seq2SeqRow, collate: SpanCollate, kind: int) -> Noise:
    asked, length = collate.kinds[kind], len(row.text) - len(collate.frame)
    spans = split_spans(row.targets[:-1], collate.sentinels.tolist())
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
