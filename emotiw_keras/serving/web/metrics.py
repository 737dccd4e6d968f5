"""Figures of a service for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    generate_latest,
)

if TYPE_CHECKING:
    from emotiw_keras.serving.readings import ImageReading

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
PICTURES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counts requests, pictures and faces; each service has its own.

    Args:
        facts: what the service is: its model, engine and version.
    """

    kind = CONTENT_TYPE_LATEST
    """The type of `text`."""

    def __init__(self, facts: dict[str, str]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        Info("emotiw_service", "What answers.", registry=registry).info(facts)
        self.requests = Counter("emotiw_requests", "Requests, by path and status.", ("path", "status"), registry=registry)
        self.seconds = Histogram(
            "emotiw_request_seconds", "Seconds from a request's head to its answer.", buckets=SECONDS, registry=registry
        )
        self.pictures = Counter("emotiw_pictures", "Pictures, by what was found.", ("found",), registry=registry)
        for found in ("faces", "no_face", "unreadable"):
            self.pictures.labels(found)
        self.faces = Counter("emotiw_faces", "Faces that were read.", registry=registry)
        self.batch = Histogram("emotiw_batch_pictures", "Pictures read together.", buckets=PICTURES, registry=registry)
        self.waiting = Gauge("emotiw_waiting_pictures", "Pictures that wait for their turn.", registry=registry)
        self.held = Gauge("emotiw_held_bytes", "Bytes of bodies in memory.", registry=registry)

    def count(self, reading: ImageReading) -> None:
        """One picture."""
        self.pictures.labels("unreadable" if reading.failed else "faces" if reading.faces else "no_face").inc()
        self.faces.inc(len(reading.faces))

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        return generate_latest(self.registry)
