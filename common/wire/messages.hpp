// Everything services say to each other, as plain C++ values. codec.hpp turns them into Cap'n Proto
// frames and back; nothing else sees Cap'n Proto. Schemas: envelope, dispatch, generate, control.
// Bounds on every list are in limits.hpp and enforced by the decoder.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "common/base/dtype.hpp"
#include "common/base/memory.hpp"
#include "common/base/status.hpp"
#include "common/base/trace_context.hpp"

namespace fulgur::wire {

/// Raised when a message changes incompatibly; a peer with another version is refused by name.
inline constexpr std::uint16_t kProtocolVersion = 1;

/// Immutable bytes that somebody keeps alive: one Cap'n Proto segment, one ZeroMQ frame, or a tensor
/// block in the memory of this process's GPU. Of the latter the CPU may hand on the address only.
/// Whoever queues GPU work that reads it keeps `owner` until that work is done.
struct Frame {
  std::shared_ptr<const void> owner;
  const std::byte* data = nullptr;
  std::size_t size = 0;
  MemoryKind memory = MemoryKind::host;
  /// Device memory: a cudaEvent_t recorded after the work that writes the block; null: it is there.
  /// Lives as long as `owner`.
  void* ready = nullptr;

  std::span<const std::byte> bytes() const { return {data, size}; }
  /// Equal contents, whoever owns them; in device memory: the same block.
  friend bool operator==(const Frame& a, const Frame& b) {
    if (a.memory == MemoryKind::host && b.memory == MemoryKind::host)
      return std::ranges::equal(a.bytes(), b.bytes());
    return a.memory == b.memory && a.data == b.data && a.size == b.size;
  }
};

inline bool is_device(const Frame& frame) { return frame.memory == MemoryKind::device; }

/// One encoded message: Cap'n Proto segments in order.
using Frames = std::vector<Frame>;

// ---------------------------------------------------------------- dispatch

/// One (token, slot) that a worker must run through one expert.
struct Route {
  std::uint32_t row = 0;   ///< row of the activations block
  std::uint16_t slot = 0;  ///< 0 .. experts_per_token - 1
  std::uint16_t expert = 0;
  friend bool operator==(const Route&, const Route&) = default;
};

/// Shard -> worker: run these rows through these experts of one layer.
struct Dispatch {
  std::uint64_t id = 0;     ///< unique in the sending shard's life; echoed by Combine and Nack
  std::uint64_t epoch = 0;  ///< placement epoch the shard routed by
  std::uint32_t layer = 0;
  std::uint32_t rows = 0;
  std::uint32_t hidden = 0;
  Dtype dtype = Dtype::bf16;
  std::vector<Route> routes;  ///< grouped by expert
  Frame activations;          ///< [rows, hidden] in dtype; each token once
  friend bool operator==(const Dispatch&, const Dispatch&) = default;
};

/// Worker -> shard: un-reduced expert outputs, in the order of the dispatch's routes.
struct Combine {
  std::uint64_t id = 0;
  std::uint32_t layer = 0;
  std::uint32_t routes = 0;
  std::uint32_t hidden = 0;
  Dtype dtype = Dtype::bf16;
  std::uint32_t queue_us = 0;    ///< waited in the worker's mailbox
  std::uint32_t compute_us = 0;  ///< spent in the grouped SwiGLU
  Frame outputs;                 ///< [routes, hidden] in dtype
  friend bool operator==(const Combine&, const Combine&) = default;
};

enum class NackReason : std::uint8_t {
  not_held = 0,  ///< an expert of the dispatch is not on this worker
  busy = 1,      ///< the worker's bounded queue is full
  invalid = 2,   ///< wrong shape or dtype for this model
  draining = 3,
};

/// Worker -> shard: the dispatch was not run; route it elsewhere.
struct Nack {
  std::uint64_t id = 0;
  std::uint64_t epoch = 0;  ///< the worker's placement epoch
  std::uint32_t layer = 0;
  NackReason reason = NackReason::not_held;
  friend bool operator==(const Nack&, const Nack&) = default;
};

// ---------------------------------------------------------------- generate

/// How tokens are drawn. Neutral values mean "off".
struct SamplingParams {
  float temperature = 1.0F;  ///< 0: greedy
  float top_p = 1.0F;
  std::uint32_t top_k = 0;  ///< 0: all
  float min_p = 0.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  float repetition_penalty = 1.0F;
  std::uint64_t seed = 0;  ///< the draw at position p depends on (seed, p) only
  std::vector<std::pair<std::uint32_t, float>> logit_bias;
  friend bool operator==(const SamplingParams&, const SamplingParams&) = default;
};

/// Router -> shard: continue this sequence. A re-submission after a shard loss carries the tokens
/// already generated behind the prompt, so generation goes on where it stopped.
struct Submit {
  std::uint64_t request = 0;  ///< unique in the router's life
  std::vector<std::uint32_t> tokens;
  std::uint32_t prompt_tokens = 0;   ///< how many of `tokens` are the prompt
  std::uint32_t max_new_tokens = 0;  ///< counted from the prompt, already generated ones included
  std::vector<std::uint32_t> stop_ids;  ///< generation ends after any of these (eos included)
  std::uint32_t min_new_tokens = 0;
  std::uint8_t top_logprobs = 0;  ///< alternatives to report for each token, 0..20
  bool logprobs = false;
  bool prompt_logprobs = false;
  SamplingParams sampling;
  /// Of Done::snapshot when the sequence was moved here; its state is restored if it is still there
  /// and fits, else computed again. 0: none.
  std::uint64_t snapshot = 0;
  friend bool operator==(const Submit&, const Submit&) = default;
};

struct TokenLogprob {
  std::uint32_t token = 0;
  float logprob = 0.0F;
  friend bool operator==(const TokenLogprob&, const TokenLogprob&) = default;
};

/// One token of one request. `index` counts from the end of the prompt; with prompt_logprobs the
/// prompt's own tokens are reported first with `prompt` set and index from 0.
struct TokenEvent {
  std::uint64_t request = 0;
  std::uint32_t index = 0;
  std::uint32_t token = 0;
  bool prompt = false;
  float logprob = 0.0F;  ///< natural log, of the unmodified distribution; 0 unless asked for
  std::vector<TokenLogprob> top;
  friend bool operator==(const TokenEvent&, const TokenEvent&) = default;
};

/// Shard -> router: all tokens of one step, for one router.
struct Tokens {
  std::vector<TokenEvent> events;
  friend bool operator==(const Tokens&, const Tokens&) = default;
};

enum class FinishReason : std::uint8_t { stop = 0, length = 1, cancelled = 2, error = 3 };

/// Shard -> router: the request ended. Sent exactly once, after its last token. An error of code
/// unavailable means that the sequence is to be submitted again, with the tokens it has by then.
struct Done {
  std::uint64_t request = 0;
  FinishReason reason = FinishReason::stop;
  Code code = Code::ok;  ///< why, for FinishReason::error
  std::string message;
  std::uint32_t generated_tokens = 0;
  bool draining = false;       ///< the shard leaves: it takes no sequence until it has restarted
  std::string moved_to = {};   ///< shard that holds the sequence's state; empty: none
  std::uint64_t snapshot = 0;  ///< that state's id there, for Submit::snapshot
  friend bool operator==(const Done&, const Done&) = default;
};

/// Router -> shard: stop the request and free its state. Answered by Done(cancelled) unless
/// unknown.
struct Cancel {
  std::uint64_t request = 0;
  friend bool operator==(const Cancel&, const Cancel&) = default;
};

// ---------------------------------------------------------------- snapshots

/// What a sequence's state is the state of (invariant I4). All of it must agree, or the state is of
/// no use: a miss, never a wrong answer.
struct SnapshotIdentity {
  std::uint64_t model_fingerprint = 0;
  std::uint64_t weight_version = 0;
  std::string numerics;           ///< as in Register
  std::uint64_t layout = 0;       ///< which layers, and the form and size of each one's state
  std::uint64_t prefix_hash = 0;  ///< of the tokens the state has seen
  std::uint64_t length = 0;       ///< how many those are
  friend bool operator==(const SnapshotIdentity&, const SnapshotIdentity&) = default;
};

/// Shard -> shard: the state of a sequence could move to you. Answered by SnapshotReply.
struct SnapshotOffer {
  std::uint64_t transfer = 0;  ///< unique in the sending shard's life
  SnapshotIdentity identity;
  std::vector<std::uint64_t> layer_bytes;  ///< [layers]
  friend bool operator==(const SnapshotOffer&, const SnapshotOffer&) = default;
};

/// Shard -> shard: the next bytes of an accepted snapshot. Section 0 is its tokens as little-endian
/// uint32, section 1 + i is layer i; sections in order, each from its beginning to its end.
struct SnapshotChunk {
  std::uint64_t transfer = 0;
  std::uint32_t section = 0;
  std::uint64_t offset = 0;    ///< in the section
  std::uint64_t checksum = 0;  ///< checksum(bytes)
  Frame bytes;
  friend bool operator==(const SnapshotChunk&, const SnapshotChunk&) = default;
};

enum class SnapshotState : std::uint8_t {
  accepted = 0,  ///< send on: `credit` bytes may be on their way unacknowledged
  received = 1,  ///< `received` bytes have arrived in all
  parked = 2,    ///< all there and consistent, kept as `snapshot`
  refused = 3,   ///< or given up: `code` and `message` say why
};

struct SnapshotReply {
  std::uint64_t transfer = 0;
  SnapshotState state = SnapshotState::accepted;
  Code code = Code::ok;
  std::string message;
  std::uint64_t received = 0;
  std::uint64_t credit = 0;
  std::uint64_t snapshot = 0;
  friend bool operator==(const SnapshotReply&, const SnapshotReply&) = default;
};

/// Shard -> shard: forget this transfer, parked or not: its sequence has ended.
struct SnapshotDrop {
  std::uint64_t transfer = 0;
  friend bool operator==(const SnapshotDrop&, const SnapshotDrop&) = default;
};

// ---------------------------------------------------------------- control

enum class ServiceKind : std::uint8_t {
  router = 0,
  attention = 1,
  expert = 2,
  orchestrator = 3,
  tool = 4
};

constexpr std::string_view to_string(ServiceKind kind) {
  switch (kind) {
    case ServiceKind::router: return "router";
    case ServiceKind::attention: return "attention";
    case ServiceKind::expert: return "expert";
    case ServiceKind::orchestrator: return "orchestrator";
    case ServiceKind::tool: return "tool";
  }
  return "unknown";
}

/// Service -> orchestrator, on every (re)connection.
struct Register {
  ServiceKind kind = ServiceKind::expert;
  std::string name;               ///< unique in the mesh, e.g. "expert-1"
  std::uint64_t incarnation = 0;  ///< larger at every start of the same name
  std::uint32_t pid = 0;
  std::string endpoint;        ///< where peers connect, e.g. "ipc:///run/…" or "tcp://host:port"
  std::string admin_endpoint;  ///< "host:port" of /metrics, /healthz, /readyz
  std::uint64_t model_fingerprint = 0;
  std::uint64_t weight_version = 0;
  std::string numerics;              ///< backend class whose results are bit-equal, e.g. "cpu-bf16"
  std::uint64_t capacity_bytes = 0;  ///< expert workers: weight bytes they may hold
  std::uint64_t epoch = 0;           ///< last placement epoch committed here; 0 for none
  /// Expert workers: replicas held now, so that a restarted orchestrator rebuilds its view.
  std::vector<std::pair<std::uint32_t, std::uint32_t>> held;  ///< (layer, expert)
  std::string failure_domain = {};  ///< what fails together: replicas are spread over it; "" is a domain
  bool draining = false;       ///< has been told to leave and is doing so
  std::uint64_t orchestrator_generation = 0;  ///< largest obeyed so far; 0 for none
  friend bool operator==(const Register&, const Register&) = default;
};

/// Orchestrator -> service, for every message that asks for one.
struct Ack {
  std::uint64_t id = 0;  ///< what is acknowledged: incarnation, epoch or request id
  Code code = Code::ok;
  std::string message;
  std::uint64_t orchestrator_generation = 0;  ///< fencing: obey the largest seen
  friend bool operator==(const Ack&, const Ack&) = default;
};

/// Counters since start unless said otherwise; what load-aware placement and scaling read.
struct Load {
  std::uint32_t queue_depth = 0;  ///< now
  std::uint32_t running = 0;      ///< sequences (attention), dispatches (expert), requests (router)
  std::uint32_t waiting = 0;
  std::uint64_t tokens_total = 0;  ///< generated (attention), routed rows (expert)
  std::uint64_t requests_total = 0;
  std::uint64_t busy_ns_total = 0;  ///< time spent computing
  std::uint32_t kv_pages_used = 0;
  std::uint32_t kv_pages_total = 0;
  std::uint32_t state_slots_used = 0;
  std::uint32_t state_slots_total = 0;
  std::uint64_t held_bytes = 0;  ///< expert weights held
  /// How long what is in requests_total waited before it ran, summed.
  std::uint64_t wait_ns_total = 0;
  /// Routers: what clients saw. Sums of times, and how many they are of.
  std::uint64_t first_token_ns_total = 0;
  std::uint64_t first_tokens_total = 0;
  std::uint64_t inter_token_ns_total = 0;
  std::uint64_t inter_tokens_total = 0;
  friend bool operator==(const Load&, const Load&) = default;
};

struct ExpertTokens {
  std::uint16_t layer = 0;
  std::uint16_t expert = 0;
  std::uint64_t tokens = 0;  ///< since the last heartbeat
  friend bool operator==(const ExpertTokens&, const ExpertTokens&) = default;
};

/// What a shard has measured of a worker.
struct WorkerSeen {
  std::string name;
  std::uint64_t incarnation = 0;
  float speed = 0.0F;  ///< relative to the median of the workers this shard sees; 0: not measured
  bool slow = false;   ///< so slow that the shard routes around it
  bool reachable = true;
  friend bool operator==(const WorkerSeen&, const WorkerSeen&) = default;
};

struct Heartbeat {
  std::string name;
  std::uint64_t incarnation = 0;
  std::uint64_t epoch = 0;
  Load load;
  std::vector<ExpertTokens> expert_tokens;
  std::uint64_t orchestrator_generation = 0;  ///< largest obeyed so far; 0 for none
  std::vector<WorkerSeen> workers = {};       ///< attention shards
  friend bool operator==(const Heartbeat&, const Heartbeat&) = default;
};

struct WorkerEntry {
  std::string name;
  std::uint64_t incarnation = 0;
  std::string endpoint;
  /// Replicas held, one bitmap [experts] per layer, concatenated: bit (layer * experts + expert).
  std::vector<std::uint64_t> replicas;
  friend bool operator==(const WorkerEntry&, const WorkerEntry&) = default;
};

struct ShardEntry {
  std::string name;
  std::uint64_t incarnation = 0;
  std::string endpoint;
  bool accepting = true;
  friend bool operator==(const ShardEntry&, const ShardEntry&) = default;
};

/// Orchestrator -> shards and router: the mesh as of `epoch`. Replaces what came before.
struct Placement {
  std::uint64_t epoch = 0;
  std::uint64_t orchestrator_generation = 0;
  std::uint32_t layers = 0;
  std::uint32_t experts = 0;
  std::vector<WorkerEntry> workers;
  std::vector<ShardEntry> shards;
  friend bool operator==(const Placement&, const Placement&) = default;
};

/// Orchestrator -> worker: hold exactly these replicas from `epoch` on. Loads what is missing off
/// the serving path; what is no longer named is kept until Retire. Answered by Prepared.
struct Prepare {
  std::uint64_t epoch = 0;
  std::uint64_t orchestrator_generation = 0;
  std::uint32_t layers = 0;
  std::uint32_t experts = 0;
  std::vector<std::uint64_t> replicas;  ///< bitmap as in WorkerEntry
  /// Those of `replicas` that no worker serves now, as such a bitmap (empty: none): loaded first,
  /// and as fast as possible.
  std::vector<std::uint64_t> urgent = {};
  friend bool operator==(const Prepare&, const Prepare&) = default;
};

/// Worker -> orchestrator.
struct Prepared {
  std::string name;
  std::uint64_t incarnation = 0;
  std::uint64_t epoch = 0;
  Code code = Code::ok;
  std::string message;
  friend bool operator==(const Prepared&, const Prepared&) = default;
};

/// Orchestrator -> worker: nothing of an older epoch is in flight; free what `epoch` does not name.
struct Retire {
  std::uint64_t epoch = 0;
  std::uint64_t orchestrator_generation = 0;
  friend bool operator==(const Retire&, const Retire&) = default;
};

/// Shard -> orchestrator: micro-batches in flight now all route by `epoch`.
struct Switched {
  std::string name;
  std::uint64_t incarnation = 0;
  std::uint64_t epoch = 0;
  friend bool operator==(const Switched&, const Switched&) = default;
};

/// Shard -> orchestrator: a worker was lost or misbehaves, seen from here.
struct Report {
  std::string name;    ///< who reports
  std::string worker;  ///< about whom
  std::uint64_t worker_incarnation = 0;
  Code code = Code::unavailable;
  friend bool operator==(const Report&, const Report&) = default;
};

/// Orchestrator -> service: leave. Finish or hand over what is running, then exit 0. A worker is
/// told so when it has no replicas any more, a shard when routers know that it does not accept.
/// Service -> orchestrator: ask for that (SIGTERM); answered by Ack, whose id is the incarnation,
/// when it is refused.
struct Drain {
  std::string name;
  std::uint64_t orchestrator_generation = 0;
  friend bool operator==(const Drain&, const Drain&) = default;
};

/// First message on every link, both ways; carried by the transport and never seen by services.
struct Hello {
  ServiceKind kind = ServiceKind::tool;
  std::string name;
  std::uint64_t incarnation = 0;
  std::string host;       ///< equal on two processes that can share memory
  std::string shm_offer;  ///< connecting side: name of the shared-memory link it made; else empty
  bool shm_accepted = false;  ///< accepting side's answer
  /// Which GPU the process moves activations with, in the words of its GPU layer; empty: none.
  std::string gpu = {};
  bool reads_packed = false;  ///< understands packed data on ZeroMQ; releases before it do not
  friend bool operator==(const Hello&, const Hello&) = default;
};

using Body =
    std::variant<Dispatch, Combine, Nack, Submit, Tokens, Done, Cancel, Register, Ack, Heartbeat,
                 Placement, Prepare, Prepared, Retire, Switched, Report, Drain, Hello, SnapshotOffer,
                 SnapshotChunk, SnapshotReply, SnapshotDrop>;

/// A message with what every message carries.
struct Message {
  std::uint16_t version = kProtocolVersion;
  std::string sender;
  std::int64_t deadline_ns = 0;  ///< wall clock, nanoseconds since the epoch; 0: none
  TraceContext trace;
  Body body;
  friend bool operator==(const Message&, const Message&) = default;
};

}  // namespace fulgur::wire
