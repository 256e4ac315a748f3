"""One-line faults of what is drawn and how likely it is, see faults.py."""

# fmt: off
#: Stem → source file → what is wrong, the text that is there exactly once, and what stands there instead.
FAULTS: dict[str, dict[str, list[tuple[str, str, str]]]] = {
    "rsample_kl": {
        "fastgen/ops/rsample_kl.py": [
            ("a wrong bound in the reference", "logvar.to(dtype).clamp(LOGVAR_MIN, LOGVAR_MAX)\n    z =",
             "logvar.to(dtype).clamp(LOGVAR_MIN - 1, LOGVAR_MAX)\n    z ="),
            ("no gradient at the reference's upper bound", "(logvar <= LOGVAR_MAX)", "(logvar < LOGVAR_MAX)"),
            ("the KL's gradient in the reference", "grad_kl * torch.expm1(clamped)", "grad_kl * torch.exp(clamped)"),
            ("gradients exchanged", "return *grads, None", "return grads[1], grads[0], None"),
        ],
        "fastgen/nn/rsample_kl.py": [
            ("the module forgets its generator", "generator=generator)\n", "generator=None)\n"),
        ],
        "csrc/rsample_kl.h": [
            ("sign of the noise", "*z = mu + sigma * noise", "*z = mu - sigma * noise"),
            ("sign in the KL", "(expm1_logvar - clamped)", "(expm1_logvar + clamped)"),
            ("the mean's gradient of the KL", "grad_z + grad_kl * mu", "grad_z - grad_kl * mu"),
            ("a gradient above the upper bound", "clamped == logvar ?", "clamped <= logvar ?"),
            ("a gradient below the lower bound", "*grad_logvar = clamped == logvar",
             "*grad_logvar = clamped >= logvar"),
            ("upper bound", "kLogvarMax = 20.0", "kLogvarMax = 21.0"),
            ("lower bound", "kLogvarMin = -30.0", "kLogvarMin = -31.0"),
        ],
        "csrc/rsample_kl_cpu.cpp": [
            ("stride of the KL's gradient ignored", "grad_kl[n * grad_kl_stride]", "grad_kl[n]"),
            ("the row of a gradient", "grad_kl[n * grad_kl_stride]", "grad_kl[begin / tiling.row * grad_kl_stride]"),
        ],
        "csrc/philox_cpu.h": [
            ("offset of the noise", "return normals_ + (begin - 4 * first)", "return normals_"),
            ("words of the portable version", "radius[i] = words.x | uint64_t(words.z) << 32",
             "radius[i] = words.z | uint64_t(words.x) << 32"),
            ("words of a vector version", "_mm256_setr_epi64x(0, 1, 2, 3)", "_mm256_setr_epi64x(0, 1, 3, 2)"),
        ],
    },
    "discretized_logistic_mixture": {
        "fastgen/distributions/logistic_mixture.py": [
            ("each value once", "counts.to(torch.float32) / counts.sum()", "torch.full(counts.shape, 1 / len(counts))"),
            ("as far as weights", "torch.full_like(params, _SPREAD, requires", "torch.full_like(params, 1.0, requires"),
            ("scales without a gradient", "log_scales.clamp_(min=_NARROWEST)", "pass"),
            ("means further than their scale", "[:, 0] = log_scales.exp().clamp(max=_SPREAD)", "[:, 0] = _SPREAD"),
            ("no number of logistics", "std[:K] = 1\n", "std[:K] = _SPREAD\n"),
            ("means in levels", "2 * chosen.T.to(torch.float32) / last - 1", "chosen.T.float()"),
            ("too few steps", "_NARROWEST, _SPREAD = 400,", "_NARROWEST, _SPREAD = 4,"),
            ("other pixels each time", "torch.Generator().manual_seed(0), device",
             "torch.Generator().manual_seed(torch.seed()), device"),
        ],
        "fastgen/distributions/distribution.py": [
            ("gradients under inference", "with torch.inference_mode(False), torch.enable_grad():", "if True:"),
        ],
        "fastgen/distributions/discrete.py": [
            ("a logit of minus infinity", "(counts + 1).to(torch.float32) / (len(pixels) + self.levels)",
             "counts / len(pixels)"),
            ("colours of all", "for of_color in pixels.T]", "for of_color in pixels.T.flip(0)]"),
            ("the logit of 0", "log_probs[:, 1:] - log_probs[:, :1]", "log_probs[:, :1] - log_probs[:, 1:]"),
        ],
        "fastgen/models/pixelcnnpp_layers.py": [
            ("as it was", "scale_and_shift(model.output, *marginal)", "pass"),
            ("a last layer of one's own", " and is_normed(model.output)", ""),
            ("a law of one's own", 'if getattr(law, "has_marginal", False) else None', "if True else None"),
        ],
        "fastgen/nn/weight_norm.py": [
            ("only around it", "bias.mul_(scale).add_(shift)", "bias.mul_(scale)"),
            ("the scale of the weights", "    g.mul_(scale.view_as(g))\n    bias", "    bias"),
        ],
        "fastgen/ops/discretized_logistic_mixture.py": [
            ("the lowest bin in the reference", "torch.where(first, 0, F.logsigmoid(lower))",
             "torch.where(last, 0, F.logsigmoid(lower))"),
            ("no gradient of the prior in the reference", "posterior - grad * torch.softmax(terms.logits, dim=1)",
             "posterior"),
            ("levels forgotten in the backward", "*ctx.saved_tensors, ctx.levels)", "*ctx.saved_tensors, 256)"),
        ],
        "fastgen/nn/discretized_logistic_mixture.py": [
            ("the module forgets its levels", "discretized_logistic_mixture(params, values, self.levels)",
             "discretized_logistic_mixture(params, values)"),
            ("sign of the loss", "return -log_likelihood", "return log_likelihood"),
        ],
        "csrc/discretized_logistic_mixture.h": [
            ("the highest bin has an upper edge", "T(v != last)", "T(1)"),
            ("the lowest bin has a lower edge", "T(v != 0)}", "T(1)}"),
            ("no scale in the density", " - is_middle * clamped;", ";"),
            ("sign of the mean's gradient", "inverse_scale * (grad_b - grad_a)", "inverse_scale * (grad_a - grad_b)"),
            ("no gradient at the clamp", "log_scale < T(kLogScaleMin) ? T(0) : grad",
             "log_scale <= T(kLogScaleMin) ? T(0) : grad"),
            ("a wrong clamp", "kLogScaleMin = -7.0", "kLogScaleMin = -7.5"),
            ("width of a wide logistic", "kTinyWidth = 1e-30", "kTinyWidth = 0"),
        ],
        "csrc/discretized_logistic_mixture_cpu.cpp": [
            ("blue sees red twice", "c1[i] * values.x[0][i] + c2[i] * values.x[1][i]",
             "c1[i] * values.x[0][i] + c2[i] * values.x[0][i]"),
            ("gradient of a coefficient", "c1[i] * c1[i]) * blue[i] * values", "c1[i] * c1[i]) * green[i] * values"),
            ("no gradient of the prior", "responsibility[i] - logit[i] * to_prior[i]", "responsibility[i]"),
            ("width of the highest bin", "middle += v != 0 && v != levels - 1", "middle += v != 0"),
            ("the first component alone is the largest", "max[i] = max[i] < e ? e : max[i];", ""),
            ("rows of an image", "if (++h < H) continue;", "if (++h <= H) continue;"),
        ],
    },
    "value_frequencies": {
        "fastgen/ops/value_frequencies.py": [
            ("the reference's values may be impossible", "(until.diff(dim=1) + 1)", "until.diff(dim=1)"),
            ("the reference's polynomial ends early", "range(12, -1, -1)", "range(8, -1, -1)"),
            ("components as before the colours", "exponent = exponent + (torch.where(",
             "exponent = exponent + 0 * (torch.where("),
            ("one coefficient for all colours", "parts[:, earlier + c - 1, 2]", "parts[:, c - 1, 2]"),
            ("any number of levels", 'check_integer("levels", levels, 2, MOST_LEVELS)', "int(levels)"),
            ("a fake of other numbers", "dtype=torch.int32)\n\n\ndefine_op", "dtype=torch.int64)\n\n\ndefine_op"),
        ],
        "csrc/value_frequencies.h": [
            ("the last digits of ln 2", " - n * 1.90821492927058770002e-10", ""),
            ("a shorter polynomial", "p = p * r + 1.0 / 5040.0;", "p = p * r;"),
            ("the law of value 0 for 1", "plain_sigmoid(-double(logit))", "plain_sigmoid(double(logit))"),
            ("weights of whole numbers", "- highest) * kWeightOne);", "- highest) * 65536);"),
            ("the last category ends early", ": kFrequencyTotal - levels;", ": kFrequencyTotal - levels - 1;"),
            ("the highest bin ends", "const bool upper = value != last,", "const bool upper = true,"),
            ("the lowest bin ends", "lower = value != 0;", "lower = true;"),
            ("green for blue", "parameter(earlier + color - 1, 2)", "parameter(color - 1, 2)"),
            ("what is no number is no maximum", " || numbers[j] != numbers[j]", ""),
            ("narrower than any", "log_scale > kLogScaleMin ? log_scale : kLogScaleMin", "log_scale"),
            ("edges half a bin on", "(double(2 * l + 1) - last) / last", "(double(2 * l + 2) - last) / last"),
        ],
        "csrc/value_frequencies_cpu.cpp": [
            ("strides ignored", "params = as_contiguous(params_any);", "params = params_any;"),
            ("strides of the values ignored", "values = as_contiguous(*values_any);", "values = *values_any;"),
            ("the first row's values", "given + n * shape.colors", "given"),
            ("any colour", "0 <= color && color < shape.colors", "true"),
        ],
    },
    "checksum": {
        "fastgen/ops/checksum.py": [
            ("even multipliers", "dtype=np.int64) + 1  # wraps", "dtype=np.int64)  # wraps"),
            ("the reference joins no blocks", "if len(sums) <= 1:", "if True:"),
            ("the reference's words the other way round", "* multipliers).sum(", "* multipliers.flip(0)).sum("),
            ("a fake of other numbers", "multipliers.new_empty(len(tensors))\n\n\ndefine_op",
             "multipliers.new_empty(len(tensors), dtype=torch.int32)\n\n\ndefine_op"),
        ],
        "csrc/checksum.h": [
            ("words without a sign", "int32_t word;", "uint32_t word;"),
            ("every second word", "* multipliers[i];", "* multipliers[i | 1];"),
            ("the last bytes are left out", "if (rest == 0) return sum;", "return sum;"),
            ("the last bytes as the first", "last, multipliers + words);", "last, multipliers);"),
        ],
        "csrc/checksum_cpu.cpp": [
            ("strides ignored", "checksum_of(as_contiguous(tensor),", "checksum_of(tensor,"),
            ("the first block for all", "bytes + b * block, multipliers", "bytes, multipliers"),
            ("blocks are not joined", "} while (sums.size() > 1);", "} while (false);"),
            ("any multipliers", "multipliers_any.numel() >= kFewestMultipliers", "true"),
        ],
    },
}
