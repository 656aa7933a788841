"""Training and evaluation: the loop, and what surrounds it."""

from litedetr.engine.batches import LoaderSettings, evaluation_batches
from litedetr.engine.checkpoint import (
    Checkpoint,
    CheckpointError,
    LoadedDetector,
    OtherModelError,
    load_checkpoint,
    load_detector,
    save_checkpoint,
)
from litedetr.engine.config import (
    Precision,
    RunConfig,
    ScheduleConfig,
    TrainerConfig,
    beside_model,
    detector_config,
    require_image_size,
)
from litedetr.engine.convert import ConvertConfig, convert
from litedetr.engine.distributed import (
    LostRanksError,
    Ranks,
    choose_device,
    join_ranks,
    use_all_cores,
    use_deterministic_algorithms,
)
from litedetr.engine.evaluate import EvalConfig, evaluate_checkpoint
from litedetr.engine.evaluator import Evaluation, Evaluator, write_detections
from litedetr.engine.files import StorageError, replacing, require_writable
from litedetr.engine.loader import LoaderError, loader_failures_named
from litedetr.engine.predict import (
    PredictConfig,
    Prediction,
    PredictionWriter,
    Unreadable,
    open_prediction,
    predict_files,
)
from litedetr.engine.predictor import Predictor
from litedetr.engine.run_folder import RunFolder, agree_on_run_folder, choose_run_folder
from litedetr.engine.scores import Scores, class_table, coco_scores, summary_table
from litedetr.engine.signals import Interrupted
from litedetr.engine.train_step import NonFiniteError
from litedetr.engine.trainer import Trainer

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ConvertConfig",
    "EvalConfig",
    "Evaluation",
    "Evaluator",
    "Interrupted",
    "LoadedDetector",
    "LoaderError",
    "LoaderSettings",
    "LostRanksError",
    "NonFiniteError",
    "OtherModelError",
    "Precision",
    "PredictConfig",
    "Prediction",
    "PredictionWriter",
    "Predictor",
    "Ranks",
    "RunConfig",
    "RunFolder",
    "ScheduleConfig",
    "Scores",
    "StorageError",
    "Trainer",
    "TrainerConfig",
    "Unreadable",
    "agree_on_run_folder",
    "beside_model",
    "choose_device",
    "choose_run_folder",
    "class_table",
    "coco_scores",
    "convert",
    "detector_config",
    "evaluate_checkpoint",
    "evaluation_batches",
    "join_ranks",
    "load_checkpoint",
    "load_detector",
    "loader_failures_named",
    "open_prediction",
    "predict_files",
    "replacing",
    "require_image_size",
    "require_writable",
    "save_checkpoint",
    "summary_table",
    "use_all_cores",
    "use_deterministic_algorithms",
    "write_detections",
]
