"""Completion scripts for bash, zsh and fish, as small as they can be: no helper of a package of
completions is needed, and bash 3.2 of macOS will do.

In all of them the words so far are read from the left, which says how deep in the tree of commands
the cursor is; the value of an option is skipped, so that a key named like a command is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from headway.commands.completion.words import Node, Option, Value, walk

__all__ = ["SCRIPTS", "bash", "fish", "zsh"]


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _path(node: Node) -> str:
    return " ".join(node.path)


def _with_values(node: Node) -> list[Option]:
    return [option for option in node.options if option.value is not None]


def _options(node: Node) -> list[str]:
    return [name for option in node.options for name in option.names]


def _next(node: Node) -> list[str]:
    """The words that may follow and are no options."""
    commands = [command.path[-1] for command in node.commands]
    return commands + [choice for value in node.arguments for choice in value.choices]


# ---- bash

_BASH = """\
# Completion of headway for bash; made by: headway completion bash

_headway_files() {
    compopt -o default 2>/dev/null || COMPREPLY=($(compgen -f -- "$1"))
}

_headway() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} at=headway skip='' i word
    COMPREPLY=()
    # --option=value comes as three words.
    if [[ $cur == '=' ]]; then
        cur=''
    elif [[ $prev == '=' ]] && ((COMP_CWORD > 1)); then
        prev=${COMP_WORDS[COMP_CWORD-2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ -n $skip ]]; then
            if [[ $word != '=' ]]; then skip=''; fi
            continue
        fi
        case "$at $word" in
@commands@
                at="$at $word" ;;
@valued@
                skip=1 ;;
        esac
    done
    case "$at $prev" in
@values@
    esac
    if [[ $cur == -* ]]; then
        case "$at" in
@options@
        esac
        return
    fi
    case "$at" in
@words@
    esac
}

complete -F _headway headway
"""


def bash(root: Node) -> str:
    """The script for bash."""
    nodes = list(walk(root))
    values: dict[str, list[str]] = {}
    for node in nodes:
        for option in _with_values(node):
            assert option.value is not None
            for name in option.names:
                values.setdefault(_bash_value(option.value), []).append(f"{_path(node)} {name}")
    parts = {
        "commands": _bash_case((_path(node) for node in nodes if node is not root), 12),
        "valued": _bash_case((place for places in values.values() for place in places), 12),
        "values": "\n".join(
            f"{_bash_case(places, 8)}\n            {what}return ;;"
            for what, places in values.items()
        ),
        "options": "\n".join(
            f"            {_quoted(_path(node))}) {_bash_words(_options(node))} ;;"
            for node in nodes
            if node.options
        ),
        "words": "\n".join(
            f"        {_quoted(_path(node))}) {_bash_words(_next(node))} ;;"
            if _next(node)
            else f'        {_quoted(_path(node))}) _headway_files "$cur" ;;'
            for node in nodes
            if _next(node) or any(value.is_file for value in node.arguments)
        ),
    }
    return _filled(_BASH, parts)


def _bash_case(places: Iterable[str], indent: int) -> str:
    """A pattern of `case`, a line for each alternative."""
    between = "|\\\n" + " " * indent
    return " " * indent + between.join(_quoted(place) for place in places) + ")"


def _bash_words(words: Iterable[str]) -> str:
    return f'COMPREPLY=($(compgen -W {_quoted(" ".join(words))} -- "$cur"))'


def _bash_value(value: Value) -> str:
    if value.choices:
        return f"{_bash_words(value.choices)}; "
    return '_headway_files "$cur"; ' if value.is_file else ""


def _filled(template: str, parts: Mapping[str, str]) -> str:
    for name, text in parts.items():
        template = template.replace(f"@{name}@", text)
    return template


# ---- zsh

_ZSH_END = """
if [[ $funcstack[1] == _headway ]]; then
    _headway "$@"
else
    compdef _headway headway
