class Limiter:
    def __init__(self, rate):
        pass

    def feed(self, x):
        return x

    def end(self):
        import numpy as np

        return np.zeros((0, 2), np.float32)
