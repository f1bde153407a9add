import numpy as np


class Limiter:
    def __init__(self, rate):
        pass

    def through(self, pieces):
        return pieces


def to_loudness(w, r, l):
    return w
