"""The schema of the config file: strict, frozen models with every default."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PrivateAttr, Tag
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from daemon.config.values import (
    APPRISE,
    Argv,
    ArtifactPattern,
    Author,
    Command,
    ConfigPath,
    CredentialName,
    CronText,
    Duration,
    HeaderName,
    HiddenSecret,
    Instant,
    LimitSize,
    ListenAddress,
    Name,
    OutputPattern,
    PositiveDuration,
    Quota,
    Secret,
    SecretValue,
    Size,
    SocketPath,
    TargetUrl,
    Url,
    Variable,
    Zone,
)
from daemon.model import Catchup, Overlap, SessionPolicy


class Section(BaseModel):
    """A table of the file; unknown keys and values of another type are errors."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", defer_build=True)


class Daemon(Section):
    """`[daemon]`: the process as a whole."""

    state_dir: ConfigPath | None = None
    timezone: Zone = "UTC"
    max_concurrent_runs: int = Field(4, ge=1, le=10_000)
    on_stop: Literal["detach", "drain", "cancel"] = "detach"
    stop_timeout: Duration = timedelta(seconds=60)


class Log(Section):
    """`[log]`: where log lines go and what they look like."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    file: ConfigPath | None = None


class Token(Section):
    """A bearer token for the control API over TCP."""

    name: Name
    file: ConfigPath | None = None
    credential: CredentialName | None = None

    @property
    def secret(self) -> Secret:
        """Where the token is read from; crosschecks ensure that exactly one of the two is set."""
        if self.credential is not None:
            return Secret("credential", self.credential)
        return Secret("file", str(self.file))


class Control(Section):
    """`[control]`: the control API."""

    socket: SocketPath | None = None
    group: str | None = None
    schedules_api: bool = True
    listen: ListenAddress | None = None
    tokens: list[Token] = []
    public_url: Url | None = None


class Access(Section):
    """`[access]`: who has all rights."""

    admins: list[str] = ["root"]


class Retention(Section):
    """`[retention]`: how long ended runs are kept; without `days` they are kept forever."""

    days: int | None = Field(None, ge=1, le=36_500)
    every: PositiveDuration = timedelta(hours=24)
    cron: CronText | None = None
    keep_last: int = Field(0, ge=0, le=1_000_000)


class AgentRetention(Section):
    """`[agents.NAME.retention]`: overrides of `[retention]` for one agent."""

    days: int | None = Field(None, ge=1, le=36_500)
    keep_last: int | None = Field(None, ge=0, le=1_000_000)


class Cleanup(Section):
    """`[cleanup]`: when the workspaces of ended runs are removed."""

    every: PositiveDuration = timedelta(hours=1)
    cron: CronText | None = None
    max_age: Duration = timedelta(hours=24)
    keep_on_error: bool = True
    keep_errors: int = Field(5, ge=0, le=1_000_000)
    quota: Size | None = None
    quota_warn: float = Field(0.8, ge=0, le=1)
    salvage_max: Size = 200 * 1024**2


class Environment(Section):
    """`[environments.NAME]`: where runs work."""

    mode: Literal["git", "local", "none"] = "none"
    path: ConfigPath | None = None
    repository: str | None = None
    ref: str | None = None
    workspace: Literal["new", "keep"] = "new"
    fetch_every: Duration = timedelta(minutes=1)
    fetch_timeout: PositiveDuration = timedelta(minutes=1)
    require_fetch: bool = False
    max_age: Duration | None = None
    keep_on_error: bool | None = None
    keep_errors: int | None = Field(None, ge=0, le=1_000_000)
    quota: Size | None = None
    quota_warn: float | None = Field(None, ge=0, le=1)
    salvage_max: Size | None = None


class InitialInput(Section):
    """The input of a schedule's runs."""

    type: Literal["text"] = "text"
    author: Literal["user", "agent"] = "user"
    content: str


def _as_input(value: object) -> object:
    return {"content": value} if isinstance(value, str) else value


class Schedule(Section):
    """`[agents.NAME.schedules.NAME]`: a recurring cadence and its input."""

    cron: CronText | None = None
    every: PositiveDuration | None = None
    offset: Duration = timedelta(0)
    timezone: Zone | None = None
    start_at: Instant | None = None
    end_at: Instant | None = None
    jitter: Duration = timedelta(0)
    overlap: Annotated[Overlap, Field(strict=False)] = Overlap.SKIP
    catchup: Annotated[Catchup, Field(strict=False)] = Catchup.LATEST
    catchup_window: Duration = timedelta(hours=24)
    session: Annotated[SessionPolicy, Field(strict=False)] = SessionPolicy.NEW
    session_max_age: PositiveDuration | None = None
    session_max_runs: int | None = Field(None, ge=1, le=1_000_000)
    pause_on_failure: bool = False
    paused: bool = False
    description: str = ""
    input: Annotated[InitialInput, BeforeValidator(_as_input)] = InitialInput(content="")
    params: dict[str, Any] = {}
    metadata: dict[str, Any] = {}


