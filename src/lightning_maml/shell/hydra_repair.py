"""Let Hydra 1.3 start on Python 3.14. It can go with Hydra 1.4, which does the like (seen in 1.4.0rc3).

Since Python 3.14 argparse checks an argument's help when the argument is added, and raises `badly formed help string`
for Hydra's `--shell-completion`, whose help is an object that Hydra alone prints (hydra issue 3121).
"""

import sys
from typing import Any


def install() -> None:
    """Leave a help that is no string unchecked, as argparse did before."""
    if sys.version_info < (3, 14):
        return
    import argparse

    parser_class: Any = argparse.ArgumentParser
    check = parser_class._check_help

    def check_strings(parser: Any, action: argparse.Action) -> None:
        if action.help is None or isinstance(action.help, str):
            check(parser, action)

    parser_class._check_help = check_strings
