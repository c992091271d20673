// A TCP forwarder between two services whose wire can be pulled: what a switch that dies does to one
// pair of peers while both stay reachable for everybody else.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>

namespace fulgur::chaos {

class TcpProxy {
 public:
  /// Listens on a free port of 127.0.0.1 and forwards to 127.0.0.1:`target` from a thread of its own.
  explicit TcpProxy(std::uint16_t target);
  ~TcpProxy();
  TcpProxy(const TcpProxy&) = delete;
  TcpProxy& operator=(const TcpProxy&) = delete;

  std::uint16_t port() const { return port_; }

  enum class Wire {
    whole,
    silent,  ///< connections stay open and nothing passes: a packet filter that drops
    cut      ///< connections are reset and new ones are closed at once
  };
  void set(Wire wire) { wire_ = wire; }
  std::uint64_t forwarded_bytes() const { return forwarded_; }

 private:
  void run();

  const std::uint16_t target_;
  int listener_ = -1;
  std::uint16_t port_ = 0;
  std::atomic<Wire> wire_{Wire::whole};
  std::atomic<std::uint64_t> forwarded_{0};
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

}  // namespace fulgur::chaos
