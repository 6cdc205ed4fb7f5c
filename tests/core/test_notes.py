"""Checkpoints as signed notes: C2SP signed-note and tlog-checkpoint."""

from __future__ import annotations

import pytest

from notifygate.notes import Checkpoint, NoteError, Signer, Verifier, new_private_key

ORIGIN = "shop.example/log"
ROOT = bytes(range(32))
PEM = new_private_key()
OTHER = Signer.from_pem(ORIGIN, new_private_key())
SIGNER = Signer.from_pem(ORIGIN, PEM)
CHECKPOINT = Checkpoint.signed(SIGNER, ORIGIN, 42, ROOT)

# The example of the specification of signed notes, with the key that its author has published for it.
POEM = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
POET = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"


def test_says_origin_size_and_root_in_a_line_each() -> None:
    assert CHECKPOINT.note.startswith(
        "shop.example/log\n42\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\n\u2014 shop.example/log "
    )
    assert Checkpoint.parse(CHECKPOINT.note) == CHECKPOINT
    assert CHECKPOINT.check([OTHER.verifier, SIGNER.verifier]) == SIGNER.verifier


def test_a_key_is_written_as_verifiers_share_it() -> None:
    assert Verifier.parse(str(SIGNER.verifier)) == SIGNER.verifier
    assert str(Verifier.parse(POET)) == POET


def test_a_note_signed_by_the_reference_implementation_is_found_good() -> None:
    note = Checkpoint(origin="", size=0, root=b"", note=POEM)

    assert str(note.check([Verifier.parse(POET)])) == POET


@pytest.mark.parametrize(
    ("old", "new"),
    [("\n42\n", "\n43\n"), ("AAEC", "AAED"), ("log\n42", "lag\n42")],
    ids=["size", "root", "origin"],
)
def test_a_note_that_was_changed_is_refused(old: str, new: str) -> None:
    changed = Checkpoint.parse(CHECKPOINT.note.replace(old, new, 1))

    with pytest.raises(NoteError, match="forged"):
        changed.check([SIGNER.verifier])


def test_a_note_that_no_trusted_key_has_signed_is_refused() -> None:
    with pytest.raises(NoteError, match="not signed by a key that is trusted"):
        CHECKPOINT.check([OTHER.verifier])


def test_signatures_of_others_are_passed_over() -> None:
    witness = Signer.from_pem("witness.example", new_private_key())
    text = CHECKPOINT.note.rpartition("\n\n")[0] + "\n"
    cosigned = CHECKPOINT.note + witness.sign(text).rpartition("\n\n")[2]

    assert Checkpoint.parse(cosigned).check([SIGNER.verifier]) == SIGNER.verifier


@pytest.mark.parametrize(
    "note",
    [
        "",
        "shop.example/log\n42\n",
        CHECKPOINT.note.replace("\n42\n", "\n042\n"),
        CHECKPOINT.note.replace("\n42\n", "\n-1\n"),
        CHECKPOINT.note.replace("\n42\n", "\n\n"),
        CHECKPOINT.note.replace("AAEC", "AA"),
        CHECKPOINT.note.replace("\u2014", "-"),
        CHECKPOINT.note.rstrip("\n"),
        CHECKPOINT.note.replace("42", "42\t"),
    ],
)
def test_what_is_no_checkpoint_is_refused(note: str) -> None:
    with pytest.raises(NoteError):
        Checkpoint.parse(note)


@pytest.mark.parametrize(
    "text",
    ["", "a+b", "shop+00000000+AQ==", str(SIGNER.verifier).replace("shop", "shoe")],
    ids=["empty", "incomplete", "too short", "of another name"],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(NoteError, match="verifier key"):
        Verifier.parse(text)


def test_a_private_key_of_another_kind_is_refused() -> None:
    with pytest.raises(NoteError, match="private Ed25519 key"):
        Signer.from_pem(ORIGIN, b"-----BEGIN PRIVATE KEY-----\n")
