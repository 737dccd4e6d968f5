"""What all stages of a run share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from emotiw_keras.data.face_input import FaceInput
from emotiw_keras.runs import Run
from emotiw_keras.training.epoch_progress import Progress, silent
from emotiw_keras.training.interrupts import Flag, Interrupted
from emotiw_keras.training.replicas import Replicas


@dataclass
class Surroundings:
    """The network, the folder and the rest; see `StageLoop`."""

    model: keras.Model
    face_input: FaceInput | None
    run_dir: Path
    info: dict[str, Any]
    seed: int = 0
    say: Callable[[str], None] = silent
    progress: Progress = field(default_factory=Progress)
    teachers: Mapping[str, Run] = field(default_factory=dict)
    metrics: Sequence[keras.metrics.Metric] = ()
    callbacks: Sequence[keras.callbacks.Callback] = ()
    replicas: Replicas | None = None

    @property
    def writes(self) -> bool:
        """Whether this process writes the run folder: the only one, or the chief of several."""
        return self.replicas is None or self.replicas.chief

    def together(self) -> AbstractContextManager[None]:
        """Within, what one worker does and others do not; where it fails, all end with its error."""
        return nullcontext() if self.replicas is None else self.replicas.together()

    def from_chief(self, make: Callable[[], Any]) -> Any:
        """What the worker that writes makes, plain data; every worker has it."""
        made = None
        with self.together():
            if self.writes:
                made = make()
        return made if self.replicas is None else self.replicas.from_chief(made)

    def stop_if_asked(self, flag: Flag) -> None:
        """Raise `Interrupted` where a signal has come."""
        if flag.number is not None:
            self.progress.close()
            raise Interrupted(flag.number, f"stopped and saved; the same command goes on from {self.run_dir}")
