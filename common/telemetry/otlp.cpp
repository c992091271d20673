#include "common/telemetry/otlp.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>

#include "common/telemetry/traceparent.hpp"

namespace fulgur::telemetry {
namespace {

constexpr int kAnchorReadings = 8;
constexpr int kStatusError = 2;

/// Appends as JSON; quotes, control characters and broken UTF-8 are dealt with.
class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) {}

  void raw(std::string_view json) { out_ += json; }
  void text(std::string_view value) {
    const bool plain = std::ranges::all_of(
        value, [](char c) { return c >= ' ' && c <= '~' && c != '"' && c != '\\'; });
    if (!plain) {
      out_ += nlohmann::json(value).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
      return;
    }
    out_ += '"';
    out_ += value;
    out_ += '"';
  }
  template <class... Args>
  void format(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }
  /// "[" + each element by write(element), with commas + "]".
  template <class List, class Write>
  void list(const List& values, const Write& write) {
    raw("[");
    bool first = true;
    for (const auto& value : values) {
      if (!std::exchange(first, false)) raw(",");
      write(value);
    }
    raw("]");
  }

 private:
  std::string& out_;
};

struct ValueWriter {
  Writer& to;

  void operator()(bool value) const { to.format(R"({{"boolValue":{}}})", value); }
  // 64-bit integers are strings in proto3's JSON.
  void operator()(std::int64_t value) const { to.format(R"({{"intValue":"{}"}})", value); }
  void operator()(double value) const {
    if (std::isfinite(value)) return to.format(R"({{"doubleValue":{}}})", value);
    to.format(R"({{"doubleValue":"{}"}})", std::isnan(value) ? "NaN"
                                           : value > 0       ? "Infinity"
                                                             : "-Infinity");
  }
  void operator()(const std::string& value) const {
    to.raw(R"({"stringValue":)");
    to.text(value);
    to.raw("}");
  }
  void operator()(const std::vector<std::string>& values) const {
    to.raw(R"({"arrayValue":{"values":)");
    to.list(values, *this);
    to.raw("}}");
  }
};

void write_attributes(Writer& to, const std::vector<Attribute>& attributes) {
  to.raw(R"("attributes":)");
  to.list(attributes, [&](const Attribute& attribute) {
    to.raw(R"({"key":)");
    to.text(attribute.key);
    to.raw(R"(,"value":)");
    std::visit(ValueWriter{to}, attribute.value);
    to.raw("}");
  });
}

void write_events(Writer& to, const Span& span, const UnixTime& time) {
  if (!span.events.empty()) {
    to.raw(R"(,"events":)");
    to.list(span.events, [&](const SpanEvent& event) {
      to.format(R"({{"timeUnixNano":"{}","name":)", time.of(event.at));
      to.text(event.name);
      to.raw(",");
      write_attributes(to, event.attributes);
      to.raw("}");
    });
  }
  if (span.events_dropped > 0) to.format(R"(,"droppedEventsCount":{})", span.events_dropped);
}

void write_span(Writer& to, const Span& span, const UnixTime& time) {
  to.format(R"({{"traceId":"{}","spanId":"{}",)", trace_id_hex(span.parent), span_id_hex(span.id));
  if (span.parent.span != 0) to.format(R"("parentSpanId":"{}",)", span_id_hex(span.parent.span));
  to.raw(R"("name":)");
  to.text(span.name);
  to.format(R"(,"kind":{},"startTimeUnixNano":"{}","endTimeUnixNano":"{}",)",
            static_cast<int>(span.kind), time.of(span.start), time.of(span.end));
  write_attributes(to, span.attributes);
  write_events(to, span, time);
  if (!span.links.empty()) {
    to.raw(R"(,"links":)");
    to.list(span.links, [&](const TraceContext& link) {
      to.format(R"({{"traceId":"{}","spanId":"{}"}})", trace_id_hex(link), span_id_hex(link.span));
    });
  }
  if (span.failed) {
    to.format(R"(,"status":{{"code":{},"message":)", kStatusError);
    to.text(span.why);
    to.raw("}");
  }
  to.raw("}");
}

}  // namespace

UnixTime::UnixTime(const Clock& clock) {
  // The two clocks are read one after the other; of several readings the tightest is nearest.
  Nanoseconds tightest = std::numeric_limits<Nanoseconds>::max();
  for (int reading = 0; reading < kAnchorReadings; ++reading) {
    const Nanoseconds before = clock.now();
    const Nanoseconds wall = clock.wall_now();
    const Nanoseconds after = clock.now();
    if (after - before >= tightest) continue;
    tightest = after - before;
    offset_ = wall - (before + tightest / 2);
  }
}

std::string otlp_json(const Resource& resource, std::span<const Span> spans, const UnixTime& time) {
  std::string out;
  Writer to(out);
  to.raw(R"({"resourceSpans":[{"resource":{)");
  write_attributes(to, {{"service.name", resource.service},
                        {"service.instance.id", resource.instance},
                        {"service.version", std::string(FULGUR_VERSION)}});
  to.raw(R"(},"scopeSpans":[{"scope":{"name":"fulgur","version":)");
  to.text(FULGUR_VERSION);
  to.raw(R"(},"spans":)");
  to.list(spans, [&](const Span& span) { write_span(to, span, time); });
  to.raw("}]}]}");
  return out;
}

}  // namespace fulgur::telemetry
