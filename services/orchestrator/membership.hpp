// Who is in the mesh: registrations, incarnations, liveness. A member is alive; suspect while its
// link is down or a shard reported it and the grace period runs; lost after that or after silence.
// A lost member that speaks again is back. Plain class, one thread, time from Clock.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/base/clock.hpp"
#include "common/transport/transport.hpp"

namespace fulgur::orchestrator {

struct MembershipLimits {
  Nanoseconds heartbeat_timeout = 5 * kSecond;
  Nanoseconds link_grace = kSecond;            ///< a link that comes back within it is no loss
  Nanoseconds report_grace = 3 * kSecond / 2;  ///< a reported member must speak within it
  Nanoseconds silent_after = 3 * kSecond / 2;  ///< a reported member this silent is lost at once
  Nanoseconds forget_after = 600 * kSecond;    ///< how long a lost member's incarnation is kept
  std::size_t members_max = 4096;
};

enum class MemberState : std::uint8_t { alive, suspect, lost };
std::string_view to_string(MemberState state);

struct Member {
  wire::Register info;
  transport::LinkId link = 0;
  MemberState state = MemberState::alive;
  Nanoseconds last_seen = 0;
  Nanoseconds suspect_until = 0;
  std::uint64_t epoch = 0;
  wire::Load load;
  bool draining = false;  ///< kept over new links of the same incarnation
  Nanoseconds repeat_at = 0;  ///< when it hears again what it has missed; 0: it is not behind
};

class Membership {
 public:
  /// Members must serve the model of `fingerprint` (routers may say 0: they hold no weights).
  Membership(std::uint64_t fingerprint, MembershipLimits limits, const Clock& clock)
      : fingerprint_(fingerprint), limits_(limits), clock_(clock) {}

  enum class Arrival { joined, replaced, again };
  /// joined: new or back from lost; replaced: another incarnation was alive under this name; again:
  /// the same incarnation on a new link. Refused: failed_precondition for an old incarnation or
  /// another model, invalid_argument for a malformed one, resource_exhausted when full.
  Result<Arrival> on_register(transport::LinkId link, const wire::Register& info);

  /// True when the sender was lost and is back. A heartbeat of an unknown member is not_found: it
  /// must register.
  Result<bool> on_heartbeat(transport::LinkId link, const wire::Heartbeat& beat);
  void on_link_down(transport::LinkId link);
  /// A shard lost sight of a worker.
  void on_report(const wire::Report& report);
  void set_draining(const std::string& name, bool draining);
  void set_repeat_at(const std::string& name, Nanoseconds at) { members_.at(name).repeat_at = at; }
  /// Forgets a member that left as it was told to.
  void remove(const std::string& name) { members_.erase(name); }
  /// Marks who is overdue as lost and returns their names, in order.
  std::vector<std::string> expire();

  const Member* find(const std::string& name) const;
  const Member* find_by_link(transport::LinkId link) const;
  const std::map<std::string, Member>& members() const { return members_; }
  std::size_t count(wire::ServiceKind kind, MemberState state) const;
  /// Of those alive.
  std::size_t count_draining(wire::ServiceKind kind) const;

 private:
  Status check_identity(const wire::Register& info) const;
  Status check_room();
  bool overdue(const Member& member, Nanoseconds now) const;

  std::uint64_t fingerprint_;
  MembershipLimits limits_;
  const Clock& clock_;
  std::map<std::string, Member> members_;
};

}  // namespace fulgur::orchestrator
