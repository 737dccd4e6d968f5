"""What the service answers, as OpenAPI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Schema = dict[str, Any]
NUMBER, TEXT = {"type": "number"}, {"type": "string"}
POINT = {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}
ERRORS = {
    "400": "The request is damaged or holds no picture.",
    "403": "Sent by a page of another site.",
    "408": "The body took too long.",
    "413": "Too large, or too many pictures.",
    "415": "A body of another type.",
    "421": "Asked under a name that is none of the service's.",
    "500": "A fault of the service.",
    "503": "The queue is full, come again after the seconds in Retry-After; or it is stopping, or as of /healthz.",
}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _row(labels: Sequence[str]) -> Schema:
    return _object(
        {
            "path": {**TEXT, "description": "The picture's name as it was sent."},
            "frame": {"type": "null", "description": "Only videos have it."},
            "seconds": {"type": "null", "description": "Only videos have it."},
            "face": _or_null({"type": "integer", "minimum": 0, "description": "The largest first."}),
            "box": _or_null(
                {
                    "type": "array",
                    "items": NUMBER,
                    "minItems": 4,
                    "maxItems": 4,
                    "description": "x, y, width and height in pixels of the upright picture, origin top left.",
                }
            ),
            "eyes": _or_null(
                {"type": "array", "items": POINT, "minItems": 2, "maxItems": 2, "description": "The further left first."}
            ),
            "detector_score": _or_null({**NUMBER, "minimum": 0, "maximum": 1}),
            "label": _or_null({**TEXT, "enum": list(labels)}),
            "probabilities": _or_null(_object({label: {**NUMBER, "minimum": 0, "maximum": 1} for label in labels})),
            "uncertain": _or_null(
                {
                    "type": "boolean",
                    "description": "Whether the probabilities are too even to be used; null where the model has no limit.",
                }
            ),
            "derived": _or_null(
                _object(
                    {
                        name: {
                            **NUMBER,
                            "minimum": -1,
                            "maximum": 1,
                            "description": "Derived from the probabilities, not measured.",
                        }
                        for name in ("valence", "arousal")
                    }
                )
            ),
            "doubt": _or_null({**TEXT, "description": "Why the answer is unreliable."}),
            "error": _or_null({**TEXT, "description": "Why there is no face, or why the picture cannot be read."}),
        }
    )


def openapi(version: str, model: str, labels: Sequence[str]) -> dict[str, Any]:
    """The document.

    Args:
        version: of the package.
        model: the run that answers.
        labels: its classes, in the order of the probabilities.
    """
    schemas = {
        "Row": _row(labels),
        "Answer": _object(
            {
                "labels": {"type": "array", "items": TEXT, "description": "In the order of the probabilities."},
                "rows": {"type": "array", "items": {"$ref": "#/components/schemas/Row"}},
                "notes": {
                    "type": "array",
                    "items": _object({"path": TEXT, "note": TEXT}),
                    "description": "Remarks on how pictures were read.",
                },
            }
        ),
        "Health": _object(dict.fromkeys(("status", "model", "engine", "version"), TEXT)),
        "Error": _object({"error": TEXT}),
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "emotiw serve",
            "version": version,
            "summary": f"Finds the faces of pictures and reads their expressions, with {model}.",
            "description": "A row for each face, as `emotiw predict --json` gives it, and one for each picture without a face.",
        },
        "paths": {
            "/predict": {"post": _predict()},
            "/healthz": {
                "get": {
                    "summary": "Whether it answers, and what it is.",
                    "responses": {
                        "200": _answer("It answers.", "Health"),
                        "503": _answer(
                            "It has lost its decoders and has to be started again. While it stops, it takes no connections.",
                            "Health",
                        ),
                    },
                }
            },
            "/metrics": {"get": _text("Figures for Prometheus.", "text/plain")},
            "/openapi.json": {"get": _text("This document.", "application/json")},
            "/": {"get": _text("A page to try it.", "text/html")},
        },
        "components": {"schemas": schemas},
    }


def _answer(description: str, schema: str) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}}


def _text(summary: str, kind: str) -> Schema:
    return {"summary": summary, "responses": {"200": {"description": summary, "content": {kind: {}}}}}


def _predict() -> Schema:
    picture = {**TEXT, "contentMediaType": "application/octet-stream"}
    image = _object({"name": TEXT, "b64": {**TEXT, "contentEncoding": "base64"}})
    image["required"] = ["b64"]
    found = _answer("A row for each face, pictures in the order in which they were sent.", "Answer")
    found["content"]["application/x-ndjson"] = {
        "schema": {"$ref": "#/components/schemas/Row"},
        "description": "With this type in Accept: one row a line, without the notes.",
    }
    return {
        "summary": "Read the expressions in pictures.",
        "parameters": [
            {
                "name": "faces",
                "in": "query",
                "schema": {**TEXT, "enum": ["detect", "whole"], "default": "detect"},
                "description": "detect: find every face. whole: each picture is one face, already cropped.",
            },
            {
                "name": "name",
                "in": "query",
                "schema": TEXT,
                "description": "What the rows call a picture that is the whole body.",
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": _object({"files": {"type": "array", "items": picture}})},
                "application/json": {"schema": _object({"images": {"type": "array", "items": image}})},
                "image/*": {},
                "application/octet-stream": {},
            },
        },
        "responses": {"200": found, **{status: _answer(text, "Error") for status, text in ERRORS.items()}},
    }
