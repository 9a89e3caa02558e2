"""Packaged recipes: configurations that can be named instead of a file."""

from importlib import resources
from pathlib import Path

from microtome.core.config_keys import nearest
from microtome.core.device import say
from microtome.core.errors import MicrotomeError

# Main configurations of the original repositories, which are not packaged -> the recipe for the same target.
# `tms_5-2_config.yaml` and alike need no line: `_config` is dropped.
OLD_NAMES = {
    "tms_config": "tms_40-10",
    "tms_topk_config": "tms_40-10_apd",
    "resid_mlp_config": "resid_mlp1",
    "resid_mlp_topk_config": "resid_mlp1_apd",
}


def recipes(folder: Path | None = None, command: str = "") -> dict[str, Path]:
    """Every packaged recipe, by name; or those of one command (``train ...``, ``decompose``, ``sweep``)."""
    folder = folder or Path(str(resources.files("microtome") / "recipes"))
    found = {file.stem: file for file in sorted(folder.rglob("*.yaml"))}
    if not command:
        return found
    return {name: file for name, file in found.items() if _command_of(name) == command.split()[0]}


def _command_of(name: str) -> str:
    if name.startswith("magnitude"):
        return "magnitude"
    if name.startswith("dictionary"):
        return "dictionary"
    if name.startswith("causal_importance"):
        return "importance"
    if name.endswith("sweep_config"):
        return "sweep"
    return "train" if "train_" in name else "decompose"


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
    alike = {key.replace("-", "_"): file for key, file in known.items()}
    for candidate in (name, OLD_NAMES.get(name, name.removesuffix("_config"))):
        found = known.get(candidate) or alike.get(candidate.replace("-", "_"))
        if found is not None:
            if candidate != name:
                say(f"{text}: not here; the packaged recipe {found.stem} stands in")
            return found
    near = nearest(name, list(known))
    mend = f"did you mean {near}?" if near else "check the path"
    known = recipes(folder, command)
    listed = f" (recipes: {', '.join(known)})" if known else ""
    raise MicrotomeError(f"{text}: neither a file nor a recipe; {mend}{listed}")
