"""Conv2dChain: DCGAN's discriminator, and encoders like it, in fewer multiplications on a CPU."""

from torch import Tensor

from ._chain import Chain
from .perceptron import run_faster
from .sequence import run_sequence


class Conv2dChain(Chain):
    """``nn.Sequential`` whose convolutions of kernel 4, stride 2 and padding 1 take 9/16 of their multiplications.

    It takes any modules and computes what ``nn.Sequential(*layers)`` computes, with its state_dict: in fewer
    multiplications in float32 on a CPU; elsewhere, and where sizes do not suit, it runs the modules as they are. Of an
    ``nn.Conv2d`` without hooks, of multiples of 16 channels, of the result no fewer than of the image, which has even
    sides, forward and gradients are Winograd's F(2×2, 2×2) on the four phases of the stride (Lavin and Gray,
    arXiv:1509.09308). Rounding errors are one to four times those of torch's, in units of the largest pixels around;
    what sees an infinite pixel is NaN. The weight may be made by a parametrization, as spectral norm does. Inside,
    images are channels_last; the result has the layout of the input. Linear layers behind run as in ``LinearChain``.

    In bfloat16, under autocast or not, on a CPU with AVX-512 or without instructions for it, a convolution of any
    stride from 2 on, of 16 channels and more on either side or of an image of up to four colours, adds exact products
    of pairs in float32, and so does the gradient to its weight. A convolution whose kernel is its whole image is a
    matrix product.
    """

    def _run(self, x: Tensor) -> Tensor:
        y: Tensor = run_sequence(list(self), x, other=run_faster)
        return y
