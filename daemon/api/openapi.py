"""Builds the OpenAPI 3.1 document from the routes, the models of requests and the types of responses."""

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, TypeAdapter, create_model
from pydantic.json_schema import JsonSchemaMode

from daemon.api.errors import ErrorView
from daemon.api.requests import DEFAULTS
from daemon.api.routing import IDEMPOTENCY_KEY, IF_MATCH, Route
from daemon.model import NAME
from daemon.rules.schedule_fields import FIELDS
from daemon.version import VERSION
from daemon.views.schedules import INPUTS

_PARTS = {
    "token": ("The last part of the agent's hook URL.", {"type": "string"}),
    "agent": ("An agent of the config.", {"type": "string", "pattern": f"^{NAME.pattern}$"}),
    "name": ("A schedule of the agent.", {"type": "string", "pattern": f"^{NAME.pattern}$"}),
    "id": ("A run.", {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}),
    "schedule_id": (
        "The number of a schedule, also of a deleted one.",
        {"type": "integer", "minimum": 1, "maximum": 2**63 - 1},
    ),
    "pool": ("A pool of the config, or `agent:NAME`.", {"type": "string", "pattern": f"^(agent:)?{NAME.pattern}$"}),
    "run_id": ("The run that a workspace belongs to.", {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}),
}
_HEADERS = {
    IF_MATCH: ("Versions to which the change applies; any other is refused with 412.", {"type": "string"}),
    IDEMPOTENCY_KEY: (
        "Repeating a request with the same key and body returns the same run.",
        {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    ),
}
_MEANINGS = {
    400: "The request has an invalid value.",
    401: "A bearer token is missing or wrong.",
    403: "The principal may not do this.",
    404: "Not found, or not visible to the principal.",
    408: "The body did not arrive in time.",
    409: "Not possible in the current state.",
    412: "The schedule has another version.",
    413: "The body is larger than 1 MiB.",
    415: "The body is not application/json.",
    422: "The request does not match its schema; data.fields names the wrong fields, at most 20.",
    429: "Too many wrong tokens came from this address, or the principal has as many of these as it may.",
    503: "The database is not available now, or there are too many connections.",
}
_ALWAYS = (401, 403, 422, 429, 503)
_WITH_BODY = (400, 408, 413, 415)


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the OpenAPI document of the routes."""
    routes = list(routes)
    references, schemas = _schemas(routes)
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, references, schemas)
    paths["/openapi.json"] = {"get": _own_operation()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "agentcron control API", "version": VERSION},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _schemas(routes: list[Route]) -> tuple[dict[Any, dict[str, Any]], dict[str, Any]]:
    """Return the reference to the schema of each type, and all schemas by name."""
    fields = _schedule_fields()
    taken = [shape for route in routes for shape in (route.body, route.query) if shape is not None]
    given = [route.answer for route in routes if not isinstance(route.answer, str)]
    modes: dict[Any, JsonSchemaMode] = {
        **dict.fromkeys(taken, "validation"),
        **dict.fromkeys([*given, ErrorView, fields], "serialization"),
    }
    names, document = TypeAdapter.json_schemas(
        [(shape, mode, TypeAdapter(shape)) for shape, mode in modes.items()],
        ref_template="#/components/schemas/{model}",
    )
    schemas = document["$defs"]
    found = schemas.pop(fields.__name__)
    for name in ("ScheduleView", "StoppedSchedule"):
        schemas[name]["properties"] |= found["properties"]
        schemas[name]["required"] += found["required"]
    schemas["ListedSchedule"]["properties"] |= found["properties"]
    schemas["ListedSchedule"]["required"] += [key for key in found["required"] if key not in INPUTS]
    return {shape: reference for (shape, _), reference in names.items()}, schemas


def _schedule_fields() -> type[BaseModel]:
    """Return a model of the keys that a ScheduleView gets from the field table."""
    types: dict[str, Any] = {}
    for field in FIELDS:
        own = field.kind.json_type if field.api == field.api_key else dict[str, str]
        types[field.api_key] = (own | None if DEFAULTS[field.column] is None else own, ...)
    return create_model("ScheduleFields", **types)


def _operation(route: Route, references: dict[Any, dict[str, Any]], schemas: dict[str, Any]) -> dict[str, Any]:
    error = {"application/json": {"schema": references[ErrorView]}}
    if isinstance(route.answer, str):
        good = {route.answer: {"schema": {"type": "string"}}}
    else:
        good = {"application/json": {"schema": references[route.answer]}}
    statuses = {*_ALWAYS, *route.refusals, *(_WITH_BODY if route.body else ())}
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}{re.sub('[^a-z]+', '_', route.path).rstrip('_')}",
        "summary": route.does,
        "parameters": _parameters(route, schemas),
        "responses": {
            str(route.status): {"description": route.does, "content": good},
            **{str(status): {"description": _MEANINGS[status], "content": error} for status in sorted(statuses)},
        },
    }
    if route.body is not None:
        content = {"application/json": {"schema": references[route.body]}}
        operation["requestBody"] = {"required": route.body_required, "content": content}
    if route.is_open:
        operation["security"] = []
    return operation


def _parameters(route: Route, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    found = [
        {"name": part, "in": "path", "required": True, "description": _PARTS[part][0], "schema": _PARTS[part][1]}
        for part in re.findall(r"\{(\w+)\}", route.path)
    ]
    query = schemas.get(route.query.__name__, {}).get("properties", {})
    found += [{"name": name, "in": "query", "required": False, "schema": schema} for name, schema in query.items()]
    found += [
        {"name": name, "in": "header", "required": False, "description": _HEADERS[name][0], "schema": _HEADERS[name][1]}
        for name in route.headers
    ]
    return found


def _own_operation() -> dict[str, Any]:
    return {
        "operationId": "get_openapi",
        "summary": "this document",
        "security": [],
        "responses": {
            "200": {"description": "this document", "content": {"application/json": {"schema": {"type": "object"}}}}
        },
    }
