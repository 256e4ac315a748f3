"""Trained parts of models as files that run without fastgen: ``torch.export`` programs, and ONNX.

    export(model, "generator.pt2")                  torch.export.load("generator.pt2").module()(z)
    export(model, "decoder.onnx", "decoder")        onnxruntime.InferenceSession("decoder.onnx").run(None, {"z": z})

A file holds one part of a model in eval mode, for a batch of any size, in layers of torch's own: batch norms are folded
into the convolutions before them. What is written was loaded again and held against the model first.
"""

from .agreement import BATCHES, Agreement
from .export import Exported, export
from .parts import PARTS, Named, Part, parts_of

__all__ = ["BATCHES", "PARTS", "Agreement", "Exported", "Named", "Part", "export", "parts_of"]
