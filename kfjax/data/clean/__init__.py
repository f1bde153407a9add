"""From raw files to a table of excerpts that are fit for training: measure once, then filter as often as needed.

    measures = measure(Excerpt(video, sound, 0.0, 10.0))      # one row, a pure function of the files
    kfjax clean crawl/ --output runs/clean                    # all rows, in processes, resumable
"""
