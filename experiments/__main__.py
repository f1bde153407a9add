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


def main(argv: list[str]) -> int | None:
    folders = {path.name: path for path in sorted(HERE.glob("[0-9]*-*"))}
    if not argv or argv[0] in ("-h", "--help"):
        questions = [(path / "README.md").read_text().partition("\n")[0].lstrip("# ") for path in folders.values()]
        print("\n".join(f"{name[:4]}  {said.partition(' ')[2]}" for name, said in zip(folders, questions, strict=True)))
        return None
    name, _, script = argv[0].rstrip("/").partition("/")
    folder = next((own for own in folders if name and own.startswith(name)), None)
    if folder and (folders[folder] / f"{script or 'run'}.py").exists():
        module = f"{folder}.{script or 'run'}"
    elif (folder and not script) or name == "ablations":
        module, argv = "ablations", [*argv, folder] if folder else argv
    else:
        print(f"experiments: got {argv[0]}, expected one of {', '.join(own[:4] for own in folders)}, ablations, or "
              "NUMBER/SCRIPT", file=sys.stderr)  # fmt: skip
        return 2
    sys.argv = [f"python -m experiments {argv[0]}", *argv[1:]]
    return import_module(f"experiments.{module}").main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
