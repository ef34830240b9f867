"""From a bare machine to an environment in which `onecard` runs: what `make serve` and `make test` do first.

    machine.py       what is here: GPU and driver, memory, disk, WSL2. Facts only
    choose.py        what follows from the facts: which vLLM, whether it can work, what to warn about. Pure
    pip.py           one run of pip: its progress, its interruption, its failure in plain words
    environment.py   the folder `.venv`: made, mended, filled step by step, left alone when up to date

Everything here runs under the system's Python before anything is installed: the standard library and `serving.errors`
only. `serving/bootstrap.py` is the way in.
"""
