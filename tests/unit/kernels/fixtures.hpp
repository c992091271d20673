// Seeded inputs and the list of backends under test: every instruction set this machine has, with
// one to three threads. Outputs start as NaN, so that an element left unwritten is seen.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "common/base/bf16.hpp"
#include "common/base/rng.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"
#if defined(FULGUR_TEST_CUDA)
#include "tests/support/device_backend.hpp"
#include "tests/unit/kernels/hosted_backend.hpp"
#endif

namespace fulgur::kernels::testing {

inline constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

inline std::vector<float> random_floats(Rng& rng, std::size_t count, float scale = 1.0F) {
  std::vector<float> values(count);
  for (float& value : values) {
    value = static_cast<float>((rng.uniform() + rng.uniform() + rng.uniform() - 1.5) * 2.0) * scale;
  }
  return values;
}

/// A weight as a checkpoint holds it, with its exact values in float64.
struct HostWeight {
  std::vector<std::byte> bytes;
  std::vector<double> values;
  Dtype dtype;
  std::size_t rows, cols;

  HostMatrix matrix() const { return {bytes.data(), dtype, rows, cols}; }
};

inline std::uint16_t random_half(Rng& rng) {  // normal halves of magnitude 2^-8 to 1
  const auto bits = static_cast<std::uint16_t>(rng.next());
  return static_cast<std::uint16_t>((bits & 0x83ffU) | ((7U + rng.below(8)) << 10));
}

inline HostWeight random_weight(Rng& rng, std::size_t rows, std::size_t cols, Dtype dtype) {
  HostWeight weight{{}, {}, dtype, rows, cols};
  weight.bytes.resize(rows * cols * size_of(dtype));
  for (std::size_t i = 0; i < rows * cols; ++i) {
    const float value = random_floats(rng, 1, 0.2F)[0];
    const std::uint16_t bits = dtype == Dtype::f16 ? random_half(rng) : to_bf16(value).bits;
    if (dtype == Dtype::f32) {
      std::memcpy(weight.bytes.data() + 4 * i, &value, 4);
      weight.values.push_back(value);
    } else {
      std::memcpy(weight.bytes.data() + 2 * i, &bits, 2);
      weight.values.push_back(dtype == Dtype::f16 ? half_to_float(bits) : to_float(Bf16{bits}));
    }
  }
  return weight;
}

inline std::unique_ptr<Backend> cpu_backend(Precision precision, const std::string& isa,
                                            std::uint32_t threads) {
  auto made = make_cpu_backend({precision, threads, {}, isa});
  return made.is_ok() ? std::move(made).value() : nullptr;
}

#if defined(FULGUR_TEST_CUDA)

/// The CUDA backend with portable kernels: on the GPU of this machine, or emulated with the threads
/// of a block in both orders.
inline std::vector<std::unique_ptr<Backend>> backends_under_test(Precision precision) {
  std::vector<std::unique_ptr<Backend>> backends;
  for (const bool reversed : test::device_orders()) {
    auto device = test::make_device_backend(precision).value();
    std::string name = std::string(device->name()) + (reversed ? " reversed" : "");
    backends.push_back(std::make_unique<HostedBackend>(
        std::move(device), std::move(name),
        [reversed](const std::function<void()>& call) { test::in_order(reversed, call); }));
  }
  return backends;
}

#else

/// Every instruction set this machine can run, and one to three threads on the best of them.
inline std::vector<std::unique_ptr<Backend>> backends_under_test(Precision precision) {
  std::vector<std::unique_ptr<Backend>> backends;
  for (const char* isa : {"amx", "avx512bf16", "avx512", "avx2"}) {
    const bool best = backends.empty();
    for (const std::uint32_t threads : {2U, 1U, 3U}) {
      if (threads != 2 && !best) continue;
      if (auto backend = cpu_backend(precision, isa, threads)) {
        backends.push_back(std::move(backend));
      }
    }
  }
  return backends;
}

#endif

/// The backends under test and the reference.
inline std::vector<std::unique_ptr<Backend>> all_backends(Precision precision) {
  auto backends = backends_under_test(precision);
  backends.push_back(make_reference_backend(precision));
  return backends;
}

/// The reference in each order of a product's sums, and which of them a backend's bits equal.
class References {
 public:
  explicit References(Precision precision)
      : pairs_(make_reference_backend(precision)),
        tiles_(make_reference_backend(precision, ProductOrder::tiles)) {}

  Backend& of(const Backend& backend) {
    return backend.numerics() == "cpu-amx-bf16" ? *tiles_ : *pairs_;
  }

 private:
  std::unique_ptr<Backend> pairs_, tiles_;
};

/// Strict equality of bits, so that +0 and -0 differ and an unwritten NaN never passes.
inline ::testing::AssertionResult same_bits(const std::vector<float>& a,
                                            const std::vector<float>& b) {
  if (a.size() != b.size()) return ::testing::AssertionFailure() << "sizes differ";
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) || std::memcmp(&a[i], &b[i], sizeof(float)) != 0) {
      return ::testing::AssertionFailure() << "element " << i << ": " << a[i] << " and " << b[i];
    }
  }
  return ::testing::AssertionSuccess();
}

inline const char* name_of(Precision precision) {
  return precision == Precision::bf16 ? "bf16" : "f32";
}

/// Value of x as an operand of the mode.
inline double operand(float x, Precision precision) {
  return precision == Precision::bf16 ? to_float(to_bf16(x)) : x;
}

}  // namespace fulgur::kernels::testing
