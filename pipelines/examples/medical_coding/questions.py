"""What is asked about a code: what follows from the way codes are built.

An answer can be told from the code by someone who has seen other codes, not only by someone who has memorised this one:
the second character tells the region of an injury, the fifth or sixth the side, the seventh the encounter. So a model
can be asked about codes that it has never seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.examples.medical_coding.classification import Entry


@dataclass(frozen=True)
class Kind:
    """A kind of question.

    Attributes:
        name: Its name, also that of the property of a code that is asked for.
        question: The question, with the fields of an `entry` in braces.
        answer: The right answer, None where the question makes no sense for the entry.
        values: All answers there are; empty where each code has its own.
    """

    name: str
    question: str
    answer: Callable[[Entry], str | None]
    values: tuple[str, ...] = ()

    def ask(self, entry: Entry, *, with_text: bool = False) -> str:
        """The question about an entry.

        Args:
            entry: What is asked about.
            with_text: Give what the code means along with it, where that is not what is asked for. The question can
                then be answered by reading, which a model that knows English learns from a few hundred examples.
        """
        question = self.question.format(entry=entry)
        return question.replace(entry.code, f"{entry.code} {entry.text}", 1) if with_text and self.values else question


# How the classification says it, and the word to answer with.
_ENCOUNTERS = {"initial": "initial", "subsequent": "subsequent", "sequela": "sequela"}
_FRACTURES = {"closed fracture": "closed", "open fracture": "open"}
_HEALING = {"routine": "routine", "delayed": "delayed", "nonunion": "nonunion", "malunion": "malunion"}
_REGIONS = {
    "Injuries to the head": "head",
    "Injuries to the neck": "neck",
    "Injuries to the thorax": "thorax",
    "Injuries to the abdomen": "abdomen",
    "Injuries to the shoulder": "shoulder",
    "Injuries to the elbow": "elbow",
    "Injuries to the wrist": "wrist",
    "Injuries to the hip": "hip",
    "Injuries to the knee": "knee",
    "Injuries to the ankle": "ankle",
}
_INJURIES = {
    "Superficial injury": "superficial",
    "Open wound": "wound",
    "Fracture": "fracture",
    "Dislocation": "dislocation",
    "Injury of nerve": "nerve",
    "Injury of blood vessel": "vessel",
    "Injury of muscle": "muscle",
    "Crushing injury": "crushing",
    "Traumatic amputation": "amputation",
}
_TRIMESTERS = {"first trimester": "first", "second trimester": "second", "third trimester": "third"}


def chapter(entry: Entry) -> str:
    """Number of the chapter."""
    return str(entry.chapter)


def side(entry: Entry) -> str | None:
    """Side of the body."""
    return entry.side


def encounter(entry: Entry) -> str | None:
    """The patient's visit: the first for this injury, a later one, or one for what the injury has left."""
    return _only(_ENCOUNTERS, entry.extension)


def healing(entry: Entry) -> str | None:
    """How a fracture heals."""
    return _only(_HEALING, entry.extension)


def fracture(entry: Entry) -> str | None:
    """Whether a fracture is open."""
    return _only(_FRACTURES, entry.extension)


def region(entry: Entry) -> str | None:
    """Injured region of the body; the first that the block's title names."""
    return _only(_REGIONS, entry.block_text)


def injury(entry: Entry) -> str | None:
    """Kind of injury."""
    return _only(_INJURIES, entry.category_text)


def trimester(entry: Entry) -> str | None:
    """Trimester of a pregnancy; preterm labor in one with delivery in another has none."""
    return _only(_TRIMESTERS, entry.text)


def parent(entry: Entry) -> str | None:
    """The code without its seventh character and what only fills the places before it."""
    return entry.parent if entry.extension else None


def text(entry: Entry) -> str | None:
    """The parent's text and what the seventh character adds to it."""
    return entry.text if entry.extension else None


def _only(words: Mapping[str, str], text: str | None) -> str | None:
    """The answer whose words are in a text, if there is exactly one."""
    found = [answer for phrase, answer in words.items() if phrase in (text or "")]
    return found[0] if len(found) == 1 else None


def _closed(name: str, question: str, answer: Callable[[Entry], str | None], words: Mapping[str, str]) -> Kind:
    return Kind(name, question, answer, tuple(words.values()))


# The code comes first, as in the documents, so that a small model meets it in the same surroundings.
KINDS = {
    kind.name: kind
    for kind in (
        Kind("chapter", "{entry.code}: which chapter?", chapter, tuple(map(str, range(1, 23)))),
        Kind("side", "{entry.code}: which side?", side, ("right", "left")),
        _closed("encounter", "{entry.code}: which encounter?", encounter, _ENCOUNTERS),
        _closed("healing", "{entry.code}: which healing?", healing, _HEALING),
        _closed("fracture", "{entry.code}: open or closed fracture?", fracture, _FRACTURES),
        _closed("region", "{entry.code}: which region?", region, _REGIONS),
        _closed("injury", "{entry.code}: which injury?", injury, _INJURIES),
        _closed("trimester", "{entry.code}: which trimester?", trimester, _TRIMESTERS),
        Kind("parent", "{entry.code}: which parent?", parent),
        Kind("text", "{entry.parent}: {entry.parent_text}. {entry.code}: which text?", text),
    )
}


def line(entry: Entry) -> str:
    """An entry as the classification prints it."""
    return f"{entry.code} {entry.text}"


def record(entry: Entry) -> str:
    """An entry as a table's row: its code and those of its properties that have a closed set of values."""
    properties = (kind.answer(entry) for kind in KINDS.values() if kind.values)
    return "|".join([entry.code, *(value for value in properties if value)])
