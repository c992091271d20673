// A Transport whose messages may carry one tensor in device memory. It sits on another Transport,
// which moves everything else, and adds to each link between two processes with a GPU a device
// lane: copies into the peer's memory or NCCL, whichever is proved to work when the link comes up.
// Peers without a GPU are talked to as if it were not there. See docs/protocol.md, section 8.
// device_transport.cpp is the Transport interface, device_handshake.cpp the choice of a carrier,
// device_life.cpp the life of links.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/buffer_pool.hpp"
#include "common/transport/device_lane.hpp"
#include "common/transport/event.hpp"
#include "common/transport/gpu_api.hpp"
#include "common/transport/options.hpp"
#include "common/transport/transport.hpp"

namespace fulgur::transport {

struct DeviceOptions {
  /// In the order they are tried; none stands for the end of the list.
  std::vector<DeviceCarrier> carriers = {DeviceCarrier::peer, DeviceCarrier::nccl};
  /// Device memory that a peer may fill before anything of it is let go, for each link: a multiple
  /// of 4 KiB, and 8/3 of the largest tensor at least: a larger one goes through host memory.
  std::uint64_t window_bytes = 128U << 20;
  LinkLimits limits;
  Nanoseconds handshake = 10 * kSecond;  ///< for one carrier; the next is tried then
  Nanoseconds reconnect_first = 10 * kMillisecond;
  Nanoseconds reconnect_last = 1 * kSecond;
  Nanoseconds spin = 200 * kMicrosecond;  ///< busy wait for the device; then naps
};

class DeviceTransport final : public Transport, private Handler {
 public:
  /// `gpu` and `clock` outlive the transport. The inner transport's Identity must say
  /// gpu.identity(), or its peers take this process for one without a GPU.
  DeviceTransport(std::unique_ptr<Transport> inner, GpuApi& gpu, DeviceOptions options,
                  const Clock& clock);
  /// Waits at most two seconds for the device to let go of memory; then leaks it.
  ~DeviceTransport() override;

  std::string endpoint() const override { return inner_->endpoint(); }
  Result<LinkId> connect(const std::string& endpoint, Carrier carrier) override;
  Status send(LinkId id, wire::Frames frames) override;
  void close(LinkId id) override;
  std::size_t poll(Handler& handler, std::size_t max_events) override;
  Doorbell& doorbell() override { return bell_; }
  /// The inner transport's, with the bytes of tensors added; messages include handshakes and
  /// credits.
  Stats stats() const override;

  /// Bytes of DeviceLane::bytes_outstanding() on all links, and ended links whose memory the device
  /// may still touch. Both are 0 when everything is over.
  std::uint64_t bytes_outstanding() const;
  /// Zeros for a link without a lane.
  DeviceCredits credits(LinkId id) const;
  std::size_t unburied() const { return graveyard_.size(); }

 private:
  enum class State { down, shaking, up };

  struct Link {
    LinkId id = 0;
    LinkId inner = 0;  ///< 0: none now
    bool dialed = false;
    std::string endpoint;
    Carrier wanted = Carrier::automatic;
    State state = State::down;
    Peer peer;
    Nanoseconds due = 0;  ///< end of patience, or next attempt; 0: none
    Nanoseconds backoff = 0;

    // Handshake
    std::uint64_t attempt = 0;
    std::size_t candidate = 0;  ///< into carriers; past the end: none
    DeviceCarrier trying = DeviceCarrier::none;
    DeviceLaneParts parts;  ///< being gathered
    std::unique_ptr<DeviceLane> lane;
    bool probed = false;    ///< our probe is on its way
    bool verified = false;  ///< theirs has arrived whole
    bool proved = false;    ///< they say that ours has

    bool has_gpu() const { return !peer.gpu.empty(); }
  };

  /// Sleeps on the inner bell while the device has nothing to do, else briefly.
  class Bell final : public Doorbell {
   public:
    explicit Bell(DeviceTransport& owner) : owner_(owner) {}
    void ring() override { owner_.inner_->doorbell().ring(); }
    void wait(Nanoseconds timeout) override;

   private:
    DeviceTransport& owner_;
  };

  // Handler of the inner transport
  void on_link_up(LinkId inner, const Peer& peer) override;
  void on_link_down(LinkId inner, const Status& why) override;
  void on_message(LinkId inner, wire::Frames frames) override;

  Result<wire::Frames> to_host(wire::Frames frames);
  void pump(Link& link);
  void bury();
  bool device_busy() const;
  Nanoseconds until_timer() const;

  // device_handshake.cpp and device_life.cpp
  void propose(Link& link);
  Status prepare_proposal(Link& link, DeviceCarrier carrier, wire::Frames& tokens);
  Status prepare_answer(Link& link, std::uint64_t window, const wire::Frames& tokens,
                        wire::Frames& answer);
  bool may_use(const Link& link, DeviceCarrier carrier) const;
  void on_propose(Link& link, const DeviceHeader& header, const wire::Frames& tokens);
  void on_accept(Link& link, const DeviceHeader& header, const wire::Frames& tokens);
  void on_refuse(Link& link, const wire::Frames& frames);
  void on_lane(Link& link, const DeviceHeader& header, wire::Frames frames);
  void start_lane(Link& link, std::uint64_t window_out);
  void prove(Link& link);
  void on_probe(Link& link, const wire::Frames& frames);
  void check_proved(Link& link);
  void give_attempt_up(Link& link, const Status& why);
  void refuse(Link& link, const Status& why);
  Status say(Link& link, const DeviceHeader& header, wire::Frames frames = {});
  void bring_up(Link& link, DeviceCarrier carrier);
  void end_device(Link& link);
  void lose(LinkId id, const Status& why);
  void break_link(LinkId id, const Status& why);
  void run_timers();
  void schedule(Link& link, Nanoseconds due);

  std::unique_ptr<Transport> inner_;
  GpuApi& gpu_;
  const DeviceOptions options_;
  const Clock& clock_;
  Bell bell_;
  BufferPool staging_;  ///< pinned host memory for tensors to peers without a lane
  BufferPool unpinned_;  ///< any, where no more can be pinned
  std::map<LinkId, Link> links_;
  std::map<LinkId, LinkId> by_inner_;
  /// Carriers that failed on a link that was up, by peer: not tried with that incarnation again.
  std::map<std::string, std::pair<std::uint64_t, std::vector<DeviceCarrier>>> spoiled_;
  std::deque<Event> events_;
  std::vector<DeviceRemains> graveyard_;
  LinkId next_link_ = 1;
  Nanoseconds next_timer_;
  Nanoseconds progress_at_ = 0;
  std::uint64_t malformed_ = 0;
  std::uint64_t bytes_sent_ = 0;  ///< tensors of lanes that ended
  std::uint64_t bytes_received_ = 0;
};

}  // namespace fulgur::transport
