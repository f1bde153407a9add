"""Is anything compiled for the length of a long sound? The built-in model, sounds of 9 to 185 s, one step.

    python -m experiments 0017/programs

Sounds up to 13 s are made in one pass, whose length is rounded up to a bucket; those beyond it in windows.
"""

from __future__ import annotations

from itertools import pairwise

from experiments import harness

#: The first length of either kind compiles; then any other.
LENGTHS = (9, 17, 33, 61, 185)


def main() -> None:
    from kfjax import generation, pipeline
    from kfjax.xla.programs import Program

    model = pipeline.load()
    programs = [value for value in vars(generation).values() if isinstance(value, Program)]
    counts = [0]
    for seconds in LENGTHS:
        model.generate(None, "rain on a roof", duration=seconds, steps=1)
        counts.append(sum(len(program._begun) for program in programs))
    rows = [[seconds, after - before] for seconds, (before, after) in zip(LENGTHS, pairwise(counts), strict=True)]
    print("\n".join(harness.markdown(["seconds of sound", "programs compiled anew"], rows)))


if __name__ == "__main__":
    main()
