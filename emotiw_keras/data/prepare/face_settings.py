"""What decides which faces come out of an image, and how they look."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from emotiw_keras.arguments import whole_number
from emotiw_keras.errors import UsageError
from emotiw_keras.faces.alignment import DEFAULT_READING, LARGEST, READINGS, SIDE

FACES = ("largest", "all", "central")
NO_FACE = ("skip", "centre")


@dataclass(frozen=True)
class Settings:
    """Choices of one preparation.

    Attributes:
        detector: the detector's name.
        faces: which faces of an image are cut out: the "largest", "all", or the one most "central".
        no_face: for an image without a face "skip" it, or cut out its "centre" square, which its status then says.
        reading: what the crop spans (`alignment.READINGS`).
        side: of the crops, in pixels.
        frames: taken from each video, evenly spread; 0 where the source has images.
    """

    detector: str
    faces: str = "largest"
    no_face: str = "skip"
    reading: str = DEFAULT_READING
    side: int = SIDE
    frames: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant: UsageError."""
        for name, known in (("faces", FACES), ("no_face", NO_FACE), ("reading", READINGS)):
            if getattr(self, name) not in known:
                raise UsageError(f"{name} = {getattr(self, name)!r}; known: {', '.join(known)}")
        object.__setattr__(self, "side", whole_number("side", self.side, 8, high=LARGEST))

    def as_dict(self) -> dict[str, str | int]:
        """As plain data; `frames` of videos alone."""
        return {key: value for key, value in asdict(self).items() if key != "frames" or value}
