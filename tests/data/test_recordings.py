"""Crops of recordings: decoded once, gone on with after a stop, no crop across two files."""

import json

import numpy as np
import pytest

from kfjax import media
from kfjax.data import recordings
from kfjax.data.recordings import Recordings
from tests.crossing import twice_at_once

RATE = 16000


def write(path, level, samples):
    """A recording in which every sample is `level`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    media.write_wav(path, np.full((samples, 2), level, np.float32), RATE)


def opened(folder, **settings):
    settings = {"batch": 64, "samples": 400, "gain_db": 0.0, "seed": 0} | settings
    return Recordings(folder / "sounds", folder / "cache", RATE, **settings)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "sounds" / "a.wav", 0.25, 500)
    write(tmp_path / "sounds" / "below" / "b.wav", 0.5, 900)
    write(tmp_path / "sounds" / "short.wav", 0.75, 300)
    return tmp_path


def test_crops_are_of_one_file_each_and_longer_files_give_more(folder):
    batch = opened(folder)(0)["wave"]
    assert batch.shape == (64, 400) and batch.dtype == np.float32
    levels = batch.mean(1)
    np.testing.assert_allclose(batch, np.broadcast_to(levels[:, None], batch.shape), atol=1e-6)
    ours = [np.sum(np.abs(levels - level) < 1e-4) for level in (0.25, 0.5)]
    assert sum(ours) == 64 and ours[1] > 2 * ours[0] > 0  # 101 and 501 places; the short one has none


def test_batches_are_repeatable_and_levels_drawn(folder):
    sounds = opened(folder, gain_db=20.0)
    np.testing.assert_array_equal(sounds(3)["wave"], opened(folder, gain_db=20.0)(3)["wave"])
    levels = sounds(3)["wave"].mean(1)
    assert len(np.unique(levels.round(4))) > 32 and levels.min() > 0.024 and levels.max() <= 0.5


def test_what_is_decoded_is_kept_and_half_a_file_is_not(folder):
    opened(folder)
    log, pcm = (folder / "cache" / f"recordings_{RATE}{suffix}" for suffix in (".jsonl", ".pcm"))
    whole = log.read_text(), pcm.read_bytes()
    assert [json.loads(line)["samples"] for line in whole[0].splitlines()] == [500, 900, 300]
    pcm.unlink()  # its log alone tells of nothing
    opened(folder)
    assert (log.read_text(), pcm.read_bytes()) == whole
    pcm.write_bytes(whole[1][:1800])
    opened(folder)
    assert (log.read_text(), pcm.read_bytes()) == whole
    for damaged in ("\0" * 40 + "\n", "[1]\n", "{}\n"):
        log.write_text(whole[0].splitlines(keepends=True)[0] + damaged)
        opened(folder)
        assert (log.read_text(), pcm.read_bytes()) == whole
    lines = whole[0].splitlines(keepends=True)
    log.write_text(lines[0] + lines[1][:10])
    pcm.write_bytes(whole[1][:1600])
    opened(folder)
    assert (log.read_text(), pcm.read_bytes()) == whole
    (folder / "sounds" / "a.wav").write_bytes(b"")  # is not read again
    opened(folder)
    assert pcm.read_bytes() == whole[1]


def test_a_file_that_is_mended_is_decoded(folder, capsys):
    (folder / "sounds" / "c.wav").write_bytes(b"nothing")
    opened(folder)
    log = folder / "cache" / f"recordings_{RATE}.jsonl"
    log.write_text('{"name": "%s", "samples": 0}\n' % (folder / "sounds" / "c.wav") + log.read_text())  # as once noted
    assert "left out: " in capsys.readouterr().err
    write(folder / "sounds" / "c.wav", 0.875, 4000)
    levels = opened(folder)(0)["wave"].mean(1)
    assert {0.25, 0.5, 0.875} == {round(float(level), 3) for level in levels} and not capsys.readouterr().err


def test_of_two_processes_one_decodes(folder, monkeypatch):
    (one, other), decoded = twice_at_once(lambda: opened(folder), recordings, "_mono", monkeypatch)
    np.testing.assert_array_equal(one(0)["wave"], other(0)["wave"])
    assert len(decoded) == 3


def test_the_cache_may_know_other_folders(folder):
    opened(folder)
    write(folder / "others" / "c.wav", 0.125, 450)
    batch = Recordings(folder / "others", folder / "cache", RATE, batch=4, samples=400, gain_db=0.0, seed=0)(0)["wave"]
    np.testing.assert_allclose(batch, 0.125, atol=1e-4)


def test_what_is_not_there_is_named(folder, capsys):
    with pytest.raises(ValueError, match=r"nowhere: got no recordings, expected a folder with files in \.wav"):
        Recordings(folder / "nowhere", folder / "cache", RATE, batch=1, samples=4, gain_db=0.0, seed=0)
    (folder / "sounds" / "noise.wav").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="got 4 sounds, none as long as 1000 samples at 16000 Hz; give longer ones"):
        opened(folder, samples=1000)
    assert "left out: " in capsys.readouterr().err
