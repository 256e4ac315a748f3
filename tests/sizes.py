"""Fused modules run the ops at every size, so that tests on small tensors test them."""

from collections.abc import Callable

from fastgen.fusing import worth


def fuse_at_every_size(set_: Callable[[object, str, object], None] = setattr) -> None:
    for name in ("pays_convolved", "pays_cropped", "pays_transposed", "pays_drawn"):
        set_(worth, name, lambda *_: True)
    set_(worth, "small", lambda *_: False)
