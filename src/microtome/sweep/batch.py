"""``python -m microtome.sweep.batch FILE.json``: several decompositions as one batched program."""

import json
import sys
from pathlib import Path

from microtome.core.errors import MicrotomeError


def main(path: str) -> int:
    """Run what the file lists: configurations, the folder of each, and where to look for targets."""
    from microtome.decomposition.config import config_from_mapping
    from microtome.decomposition.together import run_together

    job = json.loads(Path(path).read_text(encoding="utf-8"))
    try:
        run_together(
            [config_from_mapping(config) for config in job["configs"]],
            [Path(folder) for folder in job["folders"]],
            runs_root=Path(job["runs_root"]),
            relative_to=Path(job["relative_to"]) if job["relative_to"] else None,
            command=job["command"],
        )
    except MicrotomeError as error:
        sys.stderr.write(f"microtome: {' '.join(str(error).split())}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
