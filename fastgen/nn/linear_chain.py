"""LinearChain: perceptrons, two layers at a time as one op on a CPU."""

from torch import Tensor

from ._chain import Chain
from .perceptron import run_dense, run_perceptron
from .sequence import are_dense, run_sequence


class LinearChain(Chain):
    """``nn.Sequential`` that runs ``nn.Linear`` → activation → ``nn.Linear`` as one op on a CPU.

    It takes any modules and computes what ``nn.Sequential(*layers)`` computes, with its state_dict. The activation is
    ReLU, LeakyReLU, Tanh or Identity, layers are without hooks, and the input is (N, features): in float32, or in
    bfloat16 with parameters in float32, as ``torch.autocast`` trains. Elsewhere it runs the modules as they are.
    """

    def _run(self, x: Tensor) -> Tensor:
        dense = are_dense([type(each) for each in self])
        y: Tensor = run_dense(list(self), x) if dense else run_sequence(list(self), x, other=run_perceptron)
        return y
