// What the reactor tells actors about the mesh: a typed message from a peer, and the life of links.
#pragma once

#include <string>
#include <utility>

#include "common/actor/caf_compat.hpp"
#include "common/transport/transport.hpp"
#include "common/wire/messages.hpp"

namespace fulgur::actor {

/// A decoded message of one kind and where it came from; answers go to `link`.
template <class Body>
struct Received {
  transport::LinkId link = 0;
  std::string sender;
  std::int64_t deadline_ns = 0;  ///< wall clock; 0: none
  TraceContext trace;
  Body body;
};

struct LinkUp {
  transport::LinkId link = 0;
  transport::Peer peer;
};

struct LinkDown {
  transport::LinkId link = 0;
  Status why;
};

}  // namespace fulgur::actor

namespace caf {
template <class Body>
struct allowed_unsafe_message_type<fulgur::actor::Received<Body>> : std::true_type {};
}  // namespace caf
FULGUR_LOCAL_MESSAGE(fulgur::actor::LinkUp)
FULGUR_LOCAL_MESSAGE(fulgur::actor::LinkDown)
