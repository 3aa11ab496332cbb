"""YAMLs of a user's that cannot be read, `.env` too: each is one line, with the file's name."""

from pathlib import Path

import pytest

from lightning_maml.errors import SettingError
from lightning_maml.shell import command_line
from tests.integration.refusals import refuse

BOMB = "a0: &a0 x\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))
YAMLS = {
    "a tab": (b"torch_module:\n\tnum_filters: 4\n", "odd.yaml, line 2: found character '\\t'"),
    "two colons": (b"a: b: c\n", "odd.yaml, line 1: mapping values are not allowed here"),
    "a key twice": (b"a: 1\na: 2\n", "odd.yaml, line 2: found duplicate key a"),
    "Latin-1": ("# Größe\na: 1\n".encode("latin-1"), "odd.yaml=byte 4: a YAML is UTF-8; save it as that"),
    "itself": (b"defaults:\n  - odd\n", "a YAML or a setting refers to itself"),
    "an alias bomb": (BOMB.encode(), "odd.yaml=81 aliases: give at most 16"),
    "no end": (b"a: [1, 2\n", "odd.yaml, line 2: "),
    "a list": (b"# no settings\n- 1\n- 2\n", "odd.yaml=- …: a YAML holds settings"),
    "a target that is none": (
        b"torch_module:\n  _target_: [1]\n",
        "model.torch_module._target_=[1]: there is no such class",
    ),
}


@pytest.mark.parametrize(("content", "said"), YAMLS.values(), ids=YAMLS.keys())
def test_a_yaml_is_refused_in_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "own" / "model").mkdir(parents=True)
    (tmp_path / "own" / "model" / "odd.yaml").write_bytes(content)
    line = refuse("model=odd", f"hydra.searchpath=[file://{tmp_path}/own]", folder=tmp_path / "run")
    assert said in line


def test_dotenv_is_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_bytes("DATASET_PATH=/dåta\n".encode("latin-1"))
    monkeypatch.setattr(command_line, "ROOT", tmp_path)
    with pytest.raises(SettingError, match=r"\.env=byte 15: this file is UTF-8"):
        command_line.read_dotenv()
