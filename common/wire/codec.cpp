// The envelope, and segments as frames. Header segments of an encoded message live in one small
// owned block; the tensor block is referenced. kj reports malformed input by exception: none leaves
// this file.
#include "common/wire/codec.hpp"

#include <capnp/any.h>
#include <kj/exception.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <new>

#include "common/wire/codec_detail.hpp"
#include "common/wire/codec_direct.hpp"

namespace fulgur::wire {
namespace {

using capnp::word;

/// A message builder whose segments outlive it, so that frames can share them.
class FrameBuilder final : public capnp::MessageBuilder {
 public:
  explicit FrameBuilder(std::size_t first_words)
      : store_(std::make_shared<Store>()), next_words_(first_words) {}

  kj::ArrayPtr<word> allocateSegment(unsigned minimum) override {
    if (store_->rest.empty() && !inline_used_ && std::max<std::size_t>(minimum, next_words_) <=
                                                     store_->first.size()) {
      inline_used_ = true;
      return as_words(store_->first.data(), store_->first.size());
    }
    const std::size_t words = std::max<std::size_t>(minimum, next_words_);
    next_words_ = words * 2;  // keeps the number of segments logarithmic
    store_->rest.push_back(std::make_unique<std::uint64_t[]>(words));
    return as_words(store_->rest.back().get(), words);
  }

  /// The message as frames; the segment at `tensor` belongs to tensor's owner.
  Frames frames(const Frame& tensor) {
    Frames result;
    for (const auto segment : getSegmentsForOutput()) {
      const auto* data = reinterpret_cast<const std::byte*>(segment.begin());
      Frame frame{store_, data, segment.size() * sizeof(word)};
      if (tensor.data != nullptr && data == tensor.data) {
        frame.owner = tensor.owner;
        frame.memory = tensor.memory;
        frame.ready = tensor.ready;
      }
      result.push_back(std::move(frame));
    }
    return result;
  }

 private:
  struct Store {
    std::array<std::uint64_t, 96> first{};  // most headers fit: one allocation a message
    std::vector<std::unique_ptr<std::uint64_t[]>> rest;
  };

  static kj::ArrayPtr<word> as_words(std::uint64_t* data, std::size_t count) {
    return {reinterpret_cast<word*>(data), count};
  }

  std::shared_ptr<Store> store_;
  std::size_t next_words_;
  bool inline_used_ = false;
};

struct BodyWriter {
  schema::Envelope::Body::Builder to;
  detail::EncodeContext& context;

