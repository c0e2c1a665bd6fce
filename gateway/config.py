"""The configuration: YAML in, frozen models out; a mistake is named by its dotted key and its line."""

from __future__ import annotations

import posixpath
import re
import socket
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from gateway.errors import ConfigError

DEFAULT_PATH = Path("/etc/pve-exec-gateway/config.yaml")
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
LOOPBACK = ("127.0.0.1", "::1", "localhost")

Seconds = Annotated[float, Field(gt=0, le=7 * 86400, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Bytes = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0.1, le=1_000_000, allow_inf_nan=False)]
FilePath = Annotated[Path, Field(strict=False)]


def _read_network(given: object) -> object:
    """`strict=False` on the types would do from pydantic 2.11 on; Debian 13 has 2.10."""
    if isinstance(given, IPv4Network | IPv6Network):
        return given
    try:
        return ip_network(given if isinstance(given, str) else "")
    except ValueError as exc:
        raise PydanticCustomError(
            "network", "give an address, or a network by its first address: 192.0.2.0/24"
        ) from exc


Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_read_network)]


class Section(BaseModel):
    """A part of the configuration: nothing unknown, nothing coerced, nothing changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def _is_address(given: str) -> str:
    """What the edge serves on (web.settings): no name that a resolver would have to tell."""
    try:
        if given != "localhost":
            ip_address(given)
    except ValueError as exc:
        raise PydanticCustomError("address", "give an IP address, 0.0.0.0 or :: for all of them, or localhost") from exc
    return given


class ListenConfig(Section):
    """Where the API listens. A socket passed by systemd (LISTEN_FDS) wins over it."""

    address: Annotated[str, AfterValidator(_is_address)] = "0.0.0.0"
    port: Annotated[int, Field(ge=1, le=65535)] = 39377


class TlsConfig(Section):
    """The node's own certificate by default; read again when the files change."""

    certificate: FilePath = Path("/etc/pve/local/pve-ssl.pem")
    key: FilePath = Path("/etc/pve/local/pve-ssl.key")


class WebConfig(Section):
    """The HTTP edge: workers, and limits on time, size and count."""

    workers: Annotated[int, Field(ge=1, le=16)] = 1
    threads: Annotated[int, Field(ge=2, le=4096)] = 512
    max_body: Annotated[int, Field(ge=1024, le=1 << 30)] = 16 << 20
    keepalive: Seconds = 75.0
    handshake_timeout: Seconds = 10.0
    head_timeout: Seconds = 10.0
    body_timeout: Seconds = 30.0
    max_half_open: Count = 512
    max_half_open_per_address: Count = 16
    max_streams: Count = 2000
    allowed_origins: tuple[Annotated[str, Field(pattern=r"^https?://[^/?#\s]+$")], ...] = Field(
        default=(), strict=False
    )
    terminal_idle: Seconds | None = None
    connections_per_address: Rate | None = 200.0
    rate_per_address: Rate | None = 1000.0
    rate_per_token: Rate | None = 1000.0
    trusted_proxies: tuple[Network, ...] = Field(default=(), strict=False)


class ExecConfig(Section):
    """Defaults and maxima of an exec, and what enters its container."""

    driver: Literal["liblxc", "lxc-attach", "pct"] = "liblxc"
    timeout: Seconds = 3600.0
    timeout_max: Seconds = 86400.0
    kill_grace: Annotated[float, Field(ge=0, le=3600)] = 5.0
    kill_grace_max: Annotated[float, Field(ge=0, le=3600)] = 60.0
    queue_timeout: Annotated[float, Field(ge=0, le=3600)] = 10.0
    queue_timeout_max: Annotated[float, Field(ge=0, le=3600)] = 300.0
    spawn_timeout: Seconds = 10.0
    output_limit: Bytes = 1 << 20
    output_limit_max: Annotated[int, Field(ge=0, le=256 << 20)] = 16 << 20
    max_running: Count = 500
    max_running_per_token: Count = 400
    max_running_per_guest: Count = 400
    max_queued: Count = 2000
    max_survivors: Count = 100
    memory: Annotated[int, Field(ge=16 << 20)] = 1 << 30
    path: str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    @model_validator(mode="after")
    def _defaults_are_allowed(self) -> ExecConfig:
        """Else who asks for nothing would get what nobody may ask for."""
        for name in ("timeout", "kill_grace", "queue_timeout", "output_limit"):
            default, most = getattr(self, name), getattr(self, f"{name}_max")
            if default > most:
                words = "exec.{name} is {default}, and must be at most exec.{name}_max, {most}"
                numbers = {"default": f"{default:.15g}", "most": f"{most:.15g}"}
                raise PydanticCustomError("over_maximum", words, {"name": name, **numbers})
        return self


