"""The result file: what an agent reports about its run, in `$AGENTCRON_RESULT`."""

import json
import os

from .files import open_regular
from .mask import Secrets
from .untrusted_json import UntrustedJsonError, parse

NAME = "result.json"
LARGEST = 1024 * 1024
"""Bytes; a larger file is not used."""


def mask_result_file(run_dir: str, secrets: Secrets) -> None:
    """Mask secret values in the result file that the agent wrote.

    Of one that is too large, the beginning is kept for people. It stays too large, so that it is still refused as that.
    """
    path = os.path.join(run_dir, NAME)
    try:
        descriptor = open_regular(path, os.O_RDWR)
    except OSError:
        return
    try:
        if not secrets.values:
            return
        data = os.pread(descriptor, LARGEST, 0)
        is_too_large = os.fstat(descriptor).st_size > LARGEST
        shown = secrets.masked_part(data).ljust(LARGEST + 1) if is_too_large else _masked_document(data, secrets)
        if shown != data:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, shown, 0)
    finally:
        os.close(descriptor)


def _masked_document(data: bytes, secrets: Secrets) -> bytes:
    """Return a JSON document with the secrets masked in its values; one that cannot be parsed is masked as it stands.

    It is written without escapes and spaces that JSON does not need, so that it does not outgrow the largest size.
    """
    masked = secrets.masked_bytes(data)
    try:
        content = parse(data, allow_nan=True)
    except UntrustedJsonError:
        return masked
    shown = secrets.masked_value(content)
    if shown == content and masked == data:
        return data
    return json.dumps(shown, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
