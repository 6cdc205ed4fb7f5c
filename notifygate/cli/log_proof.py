"""`notifygate log verify`, `checkpoint`, `prove`, `consistency` and `key`: that the send log was not altered."""

from __future__ import annotations

import json as jsons
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from notifygate.cli import files, output
from notifygate.cli.options import ConfigPath, Json, MessageId, reading

if TYPE_CHECKING:
    from notifygate.audit.verification import Verification
    from notifygate.notes import Checkpoint, Verifier

_SHOWN = 20

VERIFY_EXAMPLES = """[bold]Examples[/bold]
  notifygate log verify
  notifygate log verify --checkpoint kept-by-the-auditor.txt
  notifygate log verify --checkpoint a.txt --checkpoint b.txt --key verifier.txt --json"""
CHECKPOINT_EXAMPLES = """[bold]Examples[/bold]
  notifygate log checkpoint
  notifygate log checkpoint --out /mnt/elsewhere/2026-05-01.txt"""
PROVE_EXAMPLES = """[bold]Examples[/bold]
  notifygate log prove msg_0198… --out proof.json
  python verify_proof.py proof.json --key 'shop.example/notifygate+03390d05+Aaji…'"""

Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", show_default=False, help="Write it there; by default to stdout."),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")]


def verify(
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            show_default=False,
            help="A checkpoint that was kept elsewhere, also several times: only with one can it be seen that the end "
            "was cut off.",
        ),
    ] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(
            "--key",
            metavar="KEY",
            show_default=False,
            help="The key to trust, as 'notifygate log key' prints it, or a file that holds it; by default "
            "this machine's.",
        ),
    ] = None,
    config: ConfigPath = None,
    json: Json = False,
) -> None:
    """Recompute the whole send log, and say whether a row was altered, removed, put in or moved since it was sealed.

    Exit code 0 where it is intact, 1 where it is not.
    """
    checkpoints = [_read_checkpoint(path, "--checkpoint") for path in checkpoint or ()]
    keys = [_read_key(one) for one in key or ()]
    with reading(config) as gate, output.progress("verifying") as progress:
        found = gate.proofs.verify(checkpoints=checkpoints, keys=keys, progress=progress)
    if json:
        output.json_line(found.to_json())
    else:
        _show(found)
    if not found.is_intact:
        raise typer.Exit(1)


def checkpoint(out: Out = None, force: Force = False, config: ConfigPath = None, json: Json = False) -> None:
    """Sign what the send log says now, and print that: a few lines, to be kept where nobody here can change them."""
    with reading(config) as gate:
        made = gate.proofs.checkpoint()
    shown = {"origin": made.origin, "size": made.size, "root": made.root.hex(), "note": made.note}
    _hand_out(jsons.dumps(shown) + "\n" if json else made.note, out, force=force)
    if out is not None:
        output.say(f"{output.counted(made.size, 'row')}, signed, in {out}")


def prove(
    message_id: MessageId,
    against: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            show_default=False,
            help="Prove it against this checkpoint; by default against one of now.",
        ),
    ] = None,
    out: Out = None,
    force: Force = False,
    config: ConfigPath = None,
) -> None:
    """Prove to an outsider that a message, what was decided about it and what was tried are in the log. Prints JSON.

    It holds no address and no text. examples/verify_proof.py checks it, without notifygate.
    """
    checkpoint = None if against is None else _read_checkpoint(against, "--checkpoint")
    with reading(config) as gate:
        proof = gate.proofs.prove(message_id, checkpoint=checkpoint)
    _hand_out(_as_text(proof.to_json()), out, force=force)
    if out is not None:
        output.say(f"{output.counted(len(proof.rows), 'row')} of {proof.checkpoint.size:,}, proved, in {out}")


