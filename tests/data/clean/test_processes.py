"""Measuring in processes that may die."""

from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

from kfjax.data.clean import processes, store
from kfjax.data.clean.thresholds import CleanConfig
from kfjax.data.sources import Row

CFG = CleanConfig(2.0, 0.5, 0.2)


class Pool:
    """Stands for a pool whose processes die of one row."""

    def __init__(self):
        self.dead = False

    def submit(self, function, key, row, cfg):
        if self.dead:
            raise BrokenProcessPool("dead")
        future: Future = Future()
        if row.id == "3":
            self.dead = True
            future.set_exception(BrokenProcessPool("dead"))
        else:
            future.set_result(function(key, row, cfg))
        return future

    def shutdown(self, **_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_a_file_that_ends_its_process_costs_itself_only(monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "_pool", lambda _: Pool())
    rows = [Row(str(i), tmp_path / f"{i}.mp4", None, "") for i in range(20)]
    tasks = [(store.key_of(row, CFG), row) for row in rows]
    with processes.Processes(2, CFG) as workers:
        found = dict(workers.measured(tasks))
    assert found.keys() == {key for key, _ in tasks}
    problems = [found[key][0].problem for key, _ in tasks]
    dead = [i for i, problem in enumerate(problems) if "the process that measured it ended" in problem]
    assert dead == [3] and all("no such file" in problem for i, problem in enumerate(problems) if i != 3)
