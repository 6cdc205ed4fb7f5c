"""docs/monitoring.md says that its table has every metric: it must be that of the code."""

from __future__ import annotations

import re
from pathlib import Path

from notifygate.metrics import KEPT_BY_WORKERS, READ_AT_SCRAPE

PAGE = (Path(__file__).parents[1] / "docs" / "monitoring.md").read_text("utf-8")
ROW = re.compile(r"^\| `(notifygate_\w+)` \| (\w+) \|([^|]*)\| (.*) \|$", re.MULTILINE)
KNOWN = (*KEPT_BY_WORKERS, *READ_AT_SCRAPE)


def test_the_table_has_every_metric_in_order_with_its_type_and_labels() -> None:
    listed = [
        (name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in ROW.findall(PAGE)
    ]
    assert listed == [(metric.name, metric.kind, metric.labels) for metric in KNOWN]


def test_every_metric_has_a_meaning() -> None:
    assert [name for name, _, _, meaning in ROW.findall(PAGE) if len(meaning) < 20] == []


def test_the_alerts_use_no_metric_and_no_label_that_is_unknown() -> None:
    names = {metric.name for metric in KNOWN}
    labels = {label for metric in KNOWN for label in metric.labels} | {"job"}
    alerts = PAGE.partition("```yaml")[2].partition("```")[0]
    assert set(re.findall(r"notifygate_\w+", alerts)) <= names
    assert set(re.findall(r"[{,](\w+)=", alerts)) <= labels
