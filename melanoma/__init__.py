__version__ = "0.1.0"

import os as _os

# OpenMP's threads spin while they wait, which starves whoever shares the CPU: two trainings on two
# cores ran at a twentieth of one's speed. Waiting quietly costs a lone process nothing measurable.
# It must be set before torch is loaded.
_os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Arrow's own allocator keeps what it once took: 15 MB a process after a table of 33,126 rows.
_os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if _TYPE_CHECKING:
    from .data.prepare import prepare
    from .data.split import make_folds
    from .evaluation.evaluation import evaluate
    from .predict.predictor import Predictor
    from .run.config import FoldsConfig, PredictConfig, PrepareConfig, TrainConfig
    from .run.layout import Run
    from .train.fold import train_fold

_VERBS = {  # imported when they are asked for: neither this nor --help waits for torch
    "Run": "run.layout",
    "PrepareConfig": "run.config",
    "FoldsConfig": "run.config",
    "TrainConfig": "run.config",
    "PredictConfig": "run.config",
    "prepare": "data.prepare",
    "make_folds": "data.split",
    "train_fold": "train.fold",
    "evaluate": "evaluation.evaluation",
    "Predictor": "predict.predictor",
}
__all__ = [
    "FoldsConfig", "PredictConfig", "Predictor", "PrepareConfig", "Run", "TrainConfig", "evaluate",
    "make_folds", "prepare", "train_fold",
]  # fmt: skip


def __getattr__(name: str) -> _Any:
    if name in _VERBS:
        return getattr(_import_module(f"melanoma.{_VERBS[name]}"), name)
    raise AttributeError(f"module 'melanoma' has no attribute {name!r}")
