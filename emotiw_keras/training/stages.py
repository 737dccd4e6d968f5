"""`[[stage]]`: stages of fine-tuning, one after another, on one network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotiw_keras.errors import UsageError
from emotiw_keras.heads import Head, heads_of
from emotiw_keras.labels import LABEL_SETS
from emotiw_keras.training.kinds import Job, Kind, Loop
from emotiw_keras.training.stage import Stage

if TYPE_CHECKING:
    from emotiw_keras.training.feeds import Trained
    from emotiw_keras.training.prepared_data import Prepared


class Stages(Kind):
    """Fine-tuning in stages."""

    part = Stage
    shared = True

    def describe(self, prepared: Prepared, folder: Path, say: Callable[[str], None]) -> None:
        from emotiw_keras.training.estimate import describe

        describe(prepared, folder, say)

    def loop(self, prepared: Prepared, job: Job) -> Loop:
        import keras

        from emotiw_keras.training.stage_sequence import StageLoop
        from emotiw_keras.training.start import start_model

        recipe, model = prepared.recipe, job.model
        if model is None:
            keras.config.set_dtype_policy(job.info["precision"])
            keras.utils.set_random_seed(recipe.seed)
            model = start_model(recipe, job.info, prepared.parent, job.say)
        heads = heads_of(job.info)
        train: dict[str, Trained] = {}
        val: dict[str, Trained | None] = {}
        for stage in recipe.stages:
            own, own_val = prepared.of_own.get(stage.name, (None, None))
            roles = prepared.roles.get(stage.name)
            images = own if roles is None else job.pool(roles.train)
            if images is None:
                raise UsageError(f"{stage.where} trains on faces in files and selects on own data, or the other way round")
            chosen = own_val if roles is None else job.pool(roles.val)
            if heads:
                _teach(images, chosen, heads, stage, job.say)
            train[stage.name], val[stage.name] = images, chosen
        return StageLoop(
            model,
            recipe.stages,
            train=train,
            val=val,
            face_input=job.face_input,
            run_dir=job.folder,
            info=job.info,
            seed=recipe.seed,
            say=job.say,
            progress=job.progress,
            teachers=prepared.teachers,
            metrics=job.metrics,
            callbacks=job.callbacks,
            replicas=job.replicas,
        )

    def result(self, entry: Mapping[str, Any], score: str) -> str:
        return f"stage {entry['name']}: best epoch {entry['best_epoch']} of {entry['epochs']}{score}"


def _teach(train: Any, val: Any, heads: Sequence[Head], stage: Stage, say: Callable[[str], None]) -> None:
    """Give the images of a stage their labels for each head."""
    from emotiw_keras.training.head_labels import check_taught, head_labels

    for pool, what in ((train, "training"), (val, "validation")):
        if pool is None:
            continue
        rows = head_labels(pool, heads, stage, what == "training")
        check_taught(stage, rows, heads, what, say)
        pool.labels = rows
    if stage.votes == "probabilistic":
        train.drawn = next((head.columns for head in heads if head.labels == LABEL_SETS["ferplus8"].labels), None)


KIND = Stages()
