"""A small convolutional network, trained by PyTorch, in the form of a scikit-learn estimator."""

from __future__ import annotations

import io
from itertools import pairwise
from math import isqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

if TYPE_CHECKING:  # PyTorch takes seconds to import: only what trains or predicts needs it
    import torch
    from numpy.typing import ArrayLike, NDArray


class Network(ClassifierMixin, BaseEstimator):
    """Classifies square grey images, whose pixels are the features, row by row.

    Attributes:
        seed: Of the first weights, the order of the rows and the augmentation.
        epochs: Passes over the training rows.
        batch_size: Rows of a step.
        learning_rate: Highest one of the schedule.
        weight_decay: Pulls the weights towards 0.
        width: Channels of the first layer; the others have two and four times as many.
        n_threads: The last digits, and so the model, depend on it. 1 is the same on every machine.
    """

    def __init__(
        self,
        seed: int = 0,
        epochs: int = 12,
        batch_size: int = 64,
        learning_rate: float = 0.01,
        weight_decay: float = 0.01,
        width: int = 8,
        n_threads: int = 1,
    ) -> None:
        self.seed, self.epochs, self.batch_size = seed, epochs, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.width, self.n_threads = width, n_threads

    def fit(self, features: ArrayLike, target: ArrayLike) -> Network:
        """Train the network: `features` (n_rows, n_pixels), `target` (n_rows,)."""
        import torch

        self.classes_, positions = np.unique(np.asarray(target), return_inverse=True)
        torch.set_num_threads(self.n_threads)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            pixels = _tensor(features)
            self.layers_ = self._make_layers(isqrt(pixels.shape[1]))
            self._train(pixels, torch.from_numpy(positions))
        self.layers_.eval()
        return self

    def _make_layers(self, side: int) -> torch.nn.Sequential:
        """Layers from pixels to a score for each class: what they find counts, not where it is."""
        from torch import nn

        channels = (1, self.width, 2 * self.width, 4 * self.width)
        blocks = [
            (nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(), nn.MaxPool2d(2))
            for n_in, n_out in pairwise(channels)
        ]
        return nn.Sequential(
            nn.Unflatten(1, (1, side, side)),
            nn.InstanceNorm2d(1),  # brightness and contrast of a scan tell nothing
            *(layer for block in blocks for layer in block),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(channels[-1], len(self.classes_)),
        )

    def _train(self, pixels: torch.Tensor, target: torch.Tensor) -> None:
        """Minimize the cross-entropy."""
        import torch

        n_steps = self.epochs * -(-len(pixels) // self.batch_size)
        optimizer = torch.optim.AdamW(self.layers_.parameters(), weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, n_steps)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(pixels)).split(self.batch_size):
                scores = self.layers_(turn(pixels[rows]))
                loss = torch.nn.functional.cross_entropy(scores, target[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()

    def predict_proba(self, features: ArrayLike) -> NDArray[np.float32]:
        """Probability of each class, (n_rows, n_classes)."""
        import torch

        with torch.inference_mode():
            return torch.softmax(self.layers_(_tensor(features)), dim=1).numpy()

    def predict(self, features: ArrayLike) -> NDArray[Any]:
        """The most probable class of each row, (n_rows,)."""
        return self.classes_[self.predict_proba(features).argmax(axis=1)]

    def to_onnx(self, feature_names: tuple[str, ...]) -> bytes:
        """The network as ONNX, from pixels to probabilities."""
        import torch

        network = torch.nn.Sequential(self.layers_, torch.nn.Softmax(dim=1)).eval()
        written = io.BytesIO()
        torch.onnx.export(
            network,
            (torch.zeros(1, len(feature_names)),),
            written,
            dynamo=False,  # the other exporter needs a further package
            input_names=["features"],
            output_names=["probabilities"],
            dynamic_axes={"features": {0: "n_rows"}, "probabilities": {0: "n_rows"}},
        )
        return written.getvalue()


def turn(pixels: torch.Tensor) -> torch.Tensor:
    """The images of a batch, (n_rows, n_pixels), turned and mirrored at random: a scan has no upper end."""
    import torch

    side = isqrt(pixels.shape[1])
    squares = pixels.unflatten(1, (side, side)).rot90(int(torch.randint(4, ())), (1, 2))
    return (squares.flip(2) if torch.rand(()) < 0.5 else squares).flatten(1)


def _tensor(features: ArrayLike) -> torch.Tensor:
    """Features as a tensor, (n_rows, n_pixels)."""
    import torch

    return torch.tensor(np.asarray(features, np.float32))
