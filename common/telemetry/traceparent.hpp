// The `traceparent` header of W3C Trace Context: how a client says which trace its request is part
// of.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/base/trace_context.hpp"

namespace fulgur::telemetry {

struct TraceParent {
  TraceContext context;  ///< context.span is the caller's span
  bool sampled = false;  ///< the caller's decision
};

/// Nothing for a header that is empty or malformed, which by the standard counts as absent. Later
/// versions of the format are read as far as this one goes.
std::optional<TraceParent> parse_traceparent(std::string_view header);

/// 32 lower-case hexadecimal digits.
std::string trace_id_hex(const TraceContext& context);
/// 16 of them.
std::string span_id_hex(std::uint64_t id);

}  // namespace fulgur::telemetry
