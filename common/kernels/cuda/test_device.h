// The device that tests run on: the emulated one, in each order in which its threads may run, or the first of
// the machine, without which they skip.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <utility>
#include <vector>

#include "common/base/status.h"
#include "common/kernels/cuda/device.h"
#ifdef TANDEM_CUDA_EMULATED
#include "common/kernels/cuda/emulate/block.h"
#endif

namespace tandem::kernels::cuda {
inline namespace TANDEM_CUDA_NAMESPACE {

class DeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<Device>> device = Device::Open(0);
    if (!device.ok()) GTEST_SKIP() << device.status().message();
    device_ = *std::move(device);
  }

  template <typename T>
  DeviceBuffer ToDevice(const std::vector<T>& values) {
    absl::StatusOr<DeviceBuffer> buffer = device_->AllocateCopy(values.data(), values.size() * sizeof(T));
    TANDEM_CHECK(buffer.ok());
    return *std::move(buffer);
  }
  DeviceBuffer Allocate(int64_t bytes) {
    absl::StatusOr<DeviceBuffer> buffer = device_->Allocate(bytes);
    TANDEM_CHECK(buffer.ok());
    return *std::move(buffer);
  }
  template <typename T>
  std::vector<T> ToHost(const DeviceBuffer& buffer) {
    std::vector<T> values(buffer.bytes() / sizeof(T));
    device_->Download(values.data(), buffer.data(), buffer.bytes());
    device_->Synchronize();
    return values;
  }

  // Calls f with what to say of a failure; under emulation once for each schedule.
  template <typename F>
  void ForEachSchedule(const F& f) {
#ifdef TANDEM_CUDA_EMULATED
    using emulate::Schedule;
    for (const auto& [schedule, name] : {std::pair{Schedule::kAscending, "threads ascending"},
                                         {Schedule::kDescending, "threads descending"},
                                         { Schedule::kScattered,
                                           "threads scattered" }}) {
      emulate::SetSchedule(schedule);
      f(name);
    }
    emulate::SetSchedule(Schedule::kAscending);
#else
    f("on the device");
#endif
  }

  std::unique_ptr<Device> device_;
};

}  // namespace TANDEM_CUDA_NAMESPACE
}  // namespace tandem::kernels::cuda
