"""The command: settings, what it says, and a real kill."""

import os
import signal
import subprocess
import sys
import time

import pytest

from kfjax import cli, media
from kfjax.data.clean import store
from kfjax.data.clean.measures import speech
from tests.tiny.crawl import RATE_HZ, recording

SETTINGS = ["--config", "configs/clean.py:loose", "--set", "seconds=1.0", "shortest_seconds=0.5"]


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crawl")
    for seed in range(4):
        media.write_wav(folder / f"{seed}.wav", recording(seed), RATE_HZ)
    (folder / "empty.wav").touch()
    return folder


def run(crawl, output, *more) -> int:
    return cli.main(["clean", str(crawl), "--output", str(output), "--workers", "1", *SETTINGS, *map(str, more)])


def test_a_dry_run_says_what_each_threshold_would_do(crawl, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(speech, "find_spec", lambda _: None)
    assert run(crawl, tmp_path, "--dry-run", "thresholds.loudness_lufs.least=0") == 2  # belongs behind --set
    assert run(crawl, tmp_path, "--dry-run", "--set", "thresholds.loudness_lufs.least=0") == 0
    said = capsys.readouterr()
    lines = {line.rpartition(" ")[0].strip(): line.split()[-1] for line in said.out.splitlines()[1:]}
    assert said.out.startswith("threshold") and said.out.splitlines()[0].endswith("stay of 9")
    stay = {"loudness_lufs (least 0)": "1", "bandwidth_hz (least 10000)": "9", "unusable (can be read)": "8"}
    assert lines.items() >= (stay | {"all of them": "0"}).items()
    assert "not measured: mos, speech_share; pip install '.[clean]'" in said.err
    assert not (tmp_path / "clips.parquet").exists() and (tmp_path / "measures.parquet").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "thresholds.loud.most=1"], "--set: unknown key thresholds.loud.most"),
        (["--set", "seconds=0.2"], "expected 0.1 <= shortest_seconds <= seconds"),
        (["--config", "clean.py:none"], "has no variant 'none'"),
        (["--workers", "0"], "--workers: got 0, expected at least 1"),
        (["--", "--direct_num_workers=2"], "which are options of a Beam runner; give --runner too"),
    ],
)
def test_a_mistake_is_one_line(crawl, tmp_path, capsys, more, message):
    assert run(crawl, tmp_path / "out", *more) == 2
    said = capsys.readouterr().err.splitlines()
    assert message in said[-1] and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_again_and_again_it_ends_whole(crawl, tmp_path):
    """SIGKILL later each time, when something is noted: the tables of a run that was left alone."""
    assert run(crawl, tmp_path / "whole") == 0
    arguments = ["clean", str(crawl), "--output", str(tmp_path / "killed"), "--workers", "2", *SETTINGS]
    log, kills = tmp_path / f"killed/{store.NAME}-wal", 0
    size = lambda: log.stat().st_size if log.exists() else 0
    while True:
        process = subprocess.Popen([sys.executable, "-m", "kfjax", *arguments])
        before, noted = size(), time.monotonic()
        while process.poll() is None and (size() <= before or time.monotonic() - noted < 0.5 * 1.5**kills):
            time.sleep(0.002)
        if process.poll() is not None:
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert process.returncode == 0 and kills >= 2
    for table in ("clips.parquet", "measures.parquet"):
        assert (tmp_path / "killed" / table).read_bytes() == (tmp_path / "whole" / table).read_bytes()
