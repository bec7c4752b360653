"""The figures in a message, and the settings that it suggests: tests compare them instead of its words."""

from __future__ import annotations

import re
import shlex
from typing import Any

from engine.config.settings import parse_overrides

_FIGURE = re.compile(r"(?<![\w.-])[+−-]?\d+(?:[.,:]\d+)*(?:e[+-]?\d+)?(?:%|(?![\w.,:-]*[A-Za-z]))")
_OPTION = re.compile(r"""--set ((?:'[^']*'|"[^"]*"|[^\s'"`])+)""")


def figures(text: str) -> list[str]:
    """The numbers of a text in their order, as they are written; the digits of a name such as `lora-3f2a` are none.

    >>> figures("1,004 of 1,190 rows (84.4%), 2 files")
    ['1,004', '1,190', '84.4%', '2']
    """
    return _FIGURE.findall(text)


def settings(text: str) -> dict[str, Any]:
    """The settings of all `--set KEY=VALUE` in a text, parsed as those of a command line.

    >>> settings("use --set train.batch=4: it fits, or --set 'data.map.prompt={a} b' (3 rows)")
    {'train.batch': 4, 'data.map': {'prompt': '{a} b'}}
    """
    words = _OPTION.findall(text)
    return parse_overrides(shlex.split(word)[0] if word[-1] in "'\"" else word.rstrip(".,:;)") for word in words)
