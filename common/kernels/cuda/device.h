// A CUDA device as the backend uses it: memory, copies, and one stream in whose order everything happens.
//
//   ASSIGN_OR_RETURN(auto device, Device::Open(0));
//   ASSIGN_OR_RETURN(DeviceBuffer x, device->Allocate(bytes));
//   device->Upload(x.data(), values, bytes);  ...  device->Synchronize();
//
// The sources of this folder make two libraries. One is compiled by nvcc and runs on a device; in the other
// (TANDEM_CUDA_EMULATED) the same kernels run on the host, for tests (emulate/block.h). Their names differ by
// an inline namespace, so that both may be in one program.
//
// What fails on a device that is open (a launch, a copy, a kernel that went wrong) cannot be mended: the
// process says what it was and ends, and whoever watches over it starts it again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

#ifdef TANDEM_CUDA_EMULATED
#define TANDEM_CUDA_NAMESPACE emulated
#else
#define TANDEM_CUDA_NAMESPACE on_device
#endif

struct CUstream_st;  // the driver's; cudaStream_t points to it

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {

// cudaMalloc'ed, aligned to 256 bytes. Not initialised.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(std::byte* data, int64_t bytes) : data_(data), bytes_(bytes) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer();

  std::byte* data() const { return data_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

struct DeviceFacts {
  std::string name;          // "NVIDIA H100 80GB HBM3"
  std::string architecture;  // "sm_90"
  int num_multiprocessors = 0;
  int64_t memory_bytes = 0;
};

class Device {
 public:
  // All that the driver shows. kFailedPrecondition says why there is none: no driver, one that is too old, no
  // device.
  static absl::StatusOr<std::vector<DeviceFacts>> List();

  // kFailedPrecondition as List's, or if there is no device of that number.
  static absl::StatusOr<std::unique_ptr<Device>> Open(int index);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const DeviceFacts& facts() const { return facts_; }
  int64_t FreeBytes() const;

  // kResourceExhausted with the size.
  absl::StatusOr<DeviceBuffer> Allocate(int64_t bytes);
  // Allocate and Upload.
  absl::StatusOr<DeviceBuffer> AllocateCopy(const void* from, int64_t bytes);

  // In the stream's order. What `from` holds has been taken when Upload returns. What Download writes, and
  // what kernels did, is there after Synchronize.
  void Upload(void* to, const void* from, int64_t bytes);
  void Download(void* to, const void* from, int64_t bytes);
  void Copy(void* to, const void* from, int64_t bytes);
  void Fill(void* to, uint8_t value, int64_t bytes);
  void Synchronize();

  // Makes it the calling thread's device, which a thread does before it launches kernels.
  void Use() const;
  CUstream_st* stream() const { return stream_; }
  void CheckLaunch();

 private:
  Device() = default;

  int index_ = 0;
  DeviceFacts facts_;
  CUstream_st* stream_ = nullptr;
};

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
