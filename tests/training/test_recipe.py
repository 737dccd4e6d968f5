"""Recipes: the shipped ones are those of the paper, and a mistake names its line and what is allowed."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from emotiw_keras.cli.fit import _check_once
from emotiw_keras.cli.main import run as command
from emotiw_keras.errors import UsageError
from emotiw_keras.training.recipe import load_recipe, parse_recipe, recipe_names, recipe_text
from emotiw_keras.training.schedules import learning_rates
from emotiw_keras.training.stage import HEAD_SETTINGS, Stage

from .conftest import RECIPE


def test_every_shipped_recipe_survives_its_own_toml() -> None:
    names = {"demo", "demo-direct", "finetune", "fer28-scratch", "ng2015-direct", "ng2015-fer28", "ng2015-fer32"}
    names |= {"fer28-face-vgg", "fer28-face-vgg-base", "fer28-face-vgg-large"}
    names |= {"fer28-face-vgg-votes", "fer28-face-vgg-votes-base"}
    names |= {"ng2015-fer28-target", "ng2015-fer32-target", "ng2015-joint"}
    names |= {"pathnet", "pathnet-finetune", "pathnet-transfer", "affwild2-senet50", "affwild2-senet50-followup"}
    assert set(recipe_names()) == names
    for name in names:
        recipe = load_recipe(name)
        assert recipe.name == name and recipe.description
        assert parse_recipe(recipe.to_toml(), name) == recipe


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("ng2015")])
def test_the_papers_recipes_hold_the_papers_figures(name: str) -> None:
    for model in ("alexnet", "vgg_cnn_m_2048"):
        recipe = load_recipe(name, [f"model.name={model!r}"])
        assert recipe.duplicates == "keep" and recipe.model.weights == "imagenet" and recipe.preprocessing.channels == "grey"
        for stage in recipe.stages:
            assert (stage.optimizer, stage.momentum, stage.weight_decay) == ("caffe_sgd", 0.9, 0.0005)
            assert (stage.learning_rate, stage.step_epochs, stage.step_factor, stage.epochs) == (0.001, 10, 0.1, 30)
            assert stage.bias_rate == 2.0 and stage.rules == (("*", 1.0),) and stage.initialise == ()
            assert stage.batch_size == (50 if stage.name == "target" else 256)
    told = recipe_text(name)
    for words in ("Stated by the paper", "All else fills gaps", "--set preprocessing.mean_image=mean.npy"):
        assert words in told


def test_fer28_and_fer32_train_and_select_on_the_splits_of_the_paper() -> None:
    assert load_recipe("ng2015-fer28").stages[0].train == ("fer:train",)
    assert load_recipe("ng2015-fer28").stages[0].val == ("fer:val",)
    assert load_recipe("ng2015-fer32").stages[0].train == ("fer:train", "fer:val")
    assert load_recipe("ng2015-fer32").stages[0].val == ("fer:test",)
    assert load_recipe("ng2015-joint").stages[0].train == ("fer:train", "fer:val", "target:train")


def test_reading_a_recipe_loads_no_framework() -> None:
    code = (
        "import sys; from emotiw_keras.training.recipe import load_recipe; load_recipe('demo', ['large.epochs=2']);"
        "assert not {'tensorflow', 'keras', 'cv2', 'sklearn'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epochs = 3", "epoch = 3", ["no setting 'epoch'", "did you mean 'epochs'"]),
        ("epochs = 3", "epochs = 0", ["epochs of stage 'one' is 0", "at least 1"]),
        ("epochs = 3", 'epochs = "many"', ["'many'", "a whole number"]),
        ("epochs = 3", "epochs = true", ["True", "a whole number"]),
        ("learning_rate = 0.005", "learning_rate = -1.0", ["learning_rate of stage 'two'", "above 0"]),
        ("learning_rate = 0.005", "learning_rate = nan", ["nan"]),
        ("learning_rate = 0.005", 'schedule = "linear"', ["'linear'", "'constant', 'step', 'cosine'"]),
        ('train = ["fer:train"]', 'train = ["fer:training"]', ["fer:training", "train, val, test, all"]),
        ('train = ["fer:train"]', 'train = ["ferr:train"]', ["'ferr'", "fer, target"]),
        ('train = ["fer:train"]', "train = []", ["is empty"]),
        ("width = 0.05", "width = 0", ["width of model is 0", "above 0"]),
        ("width = 0.05", "widht = 1", ["'widht'", "did you mean 'width'"]),
        ('name = "alexnet"', 'name = "alexnett"', ["alexnett", "did you mean 'alexnet'"]),
        ("std = [64.0, 64.0, 64.0]", "std = [64.0, 64.0]", ["three numbers"]),
        ("std = [64.0, 64.0, 64.0]", "std = [64.0, 0.0, 64.0]", ["above 0"]),
        ('data = ["fer", "target"]', 'data = ["fer", "target"]\nspeed = 3', ["'speed'", "seed"]),
        ('data = ["fer", "target"]', 'data = ["fer", "target"]\nlabels = "basic8"', ["basic8", "'basic7'", "'folder'"]),
        ('rules = [["conv*", "freeze"], ["*", 1.0]]', 'rules = [["*", "freeze"]]', ["freeze everything"]),
        ('rules = [["conv*", "freeze"], ["*", 1.0]]', 'rules = [["*"]]', ["pairs [pattern, rate]"]),
    ],
)
def test_a_mistake_names_its_line_and_what_is_allowed(old: str, new: str, words: list[str]) -> None:
    assert RECIPE.count(old) == 1
    line = RECIPE.replace(old, new).splitlines().index(new.splitlines()[-1]) + 1
    with pytest.raises(UsageError) as error:
        parse_recipe(RECIPE.replace(old, new), "mine.toml")
    message = str(error.value)
    assert message.startswith(f"mine.toml, line {line}: "), message
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            'optimizer = "adam"\nmomentum = 0.5',
            "momentum of stage 'two' is 0.5, heeded with optimizer 'caffe_sgd' alone, not with 'adam'",
        ),
        ('schedule = "cosine"\nstep_epochs = 3', "heeded with schedule 'step' alone, not with 'cosine'; leave it out, or set"),
        ("focal_gamma = 3.0", "heeded with loss 'focal' alone"),
        ("temperature = 3.0", "not heeded where teachers is empty"),
        ("val = []\npatience = 3", "not heeded where val is empty"),
        ('kind = "head"\nepochs = 12', "epochs of stage 'two' is 12, not heeded by a stage of kind 'head'"),
    ],
)
def test_a_setting_of_another_optimizer_loss_or_schedule_is_refused(settings: str, words: str) -> None:
    text = 'name = "x"\ndata = ["fer"]\n[[stage]]\nname = "two"\ntrain = ["fer:train"]\n'
    text += settings if "val" in settings else f'val = ["fer:val"]\n{settings}'
    with pytest.raises(UsageError, match=words) as error:
        parse_recipe(text, "mine.toml")
    assert str(error.value).startswith(f"mine.toml, line {len(text.splitlines())}: ")


def test_a_default_may_be_written_out_where_it_counts_for_nothing() -> None:
    text = 'name = "x"\ndata = ["fer"]\n[[stage]]\nname = "one"\ntrain = ["fer:train"]\nval = ["fer:val"]\n'
    whole = parse_recipe(text + 'optimizer = "adam"\nmomentum = 0.9\nbias_rate = 2.0\nfocal_gamma = 2.0', "mine.toml")
    assert whole == parse_recipe(text + 'optimizer = "adam"', "mine.toml")


def test_what_a_change_of_optimizer_leaves_without_a_use_is_left_out_and_said() -> None:
    said: list[str] = []
    assert load_recipe("fer28-scratch", ["fer.optimizer=adam"], say=said.append).stages[0].bias_rate == Stage.bias_rate
    assert said == [
        "stage 'fer' leaves out the recipe's bias_rate = 1.0: heeded with optimizer 'caffe_sgd' alone, not with 'adam'"
    ]
    for key in ("fer", "stage"):
        with pytest.raises(UsageError, match="momentum of stage 'fer' is 0.9, heeded with optimizer 'caffe_sgd' alone"):
            load_recipe("fer28-scratch", [f"{key}.momentum=0.9", "fer.optimizer=adam"])
    both = load_recipe(
        "demo", ["large.optimizer=caffe_sgd", "stage.momentum=0.8"]
    ).stages  # a change of all is of those that heed it
    assert [stage.momentum for stage in both] == [0.8, Stage.momentum]
    head, rest = load_recipe("finetune", ["stage.patience=7"]).stages
    assert (head.patience, rest.patience) == (0, 7)


def test_toml_that_is_none_is_one_line() -> None:
    with pytest.raises(UsageError, match="mine.toml: not readable as TOML: .*line 3"):
        parse_recipe("name = 'x'\ndata = []\n[[stage\n", "mine.toml")


def test_two_stages_of_one_name_and_no_stage_are_refused() -> None:
    with pytest.raises(UsageError, match="two stages named 'one'"):
        parse_recipe(RECIPE.replace('name = "two"', 'name = "one"'), "x")
    with pytest.raises(UsageError, match="no \\[\\[stage"):
        parse_recipe("name = 'x'\ndata = ['fer']\n", "x")


def test_changes_of_the_command_line_reach_their_tables() -> None:
    changes = ["fer.epochs=3", "model.width=0.5", "preprocessing.channels=rgb", "seed=4", "stage.batch_size=7"]
    recipe = load_recipe("fer28-scratch", [*changes, "source.fer.subject_pattern=^(.*)_", "fer.rules=[['fc8', 2.0], ['*', 1]]"])
    stage = recipe.stages[0]
    assert (stage.epochs, stage.batch_size, stage.rules) == (3, 7, (("fc8", 2.0), ("*", 1.0)))
    assert (recipe.model.width, recipe.preprocessing.channels, recipe.seed) == (0.5, "rgb", 4)
    assert recipe.source["fer"].subject_pattern == "^(.*)_"


@pytest.mark.parametrize("change", ["fer.epochs", "=3", "fir.epochs=3", "fer.epoch=3", "fer.epochs=-1", "model.name=vgg"])
def test_a_change_that_cannot_be_meant_is_refused(change: str) -> None:
    with pytest.raises(UsageError):
        load_recipe("fer28-scratch", [change])


def test_a_mean_has_no_effect_beside_a_mean_image() -> None:
    said: list[str] = []
    image = "preprocessing.mean_image=mean.npy"
    assert load_recipe("demo-direct", [image], say=said.append).preprocessing.mean_image == "mean.npy"
    assert len(said) == 1 and said[0].endswith("has no effect beside preprocessing.mean_image, which is subtracted")
    with pytest.raises(UsageError, match="no effect beside preprocessing.mean_image, .*; leave one of them out"):
        load_recipe("demo-direct", [image, "preprocessing.mean=[1.0]"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seed", "3", "--set", "seed=4"], "seed = 3 beside --set seed=4: leave one of them out"),
        (["--keep-duplicates", "--set", "duplicates=drop"], "duplicates = 'keep' beside --set duplicates=drop: leave one"),
        (["--epochs", "3", "--set", "stage.epochs=4"], "--epochs 3 beside --set stage.epochs=4: leave one of them out"),
        (["--model", "alexnet", "--set", "model.name='caffenet'"], "--model alexnet beside --set model.name='caffenet': leave"),
        (["--weights", "none", "--set", "model.weights=imagenet"], "--weights none beside --set model.weights=imagenet: leave"),
        (
            ["--keep-duplicates", "--drop-duplicates"],
            "--keep-duplicates and --drop-duplicates contradict each other; leave one",
        ),
    ],
)
def test_what_is_said_twice_is_said_alike(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["fit", "demo", "--out", "run", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_what_is_said_twice_and_alike_is_taken() -> None:
    assert load_recipe("demo", ["seed=3", "limit=5"], seed=3).seed == 3
    _check_once(["stage.epochs=3", "model.name='alexnet'"], {"stage.epochs": 3, "model.name": "alexnet", "model.weights": None})


def test_an_unknown_recipe_names_the_shipped_ones() -> None:
    with pytest.raises(UsageError, match="did you mean 'demo'.*fer28-scratch"):
        recipe_text("demoo")
    with pytest.raises(UsageError, match="mine.toml"):
        recipe_text("mine.toml")


def test_learning_rates_step_by_step() -> None:
    stage = Stage("s", train=("a:train",), epochs=30, learning_rate=1e-3)
    rates = list(map(learning_rates(stage, 5), range(150)))
    assert rates[:50] == [1e-3] * 50
    assert rates[50:100] == pytest.approx([1e-4] * 50)
    assert rates[100:] == pytest.approx([1e-5] * 50)
    warm = Stage("s", train=("a:train",), schedule="cosine", epochs=2, learning_rate=1.0, warmup_steps=4)
    assert list(map(learning_rates(warm, 8), (0, 8, 15))) == pytest.approx([0.25, 0.5, 0.00960736])


def test_a_stage_made_in_python_is_checked_like_one_in_a_file() -> None:
    with pytest.raises(UsageError, match="epochs of stage 's' is 0"):
        Stage("s", train=("a:train",), epochs=0)
    with pytest.raises(UsageError, match="name of stage"):
        Stage("../s", train=("a:train",))


def test_the_words_on_a_head_name_each_setting_that_it_heeds() -> None:
    told = (
        " ".join((Stage.__doc__ or "").split()).partition("Of the other settings only ")[2].partition(" mean something then")[0]
    )
    assert set(re.findall(r"\w+", told)) - {"and"} == {*HEAD_SETTINGS} - {"name", "kind"}


@pytest.mark.parametrize("key", ["C", "optimzer", "mro", "__doc__"])
def test_what_is_no_setting_of_a_head_is_refused_as_that(key: str) -> None:
    with pytest.raises(UsageError, match=f"stage 'head' has no setting '{key}'; "):
        load_recipe("finetune", [f"head.{key}=5"])


def test_of_several_settings_that_a_head_does_not_heed_the_first_is_named() -> None:
    changes = ["head.epochs=3", "head.batch_size=8", "head.rotate=5.0"]
    code = f"from emotiw_keras.training.recipe import load_recipe; load_recipe('finetune', {changes!r})"
    for seed in ("1", "2", "4"):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": seed}
        )
        assert "epochs of stage 'head' is 3, not heeded" in done.stderr
