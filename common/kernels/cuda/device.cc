#include "common/kernels/cuda/device.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "common/base/status.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {
namespace {

// What cannot be mended (device.h).
void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "cuda: %s: %s (%s)\n", what, cudaGetErrorString(error), cudaGetErrorName(error));
  std::abort();
}

absl::StatusOr<int> CountDevices() {
  int driver = 0, count = 0;
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0) {
    return FailedPrecondition("no CUDA device: no NVIDIA driver is installed (libcuda.so.1)");
  }
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();  // forgets it
    return FailedPrecondition("no CUDA device: {} ({})", cudaGetErrorString(error), cudaGetErrorName(error));
  }
  if (count == 0) return FailedPrecondition("no CUDA device: the driver shows none");
  return count;
}

absl::StatusOr<DeviceFacts> FactsOf(int index) {
  cudaDeviceProp properties;
  const cudaError_t error = cudaGetDeviceProperties(&properties, index);
  if (error != cudaSuccess) return FailedPrecondition("cuda:{}: {}", index, cudaGetErrorString(error));
  return DeviceFacts{properties.name, fmt::format("sm_{}{}", properties.major, properties.minor),
                     properties.multiProcessorCount, static_cast<int64_t>(properties.totalGlobalMem)};
}

}  // namespace

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) cudaFree(data_);
}

absl::StatusOr<std::vector<DeviceFacts>> Device::List() {
  ASSIGN_OR_RETURN(const int count, CountDevices());
  std::vector<DeviceFacts> all;
  for (int index = 0; index < count; ++index) {
    ASSIGN_OR_RETURN(DeviceFacts facts, FactsOf(index));
    all.push_back(std::move(facts));
  }
  return all;
}

absl::StatusOr<std::unique_ptr<Device>> Device::Open(int index) {
  ASSIGN_OR_RETURN(const int count, CountDevices());
  if (index < 0 || index >= count) {
    return FailedPrecondition("no CUDA device {}, only 0 to {}", index, count - 1);
  }
  std::unique_ptr<Device> device(new Device());
  device->index_ = index;
  ASSIGN_OR_RETURN(device->facts_, FactsOf(index));
  cudaError_t error = cudaSetDevice(index);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&device->stream_, cudaStreamNonBlocking);
  if (error != cudaSuccess) return FailedPrecondition("cuda:{}: {}", index, cudaGetErrorString(error));
  return device;
}

Device::~Device() {
  if (stream_ == nullptr) return;
  cudaSetDevice(index_);
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

void Device::Use() const { Check(cudaSetDevice(index_), "choosing the device"); }

int64_t Device::FreeBytes() const {
  size_t free = 0, total = 0;
  Use();
  Check(cudaMemGetInfo(&free, &total), "asking for free memory");
  return static_cast<int64_t>(free);
}

absl::StatusOr<DeviceBuffer> Device::Allocate(int64_t bytes) {
  void* data = nullptr;
  Use();
  const cudaError_t error = cudaMalloc(&data, static_cast<size_t>(std::max<int64_t>(bytes, 1)));
  if (error != cudaSuccess) {
    cudaGetLastError();  // forgets it
    return ResourceExhausted("no device memory for {} bytes: {}", bytes, cudaGetErrorString(error));
  }
  return DeviceBuffer(static_cast<std::byte*>(data), bytes);
}

absl::StatusOr<DeviceBuffer> Device::AllocateCopy(const void* from, int64_t bytes) {
  ASSIGN_OR_RETURN(DeviceBuffer buffer, Allocate(bytes));
  Upload(buffer.data(), from, bytes);
  return buffer;
}

// Memory that is not page-locked, which is all that this backend gives it: the call takes a copy of it before
// it returns.
void Device::Upload(void* to, const void* from, int64_t bytes) {
  Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream_), "a copy to the device");
}
void Device::Download(void* to, const void* from, int64_t bytes) {
  Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "a copy from the device");
}
void Device::Copy(void* to, const void* from, int64_t bytes) {
  Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "a copy on the device");
}
void Device::Fill(void* to, uint8_t value, int64_t bytes) {
  Use();
  Check(cudaMemsetAsync(to, value, bytes, stream_), "filling device memory");
}
void Device::Synchronize() { Check(cudaStreamSynchronize(stream_), "waiting for the device"); }
void Device::CheckLaunch() { Check(cudaGetLastError(), "launching a kernel"); }

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
