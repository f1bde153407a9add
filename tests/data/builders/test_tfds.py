"""tfds's own tests of a builder: registered, readable again as written, as many examples as stated, splits apart.

They need tensorflow, which kfjax itself never does: pip install tensorflow-cpu dill.
"""

import unittest

import pytest

SPLITS = {
    "audiocaps": {"train": 3, "validation": 1, "test": 2},
    "audioset": {"balanced_train": 2, "eval": 2},
    "clotho": {"development": 2, "evaluation": 1},
    "epic_sounds": {"train": 1, "validation": 2},
    "fsd50k": {"train": 1, "validation": 1, "test": 1},
    "greatest_hits": {"train": 2, "test": 1},
    "kling_audio_eval": {"test": 3},
    "vggsound": {"train": 3, "test": 1},
    "wavcaps/train": {"audioset_sl": 1, "bbc_sound_effects": 1, "freesound": 2, "soundbible": 1},
    "wavcaps/everything": {"audioset_sl": 2, "bbc_sound_effects": 1, "freesound": 3, "soundbible": 1},
}


@pytest.mark.slow  # tensorflow alone takes seconds to import
@pytest.mark.filterwarnings("default")  # of tensorflow and tfds, which we don't answer for
@pytest.mark.parametrize("name", SPLITS)
def test_tfds_accepts_the_builder(name, corpus):
    for module in ("tensorflow", "tensorflow_datasets", "dill"):
        pytest.importorskip(module, reason=f"no {module}: pip install '.[builders]' tensorflow-cpu dill")
    import tensorflow_datasets as tfds

    from kfjax.data.builders import builder_class

    corpus_name, _, config = name.partition("/")
    settings = {
        "DATASET_CLASS": builder_class(corpus_name),
        "SPLITS": SPLITS[name],
        "EXAMPLE_DIR": corpus(corpus_name),
        "BUILDER_CONFIG_NAMES_TO_TEST": [config] if config else None,
    }
    case = type("BuilderTest", (tfds.testing.DatasetBuilderTestCase,), settings)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    assert result.testsRun >= 5
    assert {reason for _, reason in result.skipped} <= {"Not a test."}  # tensorflow has a helper that is named like one
    assert not [trace for _, trace in result.errors + result.failures]