  void operator()(const Dispatch& body) { detail::put(to.initDispatch(), body, context); }
  void operator()(const Combine& body) { detail::put(to.initCombine(), body, context); }
  void operator()(const Nack& body) { detail::put(to.initNack(), body); }
  void operator()(const Submit& body) { detail::put(to.initSubmit(), body); }
  void operator()(const Tokens& body) { detail::put(to.initTokens(), body); }
  void operator()(const Done& body) { detail::put(to.initDone(), body); }
  void operator()(const Cancel& body) { detail::put(to.initCancel(), body); }
  void operator()(const Register& body) { detail::put(to.initRegister(), body); }
  void operator()(const Ack& body) { detail::put(to.initAck(), body); }
  void operator()(const Heartbeat& body) { detail::put(to.initHeartbeat(), body); }
  void operator()(const Placement& body) { detail::put(to.initPlacement(), body); }
  void operator()(const Prepare& body) { detail::put(to.initPrepare(), body); }
  void operator()(const Prepared& body) { detail::put(to.initPrepared(), body); }
  void operator()(const Retire& body) { detail::put(to.initRetire(), body); }
  void operator()(const Switched& body) { detail::put(to.initSwitched(), body); }
  void operator()(const Report& body) { detail::put(to.initReport(), body); }
  void operator()(const Drain& body) { detail::put(to.initDrain(), body); }
  void operator()(const Hello& body) { detail::put(to.initHello(), body); }
  void operator()(const SnapshotOffer& body) { detail::put(to.initSnapshotOffer(), body); }
  void operator()(const SnapshotChunk& body) {
    detail::put(to.initSnapshotChunk(), body, context);
  }
  void operator()(const SnapshotReply& body) { detail::put(to.initSnapshotReply(), body); }
  void operator()(const SnapshotDrop& body) { detail::put(to.initSnapshotDrop(), body); }
};

template <class T, class Reader>
Status get_as(Reader from, Body& to) {
  return detail::get(from, to.emplace<T>());
}

Status read_body(schema::Envelope::Body::Reader from, const Frames& frames, Body& to) {
  using Which = schema::Envelope::Body::Which;
  switch (from.which()) {
    case Which::DISPATCH: return detail::get(from.getDispatch(), frames, to.emplace<Dispatch>());
    case Which::COMBINE: return detail::get(from.getCombine(), frames, to.emplace<Combine>());
    case Which::NACK: return get_as<Nack>(from.getNack(), to);
    case Which::SUBMIT: return get_as<Submit>(from.getSubmit(), to);
    case Which::TOKENS: return get_as<Tokens>(from.getTokens(), to);
    case Which::DONE: return get_as<Done>(from.getDone(), to);
    case Which::CANCEL: return get_as<Cancel>(from.getCancel(), to);
    case Which::REGISTER: return get_as<Register>(from.getRegister(), to);
    case Which::ACK: return get_as<Ack>(from.getAck(), to);
    case Which::HEARTBEAT: return get_as<Heartbeat>(from.getHeartbeat(), to);
    case Which::PLACEMENT: return get_as<Placement>(from.getPlacement(), to);
    case Which::PREPARE: return get_as<Prepare>(from.getPrepare(), to);
    case Which::PREPARED: return get_as<Prepared>(from.getPrepared(), to);
    case Which::RETIRE: return get_as<Retire>(from.getRetire(), to);
    case Which::SWITCHED: return get_as<Switched>(from.getSwitched(), to);
    case Which::REPORT: return get_as<Report>(from.getReport(), to);
    case Which::DRAIN: return get_as<Drain>(from.getDrain(), to);
    case Which::HELLO: return get_as<Hello>(from.getHello(), to);
    case Which::SNAPSHOT_OFFER: return get_as<SnapshotOffer>(from.getSnapshotOffer(), to);
    case Which::SNAPSHOT_CHUNK:
      return detail::get(from.getSnapshotChunk(), frames, to.emplace<SnapshotChunk>());
    case Which::SNAPSHOT_REPLY: return get_as<SnapshotReply>(from.getSnapshotReply(), to);
    case Which::SNAPSHOT_DROP: return get_as<SnapshotDrop>(from.getSnapshotDrop(), to);
  }
  return error(Code::data_loss, "unknown message body {}", static_cast<unsigned>(from.which()));
}

/// Cap'n Proto reads 8-byte words in place: a frame that came misaligned is copied.
void align(Frame& frame) {
  if (is_device(frame) || reinterpret_cast<std::uintptr_t>(frame.data) % sizeof(word) == 0) return;
  auto copy = std::shared_ptr<std::uint64_t[]>(new std::uint64_t[frame.size / sizeof(word)]);
  std::memcpy(copy.get(), frame.data, frame.size);
  const auto* data = reinterpret_cast<const std::byte*>(copy.get());
  frame = {std::move(copy), data, frame.size};
}

/// Checks the bounds of the frames and lays them out as segments; returns their total words.
Result<std::size_t> lay_out(Frames& frames,
                            std::array<kj::ArrayPtr<const word>, kMaxFrames>& segments) {
  if (frames.empty() || frames.size() > kMaxFrames) {
    return error(Code::data_loss, "message of {} frames, limit {}", frames.size(), kMaxFrames);
  }
  std::size_t bytes = 0;
  unsigned on_device = 0;
  for (std::size_t i = 0; i < frames.size(); ++i) {
    Frame& frame = frames[i];
    if (frame.size % sizeof(word) != 0 || frame.size > kMaxMessageBytes) {
      return error(Code::data_loss, "frame {} has {} bytes: not whole words, or over {}", i,
                   frame.size, kMaxMessageBytes);
    }
    bytes += frame.size;
    align(frame);
    on_device += is_device(frame) ? 1U : 0U;
    segments[i] = {reinterpret_cast<const word*>(detail::readable(frame)),
                   frame.size / sizeof(word)};
  }
  if (on_device > 1) return error(Code::data_loss, "message has {} device frames", on_device);
  if (bytes > kMaxMessageBytes) {
    return error(Code::data_loss, "message has {} bytes, limit {}", bytes, kMaxMessageBytes);
  }
  return bytes / sizeof(word);
}

Status read_segments(Frames& frames,
                     const std::array<kj::ArrayPtr<const word>, kMaxFrames>& segments,
                     std::size_t words, Message& message) {
  capnp::ReaderOptions options;
  // Every getter is called once, so an honest message is traversed once.
  options.traversalLimitInWords = 2 * words + 64;
  options.nestingLimit = 8;
  capnp::SegmentArrayMessageReader reader({segments.data(), frames.size()}, options);
  const auto envelope = reader.getRoot<schema::Envelope>();
  message.version = envelope.getVersion();
  if (message.version != kProtocolVersion) {
    return error(Code::failed_precondition, "peer speaks protocol version {}, this process {}",
                 message.version, kProtocolVersion);
  }
  FULGUR_RETURN_IF_ERROR(
      detail::read_text(envelope.getSender(), kMaxNameBytes, "sender", message.sender));
  message.deadline_ns = envelope.getDeadlineNs();
  message.trace.low = envelope.getTraceId();
  if (envelope.hasTrace()) {
    message.trace.high = envelope.getTrace().getHigh();
    message.trace.span = envelope.getTrace().getSpan();
  }
  return read_body(envelope.getBody(), frames, message.body);
}

Status decode_into(Frames& frames, bool may_read_direct, Message& message) {
  std::array<kj::ArrayPtr<const word>, kMaxFrames> segments;
  FULGUR_ASSIGN_OR_RETURN(const std::size_t words, lay_out(frames, segments));
  if (!may_read_direct || !detail::read_direct(frames, message)) {
    FULGUR_RETURN_IF_ERROR(read_segments(frames, segments, words, message));
  }
  if (Status valid = validate(message); !valid) return {Code::data_loss, valid.message()};
  return Status::ok();
}

/// An untraced message has no word for a trace: its root ends before that pointer, as it did before
/// the field existed, and readers see the default.
schema::Envelope::Builder init_envelope(FrameBuilder& builder, const TraceContext& trace) {
  using Size = schema::Envelope::_capnpPrivate;
  const auto pointers = static_cast<std::uint16_t>(Size::pointerCount - (trace.sampled() ? 0 : 1));
  auto envelope = builder.getRoot<capnp::AnyPointer>()
                      .initAsAnyStruct(Size::dataWordSize, pointers)
                      .as<schema::Envelope>();
  envelope.setTraceId(trace.low);
  if (trace.sampled()) {
    auto context = envelope.initTrace();
    context.setHigh(trace.high);
    context.setSpan(trace.span);
  }
  return envelope;
}

Result<Message> decode_by(Frames frames, bool may_read_direct) {
  Message message;
  try {
    FULGUR_RETURN_IF_ERROR(decode_into(frames, may_read_direct, message));
  } catch (const kj::Exception& malformed) {
    return error(Code::data_loss, "malformed message: {}", malformed.getDescription().cStr());
  } catch (const std::bad_alloc&) {
    return error(Code::resource_exhausted, "no memory to decode a message");
  }
  return message;
}

}  // namespace

Frames detail::encode_segments(const Message& message) {
  FrameBuilder builder(header_words(message));
  EncodeContext context{builder.getOrphanage(), {}};
  auto envelope = init_envelope(builder, message.trace);
  envelope.setVersion(message.version);
  envelope.setSender(text(message.sender));
  envelope.setDeadlineNs(message.deadline_ns);
  std::visit(BodyWriter{envelope.getBody(), context}, message.body);
  return builder.frames(context.tensor);
}

Result<Message> detail::decode_segments(Frames frames) {
  return decode_by(std::move(frames), false);
}

Frames encode(const Message& message) {
  Frames frames;
  if (!detail::write_direct(message, frames)) frames = detail::encode_segments(message);
  return frames;
}

Result<Message> decode(Frames frames) { return decode_by(std::move(frames), true); }

}  // namespace fulgur::wire
