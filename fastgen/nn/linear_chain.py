"""LinearChain: perceptrons, two layers at a time as one op on a CPU."""

from torch import Tensor

from ._chain import Chain
from .perceptron import run_dense, run_perceptron
from .sequence import run_sequence


class LinearChain(Chain):
    """``nn.Sequential`` that runs ``nn.Linear`` → activation → ``nn.Linear`` as one op on a CPU.

    It takes any modules and computes what ``nn.Sequential(*layers)`` computes, with its state_dict. The activation is
    ReLU, LeakyReLU, Tanh or Identity, layers are without hooks, and the input is (N, features): in float32, or in
    bfloat16 with parameters in float32, as ``torch.autocast`` trains. Elsewhere it runs the modules as they are.
    """

    def _run(self, x: Tensor) -> Tensor:
        modules = list(self)
        y: Tensor | None = run_dense(modules, x)
        return run_sequence(modules, x, other=run_perceptron) if y is None else y
