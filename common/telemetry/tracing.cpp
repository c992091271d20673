#include "common/telemetry/tracing.hpp"

#include "common/base/rng.hpp"

namespace fulgur::telemetry {
namespace {

template <class T>
void append(std::vector<Attribute>& attributes, std::string_view key, T value) {
  Attribute& added = attributes.emplace_back();
  added.key = key;
  added.value.emplace<T>(std::move(value));
}

}  // namespace

void Span::set_integer(std::string_view key, std::int64_t value) { append(attributes, key, value); }
void Span::set(std::string_view key, bool value) { append(attributes, key, value); }
void Span::set(std::string_view key, double value) { append(attributes, key, value); }
void Span::set(std::string_view key, std::string value) {
  append(attributes, key, std::move(value));
}
void Span::set(std::string_view key, std::vector<std::string> value) {
  append(attributes, key, std::move(value));
}

void Span::fail(std::string reason) {
  failed = true;
  why = std::move(reason);
}

std::uint64_t Tracer::new_id() {
  std::uint64_t id = 0;
  while (id == 0) id = random_bits(seed_, drawn_.fetch_add(1, std::memory_order_relaxed));
  return id;
}

Span Tracer::open(std::string name, SpanKind kind, const TraceContext& parent, Nanoseconds start) {
  Span span;
  span.parent = parent;
  span.id = new_id();
  span.name = std::move(name);
  span.kind = kind;
  span.start = start;
  return span;
}

}  // namespace fulgur::telemetry
