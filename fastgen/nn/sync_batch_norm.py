"""SyncBatchNorm: batch norm whose statistics are those of all processes' parts of a batch, on a CPU, too."""

from typing import Any

from torch import Tensor, nn

from .._checks import check_instance
from ..ops.batch_norm_activation import batch_norm_activation
from ._records import batch_norm_of, process_group_of

CONVERTED = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """``nn.SyncBatchNorm``, which also runs on a CPU, where torch's refuses; it is none, since DDP refuses those there.

    Parts of a batch may differ in size. In eval mode, and where there is one process only, it is batch norm.

    Args:
        args: as ``nn.SyncBatchNorm``'s.
        process_group: the processes that share a batch; None: all.
        options: as ``nn.SyncBatchNorm``'s.

    Shapes: (N, C, …) → (N, C, …)

    Gradients: first order on a CPU, as of ``fastgen.ops.batch_norm_activation``.
    """

    def __init__(self, *args: Any, process_group: Any = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.process_group = process_group

    def _check_input_dim(self, x: Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"x: expected (N, C, …), got {tuple(x.shape)}")

    def _check_non_zero_input_channels(self, x: Tensor) -> None:
        """What torch's forward asks for."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalised by the whole batch in training, by running statistics otherwise."""
        if process_group_of(self) is None:
            return super().forward(x)
        if x.device.type != "cpu":
            return nn.SyncBatchNorm.forward(self, x)  # type: ignore[arg-type]
        self._check_input_dim(x)
        record = batch_norm_of(self)  # type: ignore[arg-type]
        y = batch_norm_activation(
            x.flatten(2)[..., None] if x.dim() > 2 else x[:, :, None, None],
            *record[:4], training=True, momentum=record.momentum, eps=record.eps,
            num_batches_tracked=record.num_batches_tracked, process_group=record.process_group,
        )  # fmt: skip
        return y.view(x.shape)

    @classmethod
    def convert_sync_batchnorm(cls, module: Any, process_group: Any = None) -> Any:
        """``module`` with every batch norm of torch's in it replaced, in place: parameters and buffers are the same.

        Args:
            module: whatever holds some; itself one, the layer for it is returned.
            process_group: the processes that share a batch; None: all.

        Raises:
            TypeError: ``module`` is no module.
        """
        check_instance("module", module, nn.Module, "a module")
        made: dict[nn.Module, nn.Module] = {}

        def of(one: Any) -> nn.Module:
            if type(one) in CONVERTED:
                if one not in made:
                    made[one] = cls._of(one, getattr(one, "process_group", None) or process_group)
                return made[one]
            for name, child in list(one._modules.items()):
                if child is not None and (other := of(child)) is not child:
                    one._modules[name] = other
            return one

        return of(module)

    @classmethod
    def _of(cls, bn: Any, process_group: Any) -> nn.Module:
        layer = cls(bn.num_features, affine=False, track_running_stats=False, process_group=process_group)
        layer.__dict__.update(vars(bn) | {"process_group": process_group})
        return layer
