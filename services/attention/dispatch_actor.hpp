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
  Result<wire::Frame> pack(const MicroBatch& batch, std::span<const std::uint32_t> rows);
  /// Rows of the batch to `to`, the frame's block, and what whoever reads it waits for.
  wire::Frame gather(const MicroBatch& batch, std::span<const std::uint32_t> rows,
                     wire::Frame frame, std::byte* to);
  void adopt(const wire::Placement& placement);
  void tick();
  void publish();

  actor::Self& self_;
  Shard& shard_;
  ExpertDispatch dispatch_;
  BufferPool host_pool_;  ///< where the shard's pool has nothing left
};

}  // namespace fulgur::attention
