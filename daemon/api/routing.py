"""Routes as data, from which the server and `/openapi.json` are built, and the calls that handlers receive."""

import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, TypeAdapter

from daemon import model
from daemon.access import Action
from daemon.api.context import ApiContext
from daemon.api.json_body import to_json, versions_of
from daemon.api.requests import Name, NoQuery
from daemon.errors import ForbiddenError, InvalidError, NotFoundError, RefusedError
from daemon.schedules.management import ChangeRequest
from daemon.units import utc_now

B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")
IF_MATCH, IDEMPOTENCY_KEY = "If-Match", "Idempotency-Key"
_NAME: TypeAdapter[str] = TypeAdapter(Name, config=ConfigDict(defer_build=True))
_LARGEST_ID = 2**63 - 1


@dataclass(frozen=True)
class ApiCall:
    """One request with its principal and its validated query; the body is read when the handler wants it."""

    request: web.Request
    context: ApiContext
    principal: str
    route: "Route"
    validated_query: BaseModel
    is_identified: Callable[[], bool]
    """Whether the request still has the principal: a reload may remove or replace a token while an answer is sent."""

    @property
    def agent(self) -> str:
        """The agent in the path; raises NotFoundError for an impossible name."""
        return self._name("agent")

    @property
    def schedule(self) -> str:
        """The schedule in the path; raises NotFoundError for an impossible name."""
        return self._name("name")

    @property
    def run_id(self) -> int:
        """The run in the path; raises NotFoundError for an impossible number."""
        match = self.request.match_info
        return self._number("run", match["run_id"] if "run_id" in match else match["id"])

    @property
    def schedule_id(self) -> int:
        """The number of the schedule in the path; raises NotFoundError for an impossible one."""
        return self._number("schedule", self.request.match_info["schedule_id"])

    def _number(self, what: str, text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= _LARGEST_ID):  # noqa: PLR2004
            raise NotFoundError(f"no {what} {text!r}")
        return int(text)

    def _name(self, part: str) -> str:
        text = self.request.match_info[part]
        try:
            return _NAME.validate_python(text)
        except ValueError:
            raise NotFoundError(f"nothing is named {text!r}") from None

    async def body(self, shape: type[B], sender: str | None = None) -> B:
        """Read the body as the model that the route declares; call it once, after the principal's rights were checked.

        Large bodies of one sender, the principal unless named, wait for each other. Raise InvalidError for bad JSON,
        ValidationError for a wrong shape, TypeError for a model that the route does not declare.
        """
        if self.route.body is not shape:
            raise TypeError(f"the route does not declare {shape.__name__}")
        reader = self.context.bodies
        return await reader.read(self.request, shape, sender or self.principal, required=self.route.body_required)

    def query(self, shape: type[B]) -> B:
        """Return the query as the model that the route declares; raise TypeError for another model."""
        if not isinstance(self.validated_query, shape):
            raise TypeError(f"the route does not declare {shape.__name__}")
        return self.validated_query

    async def change_request(self) -> ChangeRequest:
        """Return who requests a change now, the versions in `If-Match`, and whether limits hold for the principal."""
        limited = not await self.context.access.is_admin(self.principal)
        return ChangeRequest(self.principal, utc_now(), versions_of(self.request.headers.get(IF_MATCH)), limited)

    @property
    def idempotency_key(self) -> str | None:
        """The key that identifies a repeated request, None without one; raises InvalidError for a malformed key."""
        key = self.request.headers.get(IDEMPOTENCY_KEY)
        if key is not None and not model.IDEMPOTENCY_KEY.fullmatch(key):
            raise InvalidError(f"{IDEMPOTENCY_KEY} must have 1 to 255 ASCII characters and no spaces")
        return key

    async def answer(self, query: Callable[[sqlite3.Connection], Mapping[str, object]]) -> web.Response:
        """Return a response with the result of a database query, which is serialized outside the event loop."""
        return written(await self.read(lambda connection: to_json(query(connection)).encode()))

    async def read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a database query whose result may be large; few such results wait for the event loop at once."""
        async with self.context.reading:
            return await self.context.home.database.read(query)

    async def require(self, action: Action, agent: str, what: str) -> None:
        """Raise NotFoundError if the principal may not read an agent, ForbiddenError if it may only read it."""
        if not await self.context.access.may(self.principal, "schedule.read", agent):
            raise NotFoundError(f"no {what}")
        if action != "schedule.read" and not await self.context.access.may(self.principal, action, agent):
            raise ForbiddenError(f"{self.principal} may see {what} but lacks {action}; agents.{agent}.allow grants it")

    def require_configured(self, agent: str) -> None:
        """Raise RefusedError for an agent that is no longer in the config."""
        if agent not in self.context.config.agents:
            raise RefusedError(f"agent {agent!r} is no longer in the config")

    async def require_admin(self, what: str) -> None:
        """Raise ForbiddenError unless the principal has every right."""
        if not await self.context.access.is_admin(self.principal):
            raise ForbiddenError(f"{self.principal} may not {what}; access.admins grants it")


Handler = Callable[[ApiCall], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Route:
    """One method of one path: what it does, takes and returns."""

    method: str
    path: str
    does: str
    handler: Handler
    answer: type[object] | str
    """The TypedDict of a successful response, or its content type if it is not JSON."""
    status: int = 200
    body: type[BaseModel] | None = None
    body_required: bool = True
    query: type[BaseModel] = NoQuery
    headers: tuple[str, ...] = ()
    refusals: tuple[int, ...] = field(default=())
    """Error statuses in addition to those of every route."""
    is_open: bool = False
    """Whether the route needs no principal."""
    action: str | None = None
    """The label under which a change of schedules is counted."""

    @property
    def is_of_schedules(self) -> bool:
        """Whether the route is disabled by `control.schedules_api = false`."""
        return "/schedules" in self.path

    def read_query(self, request: web.Request) -> BaseModel:
        """Return the validated query; raise ValidationError for a wrong shape."""
        values: dict[str, Any] = {}
        for key, value in request.query.items():
            values[key] = value if key not in values else [values[key], value]
        return self.query.model_validate(values)


def written(body: bytes, status: int = 200, **headers: str) -> web.Response:
    """Return a response with a body of JSON."""
    return web.Response(
        body=body, status=status, headers={"Content-Type": "application/json; charset=utf-8", **headers}
    )


def reply(body: Mapping[str, object], status: int = 200, **headers: str) -> web.Response:
    """Return a JSON response."""
    return written(to_json(body).encode(), status, **headers)
