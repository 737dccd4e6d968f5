"""`emotiw serve`: a page to try it, and expressions over HTTP."""

from __future__ import annotations

import click

from emotiw_keras.cli import completion
from emotiw_keras.cli.console import remark
from emotiw_keras.cli.places import RUN
from emotiw_keras.training.interrupts import Interrupted
from emotiw_keras.weights.shipped import DEFAULT


@click.command()
@click.option(
    "--model",
    type=RUN,
    metavar="RUN",
    shell_complete=completion.runs,
    default=DEFAULT,
    show_default=True,
    help="Run folder, a model that ships with the package, or a file of `emotiw export --format onnx`.",
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port to listen on; 0 takes a free one."
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on. 0.0.0.0 lets other machines ask: see below."
)
@click.option(
    "--allow-host",
    "allowed",
    multiple=True,
    metavar="NAME",
    help="A name under which it may be asked, besides addresses and localhost.",
)
@click.option("--queue", "waiting", type=click.IntRange(min=1), metavar="N", help="Pictures that may wait; default: 256.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "tensorflow", "onnxruntime", "openvino", "opencv"]),
    default="auto",
    show_default=True,
    help="What computes the network. auto: the fastest of those installed that need no TensorFlow, timed once.",
)
def serve(model: str, port: int, host: str, allowed: tuple[str, ...], waiting: int | None, engine: str) -> None:
    """Serve a page where photos and the camera show what is read from them, and an interface for programs.

    Pictures are read in memory and forgotten; nothing is stored or sent on. POST /predict takes pictures and gives the
    rows of `emotiw predict --json`; /openapi.json describes it, /healthz and /metrics are for who runs it. When the
    queue is full, it answers 503 and when to come again. SIGTERM or Ctrl-C stop it after the requests at hand. Whoever
    reaches the port may use it: there are no accounts and no encryption, which a proxy in front of it can add.

    \b
    Examples:
      emotiw serve
      emotiw serve --model runs/mine --port 8080
      curl -F files=@party.jpg http://127.0.0.1:8000/predict
    """
    from emotiw_keras.serving.web.service import serve as service

    number = service(model, host, port, engine=engine, allowed=allowed, waiting=waiting, say=remark)
    raise Interrupted(number, "stopped")
