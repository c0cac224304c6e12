"""Train a small language model twice: with PyTorch's cross-entropy, and with one that never holds the logits.

The model reads eight words and predicts the next, as in Bengio et al., "A neural probabilistic language model", JMLR 3,
2003: about three million parameters, a third of them in the head. The text is the reference of the Python language,
which comes with Python. Both runs see the same batches from the same start; their curves differ by rounding alone:

    python examples/language_model_head.py
"""

import argparse
import pydoc_data.topics
import re
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

import softhead.torch

CONTEXT = 8


def words() -> tuple[Tensor, int]:
    """Return the text as numbers of words, and how many words there are."""
    tokens = re.findall(r"\w+|[^\w\s]|\n\n", "\n\n".join(pydoc_data.topics.topics.values()).lower())
    vocabulary = {word: number for number, word in enumerate(sorted(set(tokens)))}
    return torch.tensor([vocabulary[word] for word in tokens]), len(vocabulary)


class LanguageModel(nn.Module):
    """Eight embedded words, a hidden layer, and a head."""

    def __init__(self, n_words: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_words, width)
        self.body = nn.Sequential(nn.Linear(CONTEXT * width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, n_words)

    def features(self, context: Tensor) -> Tensor:
        """Return what the head sees of contexts (n, 8): an array (n, width)."""
        return self.body(self.embedding(context).flatten(1))


def pytorch_loss(model: LanguageModel, context: Tensor, target: Tensor) -> Tensor:
    """Return the loss from all logits."""
    return functional.cross_entropy(model.head(model.features(context)), target)


def softhead_loss(model: LanguageModel, context: Tensor, target: Tensor) -> Tensor:
    """Return the loss from the features and the weights of the head."""
    features, head = model.features(context), model.head
    return softhead.torch.linear_cross_entropy(features, head.weight, target, linear_bias=head.bias)


def train(loss, tokens: Tensor, n_words: int, *, steps: int, width: int, batch: int) -> tuple[Tensor, int, float]:
    """Return the loss of every step, the number of parameters and the seconds taken."""
    torch.manual_seed(0)
    model = LanguageModel(n_words, width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    places = torch.randint(len(tokens) - CONTEXT, (steps, batch), generator=torch.Generator().manual_seed(1))
    curve, started = [], time.perf_counter()
    for place in places:
        window = tokens[place[:, None] + torch.arange(CONTEXT + 1)]
        value = loss(model, window[:, :-1], window[:, -1])
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        curve.append(value.detach())
    return torch.stack(curve), sum(p.numel() for p in model.parameters()), time.perf_counter() - started


def main(steps: int = 300, width: int = 256, batch: int = 256) -> tuple[Tensor, Tensor]:
    """Train both, print both curves, and return them."""
    tokens, n_words = words()
    runs = [
        train(loss, tokens, n_words, steps=steps, width=width, batch=batch) for loss in (pytorch_loss, softhead_loss)
    ]
    (theirs, n_parameters, their_time), (ours, _, our_time) = runs
    print(f"{len(tokens):,} words of text, {n_words:,} different ones, {n_parameters:,} parameters")
    print(f"{'step':>6} {'F.cross_entropy':>16} {'softhead':>10}")
    for step in sorted({*range(0, steps, max(1, steps // 10)), steps - 1}):
        print(f"{step + 1:6d} {theirs[step]:16.5f} {ours[step]:10.5f}")
    print(f"largest difference at any step: {(theirs - ours).abs().max():.1e}")
    print(f"seconds: {their_time:.1f} and {our_time:.1f}")
    return theirs, ours


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    main(**vars(parser.parse_args()))
