"""Draft models in PyTorch; module and parameter names are the released tensor names."""

from tandem_trainer.models.config import DraftConfig, new_config, parse_config
from tandem_trainer.models.dspark import DSpark
from tandem_trainer.models.eagle3 import Eagle3


def build_model(config: DraftConfig):
    """A model with PyTorch's own initial values; see initial_weights.py for those that training starts from."""
    return Eagle3(config) if config.algorithm == "eagle3" else DSpark(config)


__all__ = ["DSpark", "DraftConfig", "Eagle3", "build_model", "new_config", "parse_config"]
