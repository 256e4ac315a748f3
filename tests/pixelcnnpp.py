"""openai/pixel-cnn's ``discretized_mix_logistic_loss``, carried over to torch line by line, thresholds and all."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def literal_log_likelihood(params: Tensor, values: Tensor) -> Tensor:
    """(N, P, H, W), (N, C, H, W) of 256 levels → (N, H, W) nats."""
    x = (values.to(params.dtype) / 127.5 - 1).movedim(1, -1).unsqueeze(-1)  # (N, H, W, C, 1)
    l = params.movedim(1, -1)
    C = x.shape[3]
    nr_mix = l.shape[-1] // (10 if C == 3 else 3)
    logit_probs = l[..., :nr_mix]
    l = l[..., nr_mix:].reshape(*x.shape[:-1], -1)  # (N, H, W, C, 3K or 2K)
    means = l[..., :nr_mix]
    log_scales = torch.clamp(l[..., nr_mix : 2 * nr_mix], min=-7.0)
    if C == 3:
        coeffs = torch.tanh(l[..., 2 * nr_mix :])
        m2 = means[..., 1, :] + coeffs[..., 0, :] * x[..., 0, :]
        m3 = means[..., 2, :] + coeffs[..., 1, :] * x[..., 0, :] + coeffs[..., 2, :] * x[..., 1, :]
        means = torch.stack((means[..., 0, :], m2, m3), dim=-2)
    centered_x = x - means
    inv_stdv = torch.exp(-log_scales)
    plus_in = inv_stdv * (centered_x + 1.0 / 255.0)
    cdf_plus = torch.sigmoid(plus_in)
    min_in = inv_stdv * (centered_x - 1.0 / 255.0)
    cdf_min = torch.sigmoid(min_in)
    log_cdf_plus = plus_in - F.softplus(plus_in)
    log_one_minus_cdf_min = -F.softplus(min_in)
    cdf_delta = cdf_plus - cdf_min
    mid_in = inv_stdv * centered_x
    log_pdf_mid = mid_in - log_scales - 2.0 * F.softplus(mid_in)
    inner = torch.where(cdf_delta > 1e-5, torch.log(torch.clamp(cdf_delta, min=1e-12)), log_pdf_mid - math.log(127.5))
    log_probs = torch.where(x < -0.999, log_cdf_plus, torch.where(x > 0.999, log_one_minus_cdf_min, inner))
    return torch.logsumexp(log_probs.sum(dim=3) + F.log_softmax(logit_probs, dim=-1), dim=-1)
