"""From a bare machine to an environment in which `onecard` runs: what `make serve` and `make test` do first.

    command.py       `make setup`, from its arguments to its exit code
    machine.py       what is here: GPU and driver, memory, disk, WSL2. Facts only
    choose.py        what follows from the facts: which vLLM, whether it can work, what to warn about. Pure
    pip.py           one run of pip: its progress, its interruption, its failure in plain words
    environment.py   the folder `.venv`: made, mended, filled step by step, left alone when up to date
    project.py       what a folder installs as onecard: a source tree, or a wheel
    releases.py      versions side by side, and which of them is in use
    bundle.py        all of it in one archive, for a machine without network
    near.py          the name that somebody meant

Everything here runs under the system's Python before anything is installed: the standard library and `serving.errors`
only. `serving/bootstrap.py` is the way in.
"""
