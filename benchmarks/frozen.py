"""A stage with all of AlexNet's convolutions frozen: images per second with and without kept features, and of plain Keras.

"kept" and "anew" are what `emotiw fit` runs with cache_features = true and false; "keras" is the same network of stock layers
with trainable = False in Keras' own train step. All start from the same weights, take the same crops in the same order and,
with dropout off, must end in the same weights before anything is timed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report import Options, Table, spread
from benchmarks.turns import Contestant, serve, summary

if TYPE_CHECKING:
    import keras

    from emotiw_keras.data.batches import Pool
    from emotiw_keras.data.face_input import FaceInput
    from emotiw_keras.training.epoch_plan import StageCrops
    from emotiw_keras.training.stage import Stage

CONTESTANTS = ("kept", "anew", "keras")
SIZE, CROPS, BATCH = 227, 2, 64
RATE = 0.003
CHECKED_EPOCHS = 2
LIMIT = 1e-3
"""The largest difference of final weights, relative to how far the farthest weight moved."""
Epoch = Callable[[int], Iterator[None]]


def stage_of() -> Stage:
    """Convolutions frozen, a few crops per image; the optimizer as Keras' SGD knows it."""
    from emotiw_keras.training.stage import Stage

    return Stage(
        "frozen",
        train=("fer:train",),
        batch_size=BATCH,
        learning_rate=RATE,
        weight_decay=0.0,
        bias_rate=1.0,
        rules=(("conv*", 0.0), ("*", 1.0)),
        crops_per_image=CROPS,
    )


def contestant(name: str, options: argparse.Namespace) -> None:
    """A process of its own: writes its final weights and tells how far they moved, then answers with images per second."""
    from emotiw_keras.hardware import keep_memory

    if name != "keras":
        keep_memory()
    import keras

    from benchmarks.train import network_of, stock_network
    from emotiw_keras.data.batches import Pool
    from emotiw_keras.data.face_input import FaceInput
    from emotiw_keras.data.load import load_faces
    from emotiw_keras.training.epoch_plan import StageCrops
    from emotiw_keras.training.freezing import apply_rules

    model = network_of("alexnet", options.width)
    if name == "keras":
        model = stock_network(model)
    stage = stage_of()
    face_input = FaceInput(resize=256, crop=SIZE, mean=(128.0,) * 3, std=(64.0,) * 3)
    faces = load_faces("generated:large", name="fer", labels="basic7", grey=True, size=face_input.resize, limit=options.images)
    pool = Pool([(faces, faces.indices("train"))], face_input.resize, True)
    crops = StageCrops(stage, len(pool), face_input.room, (0, 1))
    rates = apply_rules(model, stage.rules, "the benchmark")
    before = [variable.numpy() for variable in model.trainable_variables]
    drops = [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    shares = [layer.rate for layer in drops]

    def epochs() -> Epoch:
        """A new optimizer and new graphs: a dropout's rate is a constant of its graph."""
        if name == "keras":
            return keras_epoch(model, pool, crops, face_input, stage)
        return our_epoch(name, model, pool, crops, face_input, stage, rates, Path(options.folder))

    for layer in drops:
        layer.rate = 0.0
    epoch = epochs()
    for number in range(CHECKED_EPOCHS):
        for _ in epoch(number):
            pass
    after = [variable.numpy() for variable in model.trainable_variables]
    np.savez(Path(options.folder) / f"{name}.npz", *[new - old for new, old in zip(after, before, strict=True)])
    moved = float(sum(np.abs(new - old).sum() for new, old in zip(after, before, strict=True)))

    for layer, share in zip(drops, shares, strict=True):
        layer.rate = share
    epoch = epochs()
    list(epoch(0))

    def answer(turn: str) -> float:
        count, start = 0, time.perf_counter()
        while count == 0 or time.perf_counter() - start < options.seconds:
            for _ in epoch(int(turn) + count):
                pass
            count += 1
        return count * len(pool) / (time.perf_counter() - start)

    serve(np.array([moved]), answer)


def order_of(pool: Pool, number: int) -> np.ndarray:
    """The order of an epoch."""
    return np.random.default_rng(number).permutation(len(pool))


def our_epoch(
    name: str,
    model: keras.Model,
    pool: Pool,
    crops: StageCrops,
    face_input: FaceInput,
    stage: Stage,
    rates: dict[str, float],
    folder: Path,
) -> Epoch:
    """The epochs of `emotiw fit`, with features or with images."""
    from emotiw_keras.data.batches import batches
    from emotiw_keras.data.one_channel import for_grey
    from emotiw_keras.training.caching import as_they_are
    from emotiw_keras.training.features import Features, fingerprint
    from emotiw_keras.training.frozen import cut_frozen
    from emotiw_keras.training.optimizers import make_optimizer
    from emotiw_keras.training.train_step import StageSteps

    optimizer = make_optimizer(stage, model.trainable_variables, rates)
    ones = np.ones(7, np.float32)
    if name == "anew":
        steps = StageSteps(*for_grey(model, face_input), stage, ones, optimizer, pool.shape)
    else:
        cut = cut_frozen(model)
        assert cut is not None
        start = time.perf_counter()
        features = Features(
            folder / fingerprint(cut.prefix, face_input, pool, crops.kept(), {}), cut.prefix, face_input, pool, crops.kept()
        )
        computed = features.prepare(print, lambda: None)
        if computed:
            rate = computed / (time.perf_counter() - start)
            (folder / "computed.json").write_text(json.dumps({"crops": computed, "crops_per_second": rate}))
        steps = StageSteps(cut.tail, as_they_are, stage, ones, optimizer, features.shape, features.dtype)

    def epoch(number: int) -> Iterator[None]:
        taken = None
        if name == "kept":
            features.choose(crops.chosen(number))
        else:
            taken = crops.of_epoch(number)
        source = features if name == "kept" else pool
        for images, draws, labels in batches(source, order_of(pool, number), taken, stage.batch_size):
            loss, _ = steps.train(images, draws, labels, RATE)
            finite(loss)
            yield

    return epoch


def keras_epoch(model: keras.Model, pool: Pool, crops: StageCrops, face_input: FaceInput, stage: Stage) -> Epoch:
    """Keras' own training; its input is preprocessed ahead of the clock, as floats in memory."""
    import keras
    import tensorflow as tf

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(RATE, momentum=stage.momentum), loss, jit_compile=False)
    function = model.make_train_function() or model.train_function
    kept = crops.kept()
    everything = np.arange(len(pool))
    floats = [face_input(pool.gather(everything), tf.constant(each)).numpy() for each in kept]

    def epoch(number: int) -> Iterator[None]:
        order, chosen = order_of(pool, number), crops.chosen(number)
        for start in range(0, len(order), stage.batch_size):
            index = order[start : start + stage.batch_size]
            x = np.stack([floats[chosen[i]][i] for i in index])
            batch = iter(tf.data.Dataset.from_tensors((tf.constant(x), tf.constant(pool.labels[index]))))
            finite(float(function(batch)["loss"]))
            yield

    return epoch


