// Actor shell of ExpertDispatch: owns the links to expert workers.
#pragma once

#include "services/attention/messages.hpp"
#include "services/attention/shard.hpp"

namespace fulgur::attention {

class DispatchActor {
 public:
  DispatchActor(actor::Self& self, Shard* shard);
  caf::behavior make_behavior();

 private:
  ExpertDispatch::Hooks make_hooks();
  wire::Frame pack(const MicroBatch& batch, std::span<const std::uint32_t> rows);
  void adopt(const wire::Placement& placement);
  void tick();
  void publish();

  actor::Self& self_;
  Shard& shard_;
  ExpertDispatch dispatch_;
};

}  // namespace fulgur::attention
