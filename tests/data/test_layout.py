import numpy as np
import pytest

from ptm_lightning.data.batch import frame_rows
from ptm_lightning.data.layout import Frame, lay_out, take_rows

FRAME = Frame((101,), (102,))
LAYOUTS = ["rows", "packed", "blocks"]


def documents(count: int = 400, seed: int = 0):
    lengths = np.minimum(np.random.default_rng(seed).lognormal(3, 1, count).astype(int) + 1, 500)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return offsets[:-1], lengths, np.arange(offsets[-1]) % 90 + 5


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("frame", [FRAME, Frame((), ()), Frame((), (102,))])
def test_every_token_once_and_no_row_too_long(layout, frame):
    start, length, tokens = documents()
    pieces = lay_out(start, length, np.zeros_like(start), layout=layout, max_length=64, frame=frame)
    seen = np.zeros(len(tokens), dtype=int)
    for begin, size in zip(pieces.start, pieces.length, strict=True):
        seen[begin : begin + size] += 1
    assert (seen == 1).all()
    assert pieces.row_lengths(frame).max() <= 64
    assert (np.diff(pieces.row) >= 0).all()


def test_blocks_are_full():
    start, length, _ = documents()
    pieces = lay_out(start, length, np.zeros_like(start), layout="blocks", max_length=64, frame=FRAME)
    lengths = pieces.row_lengths(FRAME)
    assert (lengths[:-1] == 64).all()


def test_blocks_are_the_stream_cut():
    start, length, tokens = documents(50)
    pieces = lay_out(start, length, np.zeros_like(start), layout="blocks", max_length=16, frame=FRAME)
    rows = frame_rows(pieces, tokens, FRAME, 0, isolated=False).input_ids
    stream = [t for s, n in zip(start, length, strict=True) for t in [*tokens[s : s + n].tolist(), 102]]
    cut = [[101, *stream[i : i + 15]] for i in range(0, len(stream), 15)]
    assert [[t for t in row if t] for row in rows.tolist()] == cut


def test_packing_wastes_little_and_isolates():
    start, length, tokens = documents(2000)
    pieces = lay_out(start, length, np.zeros_like(start), layout="packed", max_length=128, frame=FRAME)
    lengths = pieces.row_lengths(FRAME)
    assert lengths.sum() / (128 * len(lengths)) > 0.98
    rows = frame_rows(pieces, tokens, FRAME, 0, isolated=True)
    for row in range(20):
        for document in range(1, rows.document_ids[row].max() + 1):
            mine = rows.document_ids[row] == document
            ids = rows.input_ids[row][mine]
            assert (ids[0], ids[-1]) == (101, 102)
            assert rows.position_ids[row][mine].tolist() == list(range(mine.sum()))


def test_long_documents_are_cut_evenly():
    pieces = lay_out(np.array([0]), np.array([130]), np.array([0]), layout="rows", max_length=64, frame=FRAME)
    assert sorted(pieces.length.tolist()) == [43, 43, 44]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_framed_rows_equal_a_naive_loop(layout):
    start, length, tokens = documents(60)
    pieces = lay_out(start, length, np.arange(60), layout=layout, max_length=32, frame=FRAME)
    rows = frame_rows(pieces, tokens, FRAME, 0, isolated=layout != "blocks")
    for row in range(len(rows.input_ids)):
        expected = []
        for i in np.flatnonzero(pieces.row == row):
            expected += [101] * bool(pieces.opens[i])
            expected += tokens[pieces.start[i] : pieces.start[i] + pieces.length[i]].tolist()
            expected += [102] * bool(pieces.closes[i])
        shown = rows.input_ids[row].tolist()
        assert shown == expected + [0] * (len(shown) - len(expected))
        assert (rows.document_ids[row] > 0).sum() == len(expected)
    flat = rows.input_ids.ravel()
    assert (flat[rows.content] == tokens[rows.offset]).all()
    assert not np.isin(flat[rows.content], [0, 101, 102]).any()


def test_take_rows_numbers_them_anew():
    start, length, _ = documents(30)
    pieces = lay_out(start, length, np.zeros_like(start), layout="packed", max_length=64, frame=FRAME)
    taken = take_rows(pieces, np.array([2, 0]))
    assert set(taken.row) == {0, 1}
    assert taken.start[taken.row == 0].tolist() == pieces.start[pieces.row == 2].tolist()
