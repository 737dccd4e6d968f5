"""The model that ships: what is in the box, and that it reads faces without being asked for by name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image

from emotiw_keras.data.generated import draw_faces
from emotiw_keras.evaluation.provenance import stage_images
from emotiw_keras.labels import LABEL_SETS
from emotiw_keras.runs import Run
from emotiw_keras.training.recipe import load_recipe, parse_recipe, recipe_names
from emotiw_keras.weights.shipped import DEFAULT, shipped_folder, shipped_models

LARGEST = 5_000_000


def test_the_default_ships_small_and_says_where_it_comes_from() -> None:
    assert DEFAULT in shipped_models() and DEFAULT in recipe_names()
    run = Run.open(DEFAULT)
    assert run.path == shipped_folder(DEFAULT) and run.ships and run.called == DEFAULT
    assert sum(file.stat().st_size for file in run.path.iterdir()) <= LARGEST
    recipe = parse_recipe((run.path / "recipe.toml").read_text(), DEFAULT)
    assert recipe.stages[0].train == ("fer:train",) and recipe.stages[0].val == ("fer:val",) and recipe.duplicates == "keep"
    # every run that it comes from has a recipe, down to random weights
    made, asked = {recipe.name: recipe}, [recipe]
    while asked:
        last = asked.pop()
        named = {last.model.weights, *(teacher for stage in last.stages for teacher in stage.teachers)} - {"none"}
        asked += [load_recipe(Path(each).name) for each in named if Path(each).name not in made]
        made |= {each.name: each for each in asked}
    others = ("fer28-face-vgg-votes-base", "fer28-face-vgg", "fer28-face-vgg-base", "fer28-face-vgg-large")
    assert set(made) == {DEFAULT, *others}
    assert (recipe.source["fer"].votes, recipe.source["fer"].votes_rows) == ("fer2013new.csv", "ferplus_rows.csv")
    trained = {row["pixel_hash"] for row in run.each_row() if row["status"] == "train"}
    assert len(trained) > 20_000 and run.selected_on == {row["pixel_hash"] for row in run.each_row() if row["split"] == "val"}
    # PrivateTest trained nothing and chose nothing; of PublicTest 280 images, 270 different ones, also stand in Training
    assert {row["split"] for row in run.each_row() if row["status"] == "train"} == {"train"}
    assert {row["status"] for row in run.each_row() if row["split"] == "test"} == {"held out"}
    assert len(run.selected_on & trained) == 270
    # each image counts once, though one of the runs before left out as duplicates what the next trained on
    counts = {stage: {role: sum(each.values()) for role, each in roles.items()} for stage, roles in stage_images(run).items()}
    assert counts["weights"] == {"train": 28_709, "val": 3_589}
    card = (run.path / "README.md").read_text()
    assert "Article 5(1)(f)" in card and run.fingerprint in card
    for text in (path.read_text() for path in run.path.iterdir() if path.suffix in (".md", ".json", ".toml", ".log")):
        assert not re.search(r"(?<![\w.:/])/\w+/\w+", text), "a path of the machine that trained it"


def test_predict_needs_no_name(emotiw, tmp_path: Path) -> None:
    images, _ = draw_faces(2, size=64, seed=3)
    for number, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{number}.png")
    done = emotiw("predict", tmp_path, "--faces", "whole", "--json")
    assert done.returncode == 0 and done.stderr == ""
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert set(row["probabilities"]) == {*LABEL_SETS["basic7"].labels, "contempt"}
        np.testing.assert_allclose(sum(row["probabilities"].values()), 1, atol=1e-5)
        usable, shares = Run.open(DEFAULT).usable, np.array(list(row["probabilities"].values()))
        assert usable is not None and row["uncertain"] is bool(-(shares * np.log(shares + 1e-12)).sum() > usable.entropy)
        assert set(row["derived"]) == {"valence", "arousal"} and all(-1 <= value <= 1 for value in row["derived"].values())


def test_a_face_that_smiles_is_happy(started_emotiw, shared_data: Path) -> None:
    done = started_emotiw("predict", shared_data / "photos" / "astronaut.png", "--json")
    assert done.returncode == 0 and done.stderr == ""
    (row,) = map(json.loads, done.stdout.splitlines())
    assert row["label"] == "happy" and row["probabilities"]["happy"] > 0.5
