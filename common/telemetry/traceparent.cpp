#include "common/telemetry/traceparent.hpp"

#include <fmt/format.h>

namespace fulgur::telemetry {
namespace {

// version "-" trace-id "-" parent-id "-" trace-flags
constexpr std::size_t kTraceIdAt = 3;
constexpr std::size_t kSpanIdAt = 36;
constexpr std::size_t kFlagsAt = 53;
constexpr std::size_t kLength = 55;
constexpr std::uint64_t kSampledFlag = 1;

/// At most 16 digits; nothing when one is no lower-case hexadecimal digit.
std::optional<std::uint64_t> parse_hex(std::string_view digits) {
  std::uint64_t value = 0;
  for (const char c : digits) {
    const bool number = c >= '0' && c <= '9';
    if (!number && (c < 'a' || c > 'f')) return std::nullopt;
    value = value << 4 | static_cast<std::uint64_t>(number ? c - '0' : c - 'a' + 10);
  }
  return value;
}

}  // namespace

std::optional<TraceParent> parse_traceparent(std::string_view header) {
  if (header.size() < kLength) return std::nullopt;
  const auto version = parse_hex(header.substr(0, 2));
  const auto high = parse_hex(header.substr(kTraceIdAt, 16));
  const auto low = parse_hex(header.substr(kTraceIdAt + 16, 16));
  const auto span = parse_hex(header.substr(kSpanIdAt, 16));
  const auto flags = parse_hex(header.substr(kFlagsAt, 2));
  const bool digits = version && high && low && span && flags;
  if (!digits || header[2] != '-' || header[35] != '-' || header[52] != '-') return std::nullopt;
  if (*version == 0xff || (*high | *low) == 0 || *span == 0) return std::nullopt;
  const bool longer = header.size() > kLength;
  if (longer && (*version == 0 || header[kLength] != '-')) return std::nullopt;
  return TraceParent{{*high, *low, *span}, (*flags & kSampledFlag) != 0};
}

std::string trace_id_hex(const TraceContext& context) {
  return fmt::format("{:016x}{:016x}", context.high, context.low);
}

std::string span_id_hex(std::uint64_t id) { return fmt::format("{:016x}", id); }

}  // namespace fulgur::telemetry
