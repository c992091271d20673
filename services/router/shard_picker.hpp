// Which attention shard gets a sequence: among those that accept and whose link is up, the one that
// saw the same prompt prefix lately unless it is clearly busier, else the least loaded.
// A plain class; the mesh actor owns it.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/transport/transport.hpp"
#include "common/wire/messages.hpp"

namespace fulgur::router {

struct Shard {
  std::string name;
  std::string endpoint;
  transport::LinkId link = 0;
  bool named = true;      ///< the last placement names it
  bool accepting = true;
  bool up = false;
  bool leaving = false;     ///< said so itself; until its link comes up again
  std::size_t running = 0;  ///< sequences of this router on it
};

/// Identifies what a prompt begins with; 0 for prompts too short to matter.
std::uint64_t prefix_key(std::span<const std::uint32_t> prompt);

class ShardPicker {
 public:
  /// What a new placement asks for.
  struct Changes {
    std::vector<std::string> connect;            ///< names of shards without a link
    std::vector<transport::LinkId> disconnect;   ///< links of shards nobody needs any more
  };
  Changes apply(const std::vector<wire::ShardEntry>& entries);
  /// Links of shards that are gone from the placement and have nothing running.
  std::vector<transport::LinkId> take_unused();

  Shard* find(const std::string& name);
  Shard* by_link(transport::LinkId link);
  const std::map<std::string, Shard>& shards() const { return shards_; }
  /// Some shard could take a sequence now.
  bool ready() const;

  /// The shard for a prompt, or null; never one of `avoid`.
  /// `prefer`, if it is usable, before all others; empty for none.
  Shard* pick(std::uint64_t prefix, const std::vector<std::string>& avoid,
              const std::string& prefer = {});

 private:
  static bool usable(const Shard& shard, const std::vector<std::string>& avoid);
  void remember(std::uint64_t prefix, const std::string& name);

  std::map<std::string, Shard> shards_;
  std::size_t turn_ = 0;  ///< rotates between equally loaded shards
  std::list<std::pair<std::uint64_t, std::string>> recent_;  ///< newest first
  std::unordered_map<std::uint64_t, decltype(recent_)::iterator> recent_index_;
};

}  // namespace fulgur::router
