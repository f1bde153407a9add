"""Sound to latents, once: right, resumable, and never taken for another codec's."""

import jax
import numpy as np
import pytest

from kfjax.codec import audio_codec
from kfjax.codec.mel import log_mel
from kfjax.rates import lengths
from kfjax.scenes import Corpus
from kfjax.scenes import encode as extract
from kfjax.scenes.encode import encode_corpus, open_latents
from kfjax.storage.checkpoint import weights_fingerprint
from tests.crossing import twice_at_once
from tests.tiny import corpus as tiny_corpus
from tests.tiny.system import CONFIG, tiny_system

VAE = tiny_system().params["vae"]
OTHER = VAE | {"encoder": jax.tree.map(lambda x: x * 1.5, VAE["encoder"])}
MARK = weights_fingerprint(VAE)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    return tiny_corpus.render(tmp_path_factory.mktemp("corpus"), durations={1.0: 7})


@pytest.fixture(scope="module")
def encoded(rendered, tmp_path_factory):
    return tiny_corpus.encode(tiny_corpus.copy(rendered, tmp_path_factory.mktemp("encoded") / "c"))


@pytest.fixture
def corpus(rendered, tmp_path):
    return tiny_corpus.copy(rendered, tmp_path / "c")


def arrays(corpus: Corpus, mark: str = MARK):
    latents = open_latents(corpus.buckets[1.0], mark)
    return np.array(latents.posterior), np.array(latents.mels), latents.count


def assert_same(got, want):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_latents_and_mels_are_those_of_the_codec(encoded):
    posterior, mels, count = arrays(encoded)
    size = lengths(1.0, CONFIG.rates)
    assert posterior.shape == (7, size.latents, 16) and mels.shape == (7, size.mel, 128, 2) and count == 7
    assert posterior.dtype == mels.dtype == np.float16
    encode = jax.jit(lambda wave: audio_codec.encode(tiny_system().params, CONFIG.codec, wave))
    mel_of = jax.jit(lambda wave: log_mel(wave, CONFIG.codec.mel))
    for index in (0, 6):  # the last one lies alone in its batch
        wave = np.zeros((size.samples, 2), np.float32)
        wave[:44100] = encoded.buckets[1.0].waveform(index)
        want = encode(wave.mean(-1)[None])
        np.testing.assert_allclose(posterior[index, :, :8], want.mean[0], rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(posterior[index, :, 8:], want.std[0], rtol=2e-3, atol=2e-3)
        for channel in range(2):
            np.testing.assert_allclose(mels[index, ..., channel], mel_of(wave[None, :, channel])[0], atol=0.01)


def test_of_two_processes_one_encodes(corpus, encoded, monkeypatch):
    """The other neither empties what is being made nor makes it again."""
    encode = lambda: encode_corpus(corpus, CONFIG.codec, VAE, CONFIG.rates, batch=2)
    _, opened = twice_at_once(encode, extract, "_open", monkeypatch)
    assert [done for _, (_, done) in opened] == [0, 7]
    assert_same(arrays(corpus), arrays(encoded))


def stop_after(batches: int, monkeypatch):
    """The process dies in the middle of batch `batches`."""

    def rows(iterable, **_):
        for done, first in enumerate(iterable):
            if done == batches:
                raise KeyboardInterrupt
            yield first

    monkeypatch.setattr(extract, "tqdm", rows)


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_an_interrupted_encoding_goes_on(corpus, encoded, monkeypatch, batches):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(batches, patch)
        tiny_corpus.encode(corpus)
    firsts = []
    monkeypatch.setattr(extract, "tqdm", lambda rows, **_: firsts.extend(rows) or rows)
    tiny_corpus.encode(corpus)
    assert firsts == list(range(2 * min(batches, 1), 7, 2))  # what was noted as done is not done again
    assert_same(arrays(corpus), arrays(encoded))
    firsts.clear()
    tiny_corpus.encode(corpus)
    assert not firsts


def test_scenes_that_come_later_are_added(corpus, encoded):
    log = corpus.buckets[1.0].folder / "scenes.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:4]))
    half = Corpus(log.parents[1])
    tiny_corpus.encode(half)
    assert arrays(half)[2] == 4
    log.write_text("".join(lines))
    assert_same(arrays(tiny_corpus.encode(Corpus(log.parents[1]))), arrays(encoded))


def test_the_fingerprint_is_of_what_makes_latents():
    assert weights_fingerprint(OTHER) != MARK
    assert weights_fingerprint(VAE | {"latent_mean": VAE["latent_mean"] + 1}) != MARK
    assert weights_fingerprint(VAE | {"decoder": OTHER["encoder"]}) == MARK
    assert weights_fingerprint(jax.tree.map(jax.numpy.asarray, VAE)) == MARK


def test_latents_of_another_codec_are_refused_and_replaced(corpus):
    with pytest.raises(ValueError, match=f"d1: got no latents, expected those of codec {MARK}; encode the corpus"):
        arrays(corpus)
    tiny_corpus.encode(corpus)
    before, mark = arrays(corpus), weights_fingerprint(OTHER)
    with pytest.raises(ValueError, match=f"got latents of codec {MARK}, expected those of codec {mark}"):
        arrays(corpus, mark)
    encode_corpus(corpus, CONFIG.codec, OTHER, CONFIG.rates, batch=2)
    after = arrays(corpus, mark)
    assert not np.array_equal(before[0], after[0])
    np.testing.assert_array_equal(before[1], after[1])
    with pytest.raises(ValueError, match=f"got latents of codec {mark}"):
        arrays(corpus)


def test_half_replaced_latents_are_nobodys(corpus, monkeypatch):
    """Emptied for another codec and left: the first one must not find zeros under its name."""
    tiny_corpus.encode(corpus)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(0, patch)
        encode_corpus(corpus, CONFIG.codec, OTHER, CONFIG.rates, batch=2)
    for mark in (MARK, weights_fingerprint(OTHER)):
        with pytest.raises(ValueError, match="encode the corpus"):
            arrays(corpus, mark)
    assert np.any(arrays(tiny_corpus.encode(corpus))[0])
