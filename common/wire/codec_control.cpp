// Messages between services and the orchestrator, and Hello, <-> their schema.
#include "common/wire/codec_detail.hpp"

namespace fulgur::wire::detail {
namespace {

constexpr std::size_t kMaxBitmapWords = bitmap_words(kMaxLayers, kMaxExperts);
constexpr std::size_t kMaxReplicas = std::size_t{kMaxLayers} * kMaxExperts;

void put_bitmap(capnp::List<std::uint64_t>::Builder to, const std::vector<std::uint64_t>& from) {
  for (unsigned i = 0; i < to.size(); ++i) to.set(i, from[i]);
}

void put(schema::Load::Builder to, const Load& from) {
  to.setQueueDepth(from.queue_depth);
  to.setRunning(from.running);
  to.setWaiting(from.waiting);
  to.setTokensTotal(from.tokens_total);
  to.setRequestsTotal(from.requests_total);
  to.setBusyNsTotal(from.busy_ns_total);
  to.setKvPagesUsed(from.kv_pages_used);
  to.setKvPagesTotal(from.kv_pages_total);
  to.setStateSlotsUsed(from.state_slots_used);
  to.setStateSlotsTotal(from.state_slots_total);
  to.setHeldBytes(from.held_bytes);
  to.setWaitNsTotal(from.wait_ns_total);
  to.setFirstTokenNsTotal(from.first_token_ns_total);
  to.setFirstTokensTotal(from.first_tokens_total);
  to.setInterTokenNsTotal(from.inter_token_ns_total);
  to.setInterTokensTotal(from.inter_tokens_total);
}

void get(schema::Load::Reader from, Load& to) {
  to.queue_depth = from.getQueueDepth();
  to.running = from.getRunning();
  to.waiting = from.getWaiting();
  to.tokens_total = from.getTokensTotal();
  to.requests_total = from.getRequestsTotal();
  to.busy_ns_total = from.getBusyNsTotal();
  to.kv_pages_used = from.getKvPagesUsed();
  to.kv_pages_total = from.getKvPagesTotal();
  to.state_slots_used = from.getStateSlotsUsed();
  to.state_slots_total = from.getStateSlotsTotal();
  to.held_bytes = from.getHeldBytes();
  to.wait_ns_total = from.getWaitNsTotal();
  to.first_token_ns_total = from.getFirstTokenNsTotal();
  to.first_tokens_total = from.getFirstTokensTotal();
  to.inter_token_ns_total = from.getInterTokenNsTotal();
  to.inter_tokens_total = from.getInterTokensTotal();
}

void put(schema::WorkerSeen::Builder to, const WorkerSeen& from) {
  to.setName(text(from.name));
  to.setIncarnation(from.incarnation);
  to.setSpeed(from.speed);
  to.setSlow(from.slow);
  to.setReachable(from.reachable);
}

Status get(schema::WorkerSeen::Reader from, WorkerSeen& to) {
  to.incarnation = from.getIncarnation();
  to.speed = from.getSpeed();
  to.slow = from.getSlow();
  to.reachable = from.getReachable();
  return read_text(from.getName(), kMaxNameBytes, "heartbeat.workers.name", to.name);
}

void put(schema::WorkerEntry::Builder to, const WorkerEntry& from) {
  to.setName(text(from.name));
  to.setIncarnation(from.incarnation);
  to.setEndpoint(text(from.endpoint));
  put_bitmap(to.initReplicas(static_cast<unsigned>(from.replicas.size())), from.replicas);
}

Status get(schema::WorkerEntry::Reader from, WorkerEntry& to) {
  FULGUR_RETURN_IF_ERROR(read_text(from.getName(), kMaxNameBytes, "worker.name", to.name));
  to.incarnation = from.getIncarnation();
  FULGUR_RETURN_IF_ERROR(
      read_text(from.getEndpoint(), kMaxEndpointBytes, "worker.endpoint", to.endpoint));
  return read_numbers(from.getReplicas(), kMaxBitmapWords, "worker.replicas", to.replicas);
}

void put(schema::ShardEntry::Builder to, const ShardEntry& from) {
  to.setName(text(from.name));
  to.setIncarnation(from.incarnation);
  to.setEndpoint(text(from.endpoint));
  to.setAccepting(from.accepting);
}

Status get(schema::ShardEntry::Reader from, ShardEntry& to) {
  FULGUR_RETURN_IF_ERROR(read_text(from.getName(), kMaxNameBytes, "shard.name", to.name));
  to.incarnation = from.getIncarnation();
  to.accepting = from.getAccepting();
  return read_text(from.getEndpoint(), kMaxEndpointBytes, "shard.endpoint", to.endpoint);
}

}  // namespace

void put(schema::Register::Builder to, const Register& from) {
  to.setKind(static_cast<schema::ServiceKind>(from.kind));
  to.setName(text(from.name));
  to.setIncarnation(from.incarnation);
  to.setPid(from.pid);
  to.setEndpoint(text(from.endpoint));
  to.setAdminEndpoint(text(from.admin_endpoint));
  to.setModelFingerprint(from.model_fingerprint);
  to.setWeightVersion(from.weight_version);
  to.setNumerics(text(from.numerics));
  to.setCapacityBytes(from.capacity_bytes);
  to.setEpoch(from.epoch);
  to.setFailureDomain(text(from.failure_domain));
  to.setDraining(from.draining);
  to.setOrchestratorGeneration(from.orchestrator_generation);
  auto held = to.initHeld(static_cast<unsigned>(from.held.size()));
  for (unsigned i = 0; i < held.size(); ++i) {
    held[i].setLayer(from.held[i].first);
    held[i].setExpert(from.held[i].second);
  }
}

Status get(schema::Register::Reader from, Register& to) {
  to.kind = read_enum<ServiceKind>(from.getKind());
  FULGUR_RETURN_IF_ERROR(read_text(from.getName(), kMaxNameBytes, "register.name", to.name));
  to.incarnation = from.getIncarnation();
  to.pid = from.getPid();
  FULGUR_RETURN_IF_ERROR(
      read_text(from.getEndpoint(), kMaxEndpointBytes, "register.endpoint", to.endpoint));
  FULGUR_RETURN_IF_ERROR(read_text(from.getAdminEndpoint(), kMaxEndpointBytes,
                                   "register.admin_endpoint", to.admin_endpoint));
  to.model_fingerprint = from.getModelFingerprint();
  to.weight_version = from.getWeightVersion();
  FULGUR_RETURN_IF_ERROR(
      read_text(from.getNumerics(), kMaxNameBytes, "register.numerics", to.numerics));
  to.capacity_bytes = from.getCapacityBytes();
  to.epoch = from.getEpoch();
  to.draining = from.getDraining();
  to.orchestrator_generation = from.getOrchestratorGeneration();
  FULGUR_RETURN_IF_ERROR(read_text(from.getFailureDomain(), kMaxNameBytes,
                                   "register.failure_domain", to.failure_domain));
  return read_list(from.getHeld(), kMaxReplicas, "register.held", to.held,
                   [](schema::Held::Reader held, std::pair<std::uint32_t, std::uint32_t>& out) {
                     out = {held.getLayer(), held.getExpert()};
                     return Status::ok();
                   });
}

void put(schema::Ack::Builder to, const Ack& from) {
  to.setId(from.id);
  to.setCode(static_cast<std::uint8_t>(from.code));
  to.setMessage(text(from.message));
  to.setOrchestratorGeneration(from.orchestrator_generation);
}

Status get(schema::Ack::Reader from, Ack& to) {
  to.id = from.getId();
  to.code = static_cast<Code>(from.getCode());
  to.orchestrator_generation = from.getOrchestratorGeneration();
  return read_text(from.getMessage(), kMaxTextBytes, "ack.message", to.message);
}

void put(schema::Heartbeat::Builder to, const Heartbeat& from) {
  to.setName(text(from.name));
  to.setIncarnation(from.incarnation);
  to.setEpoch(from.epoch);
  put(to.initLoad(), from.load);
  auto tokens = to.initExpertTokens(static_cast<unsigned>(from.expert_tokens.size()));
  for (unsigned i = 0; i < tokens.size(); ++i) {
    tokens[i].setLayer(from.expert_tokens[i].layer);
    tokens[i].setExpert(from.expert_tokens[i].expert);
    tokens[i].setTokens(from.expert_tokens[i].tokens);
  }
  to.setOrchestratorGeneration(from.orchestrator_generation);
  auto workers = to.initWorkers(static_cast<unsigned>(from.workers.size()));
  for (unsigned i = 0; i < workers.size(); ++i) put(workers[i], from.workers[i]);
}

Status get(schema::Heartbeat::Reader from, Heartbeat& to) {
  FULGUR_RETURN_IF_ERROR(read_text(from.getName(), kMaxNameBytes, "heartbeat.name", to.name));
  to.incarnation = from.getIncarnation();
  to.epoch = from.getEpoch();
  get(from.getLoad(), to.load);
  to.orchestrator_generation = from.getOrchestratorGeneration();
  FULGUR_RETURN_IF_ERROR(read_list(
      from.getWorkers(), kMaxServices, "heartbeat.workers", to.workers,
      [](schema::WorkerSeen::Reader worker, WorkerSeen& out) { return get(worker, out); }));
  return read_list(from.getExpertTokens(), kMaxReplicas, "heartbeat.expert_tokens",
                   to.expert_tokens, [](schema::ExpertTokens::Reader tokens, ExpertTokens& out) {
                     out = {tokens.getLayer(), tokens.getExpert(), tokens.getTokens()};
                     return Status::ok();
                   });
}

void put(schema::Placement::Builder to, const Placement& from) {
  to.setEpoch(from.epoch);
  to.setOrchestratorGeneration(from.orchestrator_generation);
  to.setLayers(from.layers);
  to.setExperts(from.experts);
  auto workers = to.initWorkers(static_cast<unsigned>(from.workers.size()));
  for (unsigned i = 0; i < workers.size(); ++i) put(workers[i], from.workers[i]);
  auto shards = to.initShards(static_cast<unsigned>(from.shards.size()));
  for (unsigned i = 0; i < shards.size(); ++i) put(shards[i], from.shards[i]);
}

Status get(schema::Placement::Reader from, Placement& to) {
  to.epoch = from.getEpoch();
  to.orchestrator_generation = from.getOrchestratorGeneration();
  to.layers = from.getLayers();
  to.experts = from.getExperts();
  FULGUR_RETURN_IF_ERROR(read_list(
      from.getWorkers(), kMaxServices, "placement.workers", to.workers,
      [](schema::WorkerEntry::Reader worker, WorkerEntry& out) { return get(worker, out); }));
  return read_list(
      from.getShards(), kMaxServices, "placement.shards", to.shards,
      [](schema::ShardEntry::Reader shard, ShardEntry& out) { return get(shard, out); });
}

void put(schema::Prepare::Builder to, const Prepare& from) {
  to.setEpoch(from.epoch);
  to.setOrchestratorGeneration(from.orchestrator_generation);
  to.setLayers(from.layers);
  to.setExperts(from.experts);
  put_bitmap(to.initReplicas(static_cast<unsigned>(from.replicas.size())), from.replicas);
  put_bitmap(to.initUrgent(static_cast<unsigned>(from.urgent.size())), from.urgent);
}

Status get(schema::Prepare::Reader from, Prepare& to) {
  to.epoch = from.getEpoch();
  to.orchestrator_generation = from.getOrchestratorGeneration();
  to.layers = from.getLayers();
  to.experts = from.getExperts();
  FULGUR_RETURN_IF_ERROR(
      read_numbers(from.getReplicas(), kMaxBitmapWords, "prepare.replicas", to.replicas));
  return read_numbers(from.getUrgent(), kMaxBitmapWords, "prepare.urgent", to.urgent);
}

void put(schema::Prepared::Builder to, const Prepared& from) {
  to.setName(text(from.name));
  to.setIncarnation(from.incarnation);
  to.setEpoch(from.epoch);
  to.setCode(static_cast<std::uint8_t>(from.code));
  to.setMessage(text(from.message));
}

Status get(schema::Prepared::Reader from, Prepared& to) {
  FULGUR_RETURN_IF_ERROR(read_text(from.getName(), kMaxNameBytes, "prepared.name", to.name));
  to.incarnation = from.getIncarnation();
  to.epoch = from.getEpoch();
  to.code = static_cast<Code>(from.getCode());
  return read_text(from.getMessage(), kMaxTextBytes, "prepared.message", to.message);
}

void put(schema::Retire::Builder to, const Retire& from) {
  to.setEpoch(from.epoch);
  to.setOrchestratorGeneration(from.orchestrator_generation);
}

Status get(schema::Retire::Reader from, Retire& to) {
  to.epoch = from.getEpoch();
  to.orchestrator_generation = from.getOrchestratorGeneration();
  return Status::ok();
}

void put(schema::Switched::Builder to, const Switched& from) {
  to.setName(text(from.name));
  to.setIncarnation(from.incarnation);
  to.setEpoch(from.epoch);
}

Status get(schema::Switched::Reader from, Switched& to) {
  to.incarnation = from.getIncarnation();
  to.epoch = from.getEpoch();
  return read_text(from.getName(), kMaxNameBytes, "switched.name", to.name);
}

void put(schema::Report::Builder to, const Report& from) {
  to.setName(text(from.name));
  to.setWorker(text(from.worker));
  to.setWorkerIncarnation(from.worker_incarnation);
  to.setCode(static_cast<std::uint8_t>(from.code));
}

Status get(schema::Report::Reader from, Report& to) {
  to.worker_incarnation = from.getWorkerIncarnation();
  to.code = static_cast<Code>(from.getCode());
  FULGUR_RETURN_IF_ERROR(read_text(from.getName(), kMaxNameBytes, "report.name", to.name));
  return read_text(from.getWorker(), kMaxNameBytes, "report.worker", to.worker);
}

void put(schema::Drain::Builder to, const Drain& from) {
  to.setName(text(from.name));
  to.setOrchestratorGeneration(from.orchestrator_generation);
}

Status get(schema::Drain::Reader from, Drain& to) {
  to.orchestrator_generation = from.getOrchestratorGeneration();
  return read_text(from.getName(), kMaxNameBytes, "drain.name", to.name);
}

void put(schema::Hello::Builder to, const Hello& from) {
  to.setKind(static_cast<schema::ServiceKind>(from.kind));
  to.setName(text(from.name));
  to.setIncarnation(from.incarnation);
  to.setHost(text(from.host));
  to.setShmOffer(text(from.shm_offer));
  to.setShmAccepted(from.shm_accepted);
  to.setGpu(text(from.gpu));
  to.setReadsPacked(from.reads_packed);
}

Status get(schema::Hello::Reader from, Hello& to) {
  to.kind = read_enum<ServiceKind>(from.getKind());
  to.incarnation = from.getIncarnation();
  to.shm_accepted = from.getShmAccepted();
  to.reads_packed = from.getReadsPacked();
  FULGUR_RETURN_IF_ERROR(read_text(from.getName(), kMaxNameBytes, "hello.name", to.name));
  FULGUR_RETURN_IF_ERROR(read_text(from.getHost(), kMaxNameBytes, "hello.host", to.host));
  FULGUR_RETURN_IF_ERROR(
      read_text(from.getShmOffer(), kMaxNameBytes, "hello.shm_offer", to.shm_offer));
  return read_text(from.getGpu(), kMaxNameBytes, "hello.gpu", to.gpu);
}

}  // namespace fulgur::wire::detail