class SpoolConfig(Section):
    """What is kept of execs on the node's disk, and for how long."""

    directory: FilePath = Path("/var/lib/pve-exec-gateway/spool")
    retention: Seconds = 86400.0
    per_exec: Annotated[int, Field(ge=1 << 20, le=16 << 30)] = 64 << 20
    max_ended: Count = 20_000
    total: Annotated[int, Field(ge=1 << 20)] = 4 << 30
    min_free: Bytes = 512 << 20


class SupervisorConfig(Section):
    """The process that owns every command."""

    socket: FilePath = Path("/run/pve-exec-gateway/supervisor/supervisor.sock")
    instance: Annotated[str, Field(pattern=r"^[a-z0-9]{1,16}$")] = "default"
    allowed_uids: tuple[int, ...] = Field(default=(0,), strict=False)


class AuditConfig(Section):
    """The audit log and its writer."""

    directory: FilePath = Path("/var/log/pve-exec-gateway")
    socket: FilePath = Path("/run/pve-exec-gateway/audit/audit.sock")
    key_file: FilePath = Path("/var/lib/pve-exec-gateway/keys/audit.key")
    journal_socket: FilePath = Path("/run/systemd/journal/socket")
    anchor_records: Count = 1000
    anchor_interval: Seconds = 60.0
    rotate_bytes: Annotated[int, Field(ge=1 << 16)] = 64 << 20
    max_bytes: Annotated[int, Field(ge=1 << 18)] = 8 << 30
    keep_days: Annotated[float, Field(ge=0, le=36_500, allow_inf_nan=False)] = 30.0
    when_full: Literal["refuse", "prune"] = "refuse"
    journal: bool = False
    syslog: Annotated[str, Field(pattern=r"^(/|udp://)\S+$")] | None = None
    allowed_uids: tuple[int, ...] = Field(default=(0,), strict=False)

    @model_validator(mode="after")
    def _room_for_a_closed_file(self) -> AuditConfig:
        if self.max_bytes < 4 * self.rotate_bytes:
            raise PydanticCustomError("small_log", "max_bytes must be at least four times rotate_bytes")
        if self.max_bytes > 512 * self.rotate_bytes:
            raise PydanticCustomError("many_files", "max_bytes must be at most 512 times rotate_bytes; raise that, too")
        return self


class TokensConfig(Section):
    """Where token records and the signing key ring stand. On a cluster: under /etc/pve/priv."""

    directory: FilePath = Path("/var/lib/pve-exec-gateway/tokens")
    key_file: FilePath = Path("/var/lib/pve-exec-gateway/keys/token.keys")
    last_used: FilePath = Path("/var/lib/pve-exec-gateway/last-used")
    require_quorum: bool = False


class PveConfig(Section):
    """Proxmox's own: its configuration file system, its API with a token for each process, and root's pvesh."""

    etc: FilePath = Path("/etc/pve")
    api: Annotated[str, Field(pattern=r"^https://[^/?#\s@]+/api2/json$")] = "https://127.0.0.1:8006/api2/json"
    ca: FilePath = Path("/etc/pve/pve-root-ca.pem")
    token_file: FilePath = Path("/etc/pve-exec-gateway/pve.token")
    agent_token_file: FilePath = Path("/etc/pve-exec-gateway/pve-agent.token")
    pvesh: FilePath = Path("/usr/bin/pvesh")
    changes: FilePath = Path("/var/lib/pve-exec-gateway/changes")
    qemu_run: FilePath = Path("/run/qemu-server")


class LxcConfig(Section):
    """How containers are reached."""

    attach: FilePath = Path("/usr/bin/lxc-attach")
    pct: FilePath = Path("/usr/sbin/pct")
    path: FilePath = Path("/var/lib/lxc")
    cgroup: FilePath = Path("/sys/fs/cgroup")
    proc: FilePath = Path("/proc")
    launcher: FilePath = Path("/usr/lib/pve-exec-gateway/launcher")
    nursery: FilePath = Path("/usr/lib/pve-exec-gateway/nursery")


class DevicesConfig(Section):
    """The node's devices: looked at here, never opened."""

    dev: FilePath = Path("/dev")
    sys: FilePath = Path("/sys")


class GuestsConfig(Section):
    """Policy on guests. Protected ones are out of reach for everything but reading."""

    protected: tuple[Annotated[int, Field(ge=100, le=999_999_999)], ...] = Field(default=(), strict=False)


def _is_normal_path(path: str) -> str:
    if path == "/" or posixpath.normpath(path) != path or not path.startswith("/") or path.startswith("//"):
        raise PydanticCustomError("path", "give an absolute path, not /, without `.`, `..` or a slash at its end")
    return path


