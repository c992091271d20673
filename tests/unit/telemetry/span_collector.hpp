// A Tracer that keeps its spans, and what tests ask of a set of them.
#pragma once

#include <algorithm>
#include <mutex>
#include <string>
#include <vector>

#include "common/telemetry/tracing.hpp"

namespace fulgur::telemetry {

class SpanCollector final : public Tracer {
 public:
  SpanCollector() : Tracer(20261126) {}

  void record(Span span) override {
    const std::lock_guard lock(mutex_);
    spans_.push_back(std::move(span));
  }
  /// In the order they ended.
  std::vector<Span> spans() const {
    const std::lock_guard lock(mutex_);
    return spans_;
  }
  std::vector<Span> named(const std::string& name) const {
    std::vector<Span> found = spans();
    std::erase_if(found, [&](const Span& span) { return span.name != name; });
    return found;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<Span> spans_;
};

/// The attribute's value; fails loudly when it is absent or of another type.
template <class T>
T value_of(const Span& span, std::string_view key) {
  const auto found = std::ranges::find(span.attributes, key, &Attribute::key);
  if (found == span.attributes.end())
    throw std::runtime_error(span.name + " lacks " + std::string(key));
  return std::get<T>(found->value);
}

}  // namespace fulgur::telemetry
