"""What a script needs to run elsewhere: the modules of whisper_lab that it reaches and the lines of requirements.txt,
found in its imports, those inside functions too."""

import ast
import importlib.metadata
import re
import sys
from collections.abc import Set
from pathlib import Path

from . import LabError
from .files import ROOT

PACKAGE = ROOT / "whisper_lab"


def imports(script: Path) -> tuple[set[Path], set[str]]:
    """The modules of whisper_lab that `script` reaches, and the names of the other packages that it and they import."""
    start = PACKAGE / "__init__.py"
    modules, packages, queue = {start}, set(), [script, start]
    while queue:
        names, importer = [], queue.pop()
        for node in ast.walk(ast.parse(importer.read_bytes())):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                parts = importer.relative_to(ROOT).parts[: -node.level] if node.level else ()
                names += [".".join([*parts, *filter(None, [node.module]), alias.name]) for alias in node.names]
        for top, *rest in (name.split(".") for name in names):
            if top != "whisper_lab":
                packages.add(top)
                continue
            places = [PACKAGE.joinpath(*rest[:length]) for length in range(len(rest) + 1)]
            there = [file for place in places for file in (place.with_suffix(".py"), place / "__init__.py")]
            new = {file for file in there if file.is_file()} - modules
            modules |= new
            queue += new
    return modules, packages - sys.stdlib_module_names


def pins() -> dict[str, str]:
    """The lines of the project's requirements.txt, by the name of what they pin."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return {_plain(found[0]): line for line in lines if (found := re.match(r"\w[\w.-]*", line))}


def requirements(packages: set[str]) -> list[str]:
    """Those lines of requirements.txt that bring `packages` (named as they are imported), or pin what these bring.

    What an imported package lists as its extra "default" counts too: yt-dlp looks for yt-dlp-ejs by itself.
    Raises LabError for a package that no line brings.
    """
    lines, provided = pins(), importlib.metadata.packages_distributions()
    origins = {package: {_plain(name) for name in provided.get(package, [package])} for package in packages}
    direct = [line for name, line in lines.items() if any(name in names for names in origins.values())]
    brought, along = installed_by(direct), installed_by(direct, {"default"})
    if missing := sorted(package for package, names in origins.items() if not names & brought):
        raise LabError(f"no line of requirements.txt brings {', '.join(missing)}, which the page imports; add one")
    return [line for name, line in lines.items() if name in along]


def installed_by(lines: list[str], extras: Set[str] = frozenset()) -> set[str]:
    """Names of the distributions that pip installs for these lines, going by what is installed here.

    `extras` are asked for beside those that the lines name.
    """
    from packaging.requirements import Requirement

    found, queue = set(), [Requirement(line.partition("#")[0]) for line in lines]
    for wanted in queue:
        wanted.extras |= extras
    while queue:
        wanted = queue.pop()
        for extra in {"", *wanted.extras}:
            if (key := (_plain(wanted.name), extra)) not in found:
                found.add(key)
                try:
                    theirs = map(Requirement, importlib.metadata.requires(wanted.name) or ())
                except importlib.metadata.PackageNotFoundError:
                    continue
                queue += [one for one in theirs if not one.marker or one.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def _plain(name: str) -> str:
    """Names of packages are the same in any case, and with - _ or . between words."""
    return re.sub(r"[-_.]+", "-", name).lower()
