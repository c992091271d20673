// Choice of the device and of the kernels' family at run time.
#include "common/base/status.hpp"
#include "kernels/cuda/cuda_backend.hpp"
#if defined(FULGUR_CUDA_EMULATION)
#include "kernels/cuda/emulation/emulated_backend.hpp"
#else
#include "kernels/cuda/sm90_backend.hpp"
#endif

namespace fulgur::kernels {
namespace cuda {
namespace {

constexpr int kOldest = 80;  ///< sm_80

/// Compute capability of the device, 10 * major + minor, or why it cannot be used.
Result<int> open_device(int device) {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0) {
    return error(Code::failed_precondition, "cuda backend: this machine has no NVIDIA driver");
  }
  if (driver / 1000 < CUDART_VERSION / 1000) {
    return error(Code::failed_precondition,
                 "cuda backend: the NVIDIA driver supports CUDA {}.{}, this build needs {}.0",
                 driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000);
  }
  int count = 0;
  if (const cudaError_t status = cudaGetDeviceCount(&count); status != cudaSuccess || count == 0) {
    return error(Code::failed_precondition, "cuda backend: no GPU: {}", cudaGetErrorString(status));
  }
  if (device < 0 || device >= count) {
    return error(Code::failed_precondition, "cuda backend: no GPU {}: this machine has {}", device,
                 count);
  }
  int major = 0, minor = 0;
  (void)cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  (void)cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  const int capability = 10 * major + minor;
  if (capability < kOldest) {
    return error(Code::failed_precondition,
                 "cuda backend: GPU {} is sm_{}, sm_{} or newer is needed", device, capability,
                 kOldest);
  }
  return capability;
}

/// Why the fast kernels cannot serve; empty: they can.
std::string sm90_misfit(int capability, const CudaOptions& options) {
#if defined(FULGUR_CUDA_EMULATION)
  (void)capability;
  (void)options;
  return "the emulation has portable kernels only";
#else
  if (capability != 90) return fmt::format("the GPU is sm_{}", capability);
  if (options.precision != Precision::bf16) return "they are bf16 only";
  return Sm90Backend::misfit(options.shape);
#endif
}

Result<std::unique_ptr<Backend>> make(const CudaOptions& options) {
  FULGUR_ASSIGN_OR_RETURN(const int capability, open_device(options.device));
  const std::string misfit = sm90_misfit(capability, options);
  if (options.family == CudaFamily::sm90 && !misfit.empty()) {
    return error(Code::failed_precondition, "cuda backend: the sm_90 kernels do not fit: {}",
                 misfit);
  }
  if (options.expert_weights == ExpertWeights::fp8_e4m3 &&
      (!misfit.empty() || options.family == CudaFamily::portable)) {
    return error(Code::failed_precondition,
                 "cuda backend: fp8 expert weights need the sm_90 kernels: {}",
                 misfit.empty() ? "the portable ones were asked for" : misfit);
  }
  if (options.sums != Sums::fixed && (!misfit.empty() || options.family == CudaFamily::portable)) {
    return error(Code::failed_precondition, "cuda backend: free sums need the sm_90 kernels: {}",
                 misfit.empty() ? "the portable ones were asked for" : misfit);
  }
  auto memory = DeviceMemory::of(options.device);
#if !defined(FULGUR_CUDA_EMULATION)
  if (misfit.empty() && options.family != CudaFamily::portable) {
    return Result<std::unique_ptr<Backend>>(
        std::make_unique<Sm90Backend>(std::move(memory), options));
  }
#endif
  return Result<std::unique_ptr<Backend>>(
      std::make_unique<CudaBackend>(std::move(memory), options));
}

Result<std::unique_ptr<Backend>> make_or_say_why(const CudaOptions& options) {
  try {
    return make(options);
  } catch (const std::exception& failure) {  // no memory, or a call of the runtime failed
    return error(Code::failed_precondition, "{}", failure.what());
  }
}

}  // namespace
}  // namespace cuda

#if defined(FULGUR_CUDA_EMULATION)
Result<std::unique_ptr<Backend>> make_emulated_cuda_backend(const CudaOptions& options) {
  return cuda::make_or_say_why(options);
}
#else
Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options) {
  return cuda::make_or_say_why(options);
}
#endif

}  // namespace fulgur::kernels
