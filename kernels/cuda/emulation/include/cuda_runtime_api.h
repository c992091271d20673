// Stands in for CUDA's header where the CUDA backend is compiled without CUDA: see emulation.hpp.
#pragma once

#include "kernels/cuda/emulation/emulation.hpp"
