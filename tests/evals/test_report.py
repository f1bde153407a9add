"""Published figures in a report."""

from kfjax.evals import published, report
from kfjax.evals.measures import COLUMNS

SCORES = {"mel_l1": {"value": 0.267}, "si_sdr_db": {"value": -20.5}}


def test_published_codecs_stand_beside_ones_own_sounds():
    lines = report.published("folder", "mine", SCORES)
    assert lines[0].startswith("Nobody has published") and len(lines) == 2 + 2 + 12 + 1 + 2
    assert "| singing | Kling-Foley | 0.6 | 1 | 0.81 | 0.7 | -23.55 | -2.83 | 2.88 |" in lines
    assert "| these clips | **mine** | 0.267 |  |  |  | -20.5 |  |  |" in lines
    assert len(report.published("folder", "mine", {})) == len(report.published("scenes", "mine", SCORES)) == 1


def test_all_figures_have_columns():
    for rows in (*published.PUBLISHED.values(), *published.CODECS.values()):
        assert all(set(row.figures) <= set(COLUMNS) for row in rows)


def test_the_paper_s_own_row_is_best_in_ib():
    figures = {row.system: row.figures["ib"] for row in published.PUBLISHED["vggsound"] if "2506.19774" in row.source}
    assert max(figures, key=figures.__getitem__) == "Kling-Foley" and len(figures) == 5
