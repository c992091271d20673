#include "common/transport/cuda_driver.hpp"

namespace fulgur::transport {
namespace {

constexpr unsigned kDriverVersion = 12000;

template <class Function>
Status find(const char* name, Function& function) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult why = cudaDriverEntryPointSymbolNotFound;
  FULGUR_RETURN_IF_ERROR(
      check(cudaGetDriverEntryPointByVersion(name, &found, kDriverVersion, cudaEnableDefault, &why),
            name));
  if (found == nullptr || why != cudaDriverEntryPointSuccess) {
    return error(Code::unavailable, "the driver has no {}", name);
  }
  function = reinterpret_cast<Function>(found);
  return Status::ok();
}

}  // namespace

Status check(cudaError_t result, const char* what) {
  if (result == cudaSuccess) return Status::ok();
  (void)cudaGetLastError();
  const Code code =
      result == cudaErrorMemoryAllocation ? Code::resource_exhausted : Code::unavailable;
  return error(code, "{}: {}", what, cudaGetErrorString(result));
}

Status check(CUresult result, const char* what) {
  if (result == CUDA_SUCCESS) return Status::ok();
  const Code code =
      result == CUDA_ERROR_OUT_OF_MEMORY ? Code::resource_exhausted : Code::unavailable;
  return error(code, "{}: driver error {}", what, static_cast<int>(result));
}

Result<CudaDriver> CudaDriver::load() {
  CudaDriver driver;
  FULGUR_RETURN_IF_ERROR(find("cuMemGetAllocationGranularity", driver.granularity));
  FULGUR_RETURN_IF_ERROR(find("cuMemCreate", driver.create));
  FULGUR_RETURN_IF_ERROR(find("cuMemRelease", driver.release));
  FULGUR_RETURN_IF_ERROR(find("cuMemAddressReserve", driver.reserve));
  FULGUR_RETURN_IF_ERROR(find("cuMemAddressFree", driver.unreserve));
  FULGUR_RETURN_IF_ERROR(find("cuMemMap", driver.map));
  FULGUR_RETURN_IF_ERROR(find("cuMemUnmap", driver.unmap));
  FULGUR_RETURN_IF_ERROR(find("cuMemSetAccess", driver.set_access));
  FULGUR_RETURN_IF_ERROR(find("cuMemExportToShareableHandle", driver.export_handle));
  FULGUR_RETURN_IF_ERROR(find("cuMemImportFromShareableHandle", driver.import_handle));
  FULGUR_RETURN_IF_ERROR(find("cuStreamWriteValue64", driver.write_value));
  return driver;
}

Result<CudaStream> CudaStream::make() {
  cudaStream_t stream = nullptr;
  FULGUR_RETURN_IF_ERROR(
      check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate"));
  return CudaStream(stream);
}

CudaStream::~CudaStream() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

Status CudaStream::wait_for(void* ready) const {
  if (ready == nullptr) return Status::ok();
  return check(cudaStreamWaitEvent(stream_, static_cast<cudaEvent_t>(ready), 0),
               "cudaStreamWaitEvent");
}

Status CudaStream::failure() const {
  const cudaError_t state = cudaStreamQuery(stream_);
  return state == cudaErrorNotReady ? Status::ok() : check(state, "the device");
}

}  // namespace fulgur::transport
