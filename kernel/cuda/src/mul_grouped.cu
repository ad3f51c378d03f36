// Products of several groups of rows, each with a matrix of its own, in one launch: experts
// and their rows. All matrices have one shape and format. The bodies, and so the order of
// every sum, are those of one product.
//
// blockIdx.x goes over panels and blockIdx.y over 64 outputs each, so that panels of the same
// matrix run at about the same time, and find its weights in the second cache.

#pragma once
#include "drover.h"
#include "mul.cu"

// Neighbouring rows, here up to 8, and their matrix: see mulPanel in kernel/cuda/grouped.go.
struct MulPanel {
  const unsigned *packed;
  int first, rows;
};

template <typename Sum>
__device__ __forceinline__ void mul_grouped(float *y, const float *x, const MulPanel *panels,
                                            long long outputs, long long inputs, long long lines,
                                            Sum sum) {
  const MulPanel p = panels[blockIdx.x];
  mul_panel(y, x, p.packed, p.first, p.rows, (long long)blockIdx.y * OUTPUTS + threadIdx.x,
            outputs, inputs, lines, sum);
}

extern "C" __global__ void __launch_bounds__(OUTPUTS)
mul_grouped_f32(float *y, const float *x, const MulPanel *panels, long long outputs,
                long long inputs) {
  mul_grouped(y, x, panels, outputs, inputs, inputs, SumF32());
}

extern "C" __global__ void __launch_bounds__(OUTPUTS)
mul_grouped_bf16(float *y, const float *x, const MulPanel *panels, long long outputs,
                 long long inputs) {
  mul_grouped(y, x, panels, outputs, inputs, (inputs + 1) / 2, SumBF16());
}
