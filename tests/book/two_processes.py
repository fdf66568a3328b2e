"""One of two processes that train the chapters' networks together: its rank, a folder.

Each evaluates everything by itself; what they do together is the training.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import miniature
import pytest
import torch

from eenotes import _processes, identity, training
from eenotes_book import settings
from eenotes_book.chapters import FOLDERS


def main(rank: str, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    wanted = {name: settings.load(name, "reduced") for name in FOLDERS}
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_PORT": "0"}
    os.environ |= {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1"}
    meeting = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=int(rank), world_size=2)
    assert training.accelerator().num_processes == 2
    end, trained = training.share_buffers, {}
    for module in [m for name, m in sys.modules.items() if name.startswith("eenotes.")]:
        if module not in (training, _processes) and hasattr(module, "gathered"):
            module.gathered = lambda value: [value]
    for name, section in wanted.items():
        if FOLDERS[name] not in miniature.CHAPTERS:
            continue
        found = trained[name] = []

        def shared(model, found=found):
            end(model)
            found.append(identity.fingerprint(model))

        training.share_buffers = shared
        with pytest.MonkeyPatch.context() as patch:
            miniature.replace_data(patch, Path(folder, name))
            miniature.CHAPTERS[FOLDERS[name]](miniature.few(section))
    Path(folder, f"{rank}.json").write_text(json.dumps(trained))


if __name__ == "__main__":
    main(*sys.argv[1:])
