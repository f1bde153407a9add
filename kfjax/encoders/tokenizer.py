"""Captions <-> token ids, by the `tokenizers` library and one `tokenizer.json`.

tokenizer = Tokenizer.load("tokenizer.json", length=77)
ids, mask = tokenizer.encode(["a dog barks", ""])      # i32 [2 77], bool [2 77]
tokenizer.unread("a dog barks").unknown                # (): every word is in the vocabulary
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from jaxtyping import Bool, Int
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors, trainers

from kfjax.command import quoted
from kfjax.storage import disk

#: Of a vocabulary's files; those of the largest public ones have 35 MB.
MAX_BYTES = 64 * 2**20

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
CLIP_BEGIN, CLIP_END = "<|startoftext|>", "<|endoftext|>"
#: Token 0 of CLIP's vocabulary. The towers were trained, and are used by MMAudio, with zeros after the end token.
CLIP_PAD = "!"
#: What padding is called in ordinary files, in order of preference.
PAD_NAMES = (PAD, CLIP_END)
#: Words named in a line about many captions.
MOST_LISTED = 8
#: CLIP's words: contractions, runs of letters, single digits, runs of other signs.
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


class Unread(NamedTuple):
    """What of a text does not reach the network.

    Attributes:
      unknown: words outside the vocabulary, each once, in the order of the text. A tokenizer of word pieces knows most
        words by their pieces; here are the characters that it has no piece for.
      beyond: the text after the last token that there is room for.
      read: the rest, which the network reads.
    """

    unknown: tuple[str, ...]
    beyond: str
    read: str

    def __bool__(self) -> bool:
        """Whether anything is lost."""
        return bool(self.unknown or self.beyond)


class Tokenizer:
    """A tokenizer of fixed output length, `room` of it for the text itself. What begins and ends a text is the file's
    own affair (`</s>` for T5).

    A text without a single character of content is no text: its mask is False throughout, whatever begin and end
    tokens the file would add.
    """

    def __init__(self, inner: tokenizers.Tokenizer, length: int, *, pad: str | None = None):
        """Wrap `inner`, padding with the token `pad` and truncating to `length` tokens, end token included.

        Raises:
          ValueError: no such padding token in the vocabulary, or a length that leaves no room for text.
        """
        names = PAD_NAMES if pad is None else (pad,)
        pad = next((name for name in names if inner.token_to_id(name) is not None), None)
        if pad is None:
            raise ValueError(
                f"tokenizer: got a vocabulary without {' or '.join(names)}, expected one for padding; name another"
            )
        room = length - inner.num_special_tokens_to_add(False)
        if room < 1:
            raise ValueError(f"tokenizer: got length {length}, expected more than the {length - room} special tokens")
        inner.enable_padding(length=length, pad_id=inner.token_to_id(pad), pad_token=pad)
        inner.enable_truncation(length)
        self._inner, self.length, self.room, self._pad = inner, length, room, pad

    @classmethod
    def load(cls, path: str | Path, length: int = 77, *, pad: str | None = None) -> Tokenizer:
        """Read an ordinary `tokenizer.json`; `pad` names the padding token where the usual one is not meant.

        Raises:
          ValueError: no such file, or not a tokenizer.
          CheckpointError: the file is not as it was written.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"tokenizer: got {path}, which is no file; expected a tokenizer.json")
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"tokenizer: {path} is larger than {MAX_BYTES >> 20} MiB, expected a tokenizer.json")
        with disk.checked(disk.digests(path)):
            try:
                inner = tokenizers.Tokenizer.from_file(str(path))
                _check_template(inner)
                inner.encode("a \N{SNOWMAN}")  # what is missing for unknown words shows only here
            except Exception as error:  # the library raises bare Exception
                reason = quoted(str(error), 200)
                message = f"tokenizer: {path} is no tokenizer.json ({reason}); fetch or train it again"
                raise ValueError(message) from error
        return cls(inner, length, pad=pad)

    @classmethod
    def clip(cls, vocab: str | Path, merges: str | Path, length: int = 77) -> Tokenizer:
        """CLIP's byte-pair tokenizer from its published `vocab.json` and `merges.txt`.

        Raises:
          ValueError: a missing or broken file.
        """
        if any(Path(path).is_file() and Path(path).stat().st_size > MAX_BYTES for path in (vocab, merges)):
            raise ValueError(f"tokenizer: {vocab} or {merges} is larger than {MAX_BYTES >> 20} MiB, expected CLIP's")
        try:
            words, pairs = models.BPE.read_file(str(vocab), str(merges))
        except Exception as error:  # the library raises bare Exception
            reason = quoted(str(error), 200)
            raise ValueError(f"tokenizer: {vocab} and {merges} are no byte-pair vocabulary ({reason})") from error
        model = models.BPE(words, pairs, unk_token=CLIP_END, end_of_word_suffix="</w>", continuing_subword_prefix="")
        inner = tokenizers.Tokenizer(model)
        inner.add_special_tokens([CLIP_BEGIN, CLIP_END])
        inner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(CLIP_WORDS), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        inner.post_processor = processors.TemplateProcessing(
            single=f"{CLIP_BEGIN} $A {CLIP_END}",
            special_tokens=[(name, inner.token_to_id(name)) for name in (CLIP_BEGIN, CLIP_END)],
        )
        return cls(inner, length, pad=CLIP_PAD)

    @classmethod
    def train(cls, captions: Iterable[str], vocab_size: int = 1024, length: int = 32) -> Tokenizer:
        """A small lower-case word-level tokenizer: the most frequent words of `captions`, then `<unk>`.

        Deterministic: words of equal frequency are taken in alphabetical order. Closes every text with `</s>`.
        """
        inner = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        inner.normalizer = normalizers.Sequence(
            [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
        )
        inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Whitespace(), pre_tokenizers.Digits(True)])
        special = [PAD, END, UNKNOWN]
        trainer = trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
        inner.train_from_iterator(captions, trainer)
        inner.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
        return cls(inner, length)

    def extended(self, texts: Iterable[str], room: int) -> Tokenizer:
        """This tokenizer with up to `room` words more, those of `texts` that it does not know; known ids stay.

        The most frequent words first, of equal frequency in alphabetical order. Only a vocabulary of whole words
        grows: others spell new words with the pieces that they have, and are returned as they are.
        """
        if not self.of_words:
            return self
        known, counts = self._inner.get_vocab(), Counter(word for text in texts for word in self._split(text))
        unknown = sorted((word for word in counts if word not in known), key=lambda word: (-counts[word], word))
        file = json.loads(self._inner.to_str())
        file["model"]["vocab"] |= {word: i for i, word in enumerate(unknown[: max(room, 0)], self.vocab)}
        return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(file)), self.length, pad=self._pad)

    def _split(self, text: str) -> list[str]:
        """The words of a text, as the vocabulary spells them."""
        inner = self._inner
        text = inner.normalizer.normalize_str(text) if inner.normalizer else text
        return [word for word, _ in inner.pre_tokenizer.pre_tokenize_str(text)] if inner.pre_tokenizer else [text]

    def save(self, path: str | Path) -> None:
        """Write an ordinary `tokenizer.json`, readable by `load` and by transformers."""
        disk.write_text(Path(path), self._inner.to_str(pretty=True))

    @property
    def vocab(self) -> int:
        """One more than the largest id: the encoder's table needs at least this many rows."""
        return 1 + max(self._inner.get_vocab().values())

    def words(self, first: int = 0) -> list[str]:
        """The vocabulary from id `first` on, in the order of the ids."""
        return [word for word, i in sorted(self._inner.get_vocab().items(), key=lambda item: item[1]) if i >= first]

    @property
    def of_words(self) -> bool:
        """Whether the vocabulary is of whole words, so that every other word is read as `<unk>`."""
        return isinstance(self._inner.model, models.WordLevel)

    def encode(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "b l"], Bool[np.ndarray, "b l"]]:
        """Ids (int32) and mask (True at tokens, end token included) of each text, padded or cut to `length`."""
        encoded = self._inner.encode_batch(list(texts))
        ids = np.array([e.ids for e in encoded], np.int32).reshape(-1, self.length)
        mask = np.array([e.attention_mask for e in encoded], bool).reshape(-1, self.length)
        content = np.array([bool(text.strip()) for text in texts], bool)
        return ids, mask & content[:, None]

    def unread(self, text: str) -> Unread:
        """What `encode` loses of the text. Punctuation and accents outside the vocabulary do not count."""
        first = self._inner.encode(text)
        rest = [start for e in first.overflowing for _, (start, _) in _pieces(e)]
        end = min(rest, default=len(text))
        seen = [False] * len(text)
        unknown_id = self._inner.token_to_id(getattr(self._inner.model, "unk_token", None) or UNKNOWN)
        # Unknown ones last: a piece for a space may claim the unknown character behind it too.
        for token, (start, stop) in sorted(_pieces(first), key=lambda piece: piece[0] == unknown_id):
            seen[start:stop] = [token != unknown_id] * (stop - start)
        gaps = "".join(" " if known else c for known, c in zip(seen, text, strict=True))[:end]
        unknown = dict.fromkeys(filter(None, map(_bare, gaps.split())))
        read = "".join(c if known else " " for known, c in zip(seen, text, strict=True))[:end]
        return Unread(tuple(unknown), text[end:].strip(), " ".join(read.split()))

    def unread_captions(self, captions: Iterable[str]) -> str:
        """One line on what is lost of many texts, the most frequent words first; empty where nothing is."""
        words, cut, count = Counter(), 0, 0
        for caption, uses in Counter(captions).items():
            lost = self.unread(caption)
            words.update(dict.fromkeys(lost.unknown, uses))
            cut, count = cut + uses * bool(lost.beyond), count + uses * bool(lost.unknown)
        return captions_line(words, count, cut)


