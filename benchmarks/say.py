"""A line on stdout that is there at once, also where stdout is a pipe that another process reads."""

import sys


def say(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
