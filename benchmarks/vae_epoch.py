"""An epoch of a VAE on grey MNIST: fastgen's trainer against the loop that everyone begins with, in turns.

    FASTGEN_DATA=... python benchmarks/vae_epoch.py [--rounds 5]

Both: 784-400-20, ReLU, Bernoulli likelihood of grey values, Adam 1e-3, batches of 128. The public loop is that of
pytorch/examples: ``randn_like``, sigmoid and binary cross-entropy summed, KL as −½ Σ (1 + log σ² − μ² − σ²), and an
``.item()`` in each step. Its images are float32 in memory already, which a ``DataLoader`` usually makes of them one
by one: it is faster here. Ours does what a run does: moving average, gradient norm, non-finite checks.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastgen.data import load
from fastgen.models import VAE
from fastgen.training import Recipe, Trainer


class Public(nn.Module):
    """The model of pytorch/examples/vae."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc21, self.fc22 = nn.Linear(784, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.fc3, self.fc4 = nn.Linear(20, 400), nn.Linear(400, 784)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.fc1(x))
        mu, logvar = self.fc21(h), self.fc22(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        return torch.sigmoid(self.fc4(F.relu(self.fc3(z)))), mu, logvar


def public_epoch(model: Public, optimizer: torch.optim.Optimizer, images: Tensor) -> float:
    """Nats per image while training."""
    total = 0.0
    for part in torch.randperm(len(images)).split(128):
        x = images[part]
        optimizer.zero_grad()
        recon, mu, logvar = model(x)
        loss = F.binary_cross_entropy(recon, x, reduction="sum")
        loss = loss - 0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        loss.backward()
        total += loss.item()
        optimizer.step()
    return total / len(images)


def main() -> None:
    """Time both and print seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    train = load("mnist")
    images = train.values.flatten(1).float() / 255
    public = Public()
    optimizer = torch.optim.Adam(public.parameters(), lr=1e-3)
    ours = VAE(1, 256, 20, (400,), activation="relu")
    trainer = Trainer(ours, Recipe(epochs=rounds + 1, batch_size=128))
    times: dict[str, list[float]] = {"public": [], "fastgen": []}

    def between(record: dict) -> None:
        """After each epoch of ours, one of theirs."""
        started = time.perf_counter()
        nats = public_epoch(public, optimizer, images)
        times["public"].append(time.perf_counter() - started)
        times["fastgen"].append(record["seconds"])
        print(f"epoch {record['epoch']}: nats while training: public {nats:.2f}, fastgen {record['train_nats']:.2f}")

    trainer.fit(train, train.subset(1), between)
    for name, seconds in times.items():
        middle = statistics.median(seconds[1:])
        print(f"{name:8} {middle:.2f} s an epoch (median of {rounds} after the first; {min(seconds):.2f} at best)")


if __name__ == "__main__":
    main()
