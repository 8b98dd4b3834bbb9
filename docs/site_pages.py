"""A hook of mkdocs.yml: pages that are generated when the site is built, so that nothing is written down twice.

The files at the root of the repository become pages, the command line is documented from its own help, and the keys of
recipes and task files from their JSON Schemas. None of it needs torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[1]
ROOT_PAGES = {
    "README.md": "quickstart.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "LICENSE": "license.md",
}
"""Files at the root of the repository, and what their pages are called."""
_LINK = re.compile(r"\]\((?P<path>[^)#\s]+)")

Schema = Mapping[str, Any]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """mkdocs: add the generated pages to those in docs/."""
    from mkdocs.structure.files import File

    for name, text in generated_pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """mkdocs: links from docs/ to files at the root lead to their pages."""
    return _LINK.sub(lambda link: f"]({_page(link['path'].removeprefix('../'), link['path'])}", markdown)


def generated_pages() -> dict[str, str]:
    """Markdown by the name of the page."""
    return {
        **{page: root_page(name) for name, page in ROOT_PAGES.items()},
        "cli.md": command_line_page(),
        "recipe-reference.md": schema_page("recipe"),
        "task-reference.md": schema_page("task"),
    }


def root_page(name: str) -> str:
    """A file at the root of the repository, with links that hold from docs/."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if name == "LICENSE":
        return f"# License\n\n```text\n{text}```\n"
    return _LINK.sub(lambda link: f"]({_page(link['path'], link['path'].removeprefix('docs/'))}", text)


def _page(path: str, otherwise: str) -> str:
    return ROOT_PAGES.get(path, otherwise)


def command_line_page() -> str:
    """Every command with its arguments and options, from its own help."""
    import typer
    from typer.main import get_command

    from cycleqd_merge.cli import app

    command = get_command(app)
    lines = ["# Command line", "", f"{command.help}", ""]
    lines += _command(command, typer.Context(command, info_name="cycleqd-merge"), "cycleqd-merge")
    return "\n".join(lines)


def _command(command: Any, context: Any, name: str) -> Iterator[str]:
    """A command's usage and parameters, then its subcommands, each below a heading."""
    yield from ("```console", f"$ {name} {' '.join(command.collect_usage_pieces(context))}", "```", "")
    records = [record for each in command.get_params(context) if (record := each.get_help_record(context)) is not None]
    if records:
        yield from ("| | |", "|---|---|", *(f"| `{_cell(names)}` | {_cell(text)} |" for names, text in records), "")
    for subcommand in getattr(command, "commands", {}).values():
        path = f"{name} {subcommand.name}"
        yield from (f"{'#' * len(path.split())} {path.partition(' ')[2]}", "", subcommand.help or "", "")
        yield from _command(subcommand, type(context)(subcommand, info_name=subcommand.name, parent=context), path)


def schema_page(kind: str) -> str:
    """The keys of a recipe or a task file, a table for each mapping in it, from its JSON Schema."""
    schema = json.loads((ROOT / "docs" / f"{kind}.schema.json").read_text(encoding="utf-8"))
    keys = _Keys(schema["$defs"])
    start = "" if kind == "recipe" else "a task file"
    if kind == "recipe":
        lines = ["# Keys of a recipe", "", *keys.table(schema, start)]
    else:
        lines = ["# Keys of a task file", ""]
        keys.kind(schema, start)
    lines += [
        "",
        f"An editor can check files against [{kind}.schema.json]({kind}.schema.json); "
        f"`cycleqd-merge schema {kind}` prints it.",
        "",
    ]
    return "\n".join([*lines, *keys.sections()])


class _Keys:
    """Tables of a schema's mappings, in the order in which they are referred to; each is shown once."""

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions
        self._titles: dict[str, str] = {}
        self._open: list[tuple[str, str]] = []

    def sections(self) -> Iterator[str]:
        """The tables of all mappings that were referred to, and of those that these refer to."""
        for name, place in self._open:  # grows while it is read
            schema = self._definitions[name]
            yield from (f"## {self._titles[name]} {{ #{_anchor(name)} }}", "", schema.get("description", ""), "")
            yield from (*self.table(schema, place), "")

    def table(self, schema: Schema, place: str) -> Iterator[str]:
        """The keys of a mapping. place: how a recipe reaches it, such as `evolution.mutation`."""
        yield from ("| key | meaning | value | default |", "|---|---|---|---|")
        for key, value in schema["properties"].items():
            default = "required" if key in schema.get("required", ()) else self._default(value)
            kind = self.kind(value, f"{place}.{key}".lstrip("."))
            yield f"| `{key}` | {_cell(value.get('description', ''))} | {_cell(kind)} | {_cell(default)} |"

    def _default(self, value: Schema) -> str:
        default = value.get("default")
        if default is None or default == "" or isinstance(default, dict | list):
            return ""
        return f"`{json.dumps(default)}`"

    def kind(self, value: Schema, place: str) -> str:
        """The values that a schema allows, in words, with links to the mappings among them."""
        if "$ref" in value:
            return self._link(value["$ref"].rpartition("/")[2], place)
        if "const" in value:
            return f"`{value['const']}`"
        if "enum" in value:
            return ", ".join(f"`{each}`" for each in value["enum"])
        for choice in ("oneOf", "anyOf"):
            if choice in value:
                kinds = [self.kind(each, place) for each in value[choice] if each.get("type") != "null"]
                return " or ".join(dict.fromkeys(kinds))
        if value.get("type") == "array":
            return self._list(value, place)
        if value.get("type") == "object":
            return self._mapping(value, place)
        return {"string": "text", "boolean": "`true` or `false`"}.get(value.get("type", ""), "") or _number(value)

    def _list(self, value: Schema, place: str) -> str:
        if "prefixItems" in value:
            return f"[{', '.join(self.kind(each, place) for each in value['prefixItems'])}]"
        return f"list: {self.kind(value.get('items', {}), f'{place}[]')}"

    def _mapping(self, value: Schema, place: str) -> str:
        values = [*value.get("patternProperties", {}).values()]
        if isinstance(value.get("additionalProperties"), dict):
            values.append(value["additionalProperties"])
        return f"mapping from names to: {self.kind(values[0], f'{place}.NAME')}" if values else "mapping"

    def _link(self, name: str, place: str) -> str:
        properties = self._definitions[name].get("properties")
        if properties is None:
            return self.kind(self._definitions[name], place)
        if name not in self._titles:
            stated = [f"{key}: {each['const']}" for key, each in properties.items() if "const" in each]
            self._titles[name] = " with ".join(f"`{each}`" for each in (place, *stated) if each)
            self._open.append((name, place))
        return f"[{self._titles[name]}](#{_anchor(name)})"


def _number(value: Schema) -> str:
    kind = {"integer": "whole number", "number": "number"}.get(value.get("type", ""), "any value")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return ", ".join([kind, *(f"{sign} {value[key]}" for key, sign in signs.items() if key in value)])


def _anchor(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def _cell(text: str) -> str:
    """A text as it can be in a table."""
    return " ".join(text.split()).replace("|", "\\|")
