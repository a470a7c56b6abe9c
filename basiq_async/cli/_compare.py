"""``basiq-async compare``: where the real API differs from the fake."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigurationError
from ._options import Json
from ._output import Output, Shape, note
from ._run import run_until_signal
from ._table import Column

if TYPE_CHECKING:
    from ..testing import Comparison, Difference

_DIFFERENCE: Shape[Difference] = Shape(
    ("request", "where", "real", "fake"),
    lambda found: {"request": found.request, "where": found.where, "real": found.real, "fake": found.fake},
    (
        Column("REQUEST", lambda found: found.request),
        Column("WHERE", lambda found: found.where, flexible=True),
        Column("REAL", lambda found: found.real, flexible=True),
        Column("FAKE", lambda found: found.fake, flexible=True),
    ),
)


def compare(
    shapes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Write the shapes, without values, to a new file for a bug report.", show_default=False
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Compare each response of the real API with the fake's for the same request. Ends with 1 where they differ.

    Needs a key and sends GETs alone, about 30 of them, beside the token call. Shapes are compared, not values: status,
    headers that matter, fields, types, forms of links and paging.
    """
    if shapes is not None:
        _require_new(Path(shapes))
    found = run_until_signal(_compare)
    Output(json).rows(found.differences, _DIFFERENCE)
    if shapes is not None:
        found.write_shapes(shapes)
        note(f"the shapes are in {shapes!r}; they hold no values")
    if found.skipped:
        note(f"nothing to compare for {', '.join(found.skipped)}")
    if found.differences:
        raise typer.Exit(1)
    note(f"no differences in {found.requests} requests")


def _require_new(file: Path) -> None:
    """Raise ConfigurationError before anything is asked, where the file could not be written afterwards."""
    if os.path.lexists(file):
        raise ConfigurationError(f"{str(file)!r} exists: pass another file, or remove it")
    if not file.parent.is_dir():
        raise ConfigurationError(f"{str(file)!r} cannot be written: there is no such folder")


async def _compare() -> Comparison:
    from ..testing import compare as hold
    from ._profiles import settings

    given = settings()
    return await hold(given.api_key, base_url=given.base_url)
