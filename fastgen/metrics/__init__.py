"""Metrics of whole sets of images: how one set lies to another, by their features.

Features are whatever ``(N, D)`` numbers describe the images: pixels, or what a network makes of them; a metric means
what its features mean, so both belong beside the number, and the sizes of the sets too. An ``Objective`` offers such
numbers by ``measure_set``, and may let one choose the best epoch.
"""

from .classes import class_histogram, histogram_divergence, inception_score
from .clusters import clustering_error
from .distances import frechet_distance, kernel_distance, kolmogorov_smirnov
from .neighbours import Neighbourhoods, copy_rate, density_coverage, nearest, precision_recall
from .pixels import diversity, pixel_distance, pixel_features

__all__ = [
    "Neighbourhoods",
    "class_histogram",
    "clustering_error",
    "copy_rate",
    "density_coverage",
    "diversity",
    "frechet_distance",
    "histogram_divergence",
    "inception_score",
    "kernel_distance",
    "kolmogorov_smirnov",
    "nearest",
    "pixel_distance",
    "pixel_features",
    "precision_recall",
]
