"""The server's description in OpenAPI 3.1, small: what fields there are, and what may be answered."""

from __future__ import annotations

from typing import Any

from reason.serve.protocol import MAX_SAMPLES, MAX_STOPS, MAX_TOP_LOGPROBS

__all__ = ["schema"]

_ERRORS = {
    400: "something in the request is wrong or cannot be done",
    401: "a key is needed",
    404: "no such model",
    408: "the body did not come",
    413: "the body is too large",
    415: "the body is not JSON",
    429: "too many requests wait",
    502: "the server that runs the model failed",
    503: "the server is shutting down",
    504: "it took too long",
}


def schema() -> dict[str, Any]:
    """The description as a JSON object."""
    from reason import __version__

    common = {
        "model": {"type": "string"},
        "stream": {"type": "boolean"},
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "seed": {"type": "integer"},
        "reason": _ref("Search"),
        "user": {"type": "string"},
    }
    samples = {
        "n": {"type": "integer", "minimum": 1, "maximum": MAX_SAMPLES},
        "max_tokens": {"type": "integer", "minimum": 1},
        "stop": {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "maxItems": MAX_STOPS, "items": {"type": "string", "minLength": 1}},
            ]
        },
        "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
        "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
        "stream_options": {"type": "object", "properties": {"include_usage": {"type": "boolean"}}},
        "response_format": {"type": "object"},
    }
    chat = {
        "messages": {"type": "array", "minItems": 1, "items": _ref("Message")},
        "max_completion_tokens": {"type": "integer", "minimum": 1},
        "logprobs": {"type": "boolean"},
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": MAX_TOP_LOGPROBS},
        "tools": {"type": "array", "items": {"type": "object"}},
        "tool_choice": {"anyOf": [{"enum": ["auto", "none", "required"]}, {"type": "object"}]},
        "parallel_tool_calls": {"type": "boolean"},
    }
    completion = {
        "prompt": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1}]},
        "logprobs": {"type": "integer", "minimum": 0, "maximum": MAX_TOP_LOGPROBS},
    }
    response = {
        "input": {"anyOf": [{"type": "string", "minLength": 1}, {"type": "array", "minItems": 1}]},
        "instructions": {"type": "string"},
        "max_output_tokens": {"type": "integer", "minimum": 1},
        "tools": {"type": "array", "items": {"type": "object"}},
        "text": {"type": "object"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "reason", "version": __version__, "description": "Answers, and searches for answers."},
        "security": [{"key": []}, {}],
        "paths": {
            "/v1/chat/completions": _post("A chat's next message.", ["model", "messages"], common | samples | chat),
            "/v1/completions": _post("What a text goes on with.", ["model", "prompt"], common | samples | completion),
            "/v1/responses": _post("A reply to input.", ["model", "input"], common | response),
            "/v1/models": _get("The names that a model may have."),
            "/v1/models/{name}": _get("One of them.", name=True),
            "/health": _get("Whether the server answers."),
            "/metrics": _get("Counters for Prometheus.", kind="text/plain"),
        },
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Search": _SEARCH, "Message": _MESSAGE, "Error": _ERROR},
        },
    }


_SEARCH = {
    "type": "object",
    "description": "How to search: a strategy and its fields, beside its budget.",
    "properties": {
        "strategy": {"type": "string"},
        "instruct": {"type": "boolean"},
        "budget": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "policy_tokens": {"type": "integer", "minimum": 1},
                "seconds": {"type": "number", "exclusiveMinimum": 0},
                "kv_tokens": {"type": "integer", "minimum": 1},
                "calls": {"type": "integer", "minimum": 1},
            },
        },
    },
    "additionalProperties": {"type": ["string", "number", "boolean"]},
}
_MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"type": ["string", "array", "null"]},
        "name": {"type": "string"},
        "tool_calls": {"type": "array", "items": {"type": "object"}},
        "tool_call_id": {"type": "string"},
    },
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _post(summary: str, required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    body = {"type": "object", "required": required, "properties": properties, "additionalProperties": False}
    answer = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {}}
    return {
        "post": {
            "summary": summary,
            "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
            "responses": {"200": {"description": "the reply", "content": answer}, **_errors(_ERRORS)},
        }
    }


def _get(summary: str, *, kind: str = "application/json", name: bool = False) -> dict[str, Any]:
    told: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "the reply", "content": {kind: {}}},
            **_errors({status: _ERRORS[status] for status in (401, 404, 503)}),
        },
    }
    if name:
        told["parameters"] = [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}]
    return {"get": told}


def _errors(told: dict[int, str]) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Error")}}
    return {str(status): {"description": text, "content": content} for status, text in told.items()}
