"""The data and the model that training and evaluation share."""

from __future__ import annotations

import sklearn.datasets
import sklearn.model_selection
import torch


def load_digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """1,797 handwritten digits of 8 x 8 pixels: images and labels for training, then for the test."""
    digits = sklearn.datasets.load_digits()
    parts = sklearn.model_selection.train_test_split(
        digits.data / 16.0, digits.target, test_size=0.25, random_state=0, stratify=digits.target
    )
    images, test_images = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    labels, test_labels = (torch.tensor(part) for part in parts[2:])
    return images, labels, test_images, test_labels


class Digits(torch.nn.Sequential):
    """64 pixels to ten classes."""

    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
