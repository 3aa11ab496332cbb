"""What the Tab key offers beyond what Hydra knows: members in folders, experiment=omniglot/maml_5way_1shot."""

from typing import Any

from hydra.plugins.completion_plugin import CompletionPlugin

from lightning_maml.shell.overrides import in_folders

_hydras_own = CompletionPlugin._query_config_groups  # Hydra has no other place to say so


def _with_folders(self: Any, word: str, config_name: str | None, words: list[str]) -> tuple[list[str], bool]:
    found, exact = _hydras_own(self, word, config_name=config_name, words=words)
    group, equals, _ = word.partition("=")
    if equals:
        found += [name for member in in_folders(group) if (name := f"{group}={member}").startswith(word)]
    else:  # Hydra takes a group with folders for one that has no members of its own
        found = [f"{name}=" if in_folders(name) else name for name in found]
    return found, exact


def complete_folders() -> None:
    """Have Hydra's completion offer them."""
    CompletionPlugin._query_config_groups = _with_folders  # type: ignore[method-assign]
