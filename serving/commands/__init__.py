"""The commands, for typer: flags, help texts, and printing. The work is done elsewhere, and imported when a command runs, so
that `--help` answers at once. `serving/cli.py` lists them.
"""
