"""`emotiw push`: a run on the Hugging Face Hub."""

from __future__ import annotations

import click

from emotiw_keras.cli import completion
from emotiw_keras.cli.console import put_made, tell
from emotiw_keras.cli.places import LOCAL, RUN


@click.command()
@click.argument("run", type=RUN, metavar="RUN", shell_complete=completion.runs)
@click.argument("name", metavar="USER/NAME")
@click.option(
    "--card", type=LOCAL, metavar="FILE", help="The model card, as `emotiw card` writes it; default: README.md in RUN."
)
@click.option("--public", is_flag=True, help="Make a new repository public; one that is there stays as it is.")
@click.option("--revision", default="main", show_default=True, metavar="BRANCH", help="The branch to commit to.")
@click.option("--message", default="", metavar="TEXT", help="Of the commit.")
def push(run: str, name: str, card: str | None, public: bool, revision: str, message: str) -> None:
    """Put the run folder RUN on the Hugging Face Hub as USER/NAME, with its model card.

    Weights, facts and the hash, label and role of each training image go up; file names, persons and code do not, and of paths
    only the last part. Whoever may read it names it hf://USER/NAME wherever a run folder is expected. The token is that of
    HF_TOKEN or of `hf auth login`. Needs pip install 'emotiw-keras[hub]'.

    \b
    Example: emotiw push runs/mine anna/faces --card card.md
    """
    from emotiw_keras.runs import Run
    from emotiw_keras.serving.push import push as upload

    put_made(upload(Run.open(run), name, card=card, private=not public, revision=revision, message=message, say=tell))