def captions_line(words: Mapping[str, int], captions: int, cut: int) -> str:
    """How many captions have words outside the vocabulary, which these are, and how many captions are cut."""
    said = []
    if captions:
        ranked = sorted(words.items(), key=lambda item: (-item[1], item[0]))
        listed = [f"{word} {uses}" for word, uses in ranked[:MOST_LISTED]]
        listed += [f"{len(words) - MOST_LISTED} more"] if len(words) > MOST_LISTED else []
        said.append(f"captions with words outside the vocabulary: {captions} ({', '.join(listed)})")
    if cut:
        said.append(f"captions cut at the last token: {cut}")
    return "; ".join(said)


def _pieces(encoding: tokenizers.Encoding) -> list[tuple[int, tuple[int, int]]]:
    """(token, where in the text it stands); padding and what begins and ends a text left out."""
    parts = zip(encoding.ids, encoding.offsets, encoding.special_tokens_mask, strict=True)
    return [(token, span) for token, span, special in parts if not special]


def _bare(word: str) -> str:
    """Without punctuation at its ends; empty if nothing but accents is left."""
    kinds = [unicodedata.category(c)[0] for c in word]
    content = [i for i, kind in enumerate(kinds) if kind in "LNSM"]
    return word[content[0] : content[-1] + 1] if set(kinds) & set("LNS") else ""


def _check_template(inner: tokenizers.Tokenizer) -> None:
    """What begins and ends a text must be described: the library panics where it isn't, which nothing catches."""
    if inner.post_processor is None:
        return
    state = json.loads(inner.post_processor.__getstate__())
    for processor in state.get("processors", [state]):
        if processor["type"] == "TemplateProcessing":
            pieces = [*processor["single"], *processor["pair"]]
            used = {piece["SpecialToken"]["id"] for piece in pieces if "SpecialToken" in piece}
            if missing := used - processor["special_tokens"].keys():
                raise ValueError(f"it does not describe the token {quoted(sorted(missing)[0])}")
