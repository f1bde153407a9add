"""Batches are a pure function of the step, and hold what the corpus holds."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from kfjax.data.buckets import Buckets
from kfjax.encoders.tokenizer import Tokenizer
from kfjax.scenes import Corpus
from kfjax.scenes.batches import SceneInput, SoundInput, tokenizer_from
from kfjax.scenes.encode import open_latents
from kfjax.storage.checkpoint import weights_fingerprint
from tests.tiny import corpus as tiny_corpus
from tests.tiny.system import CONFIG, tiny_system

WEIGHTS = {1.0: 3.0, 0.7: 1.0}
MARK = weights_fingerprint(tiny_system().params["vae"])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus.encode(tiny_corpus.render(tmp_path_factory.mktemp("corpus")))


def make(corpus, cfg=CONFIG, weights=WEIGHTS, batch_seconds=4.2, multiple_of=1, seed=2, fingerprint=MARK, **options):
    buckets = Buckets(weights, batch_seconds=batch_seconds, multiple_of=multiple_of, seed=seed)
    return SceneInput(cfg, tiny_system().tokenizer, corpus, buckets, seed=seed, fingerprint=fingerprint, **options)


def assert_same(got, want):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_array_equal(a, b)


def differs(one, other) -> bool:
    return any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_batches_depend_on_the_step_and_nothing_else(corpus):
    first, second = make(corpus), make(corpus)
    forwards = [first(step) for step in range(6)]
    for step in (4, 0, 5, 2):
        assert_same(second(step), forwards[step])
    assert differs(forwards[0], forwards[1])
    assert any(differs(make(corpus, seed=3)(step), forwards[step]) for step in range(3))


def test_words_that_the_tokenizer_lacks_are_said_once(corpus, capsys):
    make(corpus)
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"kfjax: {corpus.folder}: captions with words outside the vocabulary: ")
    make(corpus, told=True)
    assert not capsys.readouterr().err
    known = Tokenizer.train(b.scene(i).caption for b in corpus.buckets.values() for i in range(len(b)))
    buckets = Buckets(WEIGHTS, batch_seconds=4.2, multiple_of=1, seed=2)
    cfg = dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, vocab=known.vocab))
    SceneInput(cfg, known, corpus, buckets, seed=2, fingerprint=MARK)
    assert not capsys.readouterr().err


def test_buckets_are_drawn_by_weight_and_far_steps_are_cheap(corpus):
    made, steps = make(corpus), 5000
    # The definition: one draw a step from one stream.
    choices = np.random.default_rng(2).choice(2, steps, p=[0.25, 0.75])
    got = [made.buckets.of(step) for step in range(steps)]
    assert [which for which, _ in got] == list(choices)
    for bucket in range(2):
        assert [nth for which, nth in got if which == bucket] == list(range(np.sum(choices == bucket)))
    assert make(corpus).buckets.of(4321) == got[4321]
    which, nth = made.buckets.of(1_000_000)
    assert nth == pytest.approx((0.25, 0.75)[which] * 1e6, rel=0.01)


@pytest.mark.parametrize("multiple_of, sizes", [(1, {0.7: 6, 1.0: 4}), (4, {0.7: 4, 1.0: 4}), (8, {0.7: 8, 1.0: 8})])
def test_batches_hold_about_as_many_seconds(corpus, multiple_of, sizes):
    made = make(corpus, multiple_of=multiple_of)
    for step in range(8):
        excerpt, posterior, left, right = made(step)
        b = sizes[round(float(excerpt.given.seconds_total[0]), 3)]
        assert all(len(x) == b for x in jax.tree.leaves((excerpt, posterior, left, right)))
    assert excerpt.clip_frames.dtype == excerpt.sync_frames.dtype == np.uint8
    assert posterior.mean.dtype == posterior.std.dtype == left.dtype == right.dtype == np.float32


def test_the_duration_that_is_told_wavers(corpus):
    """Every row of the discrete duration embedding is to be trained; all else stays as it is."""
    plain, wavering = (make(corpus, weights={1.0: 1.0}, duration_jitter=jitter)(0) for jitter in (0.0, 0.2))
    told = wavering[0].given.seconds_total
    assert told.dtype == np.float32 and len(set(told)) == len(told)
    assert (np.abs(told - 1) <= 0.2).all() and np.abs(told - 1).max() > 0.02
    assert_same((wavering[0]._replace(given=plain[0].given), *wavering[1:]), plain)
    assert_same(wavering[0].given._replace(seconds_total=plain[0].given.seconds_total), plain[0].given)


def rows_of(corpus, batch) -> list[int]:
    """Which scenes a batch holds, told by their latents."""
    bucket = corpus.buckets[round(float(batch[0].given.seconds_total[0]), 3)]
    known = open_latents(bucket, MARK).posterior.astype(np.float32)
    return [int(np.argmin(np.abs(known[..., :8] - mean).sum((1, 2)))) for mean in batch[1].mean]


def test_every_scene_is_seen_before_any_is_seen_again(corpus):
    made = make(corpus, weights={1.0: 1.0}, batch_seconds=5.0)
    rows = [rows_of(corpus, made(step)) for step in range(4)]
    assert sorted(rows[0] + rows[1]) == sorted(rows[2] + rows[3]) == list(range(10))
    assert rows[0] + rows[1] != rows[2] + rows[3]


def test_recipes_with_emphasis_come_more_often(corpus):
    scenes = corpus.buckets[1.0]
    recipe = scenes.scene(0).recipe
    often = [i for i in range(10) if scenes.scene(i).recipe == recipe]
    made = make(corpus, weights={1.0: 1.0}, batch_seconds=10.0 + 2 * len(often), emphasis={recipe: 3})
    assert sorted(rows_of(corpus, made(0))) == sorted([*range(10), *often, *often])


def test_examples_are_the_scenes(corpus):
    excerpt, posterior, left, right = batch = make(corpus, weights={1.0: 1.0}, flip=False)(0)
    bucket = corpus.buckets[1.0]
    latents = open_latents(bucket, MARK)
    for b, row in enumerate(rows_of(corpus, batch)):
        np.testing.assert_array_equal(excerpt.sync_frames[b], bucket.frames[row])
        # 8 frames a second out of 25: the first at or after k / 8 seconds.
        np.testing.assert_array_equal(excerpt.clip_frames[b], bucket.frames[row][[0, 4, 7, 10, 13, 16, 19, 22]])
        np.testing.assert_array_equal(np.concatenate([posterior.mean[b], posterior.std[b]], -1), latents.posterior[row])
        np.testing.assert_array_equal(np.stack([left[b], right[b]], -1), latents.mels[row])
        ids, mask = tiny_system().tokenizer.encode([bucket.scene(row).caption])
        np.testing.assert_array_equal(excerpt.text_ids[b], ids[0])
        np.testing.assert_array_equal(excerpt.given.text_mask[b], mask[0])
    assert excerpt.given.has_video.all() and excerpt.given.has_text.all()
    assert (excerpt.given.seconds_start == 0).all() and (excerpt.given.seconds_total == 1).all()


def test_a_mirrored_picture_has_its_ears_exchanged(corpus):
    mirrored = 0
    for step in range(4):
        plain, maybe = (make(corpus, weights={1.0: 1.0}, flip=flip)(step) for flip in (False, True))
        assert_same((plain[0]._replace(clip_frames=0, sync_frames=0), plain[1], 0, 0),
                    (maybe[0]._replace(clip_frames=0, sync_frames=0), maybe[1], 0, 0))  # fmt: skip
        for b in range(len(maybe[2])):
            flipped = not np.array_equal(plain[0].sync_frames[b], maybe[0].sync_frames[b])
            side = -1 if flipped else 1
            np.testing.assert_array_equal(maybe[0].sync_frames[b], plain[0].sync_frames[b][:, :, ::side])
            np.testing.assert_array_equal(maybe[0].clip_frames[b], plain[0].clip_frames[b][:, :, ::side])
            ears = [plain[2][b], plain[3][b]][::side]
            np.testing.assert_array_equal([maybe[2][b], maybe[3][b]], ears)
            mirrored += flipped
    assert 4 <= mirrored <= 12  # of 16


def test_what_does_not_fit_is_refused(corpus):
    with pytest.raises(ValueError, match=r"no scenes of \[8\.0\] s in the corpus; it has \[0\.7, 1\.0\]"):
        make(corpus, weights={8.0: 1.0, 1.0: 1.0})
    with pytest.raises(ValueError, match="expected those of codec feedbeef"):
        make(corpus, fingerprint="feedbeef")
    large = dataclasses.replace(CONFIG, clip=dataclasses.replace(CONFIG.clip, size=64))
    with pytest.raises(ValueError, match=r"frames of 32 pixels, the encoders see 64 \(clip\) and 32 \(sync\)"):
        make(corpus, cfg=large)
    short = dataclasses.replace(CONFIG, text=dataclasses.replace(CONFIG.text, vocab=8))
    with pytest.raises(ValueError, match=r"the tokenizer has \d+ words, text\.vocab is 8"):
        make(corpus, cfg=short)


def test_the_corpus_has_its_own_tokenizer(corpus, tmp_path):
    path, caption = tmp_path / "runs" / "tokenizer.json", corpus.buckets[1.0].scene(0).caption
    ids, mask = tokenizer_from(corpus, 16, path).encode([caption])
    assert ids.shape == (1, 16) and 2 not in ids[0][mask[0]]  # every word of its captions is known
    written = path.read_bytes()
    np.testing.assert_array_equal(tokenizer_from(corpus, 16, path).encode([caption])[0], ids)
    assert path.read_bytes() == written


def test_sound_crops(corpus):
    made = SoundInput(corpus, batch=6, samples=2048, seed=1)
    wave = made(3)["wave"]
    assert wave.shape == (6, 2048) and wave.dtype == np.float32
    np.testing.assert_array_equal(SoundInput(corpus, batch=6, samples=2048, seed=1)(3)["wave"], wave)
    assert not np.array_equal(made(4)["wave"], wave)
    sounds = np.concatenate([bucket.sound[:].mean(-1).ravel() for bucket in corpus.buckets.values()])
    assert np.abs(wave).max() <= np.abs(sounds).max() / 32767.0 + 1e-6
    loud = wave[np.argmax(np.abs(wave).max(1))]
    found = [np.flatnonzero(np.isclose(sounds, 32767 * loud[0], atol=0.01))]
    assert any(np.allclose(sounds[i : i + 2048], 32767 * loud, atol=0.01) for i in found[0])


def test_crops_longer_than_every_scene_are_refused(corpus):
    with pytest.raises(ValueError, match="no rendered scene of at least 99999 samples"):
        SoundInput(corpus, batch=1, samples=99999, seed=0)


def test_an_unfinished_corpus_gives_what_is_there(corpus, tmp_path):
    part = tiny_corpus.copy(corpus, tmp_path / "c")
    note = part.buckets[1.0].folder / "latents.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"done": 3}))
    made = make(Corpus(tmp_path / "c"), weights={1.0: 1.0})
    assert {row for step in range(4) for row in rows_of(part, made(step))} == {0, 1, 2}


def test_joined_scenes(tmp_path):
    """Pictures, sound and words of one after those of the other; what is not joined is as without."""
    corpus = tiny_corpus.encode(tiny_corpus.render(tmp_path / "halves", durations={0.5: 8, 1.0: 4}))
    made = make(corpus, weights={1.0: 1.0}, batch_seconds=8.0, joined=0.5, flip=False)
    plain = make(corpus, weights={1.0: 1.0}, batch_seconds=8.0, flip=False)
    (excerpt, posterior, left, _), (own, own_posterior, *_) = made(3), plain(3)
    halves = corpus.buckets[0.5]
    latents, joined = open_latents(halves, MARK), 0
    for row in range(8):
        if np.array_equal(excerpt.sync_frames[row], own.sync_frames[row]):
            np.testing.assert_array_equal(posterior.mean[row], own_posterior.mean[row])
            continue
        joined += 1
        first, second = (
            next(i for i in range(8) if np.array_equal(halves.frames[i], part))
            for part in (excerpt.sync_frames[row, :12], excerpt.sync_frames[row, 12:24])
        )
        np.testing.assert_array_equal(excerpt.sync_frames[row, 24], halves.frames[second][-1])  # held
        np.testing.assert_array_equal(excerpt.clip_frames[row, 4], excerpt.sync_frames[row, 13])
        n = latents.posterior.shape[1]
        mean = lambda i: latents.posterior[i].astype(np.float32)[:, : CONFIG.codec.vae.latent_dim]
        np.testing.assert_array_equal(posterior.mean[row, :n], mean(first))
        np.testing.assert_array_equal(posterior.mean[row, n:], mean(second)[: posterior.mean.shape[1] - n])
        np.testing.assert_array_equal(left[row, : 2 * n], latents.mels[first][..., 0].astype(np.float32))
        ids, mask = tiny_system().tokenizer.encode([halves.scene(i).caption for i in (first, second)])
        words = [*ids[0][mask[0]][:-1], *ids[1][mask[1]]]
        length = CONFIG.text_tokens
        assert excerpt.text_ids[row].tolist()[: len(words)] == words[:length]
        assert excerpt.given.text_mask[row].sum() == min(length, len(words))
        assert excerpt.given.has_text[row] == (len(words) <= length)
    assert 0 < joined < 8
    assert_same(made(3), (excerpt, posterior, left, made(3)[3]))
    with pytest.raises(ValueError, match=r"no scenes of \[0\.7, 0\.35\] s"):
        make(corpus, weights={1.0: 1.0, 0.7: 1.0}, joined=0.5)
