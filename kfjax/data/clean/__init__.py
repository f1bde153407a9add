"""From raw files to a table of excerpts that are fit for training: measure once, then filter as often as needed.

    kfjax clean crawl/ --output runs/clean

`measure.measure` is a pure function from an excerpt to its row, `run.clean` maps it over a source in processes, and
`thresholds.judge` filters the rows.
"""
