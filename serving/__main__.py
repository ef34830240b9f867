"""`python -m serving` is the command `onecard`, where its script is not on the PATH."""

from serving.cli import main

main()
