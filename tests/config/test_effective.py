"""The effective cleanup settings of an environment: each setting of `[cleanup]`, and its overrides."""

from datetime import timedelta
from pathlib import Path

from daemon.config.effective import policy_of
from daemon.config.loading import load_config
from daemon.rules.cleanup import Policy

TEXT = """\
[cleanup]
max_age = "1h"
keep_on_error = false
keep_errors = 1
quota = "1MB"
quota_warn = 0.1
salvage_max = "2MB"
[environments.plain]
mode = "git"
repository = "/x"
[environments.own]
mode = "git"
repository = "/x"
max_age = "2h"
keep_on_error = true
keep_errors = 0
quota = "3MB"
quota_warn = 0.0
salvage_max = "4MB"
[agents.a]
command = ["true"]
"""


def test_an_environment_overrides_each_setting_and_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(TEXT)
    config = load_config(tmp_path / "config.toml")
    general = Policy(timedelta(hours=1), False, 1, 1_000_000, 0.1, 2_000_000)  # noqa: FBT003 - as in the config
    assert policy_of(config, "plain") == policy_of(config, "gone") == general
    assert policy_of(config, "own") == Policy(timedelta(hours=2), True, 0, 3_000_000, 0.0, 4_000_000)  # noqa: FBT003
