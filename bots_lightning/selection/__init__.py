"""Selectors, which choose the tasks of each step. Needs numpy only."""

from bots_lightning.selection.adarft import AdaRFTSelector
from bots_lightning.selection.bayesian import BayesianSelector
from bots_lightning.selection.curriculum import EasyToHardSelector
from bots_lightning.selection.dps import DPSSelector
from bots_lightning.selection.dump import DUMPSelector
from bots_lightning.selection.fair import FairShareSelector
from bots_lightning.selection.greso import GresoSelector
from bots_lightning.selection.learnability import LearnabilitySelector
from bots_lightning.selection.no_positive_resampling import NoPositiveResamplingSelector
from bots_lightning.selection.pass_rate_band import PassRateBandSelector
from bots_lightning.selection.proportional import ProportionalSelector
from bots_lightning.selection.rules import SelectionRules
from bots_lightning.selection.schedule import LinearSchedule
from bots_lightning.selection.sec import SECSelector
from bots_lightning.selection.selector import TaskSelector
from bots_lightning.selection.thompson import ThompsonSelector
from bots_lightning.selection.uniform import UniformSelector

__all__ = [
    "AdaRFTSelector",
    "BayesianSelector",
    "DPSSelector",
    "DUMPSelector",
    "EasyToHardSelector",
    "FairShareSelector",
    "GresoSelector",
    "LearnabilitySelector",
    "LinearSchedule",
    "NoPositiveResamplingSelector",
    "PassRateBandSelector",
    "ProportionalSelector",
    "SECSelector",
    "SelectionRules",
    "TaskSelector",
    "ThompsonSelector",
    "UniformSelector",
]
