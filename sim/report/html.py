"""The templates of pages: what stands in them is escaped, and what is missing is a mistake."""

from __future__ import annotations

import jinja2


def template(name: str) -> jinja2.Template:
    """A template of `sim/report/templates`."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sim.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)
