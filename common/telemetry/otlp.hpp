// Spans as the body of an OTLP/HTTP request in JSON (opentelemetry-proto 1.x,
// ExportTraceServiceRequest in proto3's JSON mapping, with the ids in hexadecimal as OTLP wants
// them).
#pragma once

#include <span>
#include <string>

#include "common/telemetry/tracing.hpp"

namespace fulgur::telemetry {

/// Who made the spans.
struct Resource {
  std::string service;   ///< service.name, "fulgur-router"
  std::string instance;  ///< service.instance.id, the member's name in the mesh
};

/// Unix time of a monotonic clock: read once, so that the spans of a process never jump against
/// each other. A later step of the host's wall clock is not followed.
class UnixTime {
 public:
  explicit UnixTime(const Clock& clock);
  Nanoseconds of(Nanoseconds monotonic) const { return monotonic + offset_; }

 private:
  Nanoseconds offset_ = 0;
};

std::string otlp_json(const Resource& resource, std::span<const Span> spans, const UnixTime& time);

}  // namespace fulgur::telemetry