class Budget(Section):
    """`[budget]`: limits per calendar day, of all agents together."""

    runs_per_day: int | None = Field(None, ge=1, le=1_000_000_000)
    cost_usd_per_day: float | None = Field(None, gt=0, le=1e12)
    tokens_per_day: int | None = Field(None, ge=1, le=10**15)


class AgentBudget(Budget):
    """`[agents.NAME.budget]`: limits per calendar day, and of one run."""

    max_cost_usd: float | None = Field(None, ge=0.01, le=1e6)


class Pool(Section):
    """`[pools.NAME]`: what several agents share, such as an account with limits, or a place where one may work."""

    max_concurrent: int | None = Field(None, ge=1, le=10_000)
    reserve: int = Field(0, ge=0, le=10_000)
    share_limits: bool = True
    probe: Argv | None = None
    probe_every: PositiveDuration = timedelta(minutes=5)


class BaseAgent(Section):
    """The settings that all agents share."""

    timeout: PositiveDuration = timedelta(hours=1)
    max_concurrent: int = Field(1, ge=1, le=10_000)
    attempts: int = Field(1, ge=1, le=100)
    retry_delay: Duration = timedelta(seconds=30)
    on_interrupt: Literal["fail", "rerun"] = "fail"
    pools: Annotated[list[Name], Field(max_length=100)] = []
    on_limit: Literal["wait", "skip"] = "wait"
    allow: list[str] = []
    read: list[str] | None = None
    budget: AgentBudget = AgentBudget()
    retention: AgentRetention = AgentRetention()
    schedules: dict[Name, Schedule] = {}


class Expect(Section):
    """`[agents.NAME.expect]`: what a run leaves if it did its work; otherwise it failed."""

    answer: bool = False
    artifacts: list[ArtifactPattern] = Field([], max_length=100)
    command: Argv | None = None
    not_output: OutputPattern | None = None


class ProcessAgent(BaseAgent):
    """The settings of agents that run a command on this host."""

    command: Command
    environment: Name | None = None
    git_author_name: Author | None = None
    git_author_email: Author | None = None
    idle_timeout: PositiveDuration | None = None
    kill_grace: Duration = timedelta(seconds=10)
    on_bad_report: Literal["fail", "ignore"] = "fail"
    on_denied: Literal["fail", "ignore"] = "fail"
    max_output: Size = 50 * 1024**2
    memory_max: LimitSize | None = None
    cpu_quota: Quota | None = None
    tasks_max: int = Field(4096, ge=1, le=4_194_304)
    env: dict[Variable, SecretValue] = {}
    expect: Expect = Expect()

    @property
    def words(self) -> list[str]:
        """The program and all arguments that its command may get."""
        return [word for item in self.command for word in ([item] if isinstance(item, str) else item)]

    @property
    def needed_controllers(self) -> frozenset[str]:
        """The cgroup controllers that enforce the limits which are set; defaults do without one."""
        given = {
            "memory": self.memory_max is not None,
            "cpu": self.cpu_quota is not None,
            "pids": "tasks_max" in self.model_fields_set,
        }
        return frozenset(name for name, is_given in given.items() if is_given)


class CommandAgent(ProcessAgent):
    """`type = "command"`: a command that reads the input, and whose exit status is the outcome."""

    type: Literal["command"] = "command"
    input: Literal["stdin", "argument", "file"] = "stdin"
    result_format: Literal["auto", "none", "claude", "codex", "gemini", "opencode"] = "auto"


class McpServer(Section):
    """`[agents.NAME.mcp_servers.NAME]`: a server of the Model Context Protocol that an acp agent is to use."""

    command: Argv | None = None
    env: dict[Variable, SecretValue] = {}
    url: Url | None = None
    transport: Literal["http", "sse"] = "http"
    headers: dict[HeaderName, SecretValue] = {}


class PermissionRule(Section):
    """An item of `permissions`: the answer to requests for tools of some kinds; `*` stands for all kinds."""

    kinds: list[
        Literal["read", "edit", "delete", "move", "search", "execute", "think", "fetch", "switch_mode", "other", "*"]
    ] = Field(min_length=1)
    answer: Literal["reject", "allow"]


