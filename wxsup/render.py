"""Values to text through Jinja; this module writes nothing.

The sources lie in wxsup/templates. An undefined value is an error, never an empty string.
"""

from __future__ import annotations

import glob
import shlex
from pathlib import Path

import jinja2

from wxsup.errors import StartFailed

_LOADER = jinja2.PackageLoader("wxsup", "templates")


def text(template: str, *, override: Path | None = None, **values: object) -> str:
    """Return what `template` renders to; `override` is a file to use in its place."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(override.parent) if override else _LOADER,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # what it renders is no HTML
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["section"] = section_value
    environment.filters["command"] = command_line
    environment.filters["pattern"] = file_pattern
    try:
        return environment.get_template(override.name if override else template).render(**values)
    except (jinja2.TemplateError, OSError, UnicodeDecodeError) as ex:
        raise StartFailed(f"{override or template}: {ex}") from ex


def section_value(value: object) -> str:
    """Return `value` as supervisor's configuration takes it, where ``%`` introduces an expansion.

    ``stdout_logfile=`` it expands twice (supervisor/options.py, _processes_from_section), so that takes it twice.
    """
    return str(value).replace("%", "%%")


def command_line(words: list[str]) -> str:
    """Return a command as supervisor's ``command=`` takes it: split by shlex, ``%`` doubled."""
    return section_value(shlex.join(words))


def file_pattern(path: object) -> str:
    """Return the glob(7) pattern of exactly `path` for supervisor's ``files=``, which is split at blanks first."""
    return "".join("[!!-~]" if character.isspace() else glob.escape(character) for character in str(path))
