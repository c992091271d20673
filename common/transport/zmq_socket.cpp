#include "common/transport/zmq_socket.hpp"

#include <fmt/format.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "common/transport/zap_gate.hpp"
#include "common/wire/limits.hpp"

namespace fulgur::transport {
namespace {

// ZMQ_ZERO_COPY_RECV hides behind the draft API but is accepted: 0 makes every received part a
// block of its own, which is 8-byte aligned as the decoder wants it.
constexpr int kZeroCopyRecv = 10;
constexpr std::size_t kCopyBelow = 1024;

/// A message part under construction or just received.
struct Part {
  Part() { zmq_msg_init(&message); }
  ~Part() { zmq_msg_close(&message); }
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;
  const std::byte* data() { return static_cast<const std::byte*>(zmq_msg_data(&message)); }
  std::size_t size() { return zmq_msg_size(&message); }
  zmq_msg_t message;
};

/// What keeps sent memory alive until libzmq lets go of it.
struct Loan {
  std::shared_ptr<const void> owner;
  std::shared_ptr<SendFlow> flow;
  std::size_t size;
};

/// Runs on libzmq's thread.
void end_loan(void*, void* hint) {
  const auto* loan = static_cast<const Loan*>(hint);
  loan->flow->bytes.fetch_sub(loan->size);
  if (loan->flow->refused.exchange(false)) loan->flow->bell.ring();
  delete loan;
}

int send_copy(void* socket, const void* data, std::size_t size, int flags) {
  return zmq_send(socket, data, size, flags | ZMQ_DONTWAIT);
}

int send_loan(void* socket, std::shared_ptr<const void> owner, const std::byte* data,
              std::size_t size, const std::shared_ptr<SendFlow>& flow, int flags) {
  Part part;
  auto* loan = new Loan{std::move(owner), flow, size};
  flow->bytes.fetch_add(size);
  zmq_msg_init_data(&part.message, const_cast<std::byte*>(data), size, end_loan, loan);
  return zmq_msg_send(&part.message, socket, flags | ZMQ_DONTWAIT);
}

int send_frame(void* socket, const wire::Frame& frame, const std::shared_ptr<SendFlow>& flow,
               int flags) {
  if (frame.size < kCopyBelow) return send_copy(socket, frame.data, frame.size, flags);
  return send_loan(socket, frame.owner, frame.data, frame.size, flow, flags);
}

/// Copies, and from kCopyBelow on accounts for the copy as for memory lent.
int send_packed(void* socket, BufferPool& pool, std::span<const wire::Frame> frames,
                const std::shared_ptr<SendFlow>& flow, int flags) {
  const std::size_t size = packed_size(frames);
  if (size < kCopyBelow) {
    std::array<std::byte, kCopyBelow> part;
    pack(frames, part.data());
    return send_copy(socket, part.data(), size, flags);
  }
  auto part = pool.take(size);
  pack(frames, part.get());
  const std::byte* data = part.get();
  return send_loan(socket, std::move(part), data, size, flow, flags);
}

wire::Frame to_frame(std::shared_ptr<Part> part) {
  const std::byte* data = part->data();
  const std::size_t size = part->size();
  return {std::move(part), data, size};
}

bool more(Part& part) { return zmq_msg_more(&part.message) != 0; }

/// Finds out what a message is, and what its first part has of its frames; false: not ours.
bool read_first(std::shared_ptr<Part> part, ZmqMessage& message) {
  const std::span<const std::byte> bytes(part->data(), part->size());
  if (bytes.size() < 2 || std::to_integer<std::uint8_t>(bytes[0]) != kMagic) return false;
  message.kind = static_cast<PartKind>(bytes[1]);
  message.frames.reserve(4);
  switch (message.kind) {
    case PartKind::hello:
    case PartKind::data:
    case PartKind::bye: return bytes.size() == 2;
    case PartKind::packed: break;
    default: return false;
  }
  message.kind = PartKind::data;
  return unpack(bytes, part, message.frames);
}

}  // namespace

ZmqContext::ZmqContext() : context_(zmq_ctx_new()) {
  FULGUR_ASSERT(context_ != nullptr, "zmq_ctx_new failed");
  zmq_ctx_set(context_, kZeroCopyRecv, 0);
  zmq_ctx_set(context_, ZMQ_IO_THREADS, 1);
}

ZmqContext::~ZmqContext() { zmq_ctx_term(context_); }

ZmqSocket::ZmqSocket(ZmqContext& context, int type)
    : pool_(context.pool()),
      is_router_(type == ZMQ_ROUTER),
      socket_(zmq_socket(context.raw(), type)) {
  FULGUR_ASSERT(socket_ != nullptr, fmt::format("zmq_socket: {}", zmq_strerror(errno)));
  std::size_t size = sizeof(fd_);
  zmq_getsockopt(socket_, ZMQ_FD, &fd_, &size);
}

ZmqSocket::~ZmqSocket() { zmq_close(socket_); }

void ZmqSocket::set(int option, int value) {
  const int rc = zmq_setsockopt(socket_, option, &value, sizeof(value));
  FULGUR_ASSERT(rc == 0, fmt::format("zmq option {}: {}", option, zmq_strerror(errno)));
}

void ZmqSocket::set(int option, std::int64_t value) {
  const int rc = zmq_setsockopt(socket_, option, &value, sizeof(value));
  FULGUR_ASSERT(rc == 0, fmt::format("zmq option {}: {}", option, zmq_strerror(errno)));
}

void ZmqSocket::set(int option, const std::string& value) {
  const int rc = zmq_setsockopt(socket_, option, value.data(), value.size());
  FULGUR_ASSERT(rc == 0, fmt::format("zmq option {}: {}", option, zmq_strerror(errno)));
}

std::string ZmqSocket::last_endpoint() const {
  std::array<char, 1024> text{};
  std::size_t size = text.size();
  if (zmq_getsockopt(socket_, ZMQ_LAST_ENDPOINT, text.data(), &size) != 0) return {};
  return text.data();
}

Status ZmqSocket::send(const std::string& routing_id, PartKind kind, const wire::Frames& frames,
                       const std::shared_ptr<SendFlow>& flow) {
  const std::span<const wire::Frame> all(frames);
  const auto packed = kind == PartKind::packed ? packable(all) : all.first(0);
  const auto rest = all.subspan(packed.size());
  int rc = 0;
  if (is_router_) rc = send_copy(socket_, routing_id.data(), routing_id.size(), ZMQ_SNDMORE);
  if (rc != -1) rc = send_first(kind, packed, rest.empty() ? 0 : ZMQ_SNDMORE, flow);
  for (std::size_t i = 0; i < rest.size() && rc != -1; ++i) {
    rc = send_frame(socket_, rest[i], flow, i + 1 < rest.size() ? ZMQ_SNDMORE : 0);
  }
  if (rc != -1) return Status::ok();
  if (errno == EAGAIN) return {Code::resource_exhausted, "send queue is full"};
  return error(Code::unavailable, "peer is gone: {}", zmq_strerror(errno));
}

int ZmqSocket::send_first(PartKind kind, std::span<const wire::Frame> packed, int flags,
                          const std::shared_ptr<SendFlow>& flow) {
  if (kind == PartKind::packed) return send_packed(socket_, pool_, packed, flow, flags);
  const std::array<std::uint8_t, 2> first = {kMagic, static_cast<std::uint8_t>(kind)};
  return send_copy(socket_, first.data(), first.size(), flags);
}

bool ZmqSocket::receive(ZmqMessage& message) {
  message.frames.clear();
  message.malformed = false;
  Part id;
  if (is_router_) {
    if (zmq_msg_recv(&id.message, socket_, ZMQ_DONTWAIT) == -1) return false;
    message.routing_id.assign(reinterpret_cast<const char*>(id.data()), id.size());
    message.malformed = !more(id);
    if (message.malformed) return true;
  }
  auto part = std::make_shared<Part>();
  if (zmq_msg_recv(&part->message, socket_, ZMQ_DONTWAIT) == -1) {
    message.malformed = is_router_;
    return is_router_;
  }
  message.fd = zmq_msg_get(&part->message, ZMQ_SRCFD);
  bool rest = more(*part);
  message.malformed = !read_first(std::move(part), message);
  while (rest) {
    auto next = std::make_shared<Part>();
    if (zmq_msg_recv(&next->message, socket_, ZMQ_DONTWAIT) == -1) break;
    rest = more(*next);
    message.malformed = message.malformed || message.frames.size() == wire::kMaxFrames;
    if (!message.malformed) message.frames.push_back(to_frame(std::move(next)));
  }
  return true;
}

ZmqMonitor::ZmqMonitor(ZmqContext& context, ZmqSocket& socket, int events)
    : watched_(socket), pair_(context, ZMQ_PAIR) {
  // The address must be unique in the context; the socket's own address is.
  const std::string address =
      fmt::format("inproc://monitor-{:x}", reinterpret_cast<std::uintptr_t>(socket.raw()));
  const int rc = zmq_socket_monitor(socket.raw(), address.c_str(), events);
  FULGUR_ASSERT(rc == 0, fmt::format("zmq_socket_monitor: {}", zmq_strerror(errno)));
  pair_.set(ZMQ_LINGER, 0);
  // libzmq's thread would block on a full monitor; events are few and small.
  pair_.set(ZMQ_RCVHWM, 0);
  zmq_connect(pair_.raw(), address.c_str());
}

ZmqMonitor::~ZmqMonitor() { zmq_socket_monitor(watched_.raw(), nullptr, 0); }

bool ZmqMonitor::receive(Event& event) {
  Part head;
  if (zmq_msg_recv(&head.message, pair_.raw(), ZMQ_DONTWAIT) == -1) return false;
  std::uint16_t what = 0;
  std::uint32_t value = 0;
  if (head.size() >= sizeof(what) + sizeof(value)) {
    std::memcpy(&what, head.data(), sizeof(what));
    std::memcpy(&value, head.data() + sizeof(what), sizeof(value));
  }
  event = {what, static_cast<int>(value), value};
  Part address;
  if (more(head)) zmq_msg_recv(&address.message, pair_.raw(), ZMQ_DONTWAIT);
  return true;
}

void configure(ZmqSocket& socket, const TransportOptions& options, bool listens,
               const CurveKey* key) {
  const auto ms = [](Nanoseconds ns) { return static_cast<int>(ns / kMillisecond); };
  socket.set(ZMQ_LINGER, 0);
  socket.set(ZMQ_SNDHWM, static_cast<int>(options.limits.queue_messages));
  socket.set(ZMQ_RCVHWM,
             static_cast<int>(std::min<std::size_t>(options.limits.queue_messages, 256)));
  socket.set(ZMQ_MAXMSGSIZE, static_cast<std::int64_t>(wire::kMaxMessageBytes));
  socket.set(ZMQ_HEARTBEAT_IVL, ms(options.heartbeat));
  socket.set(ZMQ_HEARTBEAT_TIMEOUT, ms(3 * options.heartbeat));
  socket.set(ZMQ_HEARTBEAT_TTL, ms(3 * options.heartbeat));
  socket.set(ZMQ_HANDSHAKE_IVL, ms(options.hello_timeout));
  if (listens) {
    socket.set(ZMQ_ROUTER_MANDATORY, 1);
  } else {
    socket.set(ZMQ_RECONNECT_IVL, ms(options.reconnect_first));
    socket.set(ZMQ_RECONNECT_IVL_MAX, ms(options.reconnect_last));
  }
  if (key == nullptr) return;
  if (listens) {
    socket.set(ZMQ_CURVE_SERVER, 1);
    socket.set(ZMQ_ZAP_DOMAIN, std::string(kZapDomain));
  } else {
    socket.set(ZMQ_CURVE_SERVERKEY, key->public_key);
  }
  socket.set(ZMQ_CURVE_PUBLICKEY, key->public_key);
  socket.set(ZMQ_CURVE_SECRETKEY, key->secret_key);
}

}  // namespace fulgur::transport
