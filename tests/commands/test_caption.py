"""`kfjax caption` at the command line: one line for what is wrong, and no key in it."""

import pytest

from kfjax import cli

TABLE = "video,audio_caption,tags\na.mp4,A dog barks.,Wind\nb.mp4,,\n"


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.csv").write_text(TABLE)
    return tmp_path


def test_offline(table, capsys):
    assert cli.main(["caption", "in.csv", "--output", "out.csv"]) == 0
    assert capsys.readouterr().out == "1 captions in 2 rows, 1 of them new or changed\n"
    assert (table / "out.csv").read_text().splitlines()[1] == 'a.mp4,A dog barks.,Wind,"a dog barks, with wind"'


@pytest.mark.parametrize("words, message", [
    (["--model", "m"], "--model: got it without --endpoint"),
    (["--key-env", "KEY"], "--key-env: got it without --endpoint"),
    (["--endpoint", "http://localhost/v1"], "--model: got none, expected the name of a model"),
    (["--endpoint", "http://localhost/v1", "--model", "m", "--key-env", "KFJAX_NO_KEY"],
     "--key-env: the environment variable KFJAX_NO_KEY is not set; export it"),
    (["--endpoint", "http://localhost/v1", "--model", "m", "--key-env", "sk-SECRET"], "--key-env: got no name"),
    (["--endpoint", "nowhere", "--model", "m"], "endpoint: got nowhere, expected an address"),
    (["--endpoint", "http://localhost/v1", "--model", "m", "--batch", "0"], "batch: got 0, expected at least 1"),
    (["--endpoint", "http://127.0.0.1:9/v1", "--model", "m", "--attempts", "1"], "got no connection"),
])  # fmt: skip
def test_mistakes_end_in_one_line(table, capsys, words, message):
    assert cli.main(["caption", "in.csv", "--output", "out.csv", *words]) == 2
    shown = capsys.readouterr().err
    lines = [line for line in shown.splitlines() if line.startswith("kfjax: error:")]
    assert len(lines) == 1 and message in lines[0] and "SECRET" not in shown
    assert not (table / "out.csv").exists()
