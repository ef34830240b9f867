"""What a run over many pictures came to, in words. Shared by `batch` and the applications."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from serving.errors import IncompleteError

if TYPE_CHECKING:
    from clients.batch.run import Outcome

_LISTED = 20


def tell_outcome(done: "Outcome", out: Path) -> None:
    """Raises IncompleteError where something could not be answered."""
    typer.echo(f"{done.total - len(done.failures)} of {done.total} answered ({done.before} before); {out}", err=True)
    if done.failures:
        listed = "".join(f"\n  {name}: {why}" for name, why in done.failures[:_LISTED])
        more = "\n  …" if len(done.failures) > _LISTED else ""
        raise IncompleteError(
            f"{len(done.failures)} could not be answered; the same command asks them again.{listed}{more}"
        )
