from pathlib import Path

from picture import draw, named_ratios

RESULTS = {
    "job": {"steps": 10},
    "training": {"fp32": {"rows": {"turns": {}, "ratios": {"trainer": [6.0, 7.0], "lightning": [5.0]}}}},
    "objectives": {"peers": {"gpt, fp32": {"ratios": [2.0, 3.0]}}},
}


def test_ratios_are_found_at_any_depth() -> None:
    assert dict(named_ratios(RESULTS)) == {
        "training, fp32, rows, trainer": [6.0, 7.0],
        "training, fp32, rows, lightning": [5.0],
        "objectives, peers, gpt, fp32": [2.0, 3.0],
    }


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    draw(RESULTS, tmp_path / "bench.png")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
