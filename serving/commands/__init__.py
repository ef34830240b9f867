"""The commands as typer has them: flags, help texts, and where what they print goes. What they do is done elsewhere, and is
imported when a command runs, so that `--help` answers at once. `serving/cli.py` lists them.
"""
