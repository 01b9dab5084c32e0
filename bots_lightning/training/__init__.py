"""Training: the one LightningModule and the parts that it is made of."""

from bots_lightning.training.dynamic_sampling import DynamicSampling
from bots_lightning.training.evaluation import Evaluation
from bots_lightning.training.failures import StepFailedError
from bots_lightning.training.module import OnlineModule
from bots_lightning.training.sampler import Sampler
from bots_lightning.training.updater import Updater

__all__ = ["DynamicSampling", "Evaluation", "OnlineModule", "Sampler", "StepFailedError", "Updater"]
