"""Tell repositories on other hosts from folders. Standard library only: the helper process imports this."""

import re

_REMOTE = re.compile(r"[^/]+:")  # scheme://..., or host:path as ssh has it (git-fetch(1), GIT URLS)


def is_remote(repository: str) -> bool:
    """Return whether git takes the name of a repository for a URL, and not for a path."""
    return _REMOTE.match(repository) is not None