def _as_rules(value: object) -> object:
    if value in ("reject", "allow"):
        return [{"kinds": ["*"], "answer": value}]
    if isinstance(value, list):
        return value
    raise ValueError('should be "reject", "allow", or rules such as [{ kinds = ["read", "search"], answer = "allow" }]')


class AcpAgent(ProcessAgent):
    """`type = "acp"`: a command that speaks the Agent Client Protocol."""

    type: Literal["acp"]
    permissions: Annotated[list[PermissionRule], BeforeValidator(_as_rules)] = [
        PermissionRule(kinds=["*"], answer="reject")
    ]
    mode: str | None = Field(None, min_length=1)
    model: str | None = Field(None, min_length=1)
    mcp_servers: dict[Name, McpServer] = {}

    @property
    def permission_answers(self) -> dict[str, str]:
        """The answer to permission requests by the kind of the tool, from the first rule with that kind or with `*`.

        `*` stands for all kinds that are not there.
        """
        answers: dict[str, str] = {}
        for rule in self.permissions:
            if "*" not in answers:
                answers |= {kind: rule.answer for kind in rule.kinds if kind not in answers}
        return {"*": "reject", **answers}


class RemoteAgent(BaseAgent):
    """The settings of agents behind a URL."""

    url: Url
    api_key: SecretValue | None = None


class AgentexAgent(RemoteAgent):
    """`type = "agentex"`: JSON-RPC over HTTP."""

    type: Literal["agentex"]
    acp_type: Literal["sync", "agentic", "async"] = "agentic"
    await_completion: bool = False


class A2aAgent(RemoteAgent):
    """`type = "a2a"`: the A2A protocol."""

    type: Literal["a2a"]


def _agent_type(value: object) -> str | None:
    """Return the type of an agent table; the default is a command."""
    kind = value.get("type", "command") if isinstance(value, dict) else "command"
    return kind if isinstance(kind, str) else None


Agent = Annotated[
    Annotated[CommandAgent, Tag("command")]
    | Annotated[AgentexAgent, Tag("agentex")]
    | Annotated[A2aAgent, Tag("a2a")]
    | Annotated[AcpAgent, Tag("acp")],
    Discriminator(_agent_type),
]


class Notify(Section):
    """`[notify.NAME]`: who is notified of which events."""

    on: list[
        Literal[
            "failed",
            "interrupted",
            "missed",
            "recovered",
            "completed",
            "quota",
            "cleanup",
            "retention",
            "budget",
            "denied",
            "pool_closed",
            "pool_opened",
        ]
    ] = ["failed", "interrupted", "missed", "recovered", "denied", "pool_closed", "pool_opened"]
    send: Literal["event", "answer"] = "event"
    command: Argv | None = None
    url: TargetUrl | None = None
    apprise: HiddenSecret | None = None
    format: Literal["json", "slack", "ntfy"] = "json"
    agents: list[str] = ["*"]
    ping: Url | None = None

    @property
    def receives_events(self) -> bool:
        """Whether events are sent to it; a dead-man's switch alone gets none."""
        return self.command is not None or self.url is not None or self.apprise is not None

    @property
    def apprise_url(self) -> Secret | None:
        """The URL that the library apprise sends events to, None if they are sent without it."""
        if self.url is not None and self.url.startswith(APPRISE):
            return Secret("plain", self.url.removeprefix(APPRISE))
        return self.apprise


class Config(BaseSettings):
    """The file as a whole."""

    model_config = SettingsConfigDict(frozen=True, strict=True, extra="forbid")

    daemon: Daemon = Daemon()
    log: Log = Log()
    control: Control = Control()
    access: Access = Access()
    retention: Retention = Retention()
    cleanup: Cleanup = Cleanup()
    budget: Budget = Budget()
    environments: dict[Name, Environment] = {}
    pools: dict[Name, Pool] = {}
    agents: dict[Name, Agent] = {}
    notify: dict[Name, Notify] = {}

    _file: Path = PrivateAttr(Path("config.toml"))
    _digest: bytes = PrivateAttr(b"")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is the base class's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take values from the file alone; overrides from the environment are merged into it before."""
        return (init_settings,)

    @property
    def file(self) -> Path:
        """The file that was read, as an absolute path."""
        return self._file

    @property
    def digest(self) -> bytes:
        """The digest of the file's text as it was read (`config.loading.digest_of`); empty for a part of a file."""
        return self._digest

    def resolve(self, path: Path) -> Path:
        """Return an absolute path; relative paths start at the directory of the config file."""
        return self._file.parent / path
