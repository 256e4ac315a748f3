"""image_lstm's Triton kernels, compiled for GPUs that need not be here."""

import pytest
import torch

from aot import TARGETS, assert_gates, recorded
from fastgen.ops.image_lstm import TAPS
from fastgen.ops.image_lstm_triton import image_lstm_backward_triton, image_lstm_triton

ALL = tuple(TARGETS)
#: h, side, scan, precision, whether every gradient arrives; targets. The first has a program for each image, as has the
#: second, whose tiles are the largest that fit, also into the smallest shared memory; the third a launch for each step.
CASES = {
    "16 channels, ieee": ((16, 28, "row", "ieee", False), ALL[1:3]),
    "32 channels, tf32": ((32, 32, "diagonal", "tf32", True), (ALL[0], ALL[-1])),
    "64 channels, tf32": ((64, 28, "row", "tf32", False), ALL),
}


def arguments(h: int, side: int, scan: str, everything: bool):  # type: ignore[no-untyped-def]
    """Of the op, and of its backward; of 16 images."""
    images = [torch.empty(16, side, side, channels, device="meta") for channels in (h, 4 * h)]
    state, gates = images
    others = torch.empty(4 * h, h, len(TAPS[scan]), device="meta"), *(torch.empty(h, device="meta") for _ in range(2))
    more = (state, gates) if everything else (None, None)
    return (gates, *others, scan), (state, *more, state, state, gates, *others, scan)


@pytest.mark.parametrize(("case", "capability"), [(name, each) for name in CASES for each in CASES[name][1]])
def test_gates(case: str, capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    h, side, scan, precision, everything = CASES[case][0]
    forward, backward = arguments(h, side, scan, everything)
    conv = torch.backends.cudnn.conv
    before, conv.fp32_precision = conv.fp32_precision, precision
    try:
        for call, args in ((image_lstm_triton, forward), (image_lstm_backward_triton, backward)):
            launches = recorded(capability, call, *args)
            assert len(launches) == (side if h == 64 else 1)
            monkeypatch.setattr("aot.recorded", lambda *_, launches=launches: launches[:1])  # all are one kernel
            (binary,) = assert_gates(capability, call, *args)
            assert binary.count(r"mma\.sync|wgmma\.mma_async|tcgen05\.mma") > 0 or precision == "ieee"
    finally:
        conv.fp32_precision = before
