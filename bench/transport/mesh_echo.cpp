// Our transports, with the messages of the real dispatch path: an encoded Dispatch goes out, it is
// decoded, a Combine of as many bytes is encoded and decoded on its way back. "… frames" leaves the
// encoding out: plain bytes, as the bare contestants move them.
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <thread>

#include "bench/transport/echo.hpp"
#include "common/base/memory.hpp"
#include "common/transport/inproc.hpp"
#include "common/transport/make_transport.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::bench {
namespace {

using transport::Carrier;
using transport::LinkId;
using transport::Transport;

constexpr std::uint32_t kHidden = 6144;  // M1: 12 KiB a row in bf16
constexpr std::size_t kLargest = 16U << 20;

/// A tensor block that lives as long as the benchmark.
wire::Frame block(std::size_t bytes) {
  static AlignedBuffer<std::byte> memory(kLargest);
  FULGUR_ASSERT(bytes <= kLargest && bytes % (kHidden * 2) == 0, "payloads are whole rows");
  return {nullptr, memory.data(), bytes};
}

std::uint32_t rows_of(std::size_t bytes) {
  return static_cast<std::uint32_t>(bytes / (kHidden * 2));
}

wire::Frames dispatch_of(std::size_t bytes, Mode mode) {
  wire::Dispatch body;
  body.layer = static_cast<std::uint32_t>(mode);
  body.rows = rows_of(bytes);
  body.hidden = kHidden;
  body.routes.resize(body.rows);
  for (std::uint32_t row = 0; row < body.rows; ++row) body.routes[row].row = row;
  body.activations = block(bytes);
  wire::Message message;
  message.sender = "attention-0";
  message.body = std::move(body);
  return wire::encode(message);
}

wire::Frames combine_of(std::uint32_t rows) {
  wire::Combine body;
  body.routes = rows;
  body.hidden = kHidden;
  body.outputs = block(std::size_t{rows} * kHidden * 2);
  wire::Message message;
  message.sender = "expert-0";
  message.body = std::move(body);
  return wire::encode(message);
}

/// Sends, giving way while the link's queue is full.
void send_all(Transport& transport, transport::Handler& handler, LinkId link, wire::Frames frames) {
  for (;;) {
    const Status status = transport.send(link, frames);
    if (status.is_ok()) return;
    FULGUR_ASSERT(status.code() == Code::resource_exhausted, status.to_string());
    transport.doorbell().wait(kSecond);
    transport.poll(handler, 16);
  }
}

/// Plain bytes; the first frame is their Mode.
wire::Frames plain_of(std::size_t bytes, Mode mode) {
  static const std::array<Mode, 3> modes = {Mode::echo, Mode::sink, Mode::last};
  const Mode* const kept = &modes[static_cast<std::size_t>(mode)];
  return {{nullptr, reinterpret_cast<const std::byte*>(kept), sizeof(Mode)}, block(bytes)};
}

class Server final : public transport::Handler {
 public:
  Server(Transport& transport, bool coded) : transport_(transport), coded_(coded) {}

  void run(const std::atomic<bool>* stop) {
    while (stop == nullptr || !stop->load()) {
      if (transport_.poll(*this, 16) == 0) transport_.doorbell().wait(kSecond);
    }
  }

  void on_link_up(LinkId, const transport::Peer&) override {}
  void on_link_down(LinkId, const Status&) override {}
  void on_message(LinkId link, wire::Frames frames) override {
    if (!coded_) return answer_plain(link, std::move(frames));
    const auto message = wire::decode(std::move(frames));
    FULGUR_ASSERT(message.is_ok(), message.status().to_string());
    const auto& dispatch = std::get<wire::Dispatch>(message->body);
    const Mode mode{dispatch.layer};
    if (mode == Mode::sink) return;
    send_all(transport_, *this, link, combine_of(mode == Mode::echo ? dispatch.rows : 1));
  }

 private:
  void answer_plain(LinkId link, wire::Frames frames) {
    Mode mode;
    std::memcpy(&mode, frames.at(0).data, sizeof mode);
    if (mode == Mode::sink) return;
    if (mode == Mode::last) frames.pop_back();
    send_all(transport_, *this, link, std::move(frames));
  }

  Transport& transport_;
  const bool coded_;
};

class Client final : public EchoClient, private transport::Handler {
 public:
  Client(std::unique_ptr<Transport> transport, const std::string& address, Carrier carrier,
         bool coded)
      : transport_(std::move(transport)), coded_(coded) {
    link_ = transport_->connect(address, carrier).value();
    wait_for(up_);
  }

