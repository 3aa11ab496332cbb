"""Hydra beside today's argparse."""

import argparse
import sys

import pytest
from hydra._internal.utils import get_args_parser

import lightning_maml  # noqa: F401


def test_hydra_parses_and_keeps_its_lazy_help() -> None:
    parser = get_args_parser()
    assert parser.parse_args(["--shell-completion", "a=1"]).overrides == ["a=1"]
    (help_of_completion,) = [str(action.help) for action in parser._actions if action.dest == "shell_completion"]
    assert "Bash - Install" in help_of_completion


@pytest.mark.skipif(sys.version_info < (3, 14), reason="argparse checks no help before Python 3.14")
def test_argparse_still_checks_strings() -> None:
    with pytest.raises(ValueError, match="badly formed help string"):
        argparse.ArgumentParser().add_argument("--share", help="50% of it")
