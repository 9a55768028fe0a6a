"""What is asked about a code: a few fields that follow from the way codes are built.

A field's answer can be told from the code by someone who has seen other codes, not only by someone who has memorised
this one: the fifth or sixth character tells the side, the seventh the encounter, the second the region of the body. So
a model can be asked about codes that it has never seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.examples.medical_coding.classification import Entry


@dataclass(frozen=True)
class Field:
    """A property of codes.

    Attributes:
        name: Its name, the `kind` of a question about it.
        question: What is asked after the code.
        values: All answers there are.
        read: The answer for an entry, None where the question makes no sense.
    """

    name: str
    question: str
    values: tuple[str, ...]
    read: Callable[[Entry], str | None]

    def ask(self, entry: Entry) -> str:
        """The question about an entry."""
        return f"{entry.code}: {self.question}"


CHAPTERS = (7, 13, 15, 19, 20)
_ENCOUNTERS = {word: word for word in ("initial", "subsequent", "sequela")}
_HEALING = {word: word for word in ("routine", "delayed", "nonunion", "malunion")}
_FRACTURES = {"closed fracture": "closed", "open fracture": "open"}
_TRIMESTERS = {f"{word} trimester": word for word in ("first", "second", "third")}
# By the first two characters of the codes of injuries.
_REGIONS = {
    "S0": "head",
    "S1": "neck",
    "S2": "thorax",
    "S3": "abdomen",
    "S4": "shoulder",
    "S5": "elbow",
    "S6": "wrist",
    "S7": "hip",
    "S8": "knee",
    "S9": "ankle",
}
# By the last digit of a category of injuries: the same kind of injury has the same digit in every region.
_INJURIES = {
    "0": "superficial",
    "1": "wound",
    "2": "fracture",
    "3": "dislocation",
    "4": "nerve",
    "5": "vessel",
    "6": "muscle",
    "7": "crushing",
    "8": "amputation",
}


def _chapter(entry: Entry) -> str | None:
    return str(entry.chapter)


def _region(entry: Entry) -> str | None:
    return _REGIONS.get(entry.code[:2])


def _injury(entry: Entry) -> str | None:
    # The regions of the trunk and the head use some digits otherwise; the limbs keep the scheme.
    return _INJURIES.get(entry.code[2]) if entry.code[:2] in ("S4", "S5", "S6", "S7", "S8", "S9") else None


def _side(entry: Entry) -> str | None:
    return entry.side


def _trimester(entry: Entry) -> str | None:
    return _only(_TRIMESTERS, entry.text)


def _in_extension(words: Mapping[str, str]) -> Callable[[Entry], str | None]:
    return lambda entry: _only(words, entry.extension) if entry.extension else None


def _only(words: Mapping[str, str], text: str) -> str | None:
    """The value whose words are in a text, if there is exactly one."""
    found = [value for phrase, value in words.items() if phrase in text]
    return found[0] if len(found) == 1 else None


FIELDS = (
    Field("chapter", "which chapter?", tuple(map(str, CHAPTERS)), _chapter),
    Field("side", "which side?", ("right", "left"), _side),
    Field("encounter", "which encounter?", tuple(_ENCOUNTERS.values()), _in_extension(_ENCOUNTERS)),
    Field("healing", "which healing?", tuple(_HEALING.values()), _in_extension(_HEALING)),
    Field("fracture", "open or closed fracture?", tuple(_FRACTURES.values()), _in_extension(_FRACTURES)),
    Field("region", "which region?", tuple(_REGIONS.values()), _region),
    Field("injury", "which injury?", tuple(_INJURIES.values()), _injury),
    Field("trimester", "which trimester?", tuple(_TRIMESTERS.values()), _trimester),
)
FIELD = {field.name: field for field in FIELDS}


def record(entry: Entry) -> str:
    """An entry as a table's row: its code and the values of all fields that it has, in their order."""
    values = (field.read(entry) for field in FIELDS)
    return "|".join([entry.code, *(value for value in values if value)])


def line(entry: Entry) -> str:
    """An entry as the classification prints it."""
    return f"{entry.code} {entry.text}"
