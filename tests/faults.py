"""One-line faults of every op and its layers: ``mutations.py`` makes each, and the op's own tests have to catch it."""

from faults_convolutions import FAULTS as CONVOLUTIONS
from faults_generators import FAULTS as GENERATORS
from faults_halving import FAULTS as HALVING
from faults_likelihoods import FAULTS as LIKELIHOODS
from faults_perceptrons import FAULTS as PERCEPTRONS
from faults_pixels import FAULTS as PIXELS
from faults_recurrences import FAULTS as RECURRENCES

#: Stem of an op → the test files that are its own, the quickest first.
TESTS = {
    "gated_activation": ("test_gated_activation.py",),
    "concat_elu": ("test_concat_elu.py", "test_schemas.py"),
    "residual_gate": ("test_residual_gate.py", "test_schemas.py"),
    "image_conv2d": ("test_image_conv2d.py",),
    "shifted_conv2d": ("test_shifted_conv2d.py", "test_shifted_conv2d_layers.py"),
    "masked_conv2d": ("test_masked_conv2d_values.py", "test_masked_conv2d.py", "test_fuse_proofs.py"),
    "gated_residual_block": ("test_gated_residual_block.py",),
    "pixel_head": ("test_pixel_head.py", "test_as_made.py"),
    "residual_block": ("test_residual_block.py", "test_dropout.py", "test_as_made.py"),
    "gated_layer": ("test_gated_layer.py", "test_gated_layer_inputs.py"),
    "image_lstm": ("test_image_lstm.py", "test_pixel_lstm.py"),
    "row_lstm_layer": ("test_row_lstm_layer_inputs.py", "test_row_lstm_layer.py"),
    "rsample_kl": (
        "test_rsample_kl.py", "test_rsample_kl_drawn.py", "test_composites.py", "test_math.py", "test_fuse_proofs.py",
    ),
    "discretized_logistic_mixture": (
        "test_discretized_logistic_mixture.py", "test_distributions.py", "test_logistic_mixture.py",
        "test_data_dependent_init.py",
    ),
    "binary_cross_entropy": ("test_binary_cross_entropy.py", "test_math.py"),
    "categorical_cross_entropy": ("test_categorical_cross_entropy.py",),
    "checksum": ("test_checksum.py", "test_sampling_changes.py"),
    "value_frequencies": ("test_value_frequencies.py", "test_codec.py"),
    "batch_norm": ("test_batch_norm.py", "test_batch_norm_sync.py", "test_batch_norm_activation.py"),
    "batch_norm_train": ("test_batch_norm_train.py",),
    "batch_norm_activation": (
        "test_batch_norm_activation.py", "test_normalizing.py", "test_conv_transpose2d_bn_layers.py",
        "test_batch_norm_sync.py",
    ),
    "conv_transpose2d": (
        "test_conv_transpose2d.py", "test_conv_transpose2d_products.py", "test_conv_transpose2d_image.py",
        "test_transposed_alone.py", "test_followers.py",
    ),
    "activation": ("test_activation.py",),
    "conv2d_image": ("test_conv2d_image.py", "test_conv2d_image_bfloat16.py", "test_followers.py"),
    "conv2d_weight": ("test_conv2d_weight.py", "test_conv2d_bfloat16_layers.py"),
    "winograd": ("test_winograd.py", "test_conv2d_chain.py", "test_followers.py"),
    "mlp": (
        "test_composites.py", "test_linear_chain.py", "test_mlp.py", "test_math.py", "test_fuse_contexts.py",
    ),
    "conv_transpose2d_products": ("test_conv_transpose2d_products.py", "test_conv_transpose2d_image.py"),
    "conv_transpose2d_bn": (
        "test_sequence.py", "test_transposed_alone.py", "test_conv_transpose2d_bn_layers.py",
        "test_conv_transpose2d_bn.py", "test_batch_norm_sync.py", "test_followers.py", "test_composites.py",
    ),
}  # fmt: skip

#: Stem → source file → what is wrong, the text that is there exactly once, and what stands there instead.
FAULTS = {**CONVOLUTIONS, **HALVING, **PERCEPTRONS, **PIXELS, **RECURRENCES, **LIKELIHOODS, **GENERATORS}
