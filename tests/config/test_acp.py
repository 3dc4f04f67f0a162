"""The keys of acp agents: what is accepted, and how everything else is reported."""

from pathlib import Path

import pytest

from daemon.config.loading import load_config
from daemon.config.secrets import secrets_of
from daemon.errors import ConfigError

ACP = '[agents.a]\ntype = "acp"\ncommand = ["true"]\n'
SERVER = ACP + "[agents.a.mcp_servers.s]\n"


@pytest.mark.parametrize(
    ("text", "key", "why"),
    [
        (ACP + 'permissions = "ask"', "permissions", 'should be "reject", "allow", or rules such as [{ kinds ='),
        (ACP + "permissions = true", "permissions", 'should be "reject", "allow", or rules'),
        (ACP + 'permissions = ["read"]', "permissions[0]", "should be a table"),
        (
            ACP + 'permissions = [{ kinds = ["write"], answer = "allow" }]',
            "permissions[0].kinds[0]",
            "should be 'read', 'edit', 'delete'",
        ),
        (ACP + 'permissions = [{ kinds = [], answer = "allow" }]', "permissions[0].kinds", "is empty"),
        (ACP + 'permissions = [{ kinds = ["*"] }]', "permissions[0]", "the key answer is missing"),
        (
            ACP + 'permissions = [{ kinds = ["*"], anser = "allow", answer = "allow" }]',
            "permissions[0].anser",
            "did you mean answer?",
        ),
        (ACP + 'mode = ""', "mode", "at least 1 character"),
        (SERVER, "mcp_servers.s", "no server; set command or url"),
        (SERVER + 'command = ["x"]\nurl = "http://x"', "mcp_servers.s.url", "both command and url are set"),
        (SERVER + 'command = ["x"]\nheaders = { A = "b" }', "mcp_servers.s.headers", "only to a server with url"),
        (SERVER + 'url = "http://x"\nenv = { A = "b" }', "mcp_servers.s.env", "only to a server with command"),
        (SERVER + 'url = "http://x"\nheaders = { "A b" = "c" }', "mcp_servers.s.headers.A b", "an HTTP header"),
        (SERVER + 'url = "http://me:pass@x"', "mcp_servers.s.url", "contains a user name or password"),
        (SERVER + 'command = [""]', "mcp_servers.s.command", "the program to run, and it is empty"),
        (SERVER + 'comand = ["x"]', "mcp_servers.s.comand", "did you mean command?"),
    ],
)
def test_a_mistake_is_reported_with_its_key(tmp_path: Path, text: str, key: str, why: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    found = [problem for problem in caught.value.problems if why in problem]
    assert found, caught.value.problems
    assert f": agents.a.{key}" in found[0]
    assert "pass" not in found[0].replace("password", "")


def test_the_secrets_of_servers_are_checked_as_others_are(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        SERVER + 'command = ["x"]\nenv = { KEY = { file = "key" } }\n'
        '[agents.a.mcp_servers.t]\nurl = "http://x"\nheaders = { Authorization = { credential = "token" } }\n'
    )
    places = [place for place, _ in secrets_of(load_config(tmp_path / "config.toml"))]
    assert places == ["agents.a.mcp_servers.s.env.KEY", "agents.a.mcp_servers.t.headers.Authorization"]
