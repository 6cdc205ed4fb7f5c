"""A changed config is taken up by running workers without losing work; a faulty one is refused."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from support.fixtures import ConfigFile, StartWorkers
from support.messages import newsletter, order_update
from support.processes import CHECKOUT, environment, wait_until
from support.redis_server import RedisServer
from support.sinks import MailSink

from notifygate import Gateway, Status

ON_SQLITE = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
CAP = {"limit": 1, "window": "7d", "per": "person"}


def grant_and_submit(gate: Gateway, address: str) -> str:
    gate.consent.grant(f"email:{address}", party="cykelpartner", purpose="newsletter")
    return gate.submit(newsletter(to=address)).message_id


def status_in_the_end(gate: Gateway, message_id: str) -> Status:
    wait_until(lambda: gate.status(message_id) not in ("queued", "sending"), what="it is decided and sent")
    return gate.status(message_id)


@ON_SQLITE
class TestAChangedFile:
    @pytest.fixture
    def config(self, config_file: ConfigFile, real_redis: RedisServer) -> Callable[..., Path]:
        def write(**purpose: Any) -> Path:
            open_all_day = {"newsletter": {"quiet_hours": None, "caps": None, "dedupe": None} | purpose}
            return config_file(gateway={"broker": real_redis.url}, purposes=open_all_day)

        return write

    def test_is_taken_up_and_each_decision_names_the_policy_it_went_by(
        self, config: Callable[..., Path], start_workers: StartWorkers
    ) -> None:
        path = config()
        workers = start_workers(path, processes=2)
        with Gateway.open(path) as gate:
            first = grant_and_submit(gate, "anna@example.dk")
            assert status_in_the_end(gate, first) is Status.SENT

            config(permission=["soft_opt_in"])
            wait_until(lambda: workers.output.count("config_reloaded") == 2, what="both have taken it up")
            second = grant_and_submit(gate, "bo@example.dk")
            assert status_in_the_end(gate, second) is Status.DENIED

            policies = [gate.explain(message_id).decisions[0].policy for message_id in (first, second)]
            texts = [gate.log.policy(policy).text for policy in policies]
            assert texts[0] != texts[1]
        assert workers.stop() == 0

    @pytest.mark.parametrize(
        ("break_it", "said"),
        [
            (
                lambda text: text.replace('"newsletter" = {', '"newsletter" = { "clas" = "spam",'),
                "newsletter.clas",
            ),
            (lambda text: text[: len(text) // 2], "not TOML"),
            (lambda text: "", "permission = "),
            (lambda text: text.replace('"broker"', '"data_dir" = "elsewhere", "broker"'), "started anew"),
        ],
        ids=["a fault", "half a file", "nothing", "what only a restart changes"],
    )
    def test_with_a_fault_is_refused_and_the_old_policy_stays(
        self,
        config: Callable[..., Path],
        start_workers: StartWorkers,
        break_it: Callable[[str], str],
        said: str,
    ) -> None:
        path = config()
        workers = start_workers(path, processes=1)
        with Gateway.open(path) as gate:
            before = grant_and_submit(gate, "anna@example.dk")
            assert status_in_the_end(gate, before) is Status.SENT
            good = path.read_text()
            path.write_text(break_it(good))
            wait_until(lambda: "config_refused" in workers.output, what="it is refused")
            assert said in workers.output

            after = grant_and_submit(gate, "bo@example.dk")
            assert status_in_the_end(gate, after) is Status.SENT
            assert gate.explain(before).decisions[0].policy == gate.explain(after).decisions[0].policy

            config(permission=["soft_opt_in"])
            wait_until(lambda: "config_reloaded" in workers.output, what="the mended one is taken up")
            last = grant_and_submit(gate, "cy@example.dk")
            assert status_in_the_end(gate, last) is Status.DENIED
        assert "Traceback" not in workers.output
        assert workers.stop() == 0


@ON_SQLITE
def test_reloading_again_and_again_under_load_loses_and_repeats_nothing(
    config_file: ConfigFile,
    real_redis: RedisServer,
    servers: dict[str, Any],
    smtp_server: MailSink,
    start_workers: StartWorkers,
) -> None:
    def write(attempts: int) -> Path:
        return config_file(
            gateway={"broker": real_redis.url}, channels=servers, delivery={"max_attempts": attempts}
        )

    path = write(10)
    smtp_server.takes_s = 0.01
    workers = start_workers(path, processes=2, threads=2)
    with Gateway.open(path) as gate:
        message_ids = []
        for turn in range(4):
            message_ids += [
                receipt.message_id
                for receipt in gate.submit_many(
                    order_update(to=f"person{turn}-{number}@example.dk") for number in range(100)
                )
            ]
            write(11 + turn)
            wait_until(
                lambda turn=turn: workers.output.count("config_reloaded") >= 2 * (turn + 1),  # type: ignore[misc]  # a default argument
                what="both have taken it up",
            )
        wait_until(
            lambda: {gate.status(message_id) for message_id in message_ids} == {Status.SENT},
            what="all are sent",
        )
    assert workers.stop() == 0
    assert Counter(smtp_server.message_ids) == Counter(message_ids)


class TestTheCommand:
    @contextmanager
    def running(self, config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "notifygate", "worker", "-p", "1", "-t", "2"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=CHECKOUT, env=environment(config), stdout=output, stderr=output
            )
        try:
            wait_until(lambda: "is ready for action" in log.read_text(), what="the worker is ready")
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            process.wait(30)

    @ON_SQLITE
    def test_goes_on_over_a_hangup_and_says_whether_the_config_is_in_order(
        self, config_file: ConfigFile, real_redis: RedisServer, tmp_path: Path
    ) -> None:
        path = config_file(gateway={"broker": real_redis.url})
        log = tmp_path / "worker.log"
        with self.running(path, log) as process, Gateway.open(path) as gate:
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: "the config is in order" in log.read_text(), what="it says so")

            path.write_text("[gateway]\nlodger = 1\n")
            process.send_signal(signal.SIGHUP)
            wait_until(lambda: "the config is refused" in log.read_text(), what="it says so")
            assert "gateway.lodger" in log.read_text()

            receipt = gate.submit(order_update())
            wait_until(lambda: gate.status(receipt.message_id) is Status.SENT, what="it is sent")
            assert process.poll() is None
        assert process.returncode == 0
        assert "Traceback" not in log.read_text()

    @ON_SQLITE
    @pytest.mark.skipif(
        sys.platform != "linux", reason="the kernel of Linux tells a child that its parent is gone"
    )
    def test_that_is_killed_takes_its_workers_with_it(
        self, config_file: ConfigFile, real_redis: RedisServer, tmp_path: Path
    ) -> None:
        path = config_file(gateway={"broker": real_redis.url})
        log = tmp_path / "worker.log"
        with self.running(path, log) as process:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            process.kill()
            wait_until(
                lambda: not any(_runs(int(child)) for child in children), what="the workers have ended"
            )


def _runs(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
