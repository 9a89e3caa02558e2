"""What each of the processes does that ``test_distributed.py`` starts with torchrun."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from microtome.core.distributed import all_reduce_sum, processes, share, wait_for_all


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    items = list(range(101))
    with processes("cpu") as own:
        mine = share(items, own)
        sums = torch.tensor([sum(mine), len(mine)], dtype=torch.float64)
        # A transposed view: what is summed is not contiguous.
        grid = torch.arange(6.0).reshape(2, 3).T * (own.rank + 1)
        total, grids = all_reduce_sum(sums, own), all_reduce_sum(grid, own)
        if own.main:
            (folder / "written_by_main").write_text("x")
        wait_for_all(own)
        seen = (folder / "written_by_main").exists()
        with processes("cpu") as again:  # a group that is there already stays
            assert again == own
        found = {
            "rank": own.rank,
            "size": own.size,
            "backend": dist.get_backend(),
            "items": list(mine),
            "total": total.tolist(),
            "grid": grids.tolist(),
            "seen": seen,
        }
    found["left"] = not dist.is_initialized()
    (folder / f"rank{own.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
