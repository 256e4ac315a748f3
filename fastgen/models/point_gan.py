"""GAN of points: Goodfellow et al., "Generative Adversarial Nets", 2014, arXiv:1406.2661.

    z ~ N(0, I) ── generator ── x          x ── judge ── log-odds that x is of the data

    judge      makes   −E[log D(x)] − E[log(1 − D(G(z)))]   small      Algorithm 1
    generator  makes   −E[log D(G(z))]                      small      section 3, the loss that does not saturate

It draws points, and knows no p(x).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .._checks import check_floating, check_integer
from .model import check_positive
from .networks import mlp


class PointGAN(nn.Module):
    """A generator against a judge, both fully connected with ReLU; points are drawn by the generator's average.

    Args:
        dims: D, of the points, and of the noise that they are made from.
        hidden: widths of the hidden layers of both.
    """

    def __init__(self, dims: int = 2, hidden: tuple[int, ...] = (128, 128)) -> None:
        super().__init__()
        check_positive(dims=dims)
        self.dims = dims
        self.generator, self.judge = (mlp((dims, *hidden, outputs), nn.ReLU) for outputs in (dims, 1))
        self.average = AveragedModel(self.generator, multi_avg_fn=get_ema_multi_avg_fn(0.995))

    def fit(self, x: Tensor, steps: int, batch_size: int = 256) -> "PointGAN":
        """Train for ``steps`` moves of each player, by Adam at 1e-3 that falls to zero; returns the model itself.

        Args:
            x: points (N, D), floating point, around zero and of a spread of about 1.
            steps: 0 or more.
            batch_size: points in a move.
        """
        check_floating("x", x, ("N", self.dims))
        steps, batch_size = check_integer("steps", steps, 0), check_integer("batch_size", batch_size, 1)
        judge, generator = (
            torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.5, 0.9)) for net in (self.judge, self.generator)
        )
        for step in range(steps):
            for player in (judge, generator):
                player.param_groups[0]["lr"] = 1e-3 * (1 - step / steps)
            true = x[torch.randint(len(x), (batch_size,))]
            fake = self.generator(torch.randn(batch_size, self.dims))
            _move(judge, F.softplus(-self.judge(true)).mean() + F.softplus(self.judge(fake.detach())).mean())
            _move(generator, F.softplus(-self.judge(fake)).mean())
            self.average.update_parameters(self.generator)
        return self

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """``n`` points (n, D)."""
        return self.average(torch.randn(check_integer("n", n, 0), self.dims))


def _move(player: torch.optim.Optimizer, loss: Tensor) -> None:
    player.zero_grad()
    loss.backward()
    player.step()
