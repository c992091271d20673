// What a transport has for its Handler, kept in order until poll() delivers it.
#pragma once

#include <cstddef>
#include <variant>

#include "common/transport/transport.hpp"

namespace fulgur::transport {

struct Event {
  LinkId link = 0;
  std::variant<Peer, Status, wire::Frames> what;  ///< up, down, message
};

inline std::size_t bytes_of(const wire::Frames& frames) {
  std::size_t bytes = 0;
  for (const wire::Frame& frame : frames) bytes += frame.size;
  return bytes;
}

inline void deliver(Event event, Handler& handler) {
  if (auto* frames = std::get_if<wire::Frames>(&event.what)) {
    handler.on_message(event.link, std::move(*frames));
  } else if (const auto* peer = std::get_if<Peer>(&event.what)) {
    handler.on_link_up(event.link, *peer);
  } else {
    handler.on_link_down(event.link, std::get<Status>(event.what));
  }
}

/// Whether a message may be sent at all: 1..64 frames, at most 256 MiB.
Status check_frames(const wire::Frames& frames);

}  // namespace fulgur::transport
