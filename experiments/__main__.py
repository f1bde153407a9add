"""Lists the experiments, or runs one of them; from the top of the repository.

python -m experiments                      # numbers and questions
python -m experiments 0015 --report        # run.py of 0015-sampling; without one, experiments/ablations.py
python -m experiments 0003/evaluate ...    # another script of a folder
python -m experiments ablations run        # experiments 0010 to 0014 together
"""

import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent


FOLDERS = {path.name: path for path in sorted(HERE.glob("[0-9]*-*")) if (path / "README.md").exists()}


def script(target: str) -> tuple[str, list[str]] | None:
    """(module, arguments that it gets) of NUMBER, NUMBER/SCRIPT or "ablations"; None where there is none."""
    if target == "ablations":
        return "experiments.ablations", []
    number, _, name = target.rstrip("/").partition("/")
    folder = next((own for own in FOLDERS if number and own.startswith(number)), None)
    if folder is None:
        return None
    if (FOLDERS[folder] / f"{name or 'run'}.py").exists():
        return f"experiments.{folder}.{name or 'run'}", []
    return None if name else ("experiments.ablations", [folder])


def main(argv: list[str]) -> int | None:
    if not argv or argv[0] in ("-h", "--help"):
        for name, path in FOLDERS.items():
            question = (path / "README.md").read_text().partition("\n")[0].lstrip("# ").partition(" ")[2]
            print(f"{name[:4]}  {question}")
        return None
    if (found := script(argv[0])) is None:
        known = ", ".join(name[:4] for name in FOLDERS)
        print(f"experiments: got {argv[0]}, expected ablations, NUMBER/SCRIPT or one of {known}", file=sys.stderr)
        return 2
    module, more = found
    sys.argv = [f"python -m experiments {argv[0]}", *argv[1:], *more]
    return import_module(module).main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
