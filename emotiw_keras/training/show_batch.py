"""A picture of what a recipe makes of its training images, to look at before hours are spent on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from emotiw_keras.data.augment import Augment
from emotiw_keras.data.batches import Pool
from emotiw_keras.data.contact_sheet import fitted
from emotiw_keras.errors import UsageError
from emotiw_keras.files import write_encoded
from emotiw_keras.fonts import get_font
from emotiw_keras.talk import Notice
from emotiw_keras.training.epoch_plan import StageCrops, changes_of
from emotiw_keras.training.prepared_data import Prepared, needed
from emotiw_keras.training.stage import Stage
from emotiw_keras.training.start import start_tensorflow

FACES, EPOCHS, SIDE, GAP, TITLE = 8, 7, 112, 6, 26  # pixels, but for the first two


def faces_of(prepared: Prepared, stage: Stage, number: int) -> np.ndarray:
    """Some training images of a stage, as they are and as its first epochs have them.

    Args:
        prepared: the recipe with its data.
        stage: of kind "gradient".
        number: of the stage among those that are trained, from 1.

    Returns:
        uint8 (faces, 1 + EPOCHS, side, side, 1 or 3), grey or RGB: what the network sees, before the mean goes.
    """
    settings = needed(prepared.info["preprocessing"])
    layer = prepared.face_input()
    train = prepared.roles[stage.name].train
    pool = Pool(
        [(prepared.sets[name], index) for name, index in train.items()], settings["resize"], settings["channels"] == "grey"
    )
    crops = StageCrops(stage, len(pool), layer.room, (prepared.recipe.seed, number))
    chosen = np.linspace(0, len(pool) - 1, min(FACES, len(pool))).round().astype(int)
    images, augment = pool.gather(chosen), Augment.of(changes_of(stage), layer)
    found = [augment.levels(layer(images))]
    for epoch in range(EPOCHS):
        draws = crops.draws_of_epoch(epoch)[chosen]
        places = draws[:, :3].astype(np.int32)
        inputs = layer(images, places)
        found.append(augment.levels(augment(inputs, draws[:, 3:], places) if stage.augmented else inputs, places))
    return np.stack([np.clip(np.rint(np.asarray(each)), 0, 255).astype(np.uint8) for each in found], axis=1)


def show_batch(prepared: Prepared, path: Path, say: Callable[[str], None]) -> None:
    """Write the picture: a row for each face, as it is and as the first epochs of each stage have it.

    Raises:
        UsageError: no stage that is trained changes images.
        OutputError: the file cannot be written.
    """
    for line in prepared.left_out.values():
        say(Notice(line))
    stages = [(number, part) for number, part in enumerate(prepared.trained, 1) if isinstance(part, Stage)]
    shown = [(number, stage) for number, stage in stages if stage.kind == "gradient" and stage.name in prepared.roles]
    few = [part.name for part in prepared.recipe.stages if part.name in prepared.left_out and part.kind == "gradient"]
    if not shown and few:
        raise UsageError(
            f"stage {few[0]} is left out, as it has too few validation images, and no other changes images; to see what it "
            f"makes of them give more, or --set {few[0]}.val_least=0"
        )
    if not shown:
        raise UsageError(f"recipe {prepared.recipe.name!r} has no stage of kind 'gradient' on faces in files to show")
    start_tensorflow()
    sheets = [(stage, faces_of(prepared, stage, number)) for number, stage in shown]
    wide = GAP + (1 + EPOCHS) * (SIDE + GAP)
    sheet = Image.new("RGB", (wide, sum(TITLE + GAP + len(faces) * (SIDE + GAP) for _, faces in sheets)), (255, 255, 255))
    draw, font, top = ImageDraw.Draw(sheet), get_font(15), 0
    for stage, faces in sheets:
        changed = ", ".join(stage.augmentations) or "nothing but crop and mirror"
        title = f"{stage.name}: as they are, and in epochs 1 to {EPOCHS} ({changed})"
        draw.text((GAP, top + GAP), fitted(draw, title, font, wide - 2 * GAP), (31, 35, 40), font)
        for row, several in enumerate(faces):
            for column, face in enumerate(several):
                picture = Image.fromarray(face[..., 0] if face.shape[-1] == 1 else face).convert("RGB")
                place = GAP + column * (SIDE + GAP), top + TITLE + GAP + row * (SIDE + GAP)
                sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), place)
        top += TITLE + GAP + len(faces) * (SIDE + GAP)
    write_encoded(path, lambda file: sheet.save(file, format="PNG"))
    say(f"what {prepared.recipe.name} makes of its images: {path}; nothing was trained")
