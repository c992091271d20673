// Who watches the mesh, and what each of them has been told: server-sent events. Topics (the mesh,
// the load, the placement) are said when they have changed, about once a second and sooner after an
// event; events are said at once and carry ids, so that a watcher that comes back goes on where it
// was. Nobody watching costs nothing. A watcher that does not read is dropped, never waited for.
//
// Plain class, one thread, time from Clock.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/status.hpp"
#include "services/orchestrator/event_log.hpp"

namespace fulgur::orchestrator {

/// One event of a stream: name, id (empty: none) and data, whose lines are framed one by one.
std::string format_sse(std::string_view name, std::string_view id, std::string_view data);

/// The entry of an event log that somebody has heard last. Another start of the orchestrator writes
/// another log.
struct EventPosition {
  std::uint64_t log = 0;
  std::uint64_t id = 0;
};
/// "LOG.ID", or "0" for the beginning. invalid_argument for anything else.
Result<EventPosition> parse_position(std::string_view text);
std::string format_position(EventPosition position);

/// {"id","at_ms","severity","kind","member","text","count","replaces"}; ids as format_position().
std::string event_json(const Event& event, std::uint64_t log);
/// {"last":id,"events":[…]}: entries after `position`, oldest first; all of them if it is of
/// another log.
std::string events_json(const EventLog& events, std::uint64_t log, EventPosition position);

/// The far end of a stream. Nothing here may block.
class Watcher {
 public:
  virtual ~Watcher() = default;
  /// Instead of open(): there are too many.
  virtual void refuse() = 0;
  virtual void open() = 0;
  /// Not ok when it reads too slowly or is gone: it is dropped then.
  virtual Status write(std::string_view bytes) = 0;
  virtual void finish() = 0;  ///< in order
  virtual void drop() = 0;    ///< at once
  virtual bool gone() const = 0;
};

struct FeedLimits {
  std::size_t watchers = 16;
  Nanoseconds period = kSecond;  ///< between two looks at the topics
  Nanoseconds period_after_event = kSecond / 4;
  Nanoseconds heartbeat = 10 * kSecond;  ///< a comment to whoever has heard nothing for so long
};

/// A topic's name and its present data.
using Topics = std::vector<std::pair<std::string_view, std::string>>;

class EventFeed {
 public:
  /// `log` is the number of the event log that tick() is given.
  EventFeed(const Clock& clock, std::uint64_t log, FeedLimits limits = {})
      : clock_(clock), log_(log), limits_(limits) {}

  /// Opens it, or refuses it when there are too many; it hears what it lacks at the next tick().
  void add(std::shared_ptr<Watcher> watcher, EventPosition position);

  /// Tells watchers what is new, a few times a second. `topics` is asked only when it is time to
  /// look.
  void tick(const EventLog& events, const std::function<Topics()>& topics);

  /// Ends all streams in order.
  void close();

  std::size_t watchers() const { return seats_.size(); }
  std::uint64_t dropped_total() const { return dropped_total_; }

 private:
  struct Seat {
    std::shared_ptr<Watcher> watcher;
    std::uint64_t heard = 0;  ///< entries of the log up to this one
    bool fresh = true;        ///< has not heard of any topic
    Nanoseconds wrote_at = 0;
    std::string text;  ///< to be written now
  };

  void add_events(Seat& seat, const EventLog& events) const;
  bool is_time(const EventLog& events);
  void add_topics(const Topics& topics);
  bool deliver(Seat& seat);

  const Clock& clock_;
  const std::uint64_t log_;
  const FeedLimits limits_;
  std::vector<Seat> seats_;
  std::map<std::string, std::string, std::less<>> said_;  ///< what was said last of each topic
  std::uint64_t events_seen_ = 0;                         ///< as of the last look
  Nanoseconds looked_at_ = 0;
  std::uint64_t dropped_total_ = 0;
};

}  // namespace fulgur::orchestrator
