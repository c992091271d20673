// Messages of every kind with seeded random contents that pass validate(), for property tests.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>

#include "common/base/rng.hpp"
#include "common/wire/limits.hpp"
#include "common/wire/messages.hpp"

namespace fulgur::wire {

/// Random bytes in an 8-byte-aligned block of their own.
inline Frame random_block(Rng& rng, std::size_t bytes) {
  const auto words = std::shared_ptr<std::uint64_t[]>(new std::uint64_t[bytes / 8 + 1]());
  for (std::size_t i = 0; i <= bytes / 8; ++i) words[i] = rng.next();
  return {words, reinterpret_cast<const std::byte*>(words.get()), bytes};
}

class RandomMessage {
 public:
  explicit RandomMessage(std::uint64_t seed) : rng_(seed) {}

  /// A message whose body is alternative `kind` of Body.
  Message make(std::size_t kind) {
    Message message;
    message.sender = text(32);
    message.deadline_ns = static_cast<std::int64_t>(rng_.next());
    if (coin()) message.trace = {rng_.next(), rng_.next(), rng_.next() | 1};
    fill(kind, message.body, std::make_index_sequence<std::variant_size_v<Body>>());
    return message;
  }

 private:
  template <std::size_t... I>
  void fill(std::size_t kind, Body& body, std::index_sequence<I...>) {
    ((kind == I ? fill(body.emplace<I>()) : void()), ...);
  }

  std::uint32_t u32() { return static_cast<std::uint32_t>(rng_.next()); }
  std::uint32_t below(std::uint32_t bound) { return static_cast<std::uint32_t>(rng_.below(bound)); }
  float real() { return static_cast<float>(rng_.uniform()); }
  bool coin() { return rng_.below(2) == 1; }
  template <class Enum>
  Enum pick(Enum last) {
    return static_cast<Enum>(rng_.below(static_cast<std::uint64_t>(last) + 1));
  }
  std::string text(std::uint32_t longest) {
    std::string value(below(longest + 1), ' ');
    for (char& c : value) c = static_cast<char>(below(256));
    return value;
  }
  template <class T, class Make>
  std::vector<T> list(std::uint32_t longest, Make make) {
    std::vector<T> values(below(longest + 1));
    for (T& value : values) value = make();
    return values;
  }
  std::vector<std::uint64_t> bitmap(std::uint32_t layers, std::uint32_t experts) {
    std::vector<std::uint64_t> words(bitmap_words(layers, experts));
    for (auto& word : words) word = rng_.next();
    if (const auto tail = layers * experts % 64; tail != 0) words.back() &= (1ULL << tail) - 1;
    return words;
  }

