"""Networks' measures of an excerpt: what each is asked, and what is said where weights are missing."""

import pickle

import numpy as np
import pytest

from kfjax import media
from kfjax.data.clean import measure
from kfjax.data.sources import Cut, Row
from kfjax.evals.networks import excerpts
from kfjax.evals.networks.base import Tags
from kfjax.media import FrameSpec
from tests.tiny.crawl import RATE_HZ, pictures, recording


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "a.mp4"
    media.write_video(path, pictures(0, 16), 8, recording(0), RATE_HZ)
    return Cut(Row("a.mp4", path, None, "a bell"), 0.0, 2.0)


class Judge:
    """Judges 0.96 s on a grid of 0.32; surer of what comes later."""

    sample_rate_hz, frame_spec, seconds, step_seconds = 16000, FrameSpec(25.0, 16, "crop"), 0.96, 0.32

    def judge(self, frames, waves):
        assert frames.shape == (2, 24, 16, 16, 3) and waves.shape == (2, 15360)
        return np.array([0.4, -0.2]), np.array([0.3, 0.6])


class Space:
    sample_rate_hz = 48000

    def embed_audio(self, waves):
        assert waves.shape[0] == 1 and abs(waves.shape[1] - 96000) < 2400
        return np.array([[3.0, 4.0]])

    def embed_text(self, captions):
        assert captions == ["a bell"]
        return np.array([[1.0, 0.0]])


class Classifier:
    sample_rate_hz = 16000

    def tags(self, waves):
        assert waves.shape[1] >= 16000 // 3
        return Tags(np.zeros((1, 2)), np.where(np.arange(527) == 137, 2.0, -5.0)[None])


def test_the_surer_window_says_the_offset(film):
    assert excerpts.synchrony(Judge(), film) == {"sync_offset_seconds": -0.2, "sync_confidence": 0.6}
    assert excerpts.synchrony(Judge(), film._replace(seconds=0.5)) == {}
    assert excerpts.synchrony(Judge(), film._replace(row=film.row._replace(video=None, audio=film.row.video))) == {}


def test_the_caption_is_compared_with_the_sound(film):
    assert excerpts.agreement(Space(), film) == {"text_agreement": pytest.approx(0.6)}
    assert excerpts.agreement(Space(), film._replace(row=film.row._replace(caption=" "))) == {}


def test_a_classifier_says_the_kind(film):
    assert excerpts.kind(Classifier(), film) == {"kind": "music"}
    assert excerpts.kind(Classifier(), film._replace(seconds=0.2)) == {"kind": "music"}


def test_without_weights_nothing_is_imported_and_each_network_says_why(tmp_path):
    assert excerpts.open_folder(tmp_path / "none") is measure.NO_NETWORKS
    (line,) = excerpts.missing(tmp_path / "none")
    names = "sync_offset_seconds, sync_confidence, text_agreement, kind (but by a rule)"
    assert line == f"{names}; {tmp_path / 'none'}: no such folder of weights"
    lines = excerpts.missing(tmp_path)
    assert len(lines) == 3 and all("got no " in line and "\n" not in line for line in lines)


def test_measures_of_networks_stand_in_the_row(film, monkeypatch):
    there = {"desync": Judge(), "clap": Space(), "panns": Classifier()}
    monkeypatch.setattr(excerpts, "_there", lambda folder: (there, {}))
    networks = pickle.loads(pickle.dumps(excerpts.open_folder("weights")))  # as it travels to processes
    (row,) = measure.measure_row(film.row, 2.0, 1.0, networks=networks)
    found = {name: row.measures[name] for name in networks.names}
    assert not row.problem and found == {
        "sync_offset_seconds": -0.2, "sync_confidence": 0.6, "text_agreement": 0.6, "kind": "music",
    }  # fmt: skip
    assert list(row.measures) == list(measure.MEASURES)


def test_what_a_row_has_without_networks(film):
    (row,) = measure.measure_row(film.row, 2.0, 1.0)
    assert row.measures["sync_confidence"] is None and row.measures["subtitle_share"] == 0.0
    assert row.measures["logo_share"] is None  # its camera stands still


@pytest.mark.slow  # compiles
def test_a_folder_with_weights_of_synchformer(film, tmp_path, monkeypatch):
    """A small network in the public file's layout, which always says the earliest class."""
    from kfjax.convert.tables import synchformer_whole
    from tests.evals.networks import test_desync

    monkeypatch.setitem(synchformer_whole.CONFIGS, "synchformer", test_desync.SMALL)
    networks = excerpts.open_folder(test_desync.published(tmp_path, likeliest=4))
    assert networks.names == ("sync_offset_seconds", "sync_confidence") and len(excerpts.missing(tmp_path)) == 2
    assert networks.measure(film) == {"sync_offset_seconds": 2.0, "sync_confidence": 1.0}