  void round_trip(std::size_t bytes) override {
    answered_ = false;
    send_all(*transport_, *this, link_, message_of(bytes, Mode::echo));
    wait_for(answered_);
    FULGUR_ASSERT(answer_bytes_ == bytes, "the answer has another size");
  }

  void one_way(std::size_t bytes, std::size_t count) override {
    answered_ = false;
    for (std::size_t i = 1; i <= count; ++i) {
      send_all(*transport_, *this, link_, message_of(bytes, i < count ? Mode::sink : Mode::last));
    }
    wait_for(answered_);
  }

 private:
  wire::Frames message_of(std::size_t bytes, Mode mode) const {
    return coded_ ? dispatch_of(bytes, mode) : plain_of(bytes, mode);
  }
  void wait_for(const bool& condition) {
    while (!condition) {
      if (transport_->poll(*this, 16) == 0) transport_->doorbell().wait(kSecond);
    }
  }

  void on_link_up(LinkId, const transport::Peer&) override { up_ = true; }
  void on_link_down(LinkId, const Status& why) override { FULGUR_ASSERT(false, why.to_string()); }
  void on_message(LinkId, wire::Frames frames) override {
    answered_ = true;
    if (!coded_) {
      answer_bytes_ = frames.back().size;
      return;
    }
    const auto message = wire::decode(std::move(frames));
    FULGUR_ASSERT(message.is_ok(), message.status().to_string());
    answer_bytes_ = std::get<wire::Combine>(message->body).outputs.size;
  }

  std::unique_ptr<Transport> transport_;
  const bool coded_;
  LinkId link_ = 0;
  bool up_ = false;
  bool answered_ = false;
  std::size_t answer_bytes_ = 0;
};

transport::Identity identity(const char* name) { return {wire::ServiceKind::tool, name, 1}; }

std::unique_ptr<Transport> mesh(const char* name, const std::string& listen, Carrier allowed) {
  transport::TransportOptions options;
  if (!listen.empty()) options.listen = {listen};
  options.allowed = allowed;
  return transport::make_transport(identity(name), options).value();
}

Contestant mesh_contestant(const std::string& name, const std::string& listen, Carrier carrier,
                           bool coded) {
  Contestant contestant;
  contestant.name = name;
  contestant.serve = [listen, carrier, coded](const auto& ready) {
    const auto transport = mesh("expert-0", listen, carrier);
    ready(transport->endpoint());
    Server(*transport, coded).run(nullptr);
  };
  contestant.connect = [carrier, coded](const std::string& address) {
    return std::make_unique<Client>(mesh("attention-0", "", carrier), address, carrier, coded);
  };
  return contestant;
}

/// Client here, server on a thread: both over one Hub.
class InprocClient final : public EchoClient {
 public:
  explicit InprocClient(int server_core)
      : server_transport_(hub_.make(identity("expert-0"), "inproc://expert-0").value()),
        server_([this, server_core] {
          pin_to(server_core);
          Server(*server_transport_, true).run(&stop_);
        }),
        client_(hub_.make(identity("attention-0"), "").value(), "inproc://expert-0",
                Carrier::inproc, true) {}

  ~InprocClient() override {
    stop_ = true;
    server_transport_->doorbell().ring();
    server_.join();
  }

  void round_trip(std::size_t bytes) override { client_.round_trip(bytes); }
  void one_way(std::size_t bytes, std::size_t count) override { client_.one_way(bytes, count); }

 private:
  transport::Hub hub_;
  std::atomic<bool> stop_{false};
  std::unique_ptr<Transport> server_transport_;
  std::thread server_;
  Client client_;
};

}  // namespace

Contestant inproc_contestant(int server_core) {
  Contestant contestant;
  contestant.name = "inproc";
  contestant.two_threads = true;
  contestant.connect = [server_core](const std::string&) {
    return std::make_unique<InprocClient>(server_core);
  };
  return contestant;
}

Contestant shm_contestant() {
  return mesh_contestant("shm", "ipc:///tmp/fulgur-bench-shm-" + std::to_string(getpid()),
                         Carrier::shm, true);
}

Contestant mesh_zmq_contestant(const std::string& name, const std::string& listen, bool coded) {
  return mesh_contestant(name, listen, Carrier::zmq, coded);
}

}  // namespace fulgur::bench
