"""What is wrong with a scenario, as an error."""

from __future__ import annotations

from notifygate.errors import NotifygateError


class ScenarioError(NotifygateError):
    """There are no scenarios to run, or a scenario tells of something that did not happen so."""
