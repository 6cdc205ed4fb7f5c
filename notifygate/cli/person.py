"""`notifygate person`: which contact points belong to one human."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from notifygate.cli import output
from notifygate.cli.options import ConfigPath, ContactPoint, Json, opened

if TYPE_CHECKING:
    from notifygate.gateway.people import Person

app = typer.Typer(help="See, join and part the contact points of one person.", no_args_is_help=True)

OtherContactPoint = Annotated[
    str, typer.Argument(metavar="OTHER", show_default=False, help="Another contact point of the same person.")
]


@app.command("show")
def show(contact_point: ContactPoint, config: ConfigPath = None, json: Json = False) -> None:
    """Show the person behind a contact point, with all contact points known to be theirs."""
    with opened(config) as gate:
        found = gate.people.of(contact_point)
    _show(found, json=json)


@app.command(
    "link",
    epilog="[bold]Example[/bold]\n"
    "  notifygate person link sms:+4520123456 email:anna@example.dk --evidence 'same account, order 1001'",
)
def link(
    contact_point: ContactPoint,
    other: OtherContactPoint,
    evidence: Annotated[
        str, typer.Option("--evidence", show_default=False, help="How it is known that both are one person.")
    ],
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Record that two contact points belong to one person: refusals and caps then count for both."""
    with opened(config) as gate:
        found = gate.people.link(contact_point, other, evidence)
    _show(found, json=json)


@app.command("unlink")
def unlink(
    contact_point: ContactPoint, other: OtherContactPoint, config: ConfigPath = None, json: Json = False
) -> None:
    """Record that two contact points are not one person after all; what was refused stays refused for both."""
    with opened(config) as gate:
        found = gate.people.unlink(contact_point, other)
    _show(found, json=json)


def _show(person: Person, *, json: bool) -> None:
    if json:
        output.json_line({"person_id": person.person_id, "contact_points": list(person.contact_points)})
        return
    first, *others = person.contact_points
    output.facts(
        [
            ("person", person.person_id or "not seen before"),
            ("contact points", first),
            *((" ", other) for other in others),
        ]
    )