  void fill(Dispatch& m) {
    m.id = rng_.next();
    m.epoch = rng_.next();
    m.layer = below(kMaxLayers);
    m.rows = 1 + below(9);
    m.hidden = 1 + below(40);
    m.dtype = pick(Dtype::f16);
    m.routes = list<Route>(20, [&] {
      return Route{below(m.rows), static_cast<std::uint16_t>(below(kMaxSlots)),
                   static_cast<std::uint16_t>(below(kMaxExperts))};
    });
    m.routes.push_back({});
    m.activations = random_block(rng_, std::size_t{m.rows} * m.hidden * size_of(m.dtype));
  }
  void fill(Combine& m) {
    m.id = rng_.next();
    m.layer = below(kMaxLayers);
    m.routes = 1 + below(20);
    m.hidden = 1 + below(40);
    m.dtype = pick(Dtype::f16);
    m.queue_us = u32();
    m.compute_us = u32();
    m.outputs = random_block(rng_, std::size_t{m.routes} * m.hidden * size_of(m.dtype));
  }
  void fill(Nack& m) {
    m = {rng_.next(), rng_.next(), below(kMaxLayers), pick(NackReason::draining)};
  }
  void fill(Submit& m) {
    m.request = rng_.next();
    m.tokens = list<std::uint32_t>(300, [&] { return u32(); });
    m.tokens.push_back(u32());
    m.prompt_tokens = 1 + below(static_cast<std::uint32_t>(m.tokens.size()));
    m.max_new_tokens = below(1000);
    m.stop_ids = list<std::uint32_t>(10, [&] { return u32(); });
    m.min_new_tokens = below(1000);
    m.top_logprobs = static_cast<std::uint8_t>(below(21));
    m.logprobs = coin();
    m.prompt_logprobs = coin();
    m.sampling = {2 * real(),    real(), u32(),       real(), real() - 0.5F,
                  real() - 0.5F, real(), rng_.next(), {}};
    m.snapshot = rng_.next();
    m.sampling.logit_bias = list<std::pair<std::uint32_t, float>>(10, [&] {
      return std::pair{u32(), real()};
    });
  }
  void fill(Tokens& m) {
    m.events = list<TokenEvent>(12, [&] {
      TokenEvent event{rng_.next(), u32(), u32(), coin(), -real(), {}};
      event.top = list<TokenLogprob>(20, [&] { return TokenLogprob{u32(), -real()}; });
      return event;
    });
  }
  void fill(Done& m) {
    m = {rng_.next(), pick(FinishReason::error), pick(Code::internal), text(100), u32(),
         coin(),      text(20),                  rng_.next()};
  }
  void fill(Cancel& m) { m.request = rng_.next(); }
  void fill(Register& m) {
    m = {pick(ServiceKind::tool),
         text(40),
         rng_.next(),
         u32(),
         text(60),
         text(60),
         rng_.next(),
         rng_.next(),
         text(16),
         rng_.next(),
         rng_.next(),
         {},
         text(30),
         coin(),
         rng_.next()};
    m.held = list<std::pair<std::uint32_t, std::uint32_t>>(50, [&] {
      return std::pair{below(kMaxLayers), below(kMaxExperts)};
    });
  }
  void fill(Ack& m) { m = {rng_.next(), pick(Code::internal), text(100), rng_.next()}; }
  void fill(Heartbeat& m) {
    m.name = text(40);
    m.incarnation = rng_.next();
    m.epoch = rng_.next();
    m.load = {u32(), u32(), u32(), rng_.next(), rng_.next(), rng_.next(),
              u32(), u32(), u32(), u32(),       rng_.next(), rng_.next(),
              rng_.next(), rng_.next(), rng_.next(), rng_.next()};
    m.orchestrator_generation = rng_.next();
    m.workers = list<WorkerSeen>(5, [&] {
      return WorkerSeen{text(20), rng_.next(), static_cast<float>(below(1000)), coin(), coin()};
    });
    m.expert_tokens = list<ExpertTokens>(50, [&] {
      return ExpertTokens{static_cast<std::uint16_t>(below(kMaxLayers)),
                          static_cast<std::uint16_t>(below(kMaxExperts)), rng_.next()};
    });
  }
  void fill(Placement& m) {
    m.epoch = rng_.next();
    m.orchestrator_generation = rng_.next();
    m.layers = below(20);
    m.experts = below(40);
    m.workers = list<WorkerEntry>(5, [&] {
      return WorkerEntry{text(20), rng_.next(), text(40), bitmap(m.layers, m.experts)};
    });
    m.shards = list<ShardEntry>(5, [&] {
      return ShardEntry{text(20), rng_.next(), text(40), coin()};
    });
  }
  void fill(Prepare& m) {
    m = {rng_.next(), rng_.next(), below(20), below(40), {}, {}};
    m.replicas = bitmap(m.layers, m.experts);
    if (coin()) m.urgent = bitmap(m.layers, m.experts);
  }
  void fill(Prepared& m) {
    m = {text(20), rng_.next(), rng_.next(), pick(Code::internal), text(100)};
  }
  void fill(Retire& m) { m = {rng_.next(), rng_.next()}; }
  void fill(Switched& m) { m = {text(20), rng_.next(), rng_.next()}; }
  void fill(Report& m) { m = {text(20), text(20), rng_.next(), pick(Code::internal)}; }
  void fill(Drain& m) { m = {text(20), rng_.next()}; }
  void fill(Hello& m) {
    m = {pick(ServiceKind::tool), text(20), rng_.next(), text(60), text(40), coin(), text(60),
         coin()};
  }
  void fill(SnapshotOffer& m) {
    m.transfer = rng_.next();
    m.identity = {rng_.next(), rng_.next(), text(16), rng_.next(), rng_.next(), 1 + below(100000)};
    m.layer_bytes = list<std::uint64_t>(80, [&] { return std::uint64_t{u32()}; });
    m.layer_bytes.push_back(u32());
  }
  void fill(SnapshotChunk& m) {
    m = {rng_.next(), below(kMaxLayers + 1), u32(), rng_.next(), random_block(rng_, 1 + below(300))};
  }
  void fill(SnapshotReply& m) {
    m = {rng_.next(), pick(SnapshotState::refused), pick(Code::internal), text(100),
         rng_.next(), rng_.next(),                  rng_.next()};
  }
  void fill(SnapshotDrop& m) { m.transfer = rng_.next(); }

  Rng rng_;
};

}  // namespace fulgur::wire
