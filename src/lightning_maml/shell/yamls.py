"""What is wrong with somebody's YAML that Hydra would not tell, or not in a lifetime."""

import re
from collections.abc import Iterable
from pathlib import Path

from lightning_maml.errors import SettingError

_ALIAS = re.compile(r"(?m)(?<=[\s,\[:-])\*[\w-]+")
_A_LIST = re.compile(r"\A(?:[ \t]*(?:#.*)?\n)*- ")
_MANY = 16  # each may double what the one before stands for


def check_yamls(folders: Iterable[Path]) -> None:
    """Check every YAML below these folders: it is UTF-8, a mapping, and has at most 16 aliases, `*name`.

    Raises:
        SettingError: naming the file.
    """
    for file in (file for folder in folders for file in folder.rglob("*.yaml")):
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise SettingError(str(file), f"byte {error.start}", "a YAML is UTF-8; save it as that") from error
        except OSError:
            continue  # Hydra says so where it is asked for
        if _A_LIST.match(text):
            raise SettingError(str(file), "- …", "a YAML holds settings, NAME: VALUE, and this one a list")
        if (aliases := len(_ALIAS.findall(text))) > _MANY:
            raise SettingError(str(file), f"{aliases} aliases", f"give at most {_MANY}, or ${{other.setting}}")
