import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from kfjax.encoders.tokenizer import Tokenizer

SHARED = Path(os.environ.get("KFJAX_SHARED", Path(__file__).parents[3] / "shared")) / "fixtures"
VOCABULARIES = [p for p in (SHARED / "tokenizers" / name for name in ("t5", "clip")) if p.is_dir()]
CLIP_REFERENCES = [p for p in [SHARED / "mmaudio" / "clip_h14_small.npz"] if p.is_file()]
CAPTIONS = ["A wooden ball bounces twice, then rolls.", "a bell rings", "A bell and a glass ball; 12 steps"]
PROMPTS = ["", "a dog barks twice, then a door slams", "RAIN on a tin roof; distant thunder!", "Café №7 can't 喝 42\n"]


def test_trained_tokenizer_round_trip(tmp_path):
    trained = Tokenizer.train(CAPTIONS, vocab_size=64, length=12)
    trained.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json", length=12)
    for a, b in zip(trained.encode(CAPTIONS), loaded.encode(CAPTIONS), strict=True):
        np.testing.assert_array_equal(a, b)
    ids, mask = loaded.encode(CAPTIONS)
    assert ids.shape == mask.shape == (3, 12) and ids.dtype == np.int32 and mask.dtype == bool
    assert 2 not in ids  # no word of the training captions is unknown
    assert ids.max() < loaded.vocab <= 64


def test_training_is_deterministic(tmp_path):
    texts = [f"word{i} other{i}" for i in range(200)]  # every word equally frequent
    saved = []
    for k in range(3):
        Tokenizer.train(texts, vocab_size=100, length=8).save(tmp_path / f"{k}.json")
        saved.append((tmp_path / f"{k}.json").read_bytes())
    assert saved[0] == saved[1] == saved[2]


def test_case_spacing_and_unknown_words():
    tokenizer = Tokenizer.train(CAPTIONS, vocab_size=64, length=8)
    one, two = tokenizer.encode(["a bell rings", "  A   BELL  Rings "])[0]
    np.testing.assert_array_equal(one, two)
    ids, mask = tokenizer.encode(["zebra bell"])
    assert ids[0, 0] == 2 and ids[0, 2] == 1 and mask[0].tolist() == [True] * 3 + [False] * 5


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_no_text_is_all_padding_in_the_mask(text):
    ids, mask = Tokenizer.train(CAPTIONS, length=8).encode([text, "a bell"])
    assert not mask[0].any() and mask[1].any() and ids.shape == (2, 8)


def test_long_text_is_cut_and_closed():
    tokenizer = Tokenizer.train(CAPTIONS, length=8)
    ids, mask = tokenizer.encode(["bell " * 10_000])
    assert mask.all() and ids[0, -1] == 1 and (ids[0, :-1] == ids[0, 0]).all()


def test_empty_batch():
    ids, mask = Tokenizer.train(CAPTIONS, length=8).encode([])
    assert ids.shape == mask.shape == (0, 8)


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        Tokenizer.load(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        Tokenizer.load(tmp_path / "broken.json")
    with pytest.raises(ValueError, match="length 1"):
        Tokenizer.train(CAPTIONS, length=1)
    Tokenizer.train(CAPTIONS).save(tmp_path / "good.json")
    with pytest.raises(ValueError, match="without <nothing>"):
        Tokenizer.load(tmp_path / "good.json", pad="<nothing>")


@pytest.mark.parametrize("folder", VOCABULARIES, ids=lambda p: p.name)
def test_same_ids_as_transformers(folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    if folder.name == "t5":
        ours = Tokenizer.load(folder / "tokenizer.json", 77)
    else:
        ours = Tokenizer.clip(folder / "vocab.json", folder / "merges.txt", 77)
    texts = [*PROMPTS[1:], "waves " * 200]
    ids, mask = ours.encode(texts)
    expected = theirs(texts, padding="max_length", truncation=True, max_length=77, return_tensors="np")
    np.testing.assert_array_equal(mask, expected["attention_mask"].astype(bool))
    np.testing.assert_array_equal(ids[mask], expected["input_ids"][mask])


@pytest.mark.parametrize("path", CLIP_REFERENCES, ids=lambda p: p.stem)
def test_clip_padding_is_that_of_the_public_towers(path):
    expected = np.load(path)["in/tokens"]
    folder = SHARED / "tokenizers" / "clip"
    ids, mask = Tokenizer.clip(folder / "vocab.json", folder / "merges.txt").encode([*PROMPTS[:3], "waves " * 200])
    np.testing.assert_array_equal(ids, expected)
    assert not mask[0].any()


@pytest.mark.parametrize(
    ("text", "unknown", "beyond", "read"),
    [
        ("a bell rings", (), "", "a bell rings"),
        ("", (), "", ""),
        ("A BELL; rings!", (), "", "A BELL; rings"),  # a sign that the vocabulary lacks is no word
        ("a tiger growls, a tiger", ("tiger", "growls"), "", "a , a"),
        ("tiger's (bell)", ("tiger's",), "", "bell"),
        ("喝 дождь bell 😀", ("喝", "дождь", "😀"), "", "bell"),
        ("a bell a bell a bell a bell rings twice", (), "bell rings twice", "a bell a bell a bell a"),
        ("zebra bell a bell a bell a zebra then", ("zebra",), "zebra then", "bell a bell a bell a"),
        ("e\u0301 bell", ("é",), "", "bell"),
        ("bell\u0301", (), "", "bell"),  # accents are taken off before the vocabulary is asked
    ],
)
def test_what_is_not_read_is_told(text, unknown, beyond, read):
    told = Tokenizer.train(CAPTIONS, length=8).unread(text)
    assert [unicodedata.normalize("NFC", word) for word in told.unknown] == [*unknown]
    assert (told.beyond, unicodedata.normalize("NFD", told.read).replace("\u0301", "")) == (beyond, read)
    assert bool(told) == bool(unknown or beyond)


@pytest.mark.parametrize("folder", VOCABULARIES, ids=lambda p: p.name)
def test_what_word_pieces_do_not_read(folder):
    if folder.name == "t5":
        tokenizer, signs = Tokenizer.load(folder / "tokenizer.json", 12), ("喝", "😀")
    else:
        tokenizer, signs = Tokenizer.clip(folder / "vocab.json", folder / "merges.txt", 12), ()  # knows all bytes
    assert tokenizer.unread("a café 喝 growls 😀").unknown == signs
    told = tokenizer.unread("waves " * 20)
    assert told.unknown == () and told.read.count("waves") == tokenizer.room and told.beyond.count("waves") > 8


def test_what_is_not_read_of_many_captions_is_counted():
    tokenizer = Tokenizer.train(CAPTIONS, length=8)
    assert tokenizer.unread_captions(CAPTIONS[1:2] * 3) == ""
    said = tokenizer.unread_captions(["a frog", "a frog rings", "a tiger", "bell " * 20, "a bell"])
    assert said == (
        "captions with words outside the vocabulary: 3 (frog 2, tiger 1); captions cut at the last token: 1"
    )
    many = tokenizer.unread_captions([f"unheard{chr(97 + k)}" for k in range(11)])
    assert many.endswith("unheardh 1, 3 more)")
