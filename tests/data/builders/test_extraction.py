"""From a corpus to features: recordings that can be decoded, through the datasets, to an extraction."""

import functools
from fractions import Fraction

import numpy as np
import pytest

from kfjax import media
from kfjax.data import builders, sources
from kfjax.data import extract as extract_videos
from kfjax.data.shards.records import Folder, parse
from tests.tiny import media_files
from tests.tiny.system import write_model

pytest.importorskip("tensorflow_datasets", reason="no tensorflow_datasets: pip install '.[builders]'")


@pytest.fixture
def audioset(tmp_path):
    """A clip that is cut, and one inside an upload of four seconds."""
    folder = tmp_path / "audioset"
    (folder / "uploads").mkdir(parents=True)
    (folder / "class_labels_indices.csv").write_text('index,mid,display_name\n0,/m/0bt9lr,"Dog"\n')
    (folder / "eval_segments.csv").write_text(
        '# three\n# lines of\n# comment\ncut_clip, 50.000, 51.300, "/m/0bt9lr"\nwhole_upload, 1.000, 3.500, ""\n'
    )
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, (4 * 44100, 2)).astype(np.float32)
    media.write_wav(folder / "cut_clip_50.wav", noise[: round(1.3 * 44100)], 44100)
    picture = media_files.write_numbered(tmp_path / "picture.mp4", media_files.steady(100, Fraction(25)))
    media.mux(picture, noise, 44100, folder / "uploads/whole_upload.mp4")
    return folder


def test_excerpts_lie_inside_their_clip(audioset, tmp_path):
    rows = {row.id: row for row in builders.read_rows("audioset", "eval", manual_dir=audioset, data_dir=tmp_path / "d")}
    cuts = {name: sources.cuts(row, (1.0,))[0] for name, row in rows.items()}
    assert [cut.start_seconds for cut in cuts["cut_clip_000050"]] == [0.0]
    assert [cut.start_seconds for cut in cuts["whole_upload_000001"]] == [1.0, 2.0]


@pytest.mark.slow
def test_extract(audioset, tmp_path, monkeypatch):
    read_rows = functools.partial(builders.read_rows, data_dir=tmp_path / "d")
    monkeypatch.setattr(builders, "read_rows", read_rows)
    model = write_model(tmp_path / "model")
    output = tmp_path / "features"
    extract_videos.main(
        ["tfds:audioset:eval", "--manual-dir", str(audioset), "--output", str(output), "--model", str(model),
         "--seconds", "1"]
    )  # fmt: skip
    (bucket,) = Folder(output).buckets.values()
    examples = {example.id: example for example in (parse(bucket[i]) for i in range(len(bucket)))}
    assert examples.keys() == {"cut_clip_000050@0+1", "whole_upload_000001@1+1", "whole_upload_000001@2+1"}
    assert {name: (example.given.has_video, example.given.has_text) for name, example in examples.items()} == {
        "cut_clip_000050@0+1": (False, True),
        "whole_upload_000001@1+1": (True, False),
        "whole_upload_000001@2+1": (True, False),
    }
