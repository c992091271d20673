// Stands in for CUDA's header where the portable kernels are compiled as C++: see emulation.hpp.
#pragma once

#include "kernels/cuda/emulation/emulation.hpp"
