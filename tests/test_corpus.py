"""From a raw folder to a tuned model that makes sound: docs/tutorials/corpus.md at small size, by its commands."""

import numpy as np
import pytest
from pyarrow import parquet

from kfjax import cli, media
from tests.tiny.crawl import RATE_HZ, recording
from tests.tiny.system import write_model

SECONDS = 2.0


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """A folder as it is found: eight films with sound, a copy of one, a silent one, a file that is no film."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "tiny")
    folder = tmp_path / "raw"
    folder.mkdir()
    for seed in range(8):
        pictures = np.random.default_rng(seed).integers(0, 256, (round(25 * SECONDS), 64, 96, 3), np.uint8)
        media.write_video(folder / f"{seed}.mp4", iter(pictures), 25, recording(seed, SECONDS), RATE_HZ)
    (folder / "copy.mp4").write_bytes((folder / "0.mp4").read_bytes())
    media.write_video(folder / "silent.mp4", iter(pictures), 25, np.zeros((round(SECONDS * RATE_HZ), 2)), RATE_HZ)
    (folder / "broken.mp4").write_bytes(b"not a film")
    return folder


def run(line: str) -> None:
    assert cli.main(line.split()) == 0, line


@pytest.mark.slow
def test_a_raw_folder_becomes_a_tuned_model(raw):
    run("clean raw --output runs/clean --config configs/clean.py:loose --workers 1 --set seconds=2.0")
    rows = parquet.read_table("runs/clean/clips.parquet").to_pylist()
    kept = {row["path"].rpartition("/")[2]: row["kept"] for row in rows}
    assert kept == {f"{seed}.mp4": True for seed in range(8)} | dict.fromkeys(
        ("copy.mp4", "silent.mp4", "broken.mp4"), False
    )
    run("extract runs/clean/clips.parquet --model tiny --output runs/features --seconds 2")
    run(
        "train configs/flow.py:lora-runlocal --workdir runs/lora "
        "--set data.start=tiny data.corpora=(('runs/features',1.0),) data.buckets=((2.0,1.0),)"
    )
    (raw.parent / "made").mkdir()
    run("generate raw/0.mp4 --model runs/lora/model --output made/0.mp4 --steps 2")
    assert media.probe("made/0.mp4").has_audio
    run("evaluate made --benchmark folder --references raw --output scores")
    assert "onsets" in (raw.parent / "scores/report.md").read_text()
