"""The command `agentcron`."""

import signal
import sys

from daemon.cli.gc_tuning import hold_back

hold_back()  # before anything large is imported
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C in the middle of an import is no traceback
if "run" in sys.argv and "retention" not in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # who asks for a reload before there is a daemon must not end it

from daemon.cli.app import main  # noqa: E402 - as above

if __name__ == "__main__":
    main()