def finite(loss: float) -> None:
    """What is timed must be arithmetic on ordinary numbers."""
    if not np.isfinite(loss):
        raise SystemExit(f"frozen: the loss is {loss}; nothing was measured")


def differences(folder: Path) -> dict[str, float]:
    """How far the final weights of the others lie from those of "anew", relative to the farthest move."""
    moves = {}
    for name in CONTESTANTS:
        with np.load(folder / f"{name}.npz") as file:
            moves[name] = [file[key] for key in file.files]
    far = max(float(np.abs(move).max()) for move in moves["anew"])
    return {
        name: max(float(np.abs(a - b).max()) for a, b in zip(moves[name], moves["anew"], strict=True)) / far
        for name in ("kept", "keras")
    }


def run(options: Options) -> list[Table]:
    """One row a contestant."""
    width, images, seconds, rounds = (0.1, 64, 0.1, 1) if options.quick else (1.0, 256, 6.0, options.rounds)
    figures: dict[str, list[float]] = {each: [] for each in CONTESTANTS}
    with tempfile.TemporaryDirectory() as folder:
        own = [f"--width={width}", f"--images={images}", f"--seconds={seconds}", f"--folder={folder}"]
        workers = {}
        for each in CONTESTANTS:
            workers[each] = Contestant(each, ["benchmarks.frozen", "--contestant", each, *own])
            if not workers[each].outputs[0] > 0:
                raise SystemExit(f"frozen: {each} moved no weight; nothing was measured")
        gaps = differences(Path(folder))
        if not max(gaps.values()) <= LIMIT:
            raise SystemExit(f"frozen: final weights differ by {gaps}, allowed {LIMIT:g} of the farthest move")
        for turn in range(rounds + 1):
            for each, worker in workers.items():
                figure = worker.figure(str(turn))
                if turn:
                    figures[each].append(figure)
        for worker in workers.values():
            worker.close()
        computed = json.loads((Path(folder) / "computed.json").read_text())
    told = {each: summary(rates) for each, rates in figures.items()}
    rows = [(each, *spread(row), f"{row['median'] / told['keras']['median']:.2f}") for each, row in told.items()]
    notes = [
        'Final weights differ from those of "anew" by '
        + ", ".join(f"{gap:.0e} ({each})" for each, gap in gaps.items())
        + f" of the farthest move. Features were computed at {computed['crops_per_second']:.0f} crops a second, once."
    ]
    title = "AlexNet with frozen convolutions, batch 64, float32, images a second"
    facts = {"images_per_second": told, "differences": gaps, "computed": computed}
    return [Table(title, ("", "median", "least - most", "/ keras"), rows, notes, facts)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--contestant", choices=CONTESTANTS, required=True)
    parser.add_argument("--width", type=float, required=True)
    parser.add_argument("--images", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--folder", required=True)
    chosen = parser.parse_args()
    contestant(chosen.contestant, chosen)
