"""Models: built-in ones, those of the user and of other libraries by name, and their weights on disk."""

from guidestar.models.load import build_model
from guidestar.models.preprocess import Preprocess
from guidestar.models.resnet import ResNet18
from guidestar.models.small import CNN, MLP
from guidestar.models.vit import ViT
from guidestar.models.weights import load_weights, save_weights, weights_hash

__all__ = ["CNN", "MLP", "Preprocess", "ResNet18", "ViT", "build_model", "load_weights", "save_weights", "weights_hash"]