def consistency(
    old: Annotated[Path, typer.Argument(metavar="OLD", show_default=False, help="The older checkpoint.")],
    new: Annotated[
        Path | None,
        typer.Argument(metavar="NEW", show_default=False, help="The newer one; by default one of now."),
    ] = None,
    out: Out = None,
    force: Force = False,
    config: ConfigPath = None,
) -> None:
    """Prove to an outsider that the log of one checkpoint begins with all that an older one was of. Prints JSON."""
    older = _read_checkpoint(old, "OLD")
    newer = None if new is None else _read_checkpoint(new, "NEW")
    with reading(config) as gate:
        proof = gate.proofs.consistency(older, newer)
    _hand_out(_as_text(proof.to_json()), out, force=force)
    if out is not None:
        output.say(f"from {proof.old.size:,} to {proof.new.size:,} rows, proved, in {out}")


def key(config: ConfigPath = None, json: Json = False) -> None:
    """Print the public key that checks this log's checkpoints: hand it to whoever is to verify them."""
    with reading(config) as gate:
        keys = [str(one) for one in gate.proofs.verifiers()]
    if json:
        output.json_line({"keys": keys})
        return
    for one in keys:
        output.say(one)
    if not keys:
        output.complain(
            "no checkpoint was signed yet: 'notifygate log checkpoint' makes a key and signs", prefix=""
        )
        raise typer.Exit(1)


def _show(found: Verification) -> None:
    output.facts(
        [
            (
                "the log is",
                "intact"
                if found.is_intact
                else f"NOT INTACT: {output.counted(found.problem_count, 'problem')}",
            ),
            ("rows sealed", f"{found.size:,}"),
            ("not sealed yet", f"{found.unsealed:,}"),
            ("removed by retention", f"{found.removed:,}"),
            ("signed up to", f"{found.signed_up_to:,}"),
            (
                "checkpoints",
                f"{found.checkpoints:,} compared, {found.outside:,} of them brought from elsewhere",
            ),
            ("root", found.root.hex()),
        ]
    )
    for told in found.removals[-_SHOWN:]:
        when = output.instant(told.at)
        earlier = f", and {told.earlier:,} earlier ones that no other row tells of" if told.earlier else ""
        output.say(
            f"removed: {output.counted(told.rows, 'row')} of {told.part}{earlier}, on {when}, by {told.actor} "
            f"(row {told.position:,})"
        )
    for restored in found.restorations[-_SHOWN:]:
        signed = "" if restored.is_signed else ", which no trusted key has signed"
        output.say(
            f"restored from a backup: {output.instant(restored.at)} (row {restored.position:,}){signed}"
        )
    for problem in found.problems[:_SHOWN]:
        where = "" if problem.leaf is None else f"leaf {problem.leaf:,}: "
        output.say(f"{problem.fault.value}: {where}{problem.told}")
    if found.problem_count > _SHOWN:
        output.say(f"… and {found.problem_count - _SHOWN:,} more")
    if found.sealed_late:
        output.complain(
            f"{output.counted(found.sealed_late, 'row')} sealed more than an hour after the instant that they, or "
            "others before them, bear",
            prefix="note: ",
        )
    if found.keys_are_the_ledgers_own:
        output.complain(
            "the key is the one that the ledger names; give --key to trust another", prefix="note: "
        )
    if not found.outside:
        output.complain(
            "without a checkpoint that was kept elsewhere (--checkpoint) it cannot be seen whether the end was cut off",
            prefix="note: ",
        )


def _read_checkpoint(path: Path, name: str) -> Checkpoint:
    from notifygate.notes import Checkpoint, NoteError

    try:
        return Checkpoint.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = error.strerror or type(error).__name__
    except UnicodeDecodeError:
        problem = "no UTF-8 text"
    except NoteError as error:
        problem = str(error)
    raise typer.BadParameter(f"{path}: {problem}", param_hint=name)


def _read_key(given: str) -> Verifier:
    from notifygate.notes import NoteError, Verifier

    path = Path(given)
    try:
        return Verifier.parse(path.read_text(encoding="utf-8") if path.is_file() else given)
    except (NoteError, OSError, UnicodeDecodeError) as error:
        problem = "not a key, nor a file that holds one: 'notifygate log key' prints it"
        raise typer.BadParameter(problem, param_hint="--key") from error


def _as_text(value: dict[str, Any]) -> str:
    return jsons.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _hand_out(text: str, out: Path | None, *, force: bool) -> None:
    """Write a file whole or not at all, or print."""
    if out is None:
        output.write(text)
        return
    files.write(out, text, force=force)
