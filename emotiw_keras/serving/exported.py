"""A model that `emotiw export --format onnx` wrote, opened again: what it says of itself, and that it can do no harm."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emotiw_keras.errors import ModelError, UsageError
from emotiw_keras.formats.foreign import FACTS, Limits
from emotiw_keras.formats.protobuf import Schema, Spec, Wire, last, map_file
from emotiw_keras.heads import heads_of
from emotiw_keras.models.registry import LARGEST_SIDE
from emotiw_keras.run_facts import are_heads, is_crop
from emotiw_keras.sealed import strict_json
from emotiw_keras.serving.exported_graph import LARGEST_TOGETHER, bytes_of_face
from emotiw_keras.talk import Notice
from emotiw_keras.uncertainty import is_entropy

SUFFIX = ".onnx"
SEAL = "checksum"
"""Key of the facts under which `seal` stands."""
MOST_FACTS = 1 << 20
_MODEL: Schema = {
    **dict.fromkeys((1, 2, 3, 4, 5, 6), Spec("", "any")),  # versions, and who wrote it
    7: Spec("graph", "message"),
    8: Spec("opset", "message", True),
    14: Spec("metadata", "message", True),
}
_ENTRY: Schema = {1: Spec("key", "str"), 2: Spec("value", "message")}


@dataclass(frozen=True)
class Exported:
    """An exported model.

    Attributes:
        path: the file.
        model: its bytes: `pixels`, uint8 (batch, side, side, channels) -> `probabilities`, float32 (batch, classes).
        facts: what the export wrote into it.
        at_once: faces that are computed together, at most.
        chosen: the name of the head that was asked for; None for the file's own choice.
    """

    path: Path
    model: bytes
    facts: dict[str, Any]
    at_once: int
    chosen: str | None = None

    @classmethod
    def open(cls, path: Path) -> Exported:
        """Read a file, which may be a stranger's.

        Raises:
            ModelError: it is missing, damaged, or nothing that `emotiw export --format onnx` writes.
        """
        wire, view = Wire(path.name), map_file(path, Limits(total_bytes=2**31))
        model = wire.decode(view, _MODEL)
        entries = [wire.decode(part, _ENTRY) for part in model.get("metadata", ())]
        texts = [bytes(last(entry, "value", b"")[:MOST_FACTS]) for entry in entries if last(entry, "key") == FACTS]
        if len(texts) != 1:
            raise ModelError(
                f"{path} says nothing of labels and preprocessing; expected a file of `emotiw export --format onnx`"
            )
        try:
            facts = strict_json(texts[0])
        except ValueError as error:
            raise ModelError(f"{path} is damaged: what it says of its labels cannot be read ({error})") from error
        wrong = _wrong(facts)
        if wrong:
            raise ModelError(f"{path} is damaged, or of another version of emotiw: it says {wrong}; export the run again")
        needed = bytes_of_face(path, wire, wire.decode(view, _MODEL, closed=True), tuple(facts["input"]["shape"][1:]))
        said = facts.get(SEAL)  # the first exports had none
        if said is not None and said != seal(last(model, "graph", b""), facts):
            raise ModelError(f"{path} is damaged: its bytes are not what its checksum says; export the run again")
        return cls(path, bytes(view), facts, max(1, LARGEST_TOGETHER // needed))

    @property
    def called(self) -> str:
        """What commands take for it."""
        return str(self.path)

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        head = next((head for head in heads_of(self.facts) if head.name == self.chosen), None)
        return tuple(self.facts["labels"]) if head is None else head.labels

    @property
    def output(self) -> str:
        """The name of the output that holds the answers."""
        return "probabilities" if self.chosen is None else f"probabilities_{self.chosen}"

    def with_head(self, head: str) -> Exported:
        """The same file, its answers those of another head.

        Raises:
            UsageError: it has no such head.
        """
        names = [each.name for each in heads_of(self.facts)]
        if head not in names:
            there = f"; it has {', '.join(names)}" if names else ": it gives one answer"
            raise UsageError(f"{self.called} has no head {head!r}{there}")
        return replace(self, chosen=head)

    @property
    def settings(self) -> dict[str, Any]:
        """`FaceInput` settings of the run that it was made of."""
        return {**self.facts["preprocessing"], "channels": self.facts["input"]["colour"].lower()}

    @property
    def crop(self) -> dict[str, Any]:
        """How to cut a face out of a photo, as of a run; the first exports did not say it."""
        return self.facts.get("crop", {"reading": "B", "stretch": False})

    @property
    def crops(self) -> int:
        """It cuts the centre out itself."""
        return 1

    @property
    def cautions(self) -> tuple[Notice, ...]:
        """As of a run: it is one file, which lacks nothing."""
        return ()

    @property
    def usable_entropy(self) -> float | None:
        """Entropy beyond which its answers are uncertain, if the run that it was made of said so: of another head than the
        file's own the first exports did not."""
        if self.chosen in (None, self.facts.get("head")):
            return self.facts.get("usable_entropy")
        return self.facts.get("usable_entropies", {}).get(self.chosen)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.model).hexdigest()


def seal(graph: bytes | memoryview, facts: Mapping[str, Any]) -> str:
    """What tells a damaged file: SHA-256 of the graph, as it stands in the file, and of the facts."""
    plain = {key: value for key, value in facts.items() if key != SEAL}
    return hashlib.sha256(bytes(graph) + json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _wrong(facts: Any) -> str:
    """What of the facts cannot be; nothing if all can."""
    if not isinstance(facts, dict):
        return f"a {type(facts).__name__}"
    labels, given, settings = (facts.get(key) for key in ("labels", "input", "preprocessing"))
    texts = labels if isinstance(labels, list) and all(isinstance(label, str) and label for label in labels) else []
    if not texts or len(set(texts)) < len(texts):
        return f"labels = {labels!r:.60}"
    shape, colour = (given.get("shape"), given.get("colour")) if isinstance(given, dict) else (None, None)
    side = settings.get("resize") if isinstance(settings, dict) else None
    if type(side) is not int or not 1 <= side <= 2 * LARGEST_SIDE:
        return f"preprocessing.resize = {side!r:.60}"
    colours = {"grey": 1, "RGB": 3}
    if not isinstance(shape, list) or shape != ["batch", side, side, colours.get(str(colour))]:
        return f"input = {given!r:.60}"
    if not are_heads(facts.get("heads", [])):
        return f"heads = {facts['heads']!r:.60}"
    heads = {head.name: head.labels for head in heads_of(facts)}
    chosen = facts.get("head")
    if (chosen is not None or heads) and (not isinstance(chosen, str) or heads.get(chosen) != tuple(texts)):
        return f"head = {chosen!r:.60} with labels = {labels!r:.60}"
    limit = facts.get("usable_entropy")
    if limit is not None and not is_entropy(limit, len(texts)):
        return f"usable_entropy = {limit!r:.60}"
    limits = facts.get("usable_entropies", {})
    if not isinstance(limits, dict) or any(
        name not in heads or not (each is None or is_entropy(each, len(heads[name]))) for name, each in limits.items()
    ):
        return f"usable_entropies = {limits!r:.60}"
    if not is_crop(facts.get("crop", {"reading": "B", "stretch": False})):
        return f"crop = {facts['crop']!r:.60}"
    return ""
