"""Write what is generated from the params classes: ``docs/params.md`` and the JSON schema that editors use.

python workflow/describe_params.py            # write both
python workflow/describe_params.py --check    # fail if one of them is not up to date
"""

from __future__ import annotations

import argparse
import json
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from adaptive_inference.params import Params

SCHEMA = Path("workflow/schemas/params.schema.json")
PAGE = Path("docs/params.md")
HEAD = """# params.yaml

Every key, its type, its default and what it means. Generated from the classes in `src/adaptive_inference/params*.py` by
`python workflow/describe_params.py`; do not edit. Only science stands here; machines (cores, memory) are in `profiles/`.
DVC reads the file too, so the sections and keys that `dvc.yaml` names must be written out even where they have a default.
For completion and checks in an editor: `# yaml-language-server: $schema=workflow/schemas/params.schema.json`.
"""


def schema_text() -> str:
    """Return the JSON schema of ``params.yaml``."""
    body = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Params.model_json_schema()
    return json.dumps(body, indent=1, sort_keys=True) + "\n"


def page_text() -> str:
    """Return the page for people."""
    parts = [HEAD]
    for where, model in _sections(Params, ""):
        parts.append(f"## {f'`{where}`' if where else 'Top level'}\n\n{_intro(model)}\n")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|")
        parts += [_row(name, field) for name, field in model.model_fields.items()]
        parts.append("")
    return "\n".join(parts).rstrip("\n") + "\n"


def _sections(model: type[BaseModel], where: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield where, model
    for name, field in model.model_fields.items():
        for inner, star in _inner_models(field.annotation):
            yield from _sections(inner, ".".join(filter(None, [where, name, star])))


def _inner_models(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ""
        return
    star = "NAME" if typing.get_origin(annotation) is dict else ""
    for argument in typing.get_args(annotation):
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            yield argument, star


def _intro(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split())


def _row(name: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else _plain(field.get_default(call_default_factory=True))
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{name}` | {_type(field)} | {default} | {meaning} |"


def _plain(value: Any) -> str:
    if isinstance(value, BaseModel):
        return "see below"
    return "none" if value is None else f"`{json.dumps(value)}`"


def _type(field: FieldInfo) -> str:
    bounds = [str(part) for part in field.metadata if type(part).__name__ in ("Ge", "Gt", "Le", "Lt")]
    limits = [bound.partition("(")[2].rstrip(")").replace("=", " ") for bound in bounds]
    return ", ".join([_name(field.annotation), *limits]).replace("|", "\\|")


def _name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _name(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_name(part) for part in arguments if part is not type(None))
    if origin is list:
        return f"list of {_name(arguments[0])}"
    if origin is dict:
        return f"map of {_name(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {str: "text", int: "integer", float: "number", bool: "true or false"}.get(
        annotation, str(annotation)
    )


def main() -> None:
    """Write or check both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a file is not up to date"
    )
    args = parser.parse_args()
    old = []
    for path, text in ((SCHEMA, schema_text()), (PAGE, page_text())):
        if not args.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            old.append(str(path))
    if old:
        sys.exit(
            f"{', '.join(old)}: not what the params classes say; run `python workflow/describe_params.py`"
        )


if __name__ == "__main__":
    main()
