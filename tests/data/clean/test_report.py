"""The page stands alone, says why, and is the same every time."""

import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np

from kfjax import media
from kfjax.data.clean import report
from kfjax.data.clean.measure import Measured
from kfjax.data.clean.thresholds import CleanConfig, Limit
from kfjax.data.sources import Row
from tests.tiny.crawl import RATE_HZ, pictures, recording

CFG = CleanConfig(10.0, 1.0, 0.2, {"silence_share": Limit(most=0.2), "fps": Limit(least=10.0)})


def page(folder, rows):
    made = report.Page(CFG)
    for row, one, refused in rows:
        made.add(row, one, refused)
    counts = Counter(name for _, _, refused in rows for name in refused)
    made.write(folder, counts + Counter(excerpts=len(rows), kept=sum(not refused for _, _, refused in rows)))
    return (folder / "report.html").read_text()


def test_distributions_reasons_and_examples(tmp_path):
    media.write_video(tmp_path / "a.mp4", pictures(1, 16), 8, recording(1), RATE_HZ)
    media.write_wav(tmp_path / "<b>.wav", recording(2), RATE_HZ)
    film, sound = Row("a.mp4", tmp_path / "a.mp4", None, ""), Row("<b>.wav", None, tmp_path / "<b>.wav", "")
    silence = {"silence_share": "silence_share 0.9 > 0.2"}
    rows = [
        (film, Measured(0.0, 2.0, "", {"silence_share": 0.0, "fps": 8.0}), {"fps": "fps 8 < 10"}),
        (sound, Measured(0.0, 2.0, "", {"silence_share": 0.9}), silence),
        (Row("gone", tmp_path / "gone.mp4", None, ""), Measured(0.0, 0.0, "gone.mp4: no such file", {}), {
            "unusable": "gone.mp4: no such file"}),
        (film, Measured(0.0, 2.0, "", {"silence_share": 0.1, "fps": 30.0}), {}),
    ]  # fmt: skip
    text = page(tmp_path, rows)
    assert "1 of 4 excerpts kept" in text and text == page(tmp_path, rows)
    HTMLParser().feed(text)
    assert text.count("data:image/jpeg;base64,") == 1 and 'aria-label="waveform"' in text
    assert "&lt;b&gt;.wav" in text and "<b>.wav" not in text
    assert not re.search(r"https?:|src=\"(?!data:)|url\(|<link|<script", text)
    for said in ("fps 8 &lt; 10", "silence_share 0.9 &gt; 0.2", "gone.mp4: no such file", "most 0.2", "least 10"):
        assert said in text
    assert text.count("<svg") == 2 + 1  # of the two measures that are there, and the waveform
    assert "not measured in 2 of 4" in text


def test_what_it_holds_does_not_grow():
    made, row = report.Page(CFG), Row("a", None, None, "")
    rng = np.random.default_rng(0)
    for value in rng.uniform(size=50_000):
        made.add(
            row,
            Measured(float(value), 1.0, "", {"silence_share": value}),
            {"silence_share": "x"} if value > 0.2 else {},
        )
    assert made._rows < 8192 == len(made._drawn) and len(made._examples["silence_share"]) == 4
    drawn = made._drawn[: made._rows, made._numbers.index("silence_share")]
    assert abs(drawn.mean() - 0.5) < 0.02
