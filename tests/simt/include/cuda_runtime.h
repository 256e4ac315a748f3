// Stands in for CUDA's; what kernels need of it is in simt.h, which is included before them.
#pragma once
