// How large the header of an encoded message will be: guesses that save a second segment.
#include "common/wire/codec_detail.hpp"

namespace fulgur::wire::detail {
namespace {

constexpr std::size_t kEnvelopeWords = 24;  // root, body struct, sender
constexpr std::size_t kTraceWords = 3;

std::size_t words_of(std::size_t bytes) { return bytes / 8 + 2; }

std::size_t extra(const Dispatch& body) { return body.routes.size(); }
std::size_t extra(const Submit& body) {
  return words_of(body.tokens.size() * 4) + words_of(body.stop_ids.size() * 4) +
         body.sampling.logit_bias.size() + 16;
}
std::size_t extra(const Tokens& body) {
  std::size_t words = 0;
  for (const TokenEvent& event : body.events) words += 5 + event.top.size();
  return words;
}
std::size_t extra(const Done& body) {
  return 4 + words_of(body.message.size()) + words_of(body.moved_to.size());
}
std::size_t extra(const SnapshotOffer& body) { return 24 + body.layer_bytes.size(); }
std::size_t extra(const SnapshotReply& body) { return 8 + words_of(body.message.size()); }
std::size_t extra(const Ack& body) { return words_of(body.message.size()); }
std::size_t extra(const Heartbeat& body) { return 16 + body.expert_tokens.size() * 2; }
std::size_t extra(const Register& body) { return 32 + body.held.size(); }
std::size_t extra(const Prepare& body) { return body.replicas.size(); }
std::size_t extra(const Placement& body) {
  std::size_t words = 16 * (body.workers.size() + body.shards.size());
  for (const WorkerEntry& worker : body.workers) words += worker.replicas.size();
  return words;
}
template <class T>
std::size_t extra(const T&) {
  return 16;
}

}  // namespace

std::size_t header_words(const Message& message) {
  return kEnvelopeWords + (message.trace.sampled() ? kTraceWords : 0) +
         words_of(message.sender.size()) +
         std::visit([](const auto& body) { return extra(body); }, message.body);
}

}  // namespace fulgur::wire::detail
