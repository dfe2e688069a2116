"""What ``tests/test_processes.py`` lets ``torchrun`` start: trainings in processes that join once.

``python -m torch.distributed.run … tests/several.py FOLDER…`` trains what the file ``overrides.json`` in each folder
asks for.
"""

import json
import sys
from pathlib import Path

from helpers import composed

from vit_cnn.processes.joined import joined
from vit_cnn.processes.together import gathered, here
from vit_cnn.training.loop import train

with joined():
    for folder in map(Path, sys.argv[1:]):
        cfg = composed(*json.loads((folder / "overrides.json").read_text()))
        train(cfg, folder if here.rank == 0 else Path("of_others"))
        gathered(None)
