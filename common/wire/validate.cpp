// The bounds of limits.hpp applied to a message as plain values: what a decoder checks after
// reading, and what a sender may check before writing.
#include <array>
#include <cmath>

#include "common/wire/codec.hpp"
#include "common/wire/limits.hpp"

namespace fulgur::wire {
namespace {

template <class T>
Status at_most(T value, T limit, const char* field) {
  if (value <= limit) return Status::ok();
  return error(Code::invalid_argument, "{} is {}, limit {}", field, value, limit);
}

template <class T>
Status between(T value, T low, T high, const char* field) {
  if (value >= low && value <= high) return Status::ok();  // NaN is refused here too
  return error(Code::invalid_argument, "{} is {}, not in [{}, {}]", field, value, low, high);
}

template <class Enum>
Status known(Enum value, Enum last, const char* field) {
  return at_most(static_cast<unsigned>(value), static_cast<unsigned>(last), field);
}

Status name(const std::string& value, const char* field) {
  return at_most(value.size(), kMaxNameBytes, field);
}

Status number(float value, const char* field) {
  if (!std::isnan(value)) return Status::ok();
  return error(Code::invalid_argument, "{} is not a number", field);
}

Status tensor(const Frame& block, std::uint32_t rows, std::uint32_t hidden, Dtype dtype,
              const char* field) {
  FULGUR_RETURN_IF_ERROR(known(dtype, Dtype::f16, "dtype"));
  FULGUR_RETURN_IF_ERROR(between(hidden, 1U, kMaxHidden, "hidden"));
  const std::size_t wanted = std::size_t{rows} * hidden * size_of(dtype);
  if (block.size != wanted) {
    return error(Code::invalid_argument, "{} has {} bytes, [{}, {}] {} needs {}", field, block.size,
                 rows, hidden, to_string(dtype), wanted);
  }
  return at_most(block.size, kMaxMessageBytes, field);
}

Status bitmap(const std::vector<std::uint64_t>& words, std::uint32_t layers, std::uint32_t experts,
              const char* field) {
  const std::size_t wanted = bitmap_words(layers, experts);
  if (words.size() != wanted) {
    return error(Code::invalid_argument, "{} has {} words, {} layers x {} experts need {}", field,
                 words.size(), layers, experts, wanted);
  }
  const std::size_t tail = std::size_t{layers} * experts % 64;
  if (tail != 0 && (words.back() >> tail) != 0) {
    return error(Code::invalid_argument, "{} names replicas past the last layer", field);
  }
  return Status::ok();
}

Status check(const Dispatch& body) {
  FULGUR_RETURN_IF_ERROR(between(body.rows, 1U, kMaxRows, "dispatch.rows"));
  FULGUR_RETURN_IF_ERROR(at_most(body.layer, kMaxLayers - 1, "dispatch.layer"));
  FULGUR_RETURN_IF_ERROR(
      tensor(body.activations, body.rows, body.hidden, body.dtype, "dispatch.activations"));
  FULGUR_RETURN_IF_ERROR(
      between(body.routes.size(), std::size_t{1}, std::size_t{kMaxRoutes}, "dispatch.routes"));
  for (const Route& route : body.routes) {
    if (route.row >= body.rows || route.slot >= kMaxSlots || route.expert >= kMaxExperts) {
      return error(Code::invalid_argument, "dispatch route (row {}, slot {}, expert {}) of {} rows",
                   route.row, route.slot, route.expert, body.rows);
    }
  }
  return Status::ok();
}

Status check(const Combine& body) {
  FULGUR_RETURN_IF_ERROR(between(body.routes, 1U, kMaxRoutes, "combine.routes"));
  FULGUR_RETURN_IF_ERROR(at_most(body.layer, kMaxLayers - 1, "combine.layer"));
  return tensor(body.outputs, body.routes, body.hidden, body.dtype, "combine.outputs");
}

Status check(const Nack& body) {
  FULGUR_RETURN_IF_ERROR(at_most(body.layer, kMaxLayers - 1, "nack.layer"));
  return known(body.reason, NackReason::draining, "nack.reason");
}

Status check(const SamplingParams& body) {
  constexpr float kAny = 1e30F;
  FULGUR_RETURN_IF_ERROR(between(body.temperature, 0.0F, kAny, "submit.sampling.temperature"));
  FULGUR_RETURN_IF_ERROR(between(body.top_p, 0.0F, 1.0F, "submit.sampling.top_p"));
  FULGUR_RETURN_IF_ERROR(between(body.min_p, 0.0F, 1.0F, "submit.sampling.min_p"));
  FULGUR_RETURN_IF_ERROR(
      between(body.presence_penalty, -kAny, kAny, "submit.sampling.presence_penalty"));
  FULGUR_RETURN_IF_ERROR(
      between(body.frequency_penalty, -kAny, kAny, "submit.sampling.frequency_penalty"));
  FULGUR_RETURN_IF_ERROR(
      between(body.repetition_penalty, 0.0F, kAny, "submit.sampling.repetition_penalty"));
  FULGUR_RETURN_IF_ERROR(
      at_most(body.logit_bias.size(), kMaxLogitBias, "submit.sampling.logit_bias"));
  for (const auto& [token, bias] : body.logit_bias) {
    FULGUR_RETURN_IF_ERROR(number(bias, "submit.sampling.logit_bias"));
  }
  return Status::ok();
}

Status check(const Submit& body) {
  FULGUR_RETURN_IF_ERROR(between(body.tokens.size(), std::size_t{1}, kMaxTokens, "submit.tokens"));
  FULGUR_RETURN_IF_ERROR(between(std::size_t{body.prompt_tokens}, std::size_t{1},
                                 body.tokens.size(), "submit.prompt_tokens"));
  FULGUR_RETURN_IF_ERROR(
      at_most(std::size_t{body.max_new_tokens}, kMaxTokens, "submit.max_new_tokens"));
  FULGUR_RETURN_IF_ERROR(
      at_most(std::size_t{body.min_new_tokens}, kMaxTokens, "submit.min_new_tokens"));
  FULGUR_RETURN_IF_ERROR(at_most(body.stop_ids.size(), kMaxStopIds, "submit.stop_ids"));
  FULGUR_RETURN_IF_ERROR(
      at_most(std::size_t{body.top_logprobs}, kMaxTopLogprobs, "submit.top_logprobs"));
  return check(body.sampling);
}

Status check(const Tokens& body) {
  FULGUR_RETURN_IF_ERROR(at_most(body.events.size(), kMaxTokenEvents, "tokens.events"));
  for (const TokenEvent& event : body.events) {
    FULGUR_RETURN_IF_ERROR(number(event.logprob, "tokens.events.logprob"));
    FULGUR_RETURN_IF_ERROR(at_most(event.top.size(), kMaxTopLogprobs, "tokens.events.top"));
    for (const TokenLogprob& top : event.top) {
      FULGUR_RETURN_IF_ERROR(number(top.logprob, "tokens.events.top.logprob"));
    }
  }
  return Status::ok();
}

Status check(const Done& body) {
  FULGUR_RETURN_IF_ERROR(known(body.reason, FinishReason::error, "done.reason"));
  FULGUR_RETURN_IF_ERROR(known(body.code, Code::internal, "done.code"));
  FULGUR_RETURN_IF_ERROR(name(body.moved_to, "done.moved_to"));
  return at_most(body.message.size(), kMaxTextBytes, "done.message");
}

Status check(const Cancel&) { return Status::ok(); }

Status check(const Register& body) {
  FULGUR_RETURN_IF_ERROR(known(body.kind, ServiceKind::tool, "register.kind"));
  FULGUR_RETURN_IF_ERROR(name(body.name, "register.name"));
  FULGUR_RETURN_IF_ERROR(name(body.numerics, "register.numerics"));
  FULGUR_RETURN_IF_ERROR(name(body.failure_domain, "register.failure_domain"));
  FULGUR_RETURN_IF_ERROR(at_most(body.endpoint.size(), kMaxEndpointBytes, "register.endpoint"));
  FULGUR_RETURN_IF_ERROR(
      at_most(body.admin_endpoint.size(), kMaxEndpointBytes, "register.admin_endpoint"));
  FULGUR_RETURN_IF_ERROR(
      at_most(body.held.size(), std::size_t{kMaxLayers} * kMaxExperts, "register.held"));
  for (const auto& [layer, expert] : body.held) {
    FULGUR_RETURN_IF_ERROR(at_most(layer, kMaxLayers - 1, "register.held.layer"));
    FULGUR_RETURN_IF_ERROR(at_most(expert, kMaxExperts - 1, "register.held.expert"));
  }
  return Status::ok();
}

Status check(const Ack& body) {
  FULGUR_RETURN_IF_ERROR(known(body.code, Code::internal, "ack.code"));
  return at_most(body.message.size(), kMaxTextBytes, "ack.message");
}

Status check(const Heartbeat& body) {
  FULGUR_RETURN_IF_ERROR(name(body.name, "heartbeat.name"));
  FULGUR_RETURN_IF_ERROR(at_most(body.workers.size(), kMaxServices, "heartbeat.workers"));
  for (const WorkerSeen& worker : body.workers) {
    FULGUR_RETURN_IF_ERROR(name(worker.name, "heartbeat.workers.name"));
    FULGUR_RETURN_IF_ERROR(number(worker.speed, "heartbeat.workers.speed"));
  }
  FULGUR_RETURN_IF_ERROR(at_most(body.expert_tokens.size(), std::size_t{kMaxLayers} * kMaxExperts,
                                 "heartbeat.expert_tokens"));
  for (const ExpertTokens& tokens : body.expert_tokens) {
    FULGUR_RETURN_IF_ERROR(
        at_most(std::uint32_t{tokens.layer}, kMaxLayers - 1, "heartbeat.expert_tokens.layer"));
    FULGUR_RETURN_IF_ERROR(
        at_most(std::uint32_t{tokens.expert}, kMaxExperts - 1, "heartbeat.expert_tokens.expert"));
  }
  return Status::ok();
}

Status check(const Placement& body) {
  FULGUR_RETURN_IF_ERROR(at_most(body.layers, kMaxLayers, "placement.layers"));
  FULGUR_RETURN_IF_ERROR(at_most(body.experts, kMaxExperts, "placement.experts"));
  FULGUR_RETURN_IF_ERROR(at_most(body.workers.size(), kMaxServices, "placement.workers"));
  FULGUR_RETURN_IF_ERROR(at_most(body.shards.size(), kMaxServices, "placement.shards"));
  for (const WorkerEntry& worker : body.workers) {
    FULGUR_RETURN_IF_ERROR(name(worker.name, "worker.name"));
    FULGUR_RETURN_IF_ERROR(at_most(worker.endpoint.size(), kMaxEndpointBytes, "worker.endpoint"));
    FULGUR_RETURN_IF_ERROR(bitmap(worker.replicas, body.layers, body.experts, "worker.replicas"));
  }
  for (const ShardEntry& shard : body.shards) {
    FULGUR_RETURN_IF_ERROR(name(shard.name, "shard.name"));
    FULGUR_RETURN_IF_ERROR(at_most(shard.endpoint.size(), kMaxEndpointBytes, "shard.endpoint"));
  }
  return Status::ok();
}

Status check(const Prepare& body) {
  FULGUR_RETURN_IF_ERROR(at_most(body.layers, kMaxLayers, "prepare.layers"));
  FULGUR_RETURN_IF_ERROR(at_most(body.experts, kMaxExperts, "prepare.experts"));
  FULGUR_RETURN_IF_ERROR(bitmap(body.replicas, body.layers, body.experts, "prepare.replicas"));
  if (body.urgent.empty()) return Status::ok();
  return bitmap(body.urgent, body.layers, body.experts, "prepare.urgent");
}

Status check(const Prepared& body) {
  FULGUR_RETURN_IF_ERROR(name(body.name, "prepared.name"));
  FULGUR_RETURN_IF_ERROR(known(body.code, Code::internal, "prepared.code"));
  return at_most(body.message.size(), kMaxTextBytes, "prepared.message");
}

Status check(const Retire&) { return Status::ok(); }
Status check(const Switched& body) { return name(body.name, "switched.name"); }
Status check(const Drain& body) { return name(body.name, "drain.name"); }

Status check(const Report& body) {
  FULGUR_RETURN_IF_ERROR(known(body.code, Code::internal, "report.code"));
  FULGUR_RETURN_IF_ERROR(name(body.name, "report.name"));
  return name(body.worker, "report.worker");
}

Status check(const Hello& body) {
  FULGUR_RETURN_IF_ERROR(known(body.kind, ServiceKind::tool, "hello.kind"));
  FULGUR_RETURN_IF_ERROR(name(body.name, "hello.name"));
  FULGUR_RETURN_IF_ERROR(name(body.host, "hello.host"));
  FULGUR_RETURN_IF_ERROR(name(body.shm_offer, "hello.shm_offer"));
  return name(body.gpu, "hello.gpu");
}

Status check(const SnapshotOffer& body) {
  FULGUR_RETURN_IF_ERROR(name(body.identity.numerics, "snapshot.identity.numerics"));
  FULGUR_RETURN_IF_ERROR(between(body.identity.length, std::uint64_t{1},
                                 std::uint64_t{kMaxTokens}, "snapshot.identity.length"));
  FULGUR_RETURN_IF_ERROR(between(body.layer_bytes.size(), std::size_t{1}, std::size_t{kMaxLayers},
                                 "snapshot.layer_bytes"));
  std::uint64_t total = 0;
  for (const std::uint64_t bytes : body.layer_bytes) {
    FULGUR_RETURN_IF_ERROR(at_most(bytes, kMaxSnapshotBytes, "snapshot.layer_bytes"));
    total += bytes;
  }
  return at_most(total, kMaxSnapshotBytes, "snapshot.layer_bytes");
}

Status check(const SnapshotChunk& body) {
  FULGUR_RETURN_IF_ERROR(at_most(body.section, kMaxLayers, "snapshot_chunk.section"));
  FULGUR_RETURN_IF_ERROR(at_most(body.offset, kMaxSnapshotBytes, "snapshot_chunk.offset"));
  if (is_device(body.bytes)) {
    return {Code::invalid_argument, "snapshot_chunk.bytes are in device memory"};
  }
  return between(body.bytes.size, std::size_t{1}, kMaxSnapshotChunk, "snapshot_chunk.bytes");
}

Status check(const SnapshotReply& body) {
  FULGUR_RETURN_IF_ERROR(known(body.state, SnapshotState::refused, "snapshot_reply.state"));
  FULGUR_RETURN_IF_ERROR(known(body.code, Code::internal, "snapshot_reply.code"));
  return at_most(body.message.size(), kMaxTextBytes, "snapshot_reply.message");
}

Status check(const SnapshotDrop&) { return Status::ok(); }

}  // namespace

Status validate(const Message& message) {
  FULGUR_RETURN_IF_ERROR(name(message.sender, "sender"));
  return std::visit([](const auto& body) { return check(body); }, message.body);
}

std::string_view body_name(const Body& body) {
  static constexpr std::array<std::string_view, std::variant_size_v<Body>> kNames = {
      "dispatch", "combine",  "nack",     "submit",    "tokens",    "done",
      "cancel",   "register", "ack",      "heartbeat", "placement", "prepare",
      "prepared", "retire",   "switched", "report",    "drain",     "hello",
      "snapshot_offer", "snapshot_chunk", "snapshot_reply", "snapshot_drop"};
  return kNames[body.index()];
}

}  // namespace fulgur::wire
