"""From a recipe and paths to a run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotiw_keras import hardware
from emotiw_keras.data.annotated_videos import VideoSet
from emotiw_keras.errors import UsageError
from emotiw_keras.files import check_file_place, local_path, write_atomic
from emotiw_keras.keras_settings import check_keras
from emotiw_keras.run_facts import WEIGHTS_FILE
from emotiw_keras.runs import Run
from emotiw_keras.training.claim import Claim
from emotiw_keras.training.epoch_progress import silent
from emotiw_keras.training.kinds import Job
from emotiw_keras.training.prepared_data import MEAN_IMAGE_FILE, Prepared, prepare
from emotiw_keras.training.recipe import Recipe
from emotiw_keras.training.run_writer import check_out, resumable, staying
from emotiw_keras.training.sharing import ALONE, compare, going_on, join
from emotiw_keras.training.stage_images import data_rows, own_rows
from emotiw_keras.training.start import start_tensorflow
from emotiw_keras.training.workers import asked_strategy

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from emotiw_keras.training.epoch_progress import Progress
    from emotiw_keras.training.replicas import Replicas

LOOK_SECONDS = 15.0
"""How long a dry run looks at the images of a set."""


@dataclass(frozen=True)
class Outcome:
    """What `fit` did: the finished run (None after a dry run) and the inputs that could not be read."""

    run: Run | None
    unreadable: tuple[str, ...]

    @property
    def precision(self) -> str | None:
        """In which it computed: what "auto" is for other runs of a series, which are compared or put together."""
        return None if self.run is None else self.run.info.get("precision")


def fit(
    recipe: Recipe,
    paths: Mapping[str, str],
    out: str | Path,
    *,
    threads: int | None = None,
    restart: bool = False,
    dry_run: bool = False,
    show: str | Path | None = None,
    say: Callable[[str], None] = silent,
    progress: Progress | None = None,
    strategy: str | tf.distribute.Strategy | None = None,
    devices: Sequence[str] = (),
    wait: float | None = None,
    auto: str | None = None,
) -> Outcome:
    """Train by a recipe; called again after an interruption it goes on where it was.

    Args:
        recipe: the training.
        paths: data set name -> path, one for each name in `recipe.data`.
        out: the run folder.
        threads: processor threads; None takes all.
        restart: rename an existing run and begin anew.
        dry_run: say what would be done, and stop.
        show: a PNG to write with some training images as the first epochs have them; then stop.
        say: takes lines for people.
        progress: shows epochs under way.
        strategy: devices and processes that train together: a word of `workers.STRATEGIES` or TensorFlow's strategy; see
            docs/scale.md.
        devices: of strategy "mirrored", such as ("cpu:0", "cpu:1"); none takes all GPUs.
        wait: seconds that a worker waits for the others to start; None is ten minutes.
        auto: what the precision "auto" is, where another run of a series has found it; None finds it here.

    Raises:
        UsageError: data sets that the recipe does not know, or that are missing; devices or a `wait` that
            cannot be meant or that the strategy does not heed; Keras is set to
            something else than TensorFlow and float32.
        DataError: data that cannot be used.
        ModelError: weights that are missing or do not fit.
        RunError: `out` was made from another recipe or other data, or is damaged.
        WorkerError: another worker did not come, or was lost.
        OutputError: `out` cannot be written.
        DivergedError: the loss stopped being a number.

    Example:
        >>> from emotiw_keras.training.recipe import load_recipe
        >>> fit(load_recipe("demo"), {}, "runs/demo")  # doctest: +SKIP
    """
    check_keras()
    asked_strategy(strategy, devices, wait)
    folder = local_path(out)
    check_out(folder, paths, restart)
    if show is not None:
        from emotiw_keras.training.show_batch import show_batch

        picture = local_path(show)
        if picture.suffix.lower() != ".png":
            raise UsageError(f"{show}: the picture of a batch is a PNG; expected a name that ends in .png")
        check_file_place(picture)
        prepared = prepare(recipe, paths, threads=threads, say=say, seconds=LOOK_SECONDS)
        start_tensorflow(threads)
        show_batch(prepared, picture, say)
        if not dry_run:
            return Outcome(None, prepared.unreadable)
    if dry_run:
        replicas = join(recipe, strategy, devices, wait, threads, say, dry_run=True)
        prepared = prepare(recipe, paths, threads=threads, say=say, seconds=LOOK_SECONDS)
        if not restart:
            resumable(folder, recipe.to_toml(), {**prepared.info, "data": None})
        if replicas is not None:
            from emotiw_keras.training.shared_stage import check_shared

            for stage in prepared.trained:
                check_shared(stage, None, None, replicas)
        start_tensorflow(threads)  # which it times
        recipe.kind.describe(prepared, folder, say)
        return Outcome(None, prepared.unreadable)
    replicas = join(recipe, strategy, devices, wait, threads, say)
    if replicas is not None and not replicas.chief:
        say, progress = silent, None
    with nullcontext() if replicas is None else replicas.together():
        prepared = prepare(recipe, paths, threads=threads, say=say, auto=auto)
    return Outcome(train(prepared, folder, None, say, progress, restart, replicas=replicas), prepared.unreadable)


def train(
    prepared: Prepared,
    folder: Path,
    model: keras.Model | None,
    say: Callable[[str], None] = silent,
    progress: Progress | None = None,
    restart: bool = False,
    metrics: Sequence[keras.metrics.Metric] = (),
    callbacks: Sequence[keras.callbacks.Callback] = (),
    replicas: Replicas | None = None,
) -> Run | None:
    """Make the run folder, or go on with it. A new one is made only when the network, its weights and its rules are good.

    Args:
        prepared: from `prepare`.
        folder: the run folder.
        model: the network to train; None builds the recipe's.
        say: takes lines for people.
        progress: shows epochs under way.
        metrics, callbacks: Keras objects for every stage.
        restart: rename an existing run and begin anew.
        replicas: devices and processes that train together.

    Returns:
        The finished run; None on a worker that does not write it.
    """
    recipe = prepared.recipe
    if replicas is not None:
        compare(prepared, replicas)
    before = list(prepared.parent.each_row_as_trained()) if prepared.parent is not None else []
    taught = (row for run in prepared.teachers.values() for row in run.each_row_as_trained())
    of_files = [part for part in recipe.stages if part.name in prepared.roles]
    rows = chain(
        data_rows(of_files, prepared.sets, prepared.roles, before, taught if prepared.teachers else None),
        own_rows(recipe.stages, prepared.own, prepared.of_own, prepared.info["labels"]),
    )
    videos = any(isinstance(faces, VideoSet) for faces in prepared.sets.values()) or any("frames" in row for row in before[:1])
    writes = replicas is None or replicas.chief
    together = nullcontext if replicas is None else replicas.together
    with ExitStack() as held:
        if replicas is not None:
            held.push(replicas.leave)

        def take() -> dict[str, Any]:
            assert claim is not None
            info = claim.take(rows, videos)
            mean_image = prepared.mean_image if prepared.info["preprocessing"] is not None else None
            if not info["finished"] and mean_image is not None and not (folder / MEAN_IMAGE_FILE).exists():
                write_atomic(folder / MEAN_IMAGE_FILE, mean_image.read_bytes())
            return info

        with together():
            claim = held.enter_context(Claim(folder, recipe.to_toml(), prepared.info, say, restart)) if writes else None
            info = take() if claim is not None and claim.resumes else prepared.info
        resumes = claim is not None and claim.resumes
        if replicas is not None:
            info = replicas.from_chief(info)
        if resumes and not info["finished"] and (told := going_on(info, replicas, recipe)) is not None:
            say(told)
        if info["finished"]:
            return _finished(folder, model, say) if writes else None
        prepared = _with_items(prepared, info, say)
        if replicas is None:
            start_tensorflow(None if info["threads"] == hardware.processor_threads() else info["threads"])
        if replicas is not None or "strategy" in info:
            info["strategy"] = ALONE if replicas is None else replicas.facts()
        import keras

        check_keras()
        from emotiw_keras.data.face_input import FaceInput
        from emotiw_keras.models.parts import computing_in

        if info["precision"] != "float32":
            say(f"computing in {info['precision']}")
        settings = info["preprocessing"]
        face_input = None
        if settings is not None and not settings.get("as_given"):
            face_input = FaceInput.from_settings(settings, folder) if resumes else prepared.face_input()

        job = Job(folder, info, model, face_input, prepared.pool, say, progress, tuple(metrics), tuple(callbacks), replicas)
        with computing_in(keras.config.dtype_policy().name):  # that of the recipe is for its own network alone
            with together():
                loop = recipe.kind.loop(prepared, job)
                if not resumes:
                    loop.check()
                    if claim is not None:
                        info.update(take())
            if replicas is not None:
                info["finished"] = replicas.from_chief(info["finished"])
            if info["finished"]:  # by another process meanwhile
                return _finished(folder, model, say) if writes else None
            with staying(folder) if writes else nullcontext():
                return loop.fit()


def _with_items(prepared: Prepared, info: Mapping[str, Any], say: Callable[[str], None]) -> Prepared:
    """What is trained on of arrays, told: all items where an earlier version began a run with all of them."""
    if "items_left_out" not in prepared.info:
        return prepared
    from emotiw_keras.training.own_data import Arrays, check_left

    of_own = dict(prepared.of_own)
    for name, (part, val) in prepared.of_own.items():
        if isinstance(part, Arrays):
            if "items_left_out" not in info and part.whole is not None:
                of_own[name] = part.whole, val
            else:
                check_left(name, part, say)
    return replace(prepared, of_own=of_own)


def _finished(folder: Path, model: keras.Model | None, say: Callable[[str], None]) -> Run:
    """The run that is there; a network that was given gets its weights."""
    from emotiw_keras.models.weights import load_strict

    say(f"{folder} is finished already; nothing to do")
    run = Run.open(folder)
    if run.info["model"].get("given"):
        run = Run.open(folder, model)
        if model is not None:
            run.fill_given()
    elif model is not None:
        load_strict(model, folder / WEIGHTS_FILE)
    return run
