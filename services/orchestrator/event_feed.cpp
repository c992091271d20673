#include "services/orchestrator/event_feed.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>

#include "common/base/log.hpp"

namespace fulgur::orchestrator {
namespace {

using nlohmann::json;

constexpr std::string_view kHeartbeat = ": still here\n\n";
constexpr std::string_view kGreeting =
    "retry: 1000\n\n";  // milliseconds until a browser comes back

// Names are bytes from the network: whatever is not UTF-8 is replaced.
std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

json to_json(const Event& event, std::uint64_t log) {
  return {{"id", format_position({log, event.id})},
          {"at_ms", event.at / kMillisecond},
          {"severity", to_string(event.severity)},
          {"kind", event.kind},
          {"member", event.member},
          {"text", event.text},
          {"count", event.count},
          {"replaces", event.replaces == 0 ? "" : format_position({log, event.replaces})}};
}

bool parse_number(std::string_view text, std::uint64_t& number) {
  const char* const end = text.data() + text.size();
  const auto [stopped, failure] = std::from_chars(text.data(), end, number);
  return !text.empty() && failure == std::errc() && stopped == end;
}

}  // namespace

std::string format_sse(std::string_view name, std::string_view id, std::string_view data) {
  std::string out = fmt::format("event: {}\n", name);
  if (!id.empty()) out += fmt::format("id: {}\n", id);
  for (std::size_t begin = 0; begin <= data.size();) {
    const std::size_t end = std::min(data.find_first_of("\r\n", begin), data.size());
    out.append("data: ").append(data.substr(begin, end - begin)).append("\n");
    begin = end + 1;
  }
  return out += "\n";
}

Result<EventPosition> parse_position(std::string_view text) {
  EventPosition position;
  if (text.empty() || text == "0") return position;
  const std::size_t dot = text.find('.');
  if (dot != std::string_view::npos && parse_number(text.substr(0, dot), position.log) &&
      parse_number(text.substr(dot + 1), position.id))
    return position;
  return Status(Code::invalid_argument, "a position in the event log is LOG.ID as events carry it");
}

std::string format_position(EventPosition position) {
  return fmt::format("{}.{}", position.log, position.id);
}

std::string event_json(const Event& event, std::uint64_t log) { return dump(to_json(event, log)); }

std::string events_json(const EventLog& events, std::uint64_t log, EventPosition position) {
  json list = json::array();
  for (const Event& event : events.since(position.log == log ? position.id : 0))
    list.push_back(to_json(event, log));
  return dump({{"last", format_position({log, events.last_id()})}, {"events", std::move(list)}});
}

void EventFeed::add(std::shared_ptr<Watcher> watcher, EventPosition position) {
  std::erase_if(seats_, [](const Seat& seat) { return seat.watcher->gone(); });
  if (seats_.size() >= limits_.watchers) return watcher->refuse();
  watcher->open();
  Seat seat;
  seat.watcher = std::move(watcher);
  if (position.log == log_) seat.heard = position.id;
  seat.text = kGreeting;
  seats_.push_back(std::move(seat));
}

void EventFeed::tick(const EventLog& events, const std::function<Topics()>& topics) {
  std::erase_if(seats_, [](const Seat& seat) { return seat.watcher->gone(); });
  if (seats_.empty()) return;
  if (is_time(events)) add_topics(topics());
  for (Seat& seat : seats_) add_events(seat, events);
  const auto dropped = std::erase_if(seats_, [this](Seat& seat) { return !deliver(seat); });
  dropped_total_ += dropped;
}

bool EventFeed::is_time(const EventLog& events) {
  const Nanoseconds since = clock_.now() - looked_at_;
  const bool news = events.last_id() > events_seen_ && since >= limits_.period_after_event;
  const bool fresh =
      std::any_of(seats_.begin(), seats_.end(), [](auto& seat) { return seat.fresh; });
  if (!news && !fresh && since < limits_.period) return false;
  looked_at_ = clock_.now();
  events_seen_ = events.last_id();
  return true;
}

void EventFeed::add_topics(const Topics& topics) {
  for (const auto& [name, data] : topics) {
    const auto said = said_.find(name);
    const bool changed = said == said_.end() || said->second != data;
    std::string framed;
    for (Seat& seat : seats_) {
      if (!changed && !seat.fresh) continue;
      if (framed.empty()) framed = format_sse(name, "", data);
      seat.text += framed;
    }
    if (changed) said_.insert_or_assign(std::string(name), data);
  }
  for (Seat& seat : seats_) seat.fresh = false;
}

void EventFeed::add_events(Seat& seat, const EventLog& events) const {
  if (seat.heard >= events.last_id()) return;
  for (const Event& event : events.since(seat.heard))
    seat.text += format_sse("log", format_position({log_, event.id}), event_json(event, log_));
  seat.heard = events.last_id();
}

/// False when the watcher is to be forgotten.
bool EventFeed::deliver(Seat& seat) {
  const Nanoseconds now = clock_.now();
  if (seat.text.empty() && now - seat.wrote_at >= limits_.heartbeat) seat.text = kHeartbeat;
  if (seat.text.empty()) return true;
  const Status written = seat.watcher->write(seat.text);
  seat.text.clear();
  seat.wrote_at = now;
  if (written.is_ok()) return true;
  log::info("dropped a watcher of the operations page why=\"{}\"", written.message());
  seat.watcher->drop();
  return false;
}

void EventFeed::close() {
  for (Seat& seat : seats_) seat.watcher->finish();
  seats_.clear();
}

}  // namespace fulgur::orchestrator
