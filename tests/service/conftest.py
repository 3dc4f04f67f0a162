"""One booted host for an administrator's days; the tests of all of them run in one worker, in the order of files."""

import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.booted import Host, booted
from tests.support.service_host import ROOT, readme

FIT = "import ensurepip, sys; print(sys.version_info >= (3, 11))"


@pytest.fixture(scope="package")
def bare_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with a wheel of this tree in /var/tmp/here, and nothing installed."""
    folder = tmp_path_factory.mktemp("host")
    with booted(folder / "root") as host:
        if host.run(f"python3 -c '{FIT}'", check=False).strip() != "True":
            pytest.skip("the host's own python3 is older than 3.11 or has no venv")
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(ROOT)], check=True
        )
        [wheel] = folder.glob("*.whl")
        shutil.copy(wheel, host.root / "var/tmp/here")
        yield host


@pytest.fixture(scope="package")
def host(bare_host: Host) -> Host:
    """The host with the service, installed by the README's lines."""
    bare_host.run("cd /var/tmp/here\n" + readme("## As a service"), timeout=240)
    return bare_host
