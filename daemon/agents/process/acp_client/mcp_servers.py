"""The MCP servers that an agent is told to use."""

import os
from typing import Any

from .failures import CONFIG, SessionError


def usable(servers: list[dict[str, Any]], capabilities: object) -> list[dict[str, Any]]:
    """Return the servers with the paths of their programs; raise SessionError if the agent cannot use one."""
    offered = capabilities.get("mcpCapabilities") if isinstance(capabilities, dict) else None
    transports = {name for name in ("http", "sse") if isinstance(offered, dict) and offered.get(name) is True}
    return [_usable(server, transports) for server in servers]


def _usable(server: dict[str, Any], transports: set[str]) -> dict[str, Any]:
    key = f"mcp_servers.{server['name']}"
    if "command" in server:
        return {**server, "command": _path_of(server["command"], key)}
    if server["type"] not in transports:
        takes = " and ".join(sorted(transports)) or "no URL"
        text = f"{key}: the agent takes no MCP server over {server['type']}, only a command and {takes}"
        raise SessionError(text.replace(" and no URL", ""), CONFIG)
    return server


def _path_of(program: str, key: str) -> str:
    """Return the absolute path of a program, as the protocol demands it."""
    places = [""] if "/" in program else os.get_exec_path()
    for place in places:
        path = os.path.abspath(os.path.join(place, program))
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    where = "" if "/" in program else " in PATH"
    raise SessionError(f"{key}: there is no program {program!r}{where}", CONFIG)
