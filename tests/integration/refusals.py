"""A run that is refused: one clear line, exit code 1 or 2, no traceback, and nothing left behind."""

from pathlib import Path

from tests.integration.command import run, tiny

CSV = "logging=csv"


def refuse(*arguments: str, folder: Path, **env: str) -> str:
    """The one line of a refused run, after checking that it is one and that nothing but a log was left."""
    done = run(
        *tiny(*([] if any(a.startswith("logging=") for a in arguments) else [CSV]), *arguments), folder=folder, **env
    )
    return the_line(done.returncode, done.stdout, done.stderr, folder)


def the_line(code: int, stdout: str, stderr: str, folder: Path) -> str:
    """The one line of what has ended so, in that folder, after the same checks."""
    assert code in (1, 2), stdout + stderr
    assert "Traceback" not in stdout + stderr
    errors = [line for line in stderr.splitlines() if "rror" in line]
    assert len(errors) == 1 and errors[0].startswith("error: "), stderr
    left = {path.name for path in folder.iterdir()} if folder.exists() else set()
    assert left <= {".hydra", "run.log"}, left
    return errors[0]
