"""Eight processes ask the same persons about the same purchases: as many asks as the policy allows, and no more."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.fixtures import ConfigFile, Outbox
from support.forks import run_at_once

from notifygate import Gateway

PERSONS = 8
PURCHASES_EACH = 4
ASKERS = ("florist", "headoffice", "stars", "cykelpartner")
PROCESSES = 8

# Each process asks everybody, on one of their two addresses, about all their purchases, in an order of its own.
SCRIPT = f"""
import random
from datetime import UTC, datetime
from notifygate import Gateway
from support.messages import delivered_purchase, review_request
number = NUMBER
asker = {ASKERS!r}[number % {len(ASKERS)}]
now = datetime.now(UTC)
with Gateway.open() as gate:
    wanted = [(person, bought) for person in range({PERSONS}) for bought in range({PURCHASES_EACH})]
    random.Random(number).shuffle(wanted)
    ready()
    for person, bought in wanted:
        to = f"email:person{{person}}@example.dk" if number < 4 else f"sms:+45201234{{person:02d}}"
        purchase = delivered_purchase(now, f"{{person}}-{{bought}}", "florist")
        gate.submit(review_request(purchase, to=to, merchant=asker))
        if bought % 2:
            gate.drain(limit=5)
    while gate.next_due() is not None:
        gate.drain(limit=5)
"""


@pytest.mark.parametrize(("per_person", "per_purchase"), [(1, 1), (9, 2)])
def test_the_asks_made_are_exactly_those_that_the_policy_allows(
    config_file: ConfigFile, outbox: Outbox, per_person: int, per_purchase: int
) -> None:
    config = _prepared(config_file, per_person, per_purchase)

    run_at_once([SCRIPT.replace("NUMBER", str(number)) for number in range(PROCESSES)], config)

    sent = outbox()
    about = Counter(re.search(r"order (\d+-\d+) ", one["text"])[1] for one in sent)  # type: ignore[index]
    to = Counter(name.split("-")[0] for name in about.elements())
    assert max(about.values()) <= per_purchase
    # Every purchase of a person may take up its places, until the person's own are used up.
    assert to == {str(person): min(per_person, PURCHASES_EACH * per_purchase) for person in range(PERSONS)}


def _prepared(config_file: ConfigFile, per_person: int, per_purchase: int) -> Path:
    config = config_file(
        purposes={"review_request": {"quiet_hours": None}},
        merchants={"florist": {"asks_for_reviews": False}},
        review_requests={
            "asks_per_purchase": per_purchase,
            "per_person": {"limit": per_person, "window": "30d"},
            "per_person_and_merchant": {"limit": 100, "window": "180d"},
        },
    )
    yesterday = datetime.now(UTC) - timedelta(days=1)
    with Gateway.open(config) as gate:
        for person in range(PERSONS):
            points = (f"email:person{person}@example.dk", f"sms:+45201234{person:02d}")
            gate.people.link(*points, evidence="same account")
            for point in points:
                for asker in ASKERS:
                    gate.consent.grant(point, party=asker, purpose="review_request", occurred_at=yesterday)
    return config
