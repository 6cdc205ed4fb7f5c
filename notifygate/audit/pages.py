"""Pages for people to read that need nothing else: no network, no script, no font. What they are given is escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def render(package: str, template: str, filters: Mapping[str, Callable[..., str]], **values: Any) -> str:
    """A page, from a template in the folder `templates` of a package."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(
        loader=PackageLoader(package),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= filters
    return pages.get_template(template).render(values)
