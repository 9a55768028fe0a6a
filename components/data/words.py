"""Encoding by words: a text is split as its tokenizer splits it, and every distinct word is encoded once.

A byte-level BPE splits a text by regular expressions and encodes each word by itself, so the text's tokens are those of
its words. Words repeat: a few ten thousand make up most of any corpus. The backend remembers words too, but it spends
its time on splitting, and on the text, the offsets and the masks of every token, which nobody reads here.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# The expressions of GPT-2 (ByteLevel's own), of Llama 3 and of Qwen 2 and 3; others are left to the backend. Each
# matches any text from its first to its last letter.
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LATER = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
KNOWN = (GPT2, _LATER % r"\p{N}{1,3}", _LATER % r"\p{N}")
# What their classes are called in Python: for text in ASCII, which is twice as fast, and for ordinary text.
_ASCII = {
    r"[^\s\p{L}\p{N}]": r"[^ \t-\rA-Za-z0-9]",
    r"[^\r\n\p{L}\p{N}]": r"[^\r\nA-Za-z0-9]",
    r"\p{L}": "[A-Za-z]",
    r"\p{N}": "[0-9]",
    r"\s": r"[ \t-\r]",
    r"\S": r"[^ \t-\r]",
}
_ORDINARY = {
    r"[^\s\p{L}\p{N}]": r"(?:[^\s\w]|_)",
    r"[^\r\n\p{L}\p{N}]": r"(?:[^\r\n\w]|_)",
    r"\p{L}": r"[^\W\d_]",
    r"\p{N}": r"\d",
}

LONGEST_KEPT = 48  # characters: longer words hardly come again
MOST_KEPT = 2**20  # words, about 150 MB
MANY_CORES = 5  # from here on the backend, which uses them all, is faster than one core that remembers words

Split = Callable[[str], list[str]]


class Splits(NamedTuple):
    """How to split, by the kind of text."""

    ascii: Split
    ordinary: Split


class WordEncoder:
    """Encodes texts with a tokenizer of a known make.

    Args:
        backend: The tokenizer's Rust backend.
        splits: One after the other they make words of a text.
    """

    def __init__(self, backend: Any, splits: list[Splits]) -> None:
        self._backend, self._splits = backend, splits
        self._words = _Words(backend)
        added = backend.get_added_tokens_decoder().items()
        tokens = {token.content: (identity, token) for identity, token in added}
        self._ids = {text: np.uint32(identity).tobytes() for text, (identity, _) in tokens.items()}
        self._special = {text for text, (_, token) in tokens.items() if token.special}
        self._odd = {
            text
            for text, (_, token) in tokens.items()
            if token.normalized or token.lstrip or token.rstrip or token.single_word
        }
        self._before, self._after = _added_around(backend)
        self._ordinary: set[str] = set()

    def encode(self, text: str, *, special: bool = False) -> NDArray[np.int64]:
        """Token ids of a text.

        Args:
            text: The text.
            special: Add what the post-processor adds.
        """
        ids = self._encode(text)
        return np.concatenate([self._before, ids, self._after]) if special else ids

    def _encode(self, text: str) -> NDArray[np.int64]:
        # Added tokens are taken out of a text before all else; special ones only if the backend is set to.
        found = {token for token in self._ids if token in text}
        if self._backend.encode_special_tokens:
            found -= self._special
        if found & self._odd or not self._is_ordinary(text):
            return np.asarray(self._backend.encode(text, add_special_tokens=False).ids, np.int64)
        parts = [text]
        if found:
            longest_first = sorted(found, key=len, reverse=True)
            parts = re.split("(" + "|".join(map(re.escape, longest_first)) + ")", text)
        encoded = b"".join([self._ids[part] if part in found else self._encode_words(part) for part in parts])
        return np.frombuffer(encoded, np.uint32).astype(np.int64)

    def _is_ordinary(self, text: str) -> bool:
        """Whether a text is normalised, and all its characters mean to Python what they mean to the backend.

        Left out are characters that a newer Unicode added, numbers that are no decimal digits (½, ²), which Python
        counts among the letters, and control characters that it counts among the spaces.
        """
        if text.isascii():
            return True
        characters = set(text)
        self._ordinary |= {
            c
            for c in characters - self._ordinary
            if unicodedata.category(c) not in ("Cn", "No", "Nl") and c not in "\x1c\x1d\x1e\x1f"
        }
        return characters <= self._ordinary and unicodedata.is_normalized("NFC", text)

    def _encode_words(self, text: str) -> bytes:
        *firsts, last = [splits.ascii if text.isascii() else splits.ordinary for splits in self._splits]
        parts = [text]
        for split in firsts:
            parts = [word for part in parts for word in split(part)]
        known = self._words.__getitem__
        return b"".join([b"".join(map(known, last(part))) for part in parts])


class _Words(dict[str, bytes]):
    """Token ids of words as the bytes of a uint32 array; a new word is encoded by the backend."""

    def __init__(self, backend: Any) -> None:
        super().__init__()
        self._backend = backend

    def __missing__(self, word: str) -> bytes:
        encoded = np.asarray(self._backend.encode(word, add_special_tokens=False).ids, np.uint32).tobytes()
        if len(word) <= LONGEST_KEPT and len(self) < MOST_KEPT:
            self[word] = encoded
        return encoded


def _added_around(backend: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The token ids that the post-processor puts before and after a text's own."""
    inner, whole = (backend.encode("a", add_special_tokens=special).ids for special in (False, True))
    start = next(i for i in range(len(whole)) if whole[i : i + len(inner)] == inner)
    return np.asarray(whole[:start], np.int64), np.asarray(whole[start + len(inner) :], np.int64)


