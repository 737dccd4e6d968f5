"""`[[stage]]`: stages of fine-tuning, one after another, on one network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotiw_keras.errors import UsageError
from emotiw_keras.heads import Head, heads_of
from emotiw_keras.labels import LABEL_SETS
from emotiw_keras.text import briefly
from emotiw_keras.training.checked_fields import SettingError
from emotiw_keras.training.kinds import Job, Kind
from emotiw_keras.training.stage import Stage, unheeded

if TYPE_CHECKING:
    from emotiw_keras.training.feeds import Trained
    from emotiw_keras.training.prepared_data import Prepared
    from emotiw_keras.training.recipe import Recipe
    from emotiw_keras.training.stage_sequence import StageLoop


class Stages(Kind):
    """Fine-tuning in stages."""

    part = Stage
    shared = True

    def settle(self, entries: Sequence[dict[str, Any]], asked: Mapping[tuple[int, str], bool]) -> list[str]:
        left, lines = [unheeded(entry) for entry in entries], []
        for number, entry in enumerate(entries):
            where, dropped = f"stage {entry['name']!r}", dict[str, list[str]]()
            for key, why in left[number].items():
                value, entry[key] = entry[key], json.loads(json.dumps(getattr(Stage, key)))  # lists, as TOML has them
                everywhere = asked.get((number, key))
                heeded = everywhere and any(key not in others for others in left)
                if everywhere is not None and value and not heeded:
                    raise SettingError(f"{key} of {where} is {briefly(value)}, {why}", key)
                if everywhere is None and value != entry[key]:
                    dropped.setdefault(why.partition(";")[0], []).append(f"{key} = {value!r}")
            lines += [f"{where} leaves out the recipe's {', '.join(each)}: {why}" for why, each in dropped.items()]
        return lines

    def check(self, recipe: Recipe) -> None:
        last = recipe.stages[-1]
        if recipe.keep == "best" and not last.val:
            raise SettingError(
                f"keep is 'best', but {last.where}, the last, has no val to be compared on; name sets in it, or set keep to "
                "'last'",
                "keep",
            )

    def describe(self, prepared: Prepared, folder: Path, say: Callable[[str], None]) -> None:
        from emotiw_keras.training.start import start_tensorflow

        start_tensorflow()
        import keras

        from emotiw_keras.models.parts import computing_in
        from emotiw_keras.training.estimate import describe

        # What a run starts from is opened, and all that it checks is checked, before anything is timed.
        with computing_in(keras.config.dtype_policy().name):
            loop = self.loop(prepared, Job(folder, prepared.info, None, prepared.face_input(), prepared.pool, say, None))
            loop.check()
            describe(prepared, loop.run.model, folder, say)

    def loop(self, prepared: Prepared, job: Job) -> StageLoop:
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
            left_out=prepared.left_out,
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
