// Whose work something is part of, in the terms of W3C Trace Context and OpenTelemetry: a trace of
// 128 bits and the span in it that caused the work. Travels in every message; all zero means
// untraced.
#pragma once

#include <cstdint>

namespace fulgur {

struct TraceContext {
  std::uint64_t high = 0;  ///< first 8 bytes of the trace id
  std::uint64_t low = 0;   ///< last 8 bytes
  std::uint64_t span = 0;  ///< parent of the spans to come; 0: nobody watches

  bool sampled() const { return span != 0; }
  friend bool operator==(const TraceContext&, const TraceContext&) = default;
};

}  // namespace fulgur
