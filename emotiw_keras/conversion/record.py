"""What was converted and how it was proven, and the report of it in lines of text. It needs no Keras."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from emotiw_keras.conversion.matching import Match, prepared
from emotiw_keras.formats.foreign import Foreign, Layout
from emotiw_keras.models.registry import get_spec
from emotiw_keras.talk import Notice, most
from emotiw_keras.text import number_of, shown
from emotiw_keras.weights.imagenet import imagenet_synsets

Order = Literal["rgb", "bgr"]
RowOrder = Literal["chw", "hwc"]
TOLERANCE = 1e-4
"""Largest difference that the gate lets pass, as a fraction of the largest value of the same layer."""
_LAYERS_SHOWN = 20
_IGNORED_SHOWN = 4
_ROWS = {"chw": "(channels, height, width)", "hwc": "(height, width, channels)"}


@dataclass(frozen=True)
class Conversion:
    """What was converted and how it was proven.

    `classes` is None where the trunk alone was converted. `parity` has the largest difference between the original's
    computation and the Keras network, for each layer with weights and for the end (`last`), as a fraction of the largest value
    there.
    """

    name: str
    foreign: Foreign
    matches: tuple[Match, ...]
    matched_by: str
    layout: Layout
    channel_order: Order
    classes: int | None
    own_structure: bool
    reordered: tuple[int, ...] | None = None
    """The outputs of the file in the usual order of the ImageNet classes, where it has them in another."""
    rows: RowOrder | None = None
    """How the rows of the first fully connected layer follow each other, where the file leaves it open: "chw" by channels, then
    height and width, "hwc" the other way. The proof is for this order."""
    input_shape: tuple[int, int, int] = (0, 0, 0)
    """(height, width, channels) of the images of the network."""
    parity: dict[str, float] = field(default_factory=dict)
    other_inputs: str | None = None
    """How other publishers prepare the images of this network, where the file does not say how its own were."""
    silent: list[str] = field(default_factory=list)
    """What gave nothing but zeros when the two were compared."""
    uncompared: str = ""
    """What of the description that a Keras file has of its layers could not be compared with the network's."""
    checked: list[str] = field(default_factory=list)
    """What images of known classes say."""

    @property
    def last(self) -> str:
        """What is compared at the end."""
        return "features" if self.classes is None else "class scores"

    @property
    def rows_assumed(self) -> str | None:
        """In which order the rows of the first fully connected layer were taken, where the file leaves it open."""
        if self.rows is None:
            return None
        first = next(m for m in self.matches if self.foreign.arrays[m.weight].ndim == 2)
        return f"rows of {first.ours} taken in the order {_ROWS[self.rows]}, which the file does not state"

    @property
    def inputs_assumed(self) -> str:
        """How the original's images were prepared, as far as nobody says, and who prepares them otherwise."""
        told = f"scale and mean: not stated by the file, taken as {self.name} takes images: {prepared(get_spec(self.name))}"
        if self.other_inputs is None:
            return told
        return f"{told}; {self.other_inputs}: of such a file change the first convolution for our images, and export it again"

    def lines(self) -> list[str]:
        """The report, one line each: what was read, matched, ignored and proved."""
        foreign, spec = self.foreign, get_spec(self.name)
        values = sum(array.size for array in foreign.arrays.values())
        taken = "taken as the network's own" if self.channel_order == spec.channel_order else "taken as said"
        stated = "as the format has it" if foreign.channel_order else f"not stated by the file, {taken}"
        doubles = sorted({str(array.dtype) for array in foreign.arrays.values()} - {"float32"})
        worst = max(self.parity, key=lambda key: self.parity[key])
        whose = "the computation in the file" if self.own_structure else f"{spec.title} as its authors defined it"
        if not self.own_structure and not foreign.description:
            whose += " (of activations, strides and poolings the file says nothing)"
        lines = [
            f"read {foreign.path.name}: {foreign.format}, {number_of(len(foreign.arrays), 'arrays')}, {values:,} values",
            f"matched {number_of(len(self.matches), 'layers')} of {self.name} by {self.matched_by}, "
            f"every array used once: {self._matched()}",
            f"channels: {self.channel_order.upper()} ({stated})",
        ]
        if self.input_shape != (usual := (spec.input_size, spec.input_size, self.input_shape[2])):
            lines.append(f"images of {self.input_shape[0]}x{self.input_shape[1]}, not the usual {usual[0]}x{usual[1]}")
        if doubles:
            lines.append(f"stored as {', '.join(doubles)}, written as float32")
        if foreign.images:
            ways = " and ".join(map(str, foreign.images))
            told = f"images as the file's data layers have them: {ways}; {self.name} takes {prepared(spec)}"
            lines.append(Notice(f"{told}; they contradict each other") if len(foreign.images) > 1 else told)
        elif foreign.mean is None:
            lines.insert(3, Notice(self.inputs_assumed) if self.other_inputs else self.inputs_assumed)
        if foreign.mean is not None:
            pixel = foreign.mean.reshape(-1, foreign.mean.shape[-1]).mean(axis=0)
            own = spec.mean if self.channel_order == spec.channel_order else spec.mean[::-1]
            numbers = [", ".join(f"{value:.3f}" for value in values) for values in (pixel, own)]
            lines.append(f"mean in the file {numbers[0]}; {self.name} subtracts {numbers[1]} ({self.channel_order.upper()})")
        if self.reordered:
            lines.append(f"{len(self.reordered)} outputs put into the usual order of the ImageNet classes, by their synsets")
        elif foreign.classes and self.foreign.classes != imagenet_synsets():
            lines.append(f"classes in the order of the file, which starts with {', '.join(map(shown, foreign.classes[:3]))}")
        if self.rows_assumed is not None:
            doubt = "; the other fits as well: settle it with --check IMAGE=CLASS"
            lines.append(self.rows_assumed if self.checked else Notice(self.rows_assumed + doubt))
        folded = sum(m.normalisation is not None and m.normalisation.mean is None for m in self.matches)
        if folded:
            lines.append(f"{folded} batch normalisations are folded into their convolutions; ours are left with the biases")
        lines += _grouped(foreign.ignored)
        if foreign.description:
            told = f"activations, strides, paddings, poolings and epsilons are {self.name}'s by the file's description"
            lines.append(Notice(f"{told}; not compared: {self.uncompared}") if self.uncompared else told)
        lines.append(
            f"proved on a colour image against {whose}, run in NumPy: {self.last} within {self.parity[self.last]:.1e}, "
            f"{number_of(len(self.parity) - 1, 'inner layers')}, "
            f"the worst {worst} within {self.parity[worst]:.1e} (allowed {TOLERANCE:.0e})"
        )
        if self.silent:
            told = f"{', '.join(self.silent)} {'gives' if len(self.silent) == 1 else 'give'} nothing but zeros for that image"
            lines.append(Notice(f"{told}: of this, and of what follows from it, the proof tells nothing"))
        return lines + self.checked

    def _matched(self) -> str:
        pairs = [m.ours if m.ours == m.theirs else f"{m.theirs} -> {m.ours}" for m in self.matches]
        told = pairs[: most(_LAYERS_SHOWN)]
        return ", ".join(told) + (f", and {len(pairs) - len(told)} more" if len(told) < len(pairs) else "")


def _grouped(ignored: dict[str, str]) -> list[str]:
    """One line for each thing ignored, or for many of the same reason."""
    by_reason: dict[str, list[str]] = {}
    for what, why in ignored.items():
        by_reason.setdefault(why, []).append(what)
    lines: list[str] = []
    for why, names in by_reason.items():
        if len(names) > (most(_IGNORED_SHOWN) or len(names)):
            lines.append(Notice(f"ignored {len(names)} of {names[0]}, {names[1]}, ...: {why}"))
        else:
            lines += [Notice(f"ignored {what}: {why}") for what in names]
    return lines