HostPath = Annotated[str, AfterValidator(_is_normal_path)]
DevicePattern = Annotated[str, Field(pattern=r"^/dev/[A-Za-z0-9*._:@+/-]+$"), AfterValidator(_is_normal_path)]
Feature = Annotated[str, Field(pattern=r"^(nesting|keyctl|fuse|mknod|force_rw_sys|mount=[A-Za-z0-9_]+)$")]
Snippet = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9._-]*:snippets/[A-Za-z0-9][A-Za-z0-9._-]*$")]
ImagePattern = Annotated[str, Field(pattern=r"^[A-Za-z0-9*._-]+:(iso|import)/[A-Za-z0-9*._+~@-]+$")]
OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_.-]*[0-9]?$")]


class PolicyConfig(Section):
    """What may be given to guests of this node, whatever a token grants: each of these can be root on the node."""

    bind_sources: tuple[HostPath, ...] = Field(default=(), strict=False)
    devices: tuple[DevicePattern, ...] = Field(default=(), strict=False)
    features: tuple[Feature, ...] = Field(default=(), strict=False)
    privileged: bool = False
    hookscripts: tuple[Snippet, ...] = Field(default=(), strict=False)
    raw_keys: tuple[OptionName, ...] = Field(default=(), strict=False)
    template_paths: tuple[HostPath, ...] = Field(default=(), strict=False)
    images: tuple[ImagePattern, ...] = Field(default=("*:iso/*",), strict=False)


class Config(Section):
    """The whole configuration of one gateway. Holds no secret, only where secrets stand."""

    node: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,62})$")] = Field(
        default_factory=lambda: socket.gethostname().split(".")[0]
    )
    listen: ListenConfig = ListenConfig()
    tls: TlsConfig | None = TlsConfig()
    web: WebConfig = WebConfig()
    exec: ExecConfig = ExecConfig()
    spool: SpoolConfig = SpoolConfig()
    supervisor: SupervisorConfig = SupervisorConfig()
    audit: AuditConfig = AuditConfig()
    tokens: TokensConfig = TokensConfig()
    pve: PveConfig = PveConfig()
    lxc: LxcConfig = LxcConfig()
    devices: DevicesConfig = DevicesConfig()
    guests: GuestsConfig = GuestsConfig()
    policy: PolicyConfig = PolicyConfig()

    @model_validator(mode="after")
    def _plain_http_stays_home(self) -> Config:
        if self.tls is None and self.listen.address not in LOOPBACK:
            raise PydanticCustomError(
                "plain_http",
                "without `tls` the gateway listens on loopback only: set listen.address to 127.0.0.1",
            )
        return self


def load(path: Path) -> Config:
    """The configuration in `path`. Raises ConfigError naming key, line and what is allowed."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8 text"
        raise ConfigError(f"cannot read configuration {path}: {reason}") from exc
    try:
        node = yaml.compose(text, Loader=_Loader)
        data = _Loader(text).construct_document(node) if node is not None else None
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not YAML: {getattr(exc, 'problem', None) or 'cannot be parsed'}") from exc
    if data is not None and not isinstance(data, dict):
        raise ConfigError(f"{path}:1: the configuration is a mapping of sections: {_names(Config)}")
    duplicate = _duplicate_key(node)
    if duplicate:
        raise ConfigError(f"{path}:{duplicate[1]}: {duplicate[0]}: given twice")
    try:
        return Config.model_validate(data or {})
    except ValidationError as exc:
        raise ConfigError("\n".join(_explain(path, node, error) for error in exc.errors(include_url=False))) from exc


def _explain(path: Path, node: yaml.Node | None, error: Any) -> str:
    keys = [str(part) for part in error["loc"]]
    line = _line(node, keys)
    message = str(error["msg"])
    if error["type"] == "extra_forbidden":
        message = f"unknown key; allowed here: {_names(_section(keys[:-1]))}"
    elif error["type"] == "model_type":
        message = f"give its keys, or leave it out: {_names(_section(keys))}"
    elif error["type"] == "path_type":
        message = "give a path"
    return f"{path}:{line}: {'.'.join(keys) or 'configuration'}: {re.sub(r'^Value error, ', '', message)}"


def _section(keys: list[str]) -> type[BaseModel]:
    model: type[BaseModel] = Config
    for key in keys:
        default = model.model_fields[key].default if key in model.model_fields else None
        if not isinstance(default, BaseModel):
            break
        model = type(default)
    return model


def _names(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)


def _line(node: yaml.Node | None, keys: list[str]) -> int:
    line = 1
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == key), None)
            if pair is None:
                return line
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and key.isdigit() and int(key) < len(node.value):
            node = node.value[int(key)]
            line = node.start_mark.line + 1
        else:
            return line
    return line


def _duplicate_key(node: yaml.Node | None) -> tuple[str, int] | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    seen: set[str] = set()
    for key, value in node.value:
        if key.value in seen:
            return str(key.value), key.start_mark.line + 1
        seen.add(key.value)
        deeper = _duplicate_key(value)
        if deeper:
            return f"{key.value}.{deeper[0]}", deeper[1]
    return None
