#include "services/orchestrator/event_log.hpp"

#include <algorithm>

namespace fulgur::orchestrator {

std::string_view to_string(Severity severity) {
  switch (severity) {
    case Severity::info:
      return "info";
    case Severity::warning:
      return "warning";
    case Severity::error:
      return "error";
  }
  return "unknown";
}

void EventLog::add(Severity severity, std::string_view kind, std::string member, std::string text) {
  if (text.size() > limits_.text_bytes) text.resize(limits_.text_bytes);
  Event event{++last_id_, clock_.wall_now(), severity, kind, std::move(member), std::move(text)};
  const auto recent = std::min(limits_.repeats_within, events_.size());
  const auto oldest = events_.end() - static_cast<std::ptrdiff_t>(recent);
  const auto same = std::find_if(oldest, events_.end(), [&](const Event& other) {
    return other.severity == severity && other.kind == kind && other.member == event.member &&
           other.text == event.text;
  });
  if (same != events_.end()) {
    event.count = same->count + 1;
    event.replaces = same->id;
    events_.erase(same);
  }
  events_.push_back(std::move(event));
  if (events_.size() > limits_.entries) events_.pop_front();
}

std::vector<Event> EventLog::since(std::uint64_t id) const {
  const auto first =
      std::upper_bound(events_.begin(), events_.end(), id,
                       [](std::uint64_t wanted, const Event& event) { return wanted < event.id; });
  return {first, events_.end()};
}

}  // namespace fulgur::orchestrator
