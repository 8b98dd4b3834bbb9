"""A hook of mkdocs.yml: pages that are generated when the site is built, so that nothing is written down twice.

The files at the root of the repository and the notebook become pages, the command line is documented from its own help,
and the keys of recipes and task files from their JSON Schemas. None of it needs torch.
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
        "notebook.md": notebook_page(),
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
    return {**ROOT_PAGES, "notebook.ipynb": "notebook.md"}.get(path, otherwise)


def notebook_page() -> str:
    """docs/notebook.ipynb with its stored outputs, as Markdown."""
    notebook = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))
    return "\n\n".join(part for cell in notebook["cells"] for part in _notebook_cell(cell)) + "\n"


def _notebook_cell(cell: Mapping[str, Any]) -> Iterator[str]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "text/html" in data:
            yield "".join(data["text/html"])
        elif "image/png" in data:
            yield f'<img alt="Output of the cell above" src="data:image/png;base64,{data["image/png"].strip()}">'
        else:
            yield f"```text\n{''.join(output.get('text') or data['text/plain']).rstrip()}\n```"


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
    params = [each for each in command.get_params(context) if each.name != "help"]
    records = [record for each in params if (record := each.get_help_record(context)) is not None]
    if records:
        yield from ("| argument or option | meaning |", "|---|---|")
        yield from (*(f"| `{names}` | {_cell(text)} |" for names, text in records), "")
    for subcommand in getattr(command, "commands", {}).values():
        path = f"{name} {subcommand.name}"
        yield from (f"{'#' * len(path.split())} {path.partition(' ')[2]}", "", subcommand.help or "", "")
        yield from _command(subcommand, type(context)(subcommand, info_name=subcommand.name, parent=context), path)


def schema_page(kind: str) -> str:
    """The keys of a recipe or a task file, a table for each mapping in it, from its JSON Schema."""
    schema = _schema(kind)
    if kind == "recipe":
        keys = _Keys(schema["$defs"], elsewhere=_task_kinds())
        lines = ["# Keys of a recipe", "", *keys.table(schema, "")]
    else:
        keys = _Keys(schema["$defs"])
        lines = ["# Keys of a task file", "", f"One of: {keys.values(schema, '')}."]
    lines += ["", f"Editors can check files against [{kind}.schema.json]({kind}.schema.json).", ""]
    return "\n".join([*lines, *keys.sections()])


def _schema(kind: str) -> Any:
    return json.loads((ROOT / "docs" / f"{kind}.schema.json").read_text(encoding="utf-8"))


def _task_kinds() -> dict[str, str]:
    """Where the page on task files shows each kind, by the name of its definition."""
    schema = _schema("task")
    definitions = {_name(each): schema["$defs"][_name(each)] for each in schema["oneOf"]}
    return {name: f"task-reference.md#{_anchor('', _which(each))}" for name, each in definitions.items()}


class _Keys:
    """Tables of a schema's mappings, in the order in which they are referred to; each is shown once.

    elsewhere: the address of definitions that another page shows.
    """

    def __init__(self, definitions: Mapping[str, Schema], elsewhere: Mapping[str, str] | None = None) -> None:
        self._definitions, self._elsewhere = definitions, elsewhere or {}
        self._shown: dict[str, tuple[str, str]] = {}
        """By name: where a recipe has it, such as `evolution.mutation`, and which of several it is there."""

    def sections(self) -> Iterator[str]:
        """The tables of all mappings that were referred to, and of those that these refer to."""
        done = 0
        while done < len(self._shown):
            name, (place, which) = list(self._shown.items())[done]
            title = " with ".join(f"`{each}`" for each in (place, which) if each)
            yield from (
                f"## {title} {{ #{_anchor(place, which)} }}",
                "",
                self._definitions[name].get("description", ""),
                "",
            )
            yield from (*self.table(self._definitions[name], place), "")
            done += 1

    def table(self, schema: Schema, place: str) -> Iterator[str]:
        """The keys of a mapping."""
        yield from ("| key | meaning | value | default |", "|---|---|---|---|")
        for key, value in schema["properties"].items():
            default = "required" if key in schema.get("required", ()) else _default(value)
            values = self.values(value, f"{place}.{key}".lstrip("."))
            yield f"| `{key}` | {_cell(value.get('description', ''))} | {_cell(values)} | {_cell(default)} |"

    def values(self, value: Schema, place: str, several: bool = False) -> str:
        """The values that a schema allows, in words, with links to the mappings among them.

        several: it is one of several schemas that are allowed here.
        """
        if "$ref" in value:
            return self._link(_name(value), place, several)
        if "const" in value:
            return f"`{value['const']}`"
        if "enum" in value:
            return ", ".join(f"`{each}`" for each in value["enum"])
        choices = [each for each in (*value.get("oneOf", ()), *value.get("anyOf", ())) if each.get("type") != "null"]
        if choices:
            several = several or len(choices) > 1
            return " or ".join(dict.fromkeys(self.values(each, place, several) for each in choices))
        if value.get("type") == "array":
            return self._list(value, place)
        if value.get("type") == "object":
            return self._mapping(value, place)
        return {"string": "text", "boolean": "`true` or `false`"}.get(value.get("type", "")) or _number(value)

    def _list(self, value: Schema, place: str) -> str:
        if "prefixItems" in value:
            return f"[{'; '.join(self.values(each, place) for each in value['prefixItems'])}]"
        return f"list of {self.values(value.get('items', {}), f'{place}[]')}"

    def _mapping(self, value: Schema, place: str) -> str:
        allowed = list(value.get("patternProperties", {}).values())
        if isinstance(value.get("additionalProperties"), dict):
            allowed.append(value["additionalProperties"])
        return f"mapping from names to {self.values(allowed[0], f'{place}.NAME')}" if allowed else "mapping"

    def _link(self, name: str, place: str, several: bool) -> str:
        definition = self._definitions[name]
        if "properties" not in definition:
            return self.values(definition, place, several)
        which = _which(definition) if several else ""
        if name in self._elsewhere:
            return f"[`{which or place}`]({self._elsewhere[name]})"
        place, which = self._shown.setdefault(name, (place, which))
        return f"[`{which or place}`](#{_anchor(place, which)})"


def _name(reference: Schema) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _which(definition: Schema) -> str:
    """What tells a mapping from others that may be in its place: its kind, or the keys that it must have."""
    properties = definition["properties"]
    fixed = [f"{key}: {each['const']}" for key, each in properties.items() if "const" in each]
    return ", ".join(fixed or definition.get("required") or properties)


def _default(value: Schema) -> str:
    default = value.get("default")
    if default in (None, "") or isinstance(default, dict | list):
        return ""
    return f"`{default if isinstance(default, str) else json.dumps(default)}`"


def _number(value: Schema) -> str:
    kind = {"integer": "whole number", "number": "number"}.get(value.get("type", ""), "any value")
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return ", ".join([kind, *(f"{sign} {value[key]}" for key, sign in signs.items() if key in value)])


def _title(place: str, which: str) -> str:
    return " with ".join(f"`{each}`" for each in (place, which) if each)


def _anchor(place: str, which: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", _title(place, which).lower()).strip("-")


def _cell(text: str) -> str:
    """A text as it can be in a table."""
    return " ".join(text.split()).replace("|", "\\|")
