// The worker's front: it hands dispatches to the layer actors, loads and frees replicas as the
// orchestrator's epochs ask, and reports load. One a process.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/actor/orchestrator_link.hpp"
#include "common/actor/reactor.hpp"
#include "common/actor/supervisor.hpp"
#include "services/expert/expert_layer_actor.hpp"
#include "services/expert/messages.hpp"

namespace fulgur::expert {

struct NodeOptions {
  std::string orchestrator;     ///< endpoint; empty: none
  wire::Register registration;  ///< held, epoch and load are filled at each registration
  Nanoseconds drain_timeout = 0;  ///< wait of a Leave for the orchestrator to move replicas away
  std::function<void()> on_left;  ///< called once, when the worker has drained
  std::function<void(const std::string& why)> on_fatal;
};

/// Counters the admin endpoint reads. Reactor thread.
struct NodeLoad {
  wire::Load load;
  std::vector<std::uint64_t> expert_tokens_total;  ///< [layers * experts]
  std::uint64_t nacks_total = 0;
  std::uint64_t runs_total = 0;
  std::uint64_t refused_total = 0;        ///< dispatches that there was no memory to run
  std::uint64_t load_failures_total = 0;  ///< replicas that could not be loaded
};

class ExpertNodeActor {
 public:
  ExpertNodeActor(actor::Self& self, WorkerContext* context, NodeOptions options,
                  ReplicaSource* loader, NodeLoad* load);
  caf::behavior make_behavior();

 private:
  void start_layers();
  void on_dispatch(actor::Received<wire::Dispatch>& received);
  void on_prepare(const wire::Prepare& prepare);
  void on_loaded(const ReplicaLoaded& loaded);
  std::size_t put_urgent_first(std::vector<ReplicaId>& ids,
                               const std::vector<std::uint64_t>& bitmap) const;
  void on_retire(const wire::Retire& retire);
  void on_ack(const wire::Ack& ack);
  void on_drain(const wire::Drain& drain);
  void on_link_down(const actor::LinkDown& down);
  void ask_to_leave();
  void on_layer_load(const LayerLoad& layer);
  void beat();
  void leave();
  void finish_prepare(Code code, std::string message);
  wire::Register describe() const;

  actor::Self& self_;
  WorkerContext& context_;
  NodeOptions options_;
  ReplicaSource* loader_;  ///< null when the replicas are fixed at start
  NodeLoad& load_;
  actor::OrchestratorLink orchestrator_;
  std::vector<LayerLoad> last_;         ///< [layers]
  std::size_t loads_missing_ = 0;       ///< answers to AskLoad still awaited
  std::vector<wire::ExpertTokens> fresh_tokens_;
  std::uint64_t preparing_epoch_ = 0;   ///< 0: none
  std::uint64_t preparing_generation_ = 0;
  std::size_t replicas_missing_ = 0;
  ReplicaSet wanted_;
  bool asked_to_leave_ = false;
};

}  // namespace fulgur::expert
