"""Start the command `agentcron`."""

import signal
import sys

from daemon.cli.memory import collect_rarely

collect_rarely()  # before anything large is imported
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback for Ctrl-C during an import
if "run" in sys.argv and "retention" not in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload requested during the start must not end the daemon

from daemon.cli.main import main  # noqa: E402 - as above

if __name__ == "__main__":
    main()