@lru_cache(maxsize=1)
def word_encoder(backend: Any) -> WordEncoder | None:
    """An encoder that gives what the backend gives, or None for a tokenizer that it cannot be sure of."""
    if backend.truncation or backend.padding or backend.pre_tokenizer is None:
        return None
    if type(backend.model).__name__ != "BPE" or backend.model.dropout:
        return None
    if backend.normalizer is not None and type(backend.normalizer).__name__ != "NFC":
        return None
    state = json.loads(backend.pre_tokenizer.__getstate__())
    parts = state["pretokenizers"] if state["type"] == "Sequence" else [state]
    splits = [_split(part) for part in parts]
    if parts[-1]["type"] != "ByteLevel" or None in splits:
        return None
    return WordEncoder(backend, [split for split in splits if split is not None])


def _split(part: dict[str, Any]) -> Splits | None:
    """How a pre-tokenizer splits, None if it is not known."""
    if part["type"] == "Digits":
        many = "" if part["individual_digits"] else "+"
        return Splits(_around(f"([0-9]{many})"), _around(rf"(\d{many})"))
    if part["type"] == "ByteLevel" and not part["add_prefix_space"]:
        return _words_of(GPT2) if part["use_regex"] else Splits(_whole, _whole)
    if part["type"] == "Split" and part["behavior"] == "Isolated" and not part["invert"]:
        pattern = part["pattern"].get("Regex")
        return _words_of(pattern) if pattern in KNOWN else None
    return None


def _words_of(expression: str) -> Splits:
    r"""An expression spelled for Python's `re`, which is twice as fast as `regex`, which knows `\p{L}`."""
    spelled = []
    for names in (_ASCII, _ORDINARY):
        text = expression
        for name, own in names.items():  # the longest first: they hold the others
            text = text.replace(name, own)
        spelled.append(re.compile(text).findall)
    return Splits(*spelled)


def _around(expression: str) -> Split:
    split = re.compile(expression).split
    return lambda text: [piece for piece in split(text) if piece]


def _whole(text: str) -> list[str]:
    return [text]
