"""Numbers that options take."""

from __future__ import annotations

import click
import pytest

from emotiw_keras.cli.amounts import Amount
from emotiw_keras.errors import UsageError
from emotiw_keras.training.workers import check_wait
from tests.cli.test_levels import commands


def amounts() -> list[click.Parameter]:
    """Every option that takes a number with a point, but the width of a network, which the network refuses."""
    options = [option for command in commands() for option in command.params]
    return [
        each
        for each in options
        if isinstance(each.type, (click.types.FloatParamType, click.FloatRange)) and each.name != "width"
    ]


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "-1"])
def test_no_option_takes_what_is_no_number_or_negative(word: str) -> None:
    assert {"--wait", "--timeout", "--min-face", "--near-duplicates"} <= {each.opts[0] for each in amounts()}
    for option in amounts():
        with pytest.raises(click.BadParameter):
            option.type.convert(word, option, None)


def test_the_line_names_what_was_given() -> None:
    with pytest.raises(click.BadParameter, match="^nan is not a number that can be meant$"):
        Amount(1).convert("nan", None, None)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 0.0, 1e300])
def test_a_wait_for_other_workers_is_bounded(seconds: float) -> None:
    with pytest.raises(UsageError, match="^a wait of .* s for the other workers; expected 1 to 1,000,000,000$"):
        check_wait(seconds)
    check_wait(1)
