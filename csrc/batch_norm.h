// batch_norm: what becomes of a number of an image in channel c
//   apply     z = activation((y − center) · scale + shift)
//   backward  g = grad_z · activation'(z);  grad_y = g · scale;  grad_scale = Σ g · (y − center);  grad_shift = Σ g
// No torch headers.
#pragma once

#include "activation.h"

namespace fastgen {

template <typename A>
struct Affine {
  A center, scale, shift;
};

template <Pointwise kind, typename A>
FG_HD A batch_norm_apply(A y, Affine<A> of, A slope) {
  return activate<kind>((y - of.center) * of.scale + of.shift, slope);
}

// The gradient before the scale, g.
template <Pointwise kind, typename A>
FG_HD A batch_norm_apply_backward(A grad, A y, Affine<A> of, A slope) {
  return activate_backward<kind>(grad, batch_norm_apply<kind>(y, of, slope), slope);
}

}  // namespace fastgen