fi
"""


def zsh(root: Node) -> str:
    """The script for zsh: a function for each command, on `_arguments`."""
    functions = [_zsh_function(node) for node in walk(root)]
    head = "#compdef headway\n# Completion of headway for zsh; made by: headway completion zsh\n"
    return "\n".join([head, *functions]) + _ZSH_END


def _zsh_name(node: Node) -> str:
    return "_" + "_".join(part.replace("-", "_") for part in node.path)


def _zsh_function(node: Node) -> str:
    specs = [spec for option in node.options for spec in _zsh_option(option)]
    if node.commands:
        specs += ["'1: :->command'", "'*:: :->rest'"]
    for value in () if node.commands else node.arguments:
        place = "*" if value.repeated else ""
        # Where anything may stand, zsh would list the options beside it instead of completing them.
        action = _zsh_action(value).strip() or "()"
        specs.append(_quoted(f"{place}:{_zsh_text(value.name)}:{action}"))
    lines = [f"{_zsh_name(node)}() {{", "    local context state state_descr line ret=1"]
    lines.append("    local curcontext=$curcontext")
    lines.append("    typeset -A opt_args")
    lines.append("    _arguments -C \\")
    lines += [f"        {spec} \\" for spec in specs]
    lines.append("        && ret=0")
    if node.commands:
        described = " ".join(
            _quoted(f"{_zsh_text(command.path[-1])}:{command.help}") for command in node.commands
        )
        lines += [
            "    case $state in",
            "        command)",
            f"            local -a commands=({described})",
            "            _describe -t commands command commands && ret=0 ;;",
            "        rest)",
            "            case $words[1] in",
            *(
                f"                {command.path[-1]}) {_zsh_name(command)} && ret=0 ;;"
                for command in node.commands
            ),
            "            esac ;;",
            "    esac",
        ]
    return "\n".join([*lines, "    return ret", "}", ""])


def _zsh_option(option: Option) -> list[str]:
    text = _zsh_text(option.help)
    tail = f"[{text}]"
    if option.value is not None:
        tail += f":{_zsh_text(option.value.name)}:{_zsh_action(option.value)}"
    others = "" if option.repeated else f"({' '.join(option.names)})"
    many = "*" if option.repeated else ""
    # With "=", both --name value and --name=value are completed.
    sign = {name: "=" if option.value and name.startswith("--") else "" for name in option.names}
    return [_quoted(f"{others}{many}{name}{sign[name]}{tail}") for name in option.names]


def _zsh_text(text: str) -> str:
    for special in ("\\", "[", "]", ":"):
        text = text.replace(special, "\\" + special)
    return text


def _zsh_action(value: Value) -> str:
    if value.choices:
        return f"({' '.join(value.choices)})"
    return "_files" if value.is_file else " "


# ---- fish

_FISH = """\
# Completion of headway for fish; made by: headway completion fish

# Whether the commands so far are exactly these.
function __headway_at
    set -l words (commandline -opc)
    set -e words[1]
    set -l at headway
    set -l skip 0
    for word in $words
        if test $skip = 1
            set skip 0
            continue
        end
        switch "$at $word"
            case @commands@
                set at "$at $word"
            case @valued@
                set skip 1
        end
    end
    test "$at" = "$argv"
end

complete -c headway -f
"""


def fish(root: Node) -> str:
    """The script for fish."""
    nodes = list(walk(root))
    valued = [
        f"{_path(node)} {name}"
        for node in nodes
        for option in _with_values(node)
        for name in option.names
    ]
    parts = {
        "commands": " ".join(_fish(_path(node)) for node in nodes if node is not root),
        "valued": " ".join(map(_fish, valued)),
    }
    return _filled(_FISH, parts) + "".join(
        f"complete -c headway -n {_fish('__headway_at ' + _path(node))} {what}\n"
        for node in nodes
        for what in _fish_lines(node)
    )


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_lines(node: Node) -> list[str]:
    lines = [f"-a {_fish(command.path[-1])} -d {_fish(command.help)}" for command in node.commands]
    for value in node.arguments:
        if value.choices:
            lines.append(f"-a {_fish(' '.join(value.choices))}")
        elif value.is_file:
            lines.append("-F")
    for option in node.options:
        names = " ".join(
            f"-l {_fish(name[2:])}" if name.startswith("--") else f"-s {_fish(name[1:])}"
            for name in option.names
        )
        lines.append(f"{names}{_fish_value(option.value)} -d {_fish(option.help)}")
    return lines


def _fish_value(value: Value | None) -> str:
    if value is None:
        return ""
    if value.choices:
        return f" -x -a {_fish(' '.join(value.choices))}"
    return " -r -F" if value.is_file else " -x"


SCRIPTS: Mapping[str, Callable[[Node], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
