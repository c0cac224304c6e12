"""Train the head of a frozen PyTorch model to its optimum, and put it back.

A network is trained on images of the digits 0 to 4. Its body is then frozen, and a probe on its features learns to tell
all ten digits: `SoftmaxClassifier` reads the features, tensors that stay where they are, and stops at an optimum that
it certifies. `to_torch` makes a layer of it, which becomes the head of the model:

    SCIPY_ARRAY_API=1 python examples/probe_torch.py

scikit-learn asks for that variable wherever its array API dispatch is used.
"""

import argparse
import os

import torch
from torch import Tensor, nn

os.environ.setdefault("SCIPY_ARRAY_API", "1")

import sklearn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import softhead.torch
from softhead import SoftmaxClassifier


def pretrained_body(images: Tensor, digits: Tensor, steps: int) -> nn.Sequential:
    """Return the body of a network that was trained to tell the digits 0 to 4."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(288, 128), nn.ReLU())
    head = nn.Linear(128, 5)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=3e-3)
    for _ in range(steps):
        loss = softhead.torch.cross_entropy(head(body(images)), digits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return body.requires_grad_(False)


def main(steps: int = 100) -> tuple[float, float]:
    """Return the accuracy of the whole model with a new head, and the share of predictions that the probe shares."""
    images, digits = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    parts = train_test_split(images, torch.tensor(digits), test_size=0.3, random_state=0, stratify=digits)
    seen, unseen, seen_digits, unseen_digits = parts
    first = seen_digits < 5
    body = pretrained_body(seen[first], seen_digits[first], steps)

    features = body(seen)
    with sklearn.config_context(array_api_dispatch=True):
        probe = SoftmaxClassifier(C=1.0).fit(features, seen_digits)
        predicted = probe.predict(body(unseen))
    print(f"probe: {probe.status_} after {probe.n_passes_:.0f} passes, gap {probe.gap_:.1e}; {type(probe.coef_)}")

    model = nn.Sequential(*body, probe.to_torch())  # the model, with its new head
    answers = model(unseen).argmax(1)
    accuracy = float((answers == unseen_digits).float().mean())
    agreement = float((answers == predicted).float().mean())
    print(f"model with that head: {100 * accuracy:.1f} % of unseen images of all ten digits")
    print(f"model and probe agree on {100 * agreement:.1f} %")

    # The way back: the head of a model as a classifier, with scikit-learn's interface.
    classifier = SoftmaxClassifier.from_torch(model[-1])
    print(f"as a classifier again: {100 * classifier.score(body(unseen), unseen_digits):.1f} %")
    return accuracy, agreement


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    main(**vars(parser.parse_args()))
