"""What is derived from the state directory's key: hook tokens, and the keys of supervisors' records.

A hook token lets a remote agent report the end of one run, once, without any other right.
"""

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from daemon.agents.base import Outcome
from daemon.config.paths import socket_path
from daemon.config.schema import Config
from daemon.errors import NotFoundError, StoreError
from daemon.model import ACTIVE, HOOK_KEY
from daemon.notify.outbox import Outbox
from daemon.runs.finish import finish
from daemon.runs.settings import settings_of
from daemon.store.connection import Transaction
from daemon.store.hooks import use_hook
from daemon.store.private_file import new_file, read_private
from daemon.store.runs import get_run

_KEY_BYTES = 32
_LARGEST_KEY = 4096  # bytes that are read of a file that may not be ours
UNKNOWN = "no such hook: it is unknown, used or expired"
"""The error for a call of a hook whose token is not valid."""


def open_key(state_dir: Path) -> bytes:
    """Return the state directory's key for deriving tokens, created if it is missing; raise StoreError."""
    path = state_dir / HOOK_KEY
    try:
        if not os.path.lexists(path):
            put_key(state_dir, secrets.token_bytes(_KEY_BYTES))
        key = read_private(path, _LARGEST_KEY)
    except OSError as error:
        raise StoreError(f"cannot use {path}: {error.strerror}") from None
    if len(key) != _KEY_BYTES:
        raise StoreError(f"{path} is damaged; move it away. Runs that wait for a hook call keep their old URLs")
    return key


def put_key(state_dir: Path, key: bytes) -> None:
    """Create the key file atomically unless it exists; raise OSError."""
    path = state_dir / HOOK_KEY
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with new_file(temporary) as stream:
        stream.write(key)
        stream.flush()
        os.fsync(stream.fileno())
    try:
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        temporary.unlink()


@dataclass(frozen=True)
class HookTokens:
    """Derives the tokens of runs, the hook URLs that contain them, and the keys that authenticate runs' records."""

    key: bytes

    def token(self, idempotency_key: str) -> str:
        """Return the token of a run, always the same: an HMAC (RFC 2104) of its idempotency key."""
        digest = hmac.digest(self.key, idempotency_key.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def record_key(self, idempotency_key: str) -> bytes:
        """Return the key that authenticates the records of a run's supervisors, always the same: a keyed BLAKE2.

        Each start of a process needs one, and OpenSSL's HMAC takes 30 microseconds where others used the CPU meanwhile.
        """
        return hashlib.blake2b(idempotency_key.encode(), key=self.key, digest_size=32, person=b"records").digest()

    def url(self, token: str, config: Config) -> str:
        """Return the hook URL of a token: below public_url, else at the TCP address, else at the socket."""
        control = config.control
        if control.public_url is not None:
            base = control.public_url.rstrip("/")
        elif control.listen is not None:
            base = f"http://{control.listen}"
        else:
            base = f"http+unix://{quote(str(socket_path(config)), safe='')}"
        return f"{base}/hooks/{token}"


def hash_of(token: str) -> str:
    """Return the hash of a token, which is all that the database stores of it."""
    return hashlib.sha256(token.encode()).hexdigest()


def end_run(
    tx: Transaction,
    token: str,
    outcome: Outcome,
    now: datetime,
    *,
    instance: str,
    chance: float,
    outbox: Outbox,
) -> None:
    """End the active run of a token with an outcome; raise NotFoundError for a token that is not valid."""
    run_id = use_hook(tx, hash_of(token), now)
    run = None if run_id is None else get_run(tx, run_id)
    if run is None or run.status not in ACTIVE:
        raise NotFoundError(UNKNOWN)
    finish(tx, run.id, outcome, settings_of(run), now, instance=instance, chance=chance, outbox=outbox)
