"""The figures: nothing happens before they are started, and what they may be labelled with is closed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from notifygate import metrics_folder
from notifygate.errors import NotifygateError

_COUNT_SOME = """
import sys
from datetime import timedelta
from notifygate import metrics
from notifygate.address import Channel
from notifygate.message import Result

def count():
    metrics.attempt_ended(Result.ACCEPTED, Channel.EMAIL)
    metrics.handed_off(Channel.SMS, 0.1)
    metrics.swept(3)
    metrics.broke_off("job")
    metrics.config_reloaded("refused")
    metrics.decided([], 0.1)
"""
_SHOW = """
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
registry = CollectorRegistry()
MultiProcessCollector(registry, path=sys.argv[1])
print(generate_latest(registry).decode())
"""


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-c", script, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_without_a_start_nothing_is_counted_and_the_package_is_not_even_imported() -> None:
    printed = run(f"{_COUNT_SOME}\ncount()\nprint('prometheus_client' in sys.modules)")
    assert printed.strip() == "False"


@pytest.mark.parametrize("before", ["", "import prometheus_client"], ids=["not imported", "imported"])
def test_figures_are_shared_even_where_a_plug_in_imported_the_package_before(
    tmp_path: Path, before: str
) -> None:
    start = "from pathlib import Path\nmetrics.start(Path(sys.argv[1]))\ncount()"
    for _ in range(2):
        run(f"{before}\n{_COUNT_SOME}\n{start}", str(tmp_path))
    printed = run(f"import sys\n{_SHOW}", str(tmp_path))
    assert 'notifygate_attempts_total{channel="email",result="accepted"} 2.0' in printed
    assert "notifygate_swept_messages_total 6.0" in printed
    assert 'notifygate_hand_off_seconds_count{channel="sms"} 2.0' in printed


def test_the_reason_codes_of_plug_ins_are_counted_under_one_name(tmp_path: Path) -> None:
    script = f"""{_COUNT_SOME}
from datetime import UTC, datetime
from pathlib import Path
from notifygate.decision import Decision, Finding
from notifygate.policy import PurposeClass
metrics.start(Path(sys.argv[1]))
found = [Finding.deny("strange", "x"), Finding.deny("duplicate", "x"), Finding.allow("passed", "x")]
decision = Decision.of(found, at=datetime(2026, 3, 2, tzinfo=UTC), policy="p")
metrics.decided([(PurposeClass.REVIEW, timedelta(seconds=-1), decision)], 0.1)
{_SHOW}"""
    printed = run(script, str(tmp_path))
    labels = 'outcome="deny",purpose_class="review"'
    assert f"notifygate_decisions_total{{{labels}}} 1.0" in printed
    for reason in ("duplicate", "other"):
        assert f'notifygate_decision_reasons_total{{{labels},reason="{reason}"}} 1.0' in printed
    assert "strange" not in printed
    assert 'notifygate_queue_wait_seconds_sum{queue="bulk"} 0.0' in printed


class TestTheFolder:
    def test_is_shared_by_the_children_of_one_parent_and_removed_once_no_one_uses_it(
        self, tmp_path: Path
    ) -> None:
        script = (
            "import multiprocessing, sys\nfrom pathlib import Path\nfrom notifygate import metrics_folder\n"
            "def child():\n    (metrics_folder.join(Path(sys.argv[1])) / 'counter_1.db').touch()\n"
            "if __name__ == '__main__':\n"
            "    forking = multiprocessing.get_context('fork')\n"
            "    folder = metrics_folder.join(Path(sys.argv[1]))\n"
            "    child_process = forking.Process(target=child)\n"
            "    child_process.start()\n    child_process.join()\n"
            "    print(*(path.name for path in folder.glob('*.db')))\n"
        )
        assert run(script, str(tmp_path)).strip() == "counter_1.db"
        [left] = [path for path in (tmp_path / "metrics").iterdir() if path.is_dir()]
        assert run(script, str(tmp_path)).strip() == "counter_1.db"
        assert not left.exists()

    def test_that_cannot_be_made_is_an_error_that_names_the_key(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(NotifygateError, match=r"gateway\.data_dir: .* monitoring\.listen"):
            metrics_folder.join(tmp_path / "file")
