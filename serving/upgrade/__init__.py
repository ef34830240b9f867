"""`onecard upgrade`: a new version beside the old one, asked before it is used, and the way back.

    command.py   the order of things: install, check the settings, ask, switch, restart, or leave all as it was
    target.py    what `--to` names (a source tree, a wheel, a bundle, a version of the package index) as a folder to install
    check.py     the known-good question: a version serves the built-in model on a spare port and must answer rightly
    service.py   the systemd service of this installation, where there is one

Where versions lie and how they are switched is `serving/setup/releases.py`'s business, which also the install script uses.
"""
