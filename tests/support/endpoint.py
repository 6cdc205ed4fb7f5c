"""Asking the workers' endpoint, as a Prometheus or a load balancer does."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

Labels = dict[str, str]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Endpoint:
    """The endpoint at a port of this machine, whether it is there or not."""

    def __init__(self) -> None:
        self.port = free_port()
        self.listen = f"127.0.0.1:{self.port}"

    def get(self, path: str, method: str = "GET") -> httpx.Response:
        return httpx.request(method, f"http://{self.listen}{path}", timeout=10, trust_env=False)

    def is_there(self) -> bool:
        try:
            return self.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Status and content of `/readyz`."""
        answer = self.get("/readyz")
        return answer.status_code, json.loads(answer.content)

    def scrape(self) -> Scraped:
        answer = self.get("/metrics")
        assert answer.status_code == 200
        return Scraped(answer.text)


class Scraped:
    """What one scrape found."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    @property
    def names(self) -> set[str]:
        return {sample.name for sample in self._samples}

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric over all samples with these labels; 0 if there is none."""
        wanted = labels.items()
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and wanted <= sample.labels.items()
        )

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The samples of a metric by the values of some labels."""
        return {
            tuple(sample.labels[label] for label in labels): sample.value
            for sample in self._samples
            if sample.name == name
        }
