"""`emotiw serve` from end to end: the decoders apart, the network, the queue, the port."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

from emotiw_keras.errors import UsageError
from emotiw_keras.talk import Notice

NEEDED = {
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
"""Module -> what pip calls it: the extra [serve]."""


def check_installed() -> None:
    """Raises UsageError where the extra [serve] is missing."""
    missing = [name for module, name in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"`emotiw serve` needs {' and '.join(missing)}: pip install 'emotiw-keras[serve]'")


def serve(
    model: str,
    host: str,
    port: int,
    *,
    engine: str = "auto",
    allowed: Sequence[str] = (),
    waiting: int | None = None,
    say: Callable[[str], None],
) -> int:
    """Answer requests until a signal comes.

    Args:
        model: as `Predictor` takes it.
        host: to listen on.
        port: to listen on; 0 for any that is free.
        engine: as `Predictor` takes it; "auto" is the fastest one without TensorFlow, where one of them will do.
        allowed: names under which the service may be asked, besides addresses, localhost and `host`.
        waiting: pictures that may wait; None for what `Limits` says.
        say: called with lines for people.

    Returns:
        The signal's number.

    Raises:
        UsageError: the extra [serve] is missing, a name is none, or the port cannot be had; or as `Predictor`.
        ModelError, RunError: as `Predictor`.
    """
    check_installed()
    from emotiw_keras import __version__
    from emotiw_keras.hardware import keep_memory
    from emotiw_keras.serving.auto import fastest_light
    from emotiw_keras.serving.decoders import apart
    from emotiw_keras.serving.inputs import decoded
    from emotiw_keras.serving.predictor import Predictor
    from emotiw_keras.serving.video_inputs import opened
    from emotiw_keras.serving.web.limits import Limits

    limits = Limits() if waiting is None else Limits(waiting=waiting)
    keep_memory()
    with apart(decoded, opened, limits.decode_seconds):  # while nothing else has been started
        from emotiw_keras.serving.web.app import Facts, application
        from emotiw_keras.serving.web.batcher import Batcher
        from emotiw_keras.serving.web.guard import allowed_name
        from emotiw_keras.serving.web.metrics import Metrics
        from emotiw_keras.serving.web.server import Server, address_of, listening

        names = [*map(allowed_name, allowed), host]
        with listening(host, port) as bound:
            predictor = Predictor(model, engine=engine)
            for line in predictor.source.cautions:
                say(line)
            if predictor.engine == "auto":
                shape = (predictor.side, predictor.side, predictor.channels)
                light = fastest_light(predictor.source, predictor.crops, shape)
                predictor = Predictor(model, engine=light)
            facts = Facts(predictor.source.called, predictor.labels, predictor.engine, __version__)
            metrics = Metrics({"model": facts.model, "engine": facts.engine, "version": facts.version})
            batcher = Batcher(predictor, limits, metrics)
            app = application(facts, batcher, metrics, limits, names)
            try:
                where = f"{address_of(bound)} answers with {facts.model} on {facts.engine}; Ctrl-C stops it"
                return Server(app, limits, lambda: say(Notice(where))).answer(bound)
            finally:
                batcher.close()
