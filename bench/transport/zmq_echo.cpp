// Bare libzmq, ROUTER and DEALER, blocking calls, one part a message, sent without a copy: the
// least that ZeroMQ can cost. The first byte of a message is its Mode.
#include <zmq.h>

#include <array>

#include "bench/transport/echo.hpp"
#include "common/base/memory.hpp"

namespace fulgur::bench {
namespace {

void keep(void*, void*) {}

void send_block(void* socket, char* data, std::size_t bytes) {
  zmq_msg_t message;
  zmq_msg_init_data(&message, data, bytes, keep, nullptr);
  const int rc = zmq_msg_send(&message, socket, 0);
  FULGUR_ASSERT(rc != -1, zmq_strerror(zmq_errno()));
}

class Client final : public EchoClient {
 public:
  explicit Client(const std::string& address)
      : context_(zmq_ctx_new()), socket_(zmq_socket(context_, ZMQ_DEALER)) {
    FULGUR_ASSERT(zmq_connect(socket_, address.c_str()) == 0, "cannot connect to " + address);
  }
  ~Client() override {
    const int none = 0;
    zmq_setsockopt(socket_, ZMQ_LINGER, &none, sizeof(none));
    zmq_close(socket_);
    zmq_ctx_term(context_);
  }

  void round_trip(std::size_t bytes) override {
    send(bytes, Mode::echo);
    receive();
  }
  void one_way(std::size_t bytes, std::size_t count) override {
    // The last message has a block of its own: the others may still be on their way.
    for (std::size_t i = 1; i < count; ++i) send(bytes, Mode::sink);
    send(bytes, Mode::last);
    receive();
  }

 private:
  void send(std::size_t bytes, Mode mode) {
    auto& buffer = buffers_[static_cast<std::size_t>(mode)];
    char* data = buffer.reserve(bytes);
    data[0] = static_cast<char>(mode);
    send_block(socket_, data, bytes);
  }
  void receive() {
    zmq_msg_t message;
    zmq_msg_init(&message);
    zmq_msg_recv(&message, socket_, 0);
    zmq_msg_close(&message);
  }

  void* context_;
  void* socket_;
  std::array<AlignedBuffer<char>, 3> buffers_;
};

void serve(const std::string& listen, const std::function<void(const std::string&)>& ready) {
  void* context = zmq_ctx_new();
  void* socket = zmq_socket(context, ZMQ_ROUTER);
  FULGUR_ASSERT(zmq_bind(socket, listen.c_str()) == 0, "cannot listen on " + listen);
  std::array<char, 256> address{};
  std::size_t size = address.size();
  zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, address.data(), &size);
  ready(address.data());
  for (;;) {
    zmq_msg_t peer;
    zmq_msg_t message;
    zmq_msg_init(&peer);
    zmq_msg_init(&message);
    zmq_msg_recv(&peer, socket, 0);
    zmq_msg_recv(&message, socket, 0);
    const Mode mode{static_cast<std::uint32_t>(*static_cast<char*>(zmq_msg_data(&message)))};
    if (mode == Mode::sink) {
      zmq_msg_close(&peer);
      zmq_msg_close(&message);
      continue;
    }
    zmq_msg_send(&peer, socket, ZMQ_SNDMORE);
    zmq_msg_send(&message, socket, 0);
  }
}

}  // namespace

Contestant bare_zmq_contestant(const std::string& name, const std::string& listen) {
  Contestant contestant;
  contestant.name = name;
  contestant.serve = [listen](const auto& ready) { serve(listen, ready); };
  contestant.connect = [](const std::string& address) { return std::make_unique<Client>(address); };
  return contestant;
}

}  // namespace fulgur::bench
