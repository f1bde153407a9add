"""Beam's runners make the table that processes make."""

import pytest

from kfjax import media
from kfjax.data.clean import run, store
from kfjax.data.clean.thresholds import CleanConfig, Limit
from tests.tiny.crawl import RATE_HZ, recording

pytest.importorskip("apache_beam", reason="apache-beam is not installed; pip install '.[beam]'")

CFG = CleanConfig(1.0, 0.5, 0.2, {"side_db": Limit(least=-60.0)})


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crawl")
    for seed in range(20):
        media.write_wav(folder / f"{seed}.wav", recording(seed, 1.0), RATE_HZ)
    (folder / "empty.wav").touch()
    return folder


@pytest.mark.filterwarnings("ignore")
def test_the_direct_runner_makes_the_same_table(crawl, tmp_path, capsys):
    counts = run.clean(crawl, tmp_path / "here", CFG, workers=1)
    there = tmp_path / "there"
    assert run.clean(crawl, there, CFG, runner="DirectRunner") == counts
    assert "DirectRunner: 21 rows, 21 excerpts, 1 unusable" in capsys.readouterr().err
    for table in ("clips.parquet", "measures.parquet"):
        assert (there / table).read_bytes() == (tmp_path / "here" / table).read_bytes()
    assert not list((there / "beam").iterdir())


@pytest.mark.filterwarnings("ignore")
def test_what_a_stopped_run_left_is_taken(crawl, tmp_path, capsys):
    from kfjax.data.clean import beam

    whole = run.clean(crawl, tmp_path / "whole", CFG, workers=1)
    cfg, folder = CFG, tmp_path / "beam"
    folder.mkdir()
    with store.Store(tmp_path) as opened:
        opened.set_source((store.key_of(row, cfg), row) for row in run._rows(crawl, None))
        first, *_ = beam._tasks(opened)
        measure = beam.Measure(cfg, str(folder))
        measure.setup()
        measure.process(first)
        (written,) = folder.iterdir()
        before = written.read_bytes()
        written.unlink()
        measure.process(first)  # a bundle that is retried
        assert written.read_bytes() == before
        measure.teardown()
    assert run.clean(crawl, tmp_path, CFG, runner="DirectRunner") == whole
    assert "DirectRunner: 5 rows" in capsys.readouterr().err  # of 21, 16 were there
    assert (tmp_path / "clips.parquet").read_bytes() == (tmp_path / "whole/clips.parquet").read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_runs_with_other_outputs_share_a_place_for_temporary_files(crawl, tmp_path):
    """What another has measured there is neither taken nor deleted."""
    from kfjax.data.clean import beam

    place = str(tmp_path / "temporary")
    with store.Store(tmp_path) as opened:
        other = beam._folder(opened, place)
    beam.FileSystems.mkdirs(other)
    (tmp_path / "temporary").joinpath(other, "measured-0.jsonl").write_text('["00", []]\n')
    options = [f"--temp_location={place}"]
    counts = run.clean(crawl, tmp_path / "there", CFG, runner="DirectRunner", runner_options=options)
    assert counts["excerpts"] == 21 and [path.name for path in (tmp_path / "temporary").rglob("*.jsonl")] == [
        "measured-0.jsonl"
    ]


def test_a_wrong_runner_is_one_line(crawl, tmp_path):
    with pytest.raises(ValueError, match="--runner: got NoRunner"):
        run.clean(crawl, tmp_path, CFG, runner="NoRunner")
