// conv2d_weight: weight[o, i, tap] = Σ over images and pixels of grad[o, pixel] · image[i, what the tap reads there]
// Shapes   image (N, H, W, I) and grad (N, h, w, O) in bfloat16; weight (O, I, KH, KW) and all sums in float32
// Pairs    a word is the same number of two images, beside the last of an odd number a zero: so it is a pair wherever a
//          tap reads it, of any stride, and one image laid out with its border serves all taps
// Numerics products are exact; an infinite gradient times the border's zeros is NaN
// No torch headers.
#pragma once

#include "conv2d_image.h"
