// Spans in OpenTelemetry's sense: named pieces of a request's way, each with a parent. A service
// makes them for sampled requests only and gives each to its Tracer when it ends; where none is
// configured there is no Tracer, and nobody asks for more than a pointer.
//
// Thread contract: a Tracer may be used by any thread; a Span belongs to whoever fills it.
#pragma once

#include <atomic>
#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/trace_context.hpp"

namespace fulgur::telemetry {

/// Values OTLP knows; lists are of strings.
using AttributeValue =
    std::variant<bool, std::int64_t, double, std::string, std::vector<std::string>>;

struct Attribute {
  std::string_view key;  ///< a literal: it is not copied
  AttributeValue value;
};

/// Something that happened within a span.
struct SpanEvent {
  std::string_view name;  ///< a literal
  Nanoseconds at = 0;     ///< monotonic
  std::vector<Attribute> attributes = {};
};

/// Numbers are OTLP's.
enum class SpanKind : std::uint8_t {
  internal = 1,
  server = 2,  ///< work for a request from another process
  client = 3,  ///< a request to another process
};

struct Span {
  TraceContext parent;  ///< parent.span is 0 at the root of a trace
  std::uint64_t id = 0;
  std::string name;
  SpanKind kind = SpanKind::internal;
  Nanoseconds start = 0;  ///< monotonic time of the process's clock, as is `end`
  Nanoseconds end = 0;
  bool failed = false;
  std::string why;  ///< when failed
  std::vector<Attribute> attributes = {};
  std::vector<SpanEvent> events = {};
  std::uint32_t events_dropped = 0;
  std::vector<TraceContext> links = {};  ///< spans of other traces that have to do with this one

  /// What makes further spans children of this one.
  TraceContext context() const { return {parent.high, parent.low, id}; }

  template <std::integral T>
  void set(std::string_view key, T value) {
    set_integer(key, static_cast<std::int64_t>(value));
  }
  void set(std::string_view key, bool value);
  void set(std::string_view key, double value);
  void set(std::string_view key, std::string value);
  void set(std::string_view key, std::vector<std::string> value);
  void fail(std::string reason);

 private:
  void set_integer(std::string_view key, std::int64_t value);
};

class Tracer {
 public:
  /// Ids are drawn from `seed`, which should differ between processes.
  explicit Tracer(std::uint64_t seed) : seed_(seed) {}
  virtual ~Tracer() = default;
  Tracer(const Tracer&) = delete;
  Tracer& operator=(const Tracer&) = delete;

  /// 64 random bits, never 0.
  std::uint64_t new_id();
  /// A span that begins at `start`, not recorded yet.
  Span open(std::string name, SpanKind kind, const TraceContext& parent, Nanoseconds start);
  /// Takes a finished span. Never waits.
  virtual void record(Span span) = 0;
  /// Ends `span` at `end` and takes it.
  void close(Span& span, Nanoseconds end) {
    span.end = end;
    record(std::move(span));
  }

 private:
  const std::uint64_t seed_;
  std::atomic<std::uint64_t> drawn_{0};
};

}  // namespace fulgur::telemetry
