"""YAML with clear errors, and without the silence in which plain YAML overwrites a repeated key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from adaptive_inference.errors import UserError


class UniqueKeyLoader(yaml.CSafeLoader):
    """YAML loader that refuses a key given twice, which plain YAML would overwrite in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping; refuse it where a key stands twice."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if isinstance(key, (list, dict)):
                raise UserError(f"{key_node.start_mark.name}, line {line}: {key!r} is no key; write a name")
            if key in seen:
                raise UserError(
                    f"{key_node.start_mark.name}, line {line}: {key!r} is given twice; rename or remove one"
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> Any:
    """Read a file.

    Raises
    ------
    UserError
        The file is missing, is not YAML in UTF-8, or gives a key twice.
    """
    if not path.is_file():
        raise UserError(f"no params file {path}; run from the project's folder or name one with --params")
    with path.open(encoding="utf-8") as stream:
        try:
            loader = UniqueKeyLoader(stream)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
        try:
            return loader.get_single_data()
        except yaml.YAMLError as error:
            raise UserError(f"{path} is not valid YAML: {error}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 ({error.reason}); save it as UTF-8") from error
        finally:
            loader.dispose()
