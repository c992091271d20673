// What has happened to the mesh, for the operations page: joins, losses, epochs, drains, refusals.
// The newest entries, in order; one that says the same as a recent one takes its place and counts,
// so that a member that is refused every second does not push everything else out. Plain class,
// one thread, time from Clock.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.hpp"

namespace fulgur::orchestrator {

enum class Severity : std::uint8_t { info, warning, error };
std::string_view to_string(Severity severity);

struct Event {
  std::uint64_t id = 0;  ///< rises by one with every add()
  Nanoseconds at = 0;    ///< wall clock; of the latest when it repeats
  Severity severity = Severity::info;
  std::string_view kind;       ///< one word, of static storage: "lost", "committed", …
  std::string member;          ///< whom it is about; empty: the mesh
  std::string text;            ///< one sentence
  std::uint32_t count = 1;     ///< how often it was said
  std::uint64_t replaces = 0;  ///< id of the entry whose place it took; 0: none
};

struct EventLogLimits {
  std::size_t entries = 500;
  std::size_t text_bytes = 512;    ///< longer texts are cut
  std::size_t repeats_within = 8;  ///< newest entries that are looked at for the same words
};

class EventLog {
 public:
  explicit EventLog(const Clock& clock, EventLogLimits limits = {})
      : clock_(clock), limits_(limits) {}

  /// `kind` must outlive the log.
  void add(Severity severity, std::string_view kind, std::string member, std::string text);

  /// Entries newer than `id`, oldest first; 0: all that are kept.
  std::vector<Event> since(std::uint64_t id) const;
  std::uint64_t last_id() const { return last_id_; }

 private:
  const Clock& clock_;
  EventLogLimits limits_;
  std::uint64_t last_id_ = 0;
  std::deque<Event> events_;  ///< ids rise
};

}  // namespace fulgur::orchestrator
