// The host's memory as a device's.
#include "common/kernels/cuda/device.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "common/base/status.h"

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {
namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t kAlignment = 16;
constexpr int64_t kMemoryBytes = int64_t{1} << 30;
// As many as an H100 has, so that work is cut as it would be there.
constexpr int kNumMultiprocessors = 132;

int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

// Where the pages of a buffer begin, which ends where its last page does, and how long they are with the page
// behind it that must not be touched.
std::byte* PagesOf(std::byte* data) { return data - reinterpret_cast<uintptr_t>(data) % kPage; }
int64_t MappedBytes(int64_t bytes) { return RoundUp(std::max(bytes, kAlignment), kPage) + kPage; }

const DeviceFacts kFacts = {"emulated on the host", "emulated", kNumMultiprocessors, kMemoryBytes};

}  // namespace

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) munmap(PagesOf(data_), MappedBytes(bytes_));
}

absl::StatusOr<std::vector<DeviceFacts>> Device::List() { return std::vector<DeviceFacts>{kFacts}; }

absl::StatusOr<std::unique_ptr<Device>> Device::Open(int index) {
  if (index != 0) return FailedPrecondition("no CUDA device {}, only 0", index);
  std::unique_ptr<Device> device(new Device());
  device->facts_ = kFacts;
  return device;
}

Device::~Device() = default;

void Device::Use() const {}

int64_t Device::FreeBytes() const { return kMemoryBytes; }

absl::StatusOr<DeviceBuffer> Device::Allocate(int64_t bytes) {
  const int64_t mapped = MappedBytes(bytes), usable = mapped - kPage;
  void* const pages = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return ResourceExhausted("no memory for {} bytes", bytes);
  auto* const begin = static_cast<std::byte*>(pages);
  TANDEM_CHECK(mprotect(begin + usable, kPage, PROT_NONE) == 0);
  std::memset(begin, 0xff, usable);  // NaN, and no index that could be right
  return DeviceBuffer(begin + usable - RoundUp(std::max(bytes, int64_t{1}), kAlignment), bytes);
}

absl::StatusOr<DeviceBuffer> Device::AllocateCopy(const void* from, int64_t bytes) {
  ASSIGN_OR_RETURN(DeviceBuffer buffer, Allocate(bytes));
  Upload(buffer.data(), from, bytes);
  return buffer;
}

void Device::Upload(void* to, const void* from, int64_t bytes) { std::memcpy(to, from, bytes); }
void Device::Download(void* to, const void* from, int64_t bytes) { std::memcpy(to, from, bytes); }
void Device::Copy(void* to, const void* from, int64_t bytes) { std::memcpy(to, from, bytes); }
void Device::Fill(void* to, uint8_t value, int64_t bytes) { std::memset(to, value, bytes); }
void Device::Synchronize() {}
void Device::CheckLaunch() {}

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
