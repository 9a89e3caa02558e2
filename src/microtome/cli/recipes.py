"""Packaged recipes: configurations that can be named instead of a file."""

from importlib import resources
from pathlib import Path

from microtome.core.config_keys import nearest
from microtome.core.errors import MicrotomeError


def recipes(folder: Path | None = None, command: str = "") -> dict[str, Path]:
    """Every packaged recipe, by name; or those of one command (``train ...`` or ``decompose``)."""
    folder = folder or Path(str(resources.files("microtome") / "recipes"))
    found = {file.stem: file for file in sorted(folder.rglob("*.yaml"))}
    if not command:
        return found
    trains = command.startswith("train")
    return {name: file for name, file in found.items() if trains == ("train_" in name)}


def find_config(text: str, folder: Path | None = None, command: str = "") -> Path:
    """The file that ``text`` names: a path, or a packaged recipe with or without ``.yaml``.

    The paths that the configurations have in the original repository work too, where no such file is here.
    Raises ``MicrotomeError`` with the nearest recipe.
    """
    path = Path(text)
    if path.exists():
        return path
    known = recipes(folder)
    name = path.name.removesuffix(".yaml").removesuffix(".yml")
    found = known.get(name) or {key.replace("-", "_"): file for key, file in known.items()}.get(
        name.replace("-", "_")
    )
    if found is not None:
        return found
    near = nearest(name, list(known))
    mend = f"did you mean {near}?" if near else "check the path"
    known = recipes(folder, command)
    listed = f" (recipes: {', '.join(known)})" if known else ""
    raise MicrotomeError(f"{text}: neither a file nor a recipe; {mend}{listed}")
