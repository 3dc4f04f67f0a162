"""The command `agentcron`."""

from daemon.cli.app import main

if __name__ == "__main__":
    main()
