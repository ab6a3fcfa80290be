"""YAML as people write it, without its surprises: a key given twice and aliases are refused, with line and column."""

from __future__ import annotations

from typing import Any

import yaml

from modeltailor.errors import ConfigError, shown

__all__ = ["read_mapping"]


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses duplicate keys and aliases."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if key in seen:
            raise ConfigError(
                "CFG-03", f"line {line}", f"key '{key}' given twice (lines {seen[key]}, {line})", "keep one"
            )
        seen[key] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_mapping(text: str, where: str) -> dict[str, Any]:
    """Read a YAML text that holds a mapping.

    Args:
        text: the YAML.
        where: the file, for messages.

    Raises:
        ConfigError: it is not valid YAML, holds no mapping, gives a key twice, or uses an alias.
    """
    try:
        data = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except ConfigError as error:
        raise ConfigError(error.code, f"{where}: {error.where}", error.what, error.next_step) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        line = text.splitlines()[mark.line].strip() if mark and mark.line < len(text.splitlines()) else ""
        raise ConfigError(
            "CFG-02", place, f"not valid YAML: {error.problem} at '{shown(line, 80)}'", "mend that line"
        ) from error
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise ConfigError("CFG-02", where, f"not valid YAML: {error}", "mend the file") from error
    if not isinstance(data, dict):
        raise ConfigError("CFG-02", where, "must hold keys with values", "see the documentation of this file")
    return data
