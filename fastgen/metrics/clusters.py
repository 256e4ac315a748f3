"""How well clusters that nobody named are the classes that somebody did."""

import torch
from torch import Tensor

from .._checks import check_numbers, check_values
from .._extras import require


def clustering_error(labels: Tensor, clusters: Tensor) -> float:
    """Share of examples that are not of their cluster's class, clusters being matched with classes one to one.

    The matching is the best there is (the assignment problem, solved exactly by ``scipy.optimize``); where there are
    more clusters than classes, those that are left over are all wrong.

    Args:
        labels: classes, integers (N,), 0 or more.
        clusters: integers (N,), 0 or more.

    Returns:
        In [0, 1]; of one cluster for all, 1 less the share of the largest class.

    Raises:
        ValueError: shapes do not fit, there is no example, or a number is negative.
        TypeError: they are no integers.
        MissingExtraError: scipy is not installed; it comes with scikit-learn, and so with fastgen[train].
    """
    check_numbers("labels", labels, ("N",))
    check_numbers("clusters", clusters, tuple(labels.shape))
    for name, each in (("labels", labels), ("clusters", clusters)):
        check_values(each, 2**31, name)
    if not len(labels):
        raise ValueError("labels: expected one example or more, got none")
    K = int(clusters.max()) + 1
    pairs = labels.cpu().long() * K + clusters.cpu().long()
    table = torch.bincount(pairs, minlength=(int(labels.max()) + 1) * K).view(-1, K)
    rows, columns = require("scipy.optimize").linear_sum_assignment(table.numpy(), maximize=True)
    return 1 - table[rows, columns].sum().item() / len(labels)
