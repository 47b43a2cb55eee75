"""A small convolutional network, trained by PyTorch, in the form of a scikit-learn estimator."""

from __future__ import annotations

import warnings
from math import isqrt
from pathlib import Path
from tempfile import TemporaryDirectory
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
        width: Channels of the first layer; the others have twice as many.
        n_threads: The last digits, and so the model, depend on it. 1 is the same on every machine.
    """

    def __init__(
        self,
        seed: int = 0,
        epochs: int = 12,
        batch_size: int = 32,
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
        """Layers from pixels to a score for each class: what the convolutions find counts, not where."""
        from torch import nn

        def block(n_in: int, n_out: int, size: int) -> tuple[nn.Module, ...]:
            convolution = nn.Conv2d(n_in, n_out, size, padding=size // 2, bias=False)
            return convolution, nn.BatchNorm2d(n_out), nn.ReLU()

        return nn.Sequential(
            nn.Unflatten(1, (1, side, side)),
            _subtract_surroundings(),
            nn.InstanceNorm2d(1),
            *block(1, self.width, 5),
            nn.MaxPool2d(2),
            *block(self.width, 2 * self.width, 3),
            *block(2 * self.width, 2 * self.width, 3),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * self.width, len(self.classes_)),
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
        axes = {"features": {0: "n_rows"}, "probabilities": {0: "n_rows"}}
        with TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they advertise the other exporter, which needs more packages
            torch.onnx.export(
                network,
                (torch.zeros(1, len(feature_names)),),
                path := Path(folder) / "model.onnx",
                dynamo=False,
                input_names=["features"],
                output_names=["probabilities"],
                dynamic_axes=axes,
            )
            return path.read_bytes()


def _subtract_surroundings(size: int = 9) -> torch.nn.Module:
    """A fixed layer: each pixel less the mean around it. Without it, some seeds learn only the background."""
    import torch

    weights = torch.full((1, 1, size, size), -1 / size**2)
    weights[0, 0, size // 2, size // 2] += 1
    layer = torch.nn.Conv2d(1, 1, size, padding=size // 2, padding_mode="reflect", bias=False)
    layer.weight = torch.nn.Parameter(weights, requires_grad=False)
    return layer


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
