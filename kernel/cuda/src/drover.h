// What kernels include: nothing for a GPU's compiler, and for a C++ compiler of the host
// the words of CUDA that they use, so that tests run the same bodies on a CPU.
#pragma once
#ifndef __CUDACC__
#include "host.h"
#endif
